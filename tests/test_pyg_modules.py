"""Our modules for torch_geometric's networks, against torch_geometric's own on edges found by brute force."""

import copy
from functools import partial

import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn

from deepgcn_seg.model import EdgeConv, GENConv, LayerSpec, MRConv
from deepgcn_seg.ops import nearest_ranks
from deepgcn_seg.pyg import DilatedKNNGraph, DynamicConv, DynamicEdgeConv

NETWORKS = {
    "linear": lambda: nn.Linear(8, 6),
    "linear, batch norm, relu": lambda: nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU()),
    "linear, leaky relu, batch norm": lambda: nn.Sequential(nn.Linear(8, 6), nn.LeakyReLU(0.1), nn.BatchNorm1d(6)),
    "prelu": lambda: nn.Sequential(nn.Linear(8, 6, bias=False), nn.PReLU()),
    "prelu of every channel": lambda: nn.Sequential(nn.Linear(8, 6), nn.PReLU(6)),
    "falling prelu": lambda: nn.Sequential(nn.Linear(8, 6), nn.PReLU(6, init=-0.3)),
    "gelu": lambda: nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.GELU()),
    "layer norm": lambda: nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.ReLU()),
    "two layers": lambda: nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 6)),
    "norm of cumulative average": lambda: nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6, momentum=None)),
    "norm without parameters": lambda: nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6, affine=False), nn.ReLU()),
    "MLP of one layer": lambda: pyg.MLP([8, 6]),
    "MLP of one layer with norm": lambda: pyg.MLP([8, 6], plain_last=False),
    "MLP of two layers": lambda: pyg.MLP([8, 7, 6]),
    "MLP, activation first": lambda: pyg.MLP([8, 6], plain_last=False, act_first=True, act="leaky_relu"),
    "MLP without norm": lambda: pyg.MLP([8, 7, 6], norm=None, act=None),
    "MLP, graph norm": lambda: pyg.MLP([8, 7, 6], norm="instance_norm"),
    "not in order": lambda: nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 6)),
    "a module of one's own": lambda: Doubled(),
}
SIZES = {"one cloud": [30], "equal": [20, 20, 20], "ragged": [25, 12, 31], "smaller than k": [3, 20, 1, 8]}


class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 6)

    def forward(self, x):
        return 2 * self.linear(x)


class DoubledLinear(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Summed(nn.Sequential):
    def forward(self, x):
        return sum(layer(x) for layer in self)


class Shifted(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x) + 3


class Negative(nn.ReLU):
    def forward(self, x):
        return -super().forward(x)


class OwnMLP(pyg.MLP):
    def forward(self, x, *arguments):
        return 2 * super().forward(x, *arguments)


def hooked(network, name, place=""):
    """A network, a part of which has a hook."""
    double = {"forward": lambda part, given, out: 2 * out, "forward_pre": lambda part, given: 3 * given[0]}[name]
    getattr(network.get_submodule(place), f"register_{name}_hook")(double)
    return network


def patched(network):
    """A linear map whose instance has a forward of its own."""
    original = network[0].forward
    network[0].forward = lambda x: 2 * original(x)
    return network


def layer():
    return nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU())


# What looks like a network whose layers can be computed one by one from their weights, and computes something else.
CALLED = {
    "a linear map of one's own": lambda: DoubledLinear(8, 6),
    "a linear map of one's own first": lambda: nn.Sequential(DoubledLinear(8, 6), nn.ReLU()),
    "a sequence of one's own": lambda: Summed(nn.Linear(8, 6), nn.Linear(8, 6)),
    "a norm of one's own": lambda: nn.Sequential(nn.Linear(8, 6), Shifted(6), nn.ReLU()),
    "an activation of one's own": lambda: nn.Sequential(nn.Linear(8, 6), Negative()),
    "an MLP of one's own": lambda: OwnMLP([8, 6], plain_last=False),
    "weight norm": lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(8, 6)), nn.ReLU()),
    "weight norm by parametrisation": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 6))),
    "spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(8, 6)),
    "a forward of the instance's own": lambda: patched(layer()),
    **{
        f"{name} hook, {place or 'whole'}": partial(lambda name, place: hooked(layer(), name, place), name, place)
        for name in ("forward", "forward_pre")
        for place in ("", "0", "1", "2")
    },
    "hook of an MLP": lambda: hooked(pyg.MLP([8, 6], plain_last=False), "forward"),
    "hook of an MLP's layer": lambda: hooked(pyg.MLP([8, 6], plain_last=False), "forward", "lins.0"),
    "hook of an MLP's norm": lambda: hooked(pyg.MLP([8, 6], plain_last=False), "forward", "norms.0"),
}


def clouds(sizes, channels=4):
    batch = torch.cat([torch.full((size,), i) for i, size in enumerate(sizes)])
    return torch.randn(len(batch), channels, dtype=torch.float64), batch


def brute_edges(x, batch, ranks):
    """Edges of all points, as torch_geometric's knn gives them: by sorting all distances in a cloud."""
    pairs = []
    for i in range(len(x)):
        others = (batch == batch[i]).nonzero()[:, 0]
        order = others[(x[others] - x[i]).square().sum(1).argsort()]
        pairs += [(int(order[rank]), i) for rank in ranks if rank < len(order)]
    return torch.tensor(pairs).t()


def reference(network, aggr):
    """torch_geometric's EdgeConv, which draws the weights of its network anew, with the network's weights."""
    conv = pyg.EdgeConv(copy.deepcopy(network), aggr=aggr)
    conv.nn.load_state_dict(network.state_dict())
    return conv


def edge_set(edges):
    return sorted(map(tuple, edges.t().tolist()))


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("dilation", [1, 3])
def test_edges_are_those_of_a_sort(sizes, dilation):
    x, batch = clouds(sizes)
    edges = DilatedKNNGraph(5, dilation)(x, batch if len(sizes) > 1 else None)
    assert edge_set(edges) == edge_set(brute_edges(x, batch, range(0, 5 * dilation, dilation)))
    assert edges[1].tolist() == sorted(edges[1].tolist())


def test_without_loops_no_point_is_its_own_neighbour():
    x, batch = clouds([3, 20, 1])
    edges = DilatedKNNGraph(4, loop=False)(x, batch)
    expected = brute_edges(x, batch, range(1, 5))
    assert edge_set(edges) == edge_set(expected)


def test_stochastic_dilation_is_for_training_alone():
    x, batch = clouds([40])
    graph = DilatedKNNGraph(5, 4, stochastic=True, epsilon=1.0)
    regular = edge_set(DilatedKNNGraph(5, 4)(x, batch))
    assert edge_set(graph.eval()(x, batch)) == regular
    drawn = graph.train()(x, batch)
    assert edge_set(drawn) != regular
    assert drawn[1].bincount().tolist() == [5] * 40


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_dynamic_edge_conv_is_torch_geometrics(make, sizes, training):
    torch.manual_seed(0)
    network = make().double()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d) and layer.affine:
            # Negative scales: there the smallest edge is the one that counts.
            nn.init.uniform_(layer.weight, -1, 1)
            nn.init.uniform_(layer.running_mean)
    theirs = reference(network, "max").train(training)
    ours = DynamicEdgeConv(network, k=6).train(training)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    x, batch = clouds(sizes)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    out_a, out_b = ours(a, batch), theirs(b, brute_edges(x, batch, range(6)))
    weights = torch.randn_like(out_a)
    (out_a * weights).sum().backward()
    (out_b * weights).sum().backward()
    torch.testing.assert_close(out_a, out_b, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(a.grad, b.grad, atol=1e-8, rtol=1e-8)
    for (name, mine), (_, its) in zip(ours.named_parameters(), theirs.named_parameters()):
        torch.testing.assert_close(mine.grad, its.grad, atol=1e-8, rtol=1e-8, msg=name)
    for (name, mine), (_, its) in zip(ours.named_buffers(), theirs.named_buffers()):
        torch.testing.assert_close(mine, its, msg=name)


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("make", CALLED.values(), ids=CALLED)
def test_a_network_with_hooks_or_of_another_class_is_called_as_it_is(make):
    torch.manual_seed(0)
    network = make().double()
    conv = DynamicEdgeConv(network, k=6)
    x, batch = clouds([20, 20])
    source, target = brute_edges(x, batch, range(6))
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    # The second step has other weights, which old weight norm computes in a hook.
    for _ in range(2):
        weights = torch.randn(40, 6, dtype=torch.float64)
        conv.eval()
        expected = network(torch.cat([x[target], x[source] - x[target]], 1)).view(40, 6, 6).amax(1)
        torch.testing.assert_close(conv(x, batch), expected)
        conv.train()
        optimizer.zero_grad()
        (conv(x, batch) * weights).sum().backward()
        optimizer.step()


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_hooks_of_gradients_run():
    seen = []
    network, (x, batch) = layer().double(), clouds([20, 20])
    network[0].register_full_backward_hook(lambda part, *gradients: seen.append("backward"))
    DynamicEdgeConv(network, 6)(x, batch).sum().backward()
    assert seen


def test_the_network_that_is_given_stays_as_it_is():
    network = layer().double()
    parts, before = list(network), {name: value.clone() for name, value in network.state_dict().items()}
    conv, (x, batch) = DynamicEdgeConv(network, 6), clouds([20, 20])
    conv(x, batch)
    assert list(network) == parts and type(network[1]) is nn.BatchNorm1d
    assert network[1].num_batches_tracked == 1
    torch.testing.assert_close(network[0].weight, before["0.weight"])
    conv.reset_parameters()
    assert network[1].num_batches_tracked == 0
    assert not torch.equal(network[0].weight, before["0.weight"])


@pytest.mark.parametrize("lazy", [lambda: pyg.MLP([-1, 6]), lambda: pyg.Linear(-1, 6), lambda: nn.LazyLinear(6)])
def test_a_width_that_the_first_input_sets(lazy):
    x, batch = clouds([20, 20])
    network = lazy()
    conv = DynamicEdgeConv(network, 6)
    first = conv(x.float(), batch)
    source, target = brute_edges(x, batch, range(6))
    expected = network(torch.cat([x[target], x[source] - x[target]], 1).float()).view(40, 6, 6).amax(1)
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(conv(x.float(), batch), expected)


@pytest.mark.parametrize("batch", [None, torch.empty(0, dtype=torch.int64)])
def test_no_points_have_no_features_and_no_edges(batch):
    x = torch.empty(0, 4, requires_grad=True)
    conv = DynamicEdgeConv(layer(), 6)
    assert conv(x, batch).shape == (0, 6)
    assert DynamicConv(EdgeConv(4, 7), 6)(x, batch).shape == (0, 7)
    assert DilatedKNNGraph(6)(x, batch).shape == (2, 0)
    assert conv.nn[1].running_var.eq(1).all()


@pytest.mark.parametrize(
    "module", [lambda: DynamicEdgeConv(layer().double(), 6), lambda: DynamicConv(MRConv(4, 6).double(), 6)]
)
def test_a_number_that_no_point_has_is_no_cloud(module):
    torch.manual_seed(0)
    conv, (x, batch) = module(), clouds([20, 20, 20])
    torch.testing.assert_close(conv(x, torch.tensor([1, 4, 5])[batch]), conv(x, batch))


@pytest.mark.parametrize("aggr", ["mean", "sum", "add", "min"])
def test_other_aggregations(aggr):
    network = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU()).double()
    theirs = reference(network, aggr)
    x, batch = clouds([9, 20])
    expected = theirs(x, brute_edges(x, batch, range(6)))
    torch.testing.assert_close(DynamicEdgeConv(network, 6, aggr)(x, batch), expected)


def test_no_tensor_of_edges_is_made(monkeypatch):
    """The plain path is not entered for a DGCNN layer, on clouds of different sizes."""
    monkeypatch.setattr("deepgcn_seg.pyg._edges", None)
    x, batch = clouds([30, 20])
    conv = DynamicEdgeConv(NETWORKS["MLP of one layer with norm"]().double(), 6)
    assert conv(x, batch).shape == (50, 6)
    # Moved, copied and in evaluation it still shares the network's statistics.
    copied = copy.deepcopy(conv).eval().float()
    assert copied.nn.norms[0].module.running_mean.abs().max() > 0
    assert copied(x.float(), batch).dtype == torch.float32


@pytest.mark.parametrize("block", ["res+", "res", "dense", "plain"])
@pytest.mark.parametrize("conv", [EdgeConv, MRConv, GENConv])
def test_our_convolutions_in_torch_geometrics_blocks(conv, block):
    """DeepGCNLayer calls its convolution on flat features; each cloud gets what it gets alone, as a dense block."""
    torch.manual_seed(0)
    dense = conv(4, 4, LayerSpec(norm="none", act="relu")).double()
    layer = pyg.DeepGCNLayer(DynamicConv(dense, k=5, dilation=2), nn.LayerNorm(4).double(), nn.ReLU(), block=block)
    x, batch = clouds([25, 12, 31])
    out = layer.eval()(x, batch)
    for i in range(3):
        own = x[batch == i]
        h = layer.act(layer.norm(own)) if block == "res+" else own
        h = dense(h[None], nearest_ranks(h[None], torch.arange(0, 10, 2)))[0]
        if block != "res+":
            h = layer.act(layer.norm(h))
        expected = {"res+": own + h, "res": own + h, "dense": torch.cat([own, h], 1), "plain": h}[block]
        torch.testing.assert_close(out[batch == i], expected)


@pytest.mark.parametrize(
    ("x", "batch", "message"),
    [
        (torch.rand(2, 5, 4), None, "points, channels"),
        (
            (torch.rand(5, 4), torch.rand(5, 4)),
            None,
            "x must be one tensor .*, got tuple: neighbours are searched among",
        ),
        (torch.rand(5, 4), (torch.zeros(5),) * 2, "batch must be one tensor .*, got tuple"),
        (torch.rand(5, 4), torch.zeros(4, dtype=torch.int64), "each of 5 points"),
        (torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1]), "ascending"),
    ],
)
def test_input_of_another_form_is_refused(x, batch, message):
    with pytest.raises(ValueError, match=message):
        DynamicEdgeConv(nn.Linear(8, 6), 2)(x, batch)
    with pytest.raises(ValueError, match=message):
        DilatedKNNGraph(2)(x, batch)


def test_an_unknown_aggregation_is_refused():
    with pytest.raises(ValueError, match="aggr='most': must be one of max"):
        DynamicEdgeConv(nn.Linear(8, 6), 2, "most")


def test_a_convolution_of_ours_needs_enough_points():
    x, batch = clouds([20, 4])
    with pytest.raises(ValueError, match="rank 8 was asked for, but a block has only 4 points"):
        DynamicConv(MRConv(4, 4).double(), k=5, dilation=2)(x, batch)
