"""Operators of torch_geometric as graph convolutions: what they get, and that it is the operator itself."""

from functools import partial

import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn
from torch.nn import functional as F

from deepgcn_seg import DeepGCN
from deepgcn_seg.model import ORDERS, LayerSpec, MessagePassing, edge_index
from deepgcn_seg.model.neighborhood import Geometry

SMALL = {"depth": 4, "channels": 8, "k": 4, "fusion_channels": 16, "head_channels": (16, 8)}
# Name -> what conv.operator, conv.networks and conv.edge_positions say.
OPERATORS = {
    "PointTransformerConv": {"networks": {"pos_nn": [3, 5, "out"], "attn_nn": ["out", "out"]}},
    "PointNetConv": {"networks": {"local_nn": ["in+3", 7, "out"], "global_nn": ["out", "out"]}},
    "PPFConv": {"networks": {"local_nn": ["in+4", "out"]}},
    "GINConv": {"networks": {"nn": ["in", "2*in", "out"]}, "train_eps": True},
    "EdgeConv": {"networks": {"nn": ["2*in", "out"]}},
    "NNConv": {"networks": {"nn": [3, 5, "in*out"]}, "edge_positions": True},
    "GINEConv": {"networks": {"nn": ["in", "out"]}, "edge_positions": True, "edge_dim": 3},
    "GMMConv": {"edge_positions": True, "dim": 3, "kernel_size": 2},
    "GATv2Conv": {"edge_positions": True, "edge_dim": 3, "heads": 2, "concat": False},
    "PDNConv": {"edge_positions": True, "edge_dim": 3, "hidden_channels": 4},
    "TransformerConv": {"heads": 2, "concat": False},
    "SAGEConv": {"aggr": "max"},
    "GENConv": {"num_layers": 2},
    "GCNConv": {},
}
NAMES = list(OPERATORS)


def conv_of(name):
    """What builds a convolution, as the composed config does."""
    settings = dict(OPERATORS[name])
    ours = {key: settings.pop(key) for key in ("networks", "edge_positions") if key in settings}
    return partial(MessagePassing, operator=partial(getattr(pyg, name), **settings), **ours)


def data(blocks=2, count=24, channels=6, k=4):
    x = torch.randn(blocks, count, channels, dtype=torch.float64)
    positions = torch.rand(blocks, count, 3, dtype=torch.float64)
    return x, torch.randint(0, count, (blocks, count, k)), Geometry(positions)


def directly(operator, name, x, edges, pos, normal):
    """Call an operator as a user of torch_geometric does."""
    if name in ("PointTransformerConv", "PointNetConv"):
        return operator(x, pos, edges)
    if name == "PPFConv":
        return operator(x, pos, normal, edges)
    if OPERATORS[name].get("edge_positions"):
        source, target = edges
        return operator(x, edges, edge_attr=pos[source] - pos[target])
    return operator(x, edges)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_are_those_of_the_operator_on_the_flat_graph(name, order):
    conv = conv_of(name)(6, 5, LayerSpec(order, act="leakyrelu")).double()
    x, index, geometry = data()
    dense, flat = x.clone().requires_grad_(), x.flatten(0, 1).requires_grad_()
    normal = geometry.normals.flatten(0, 1)
    out = directly(conv.operator, name, flat, edge_index(index), geometry.positions.flatten(0, 1), normal)
    norm = lambda v: F.batch_norm(v, None, None, conv.norm.weight, conv.norm.bias, True, eps=conv.norm.eps)
    act = partial(F.leaky_relu, negative_slope=0.2)
    expected = act(norm(out)) if order == "norm-act" else norm(act(out))
    found = conv(dense, index, None, geometry)
    upstream = torch.randn_like(expected)
    parameters = list(conv.parameters())
    grads = torch.autograd.grad((expected * upstream).sum(), [flat, *parameters], allow_unused=True)
    found_grads = torch.autograd.grad((found.flatten(0, 1) * upstream).sum(), [dense, *parameters], allow_unused=True)
    assert torch.allclose(found.flatten(0, 1), expected, atol=1e-9)
    assert any(grad is not None and grad.abs().sum() > 0 for grad in grads[1:-2])
    for grad, found_grad in zip(grads, found_grads, strict=True):
        assert (grad is None) == (found_grad is None)
        assert grad is None or torch.allclose(grad.flatten(), found_grad.flatten(), atol=1e-8)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", NAMES)
def test_absent_points_change_nothing(name, order, training):
    conv = conv_of(name)(6, 5, LayerSpec(order)).double().train(training)
    before = {key: value.clone() for key, value in conv.state_dict().items()}
    x, index, geometry = data(blocks=1)
    index, present = index % 20, torch.arange(24)[None] < 20
    alone = conv(x[:, :20], index[:, :20], None, Geometry(geometry.positions[:, :20]))
    statistics = {key: value.clone() for key, value in conv.state_dict().items()}
    conv.load_state_dict(before)
    padded = conv(x, index, present, Geometry(geometry.positions, present))
    assert torch.allclose(padded[:, :20], alone, atol=1e-9)
    for key, value in conv.state_dict().items():
        assert torch.allclose(value, statistics[key]), key


@pytest.mark.parametrize("connection", ["res", "dense", "res+", "rev"])
@pytest.mark.parametrize("name", ["PointTransformerConv", "PPFConv", "NNConv", "GINConv"])
def test_a_network_of_an_operator_trains_and_evaluates_without_mixing_blocks(name, connection):
    model = DeepGCN(connection=connection, conv=conv_of(name), **SMALL).double()
    points, labels = torch.rand(2, 40, 9, dtype=torch.float64), torch.randint(13, (80,))
    F.cross_entropy(model(points).flatten(0, 1), labels).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name
    model.eval()
    mask = torch.arange(40) < torch.tensor([[40], [30]])
    with torch.no_grad():
        inferred = model(points, mask)
        assert torch.allclose(inferred[1, :30], model(points[1:, :30])[0])
    assert torch.allclose(inferred, model(points, mask))


def in_order(blocks, x, graph, dropout):
    """Reversible blocks with ordinary autograd."""
    for i, block in enumerate(blocks):
        x = block(x, graph(i, x))
    return x


@pytest.mark.parametrize("name", ["PPFConv", "PointTransformerConv"])
@pytest.mark.parametrize("settings", [{"connection": "res", "recompute": True}, {"connection": "rev"}], ids=str)
def test_gradients_of_what_is_computed_again_with_positions_are_those_of_autograd(name, settings):
    model = DeepGCN(conv=conv_of(name), stochastic=False, dropout=0.0, **settings, **SMALL).double()
    points = torch.rand(2, 40, 9, dtype=torch.float64)
    found = torch.autograd.grad(model(points).square().sum(), model.parameters())
    blocks = model.backbone.blocks
    if settings["connection"] == "rev":
        blocks.forward = partial(in_order, blocks)
    for block in blocks:
        block.recompute = False
    expected = torch.autograd.grad(model(points).square().sum(), model.parameters())
    for gradient, other in zip(found, expected, strict=True):
        assert torch.allclose(gradient, other, rtol=1e-6, atol=1e-8)


def test_reversible_blocks_refuse_gradients_of_positions():
    model, points = DeepGCN.revgcn(conv=conv_of("PointNetConv"), **SMALL), torch.rand(1, 40, 9, requires_grad=True)
    with pytest.raises(ValueError, match="no gradient of the positions"):
        model(points)


def test_positions_have_gradients():
    model = DeepGCN(conv=conv_of("NNConv"), dropout=0.0, **SMALL).double().eval()
    points = torch.rand(1, 30, 9, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(points)[0, 0, 0], points)
    step = torch.zeros_like(points)
    step[0, 0, 7] = 1e-6
    slope = (model(points + step) - model(points - step))[0, 0, 0] / 2e-6
    assert torch.allclose(gradient[0, 0, 7], slope, rtol=1e-4)


@pytest.mark.parametrize("absent", [0, 50])
def test_normals_are_those_of_the_planes_and_point_into_the_block(absent):
    uv = torch.rand(2, 200, 2, dtype=torch.float64)
    floor = torch.stack([uv[0, :, 0], uv[0, :, 1], torch.zeros(200)], 1)
    wall = torch.stack([torch.ones(200), uv[1, :, 0], 0.5 + uv[1, :, 1]], 1)
    positions = torch.cat([floor, wall, torch.full((absent, 3), 9.0)])[None]
    mask = torch.arange(400 + absent)[None] < 400 if absent else None
    normals = Geometry(positions, mask).normals[0]
    # Points whose nearest 16 lie in one plane.
    inside = floor[:, 0] < 0.5
    assert torch.allclose(normals[:200][inside], torch.tensor([0.0, 0, 1]).double(), atol=1e-6)
    assert torch.allclose(normals[200:400], torch.tensor([-1.0, 0, 0]).double(), atol=1e-6)


def test_normals_turn_with_the_block():
    positions = torch.rand(1, 60, 3, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    assert torch.allclose(Geometry(positions @ turn.T + 5).normals, Geometry(positions).normals @ turn.T, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 20])
def test_normals_of_points_in_one_place_are_unit_vectors(count):
    normals = Geometry(torch.ones(1, count, 3)).normals
    assert torch.allclose(normals.norm(dim=-1), torch.ones(1, count))


@pytest.mark.parametrize(
    ("operator", "settings", "message"),
    [
        (
            pyg.GINConv,
            {"networks": {"nn": [12, "out"]}},
            "GINConv in a layer from 9 to 8 channels: .*mat1 and mat2 .*9",
        ),
        (pyg.GINConv, {"networks": {"nn": ["in", 16]}}, r"returns \(4, 16\), not \(4, 8\)"),
        (pyg.GINConv, {}, r"needs nn; if that is a network, give its widths: networks=\{nn:\[in,out\]\}"),
        (
            pyg.GINConv,
            {"networks": {"nn": ["in", "wide"]}},
            r"networks\.nn=\[in,wide\]: must be a list of at least two",
        ),
        (pyg.GINConv, {"networks": {"nn": ["in"]}}, r"networks\.nn=\[in\]: must be a list of at least two"),
        (pyg.GINConv, {"networks": {"nn": ["in", 0]}}, r"networks\.nn=\[in,0\]: must be a list of at least two"),
        (pyg.GINConv, {"networks": {"nn": "in"}}, r"networks\.nn=in: must be a list of at least two"),
        (pyg.GINConv, {"networks": ["in", "out"]}, r"networks=\[in,out\]: must be a mapping"),
        (pyg.GINConv, {"networks": {"nn": nn.Linear(9, 8)}}, "one network for all layers; with _partial_: true"),
        (partial(pyg.GINConv, nn=nn.Linear(9, 8)), {}, r"operator\.nn: is one network, .* networks=\{nn:\[in,out\]\}"),
        (partial(pyg.SAGEConv, in_channels=9), {}, r"operator\.in_channels=9: each layer sets it"),
        (partial(pyg.SAGEConv, agr="max"), {}, "unexpected keyword argument 'agr'"),
        (partial(pyg.GATv2Conv, heads=2), {}, r"returns \(4, 16\), not \(4, 8\)"),
        (pyg.SAGEConv, {"edge_positions": True}, "SAGEConv in .*: takes no edge_attr, which edge_positions=true"),
        (
            pyg.SAGEConv,
            {"networks": {"net": ["in", "out"]}},
            r"networks\.net: SAGEConv has no such argument; leave it out",
        ),
        (
            pyg.GINConv,
            {"networks": {"nm": ["in", "out"]}},
            r"networks\.nm: GINConv has no such argument; did you mean nn\?",
        ),
        (pyg.SAGEConv, {"edge_positions": "no"}, "edge_positions=no: must be true or false"),
        (
            partial(pyg.GINConv, train_eps="no"),
            {"networks": {"nn": ["in", "out"]}},
            r"operator\.train_eps=no: must be true",
        ),
        (partial(pyg.GATv2Conv, add_self_loops=0), {}, r"operator\.add_self_loops=0: must be true or false"),
        (
            partial(pyg.GCNConv, cached=True),
            {},
            "GCNConv .*: cached: keeps the graph of the first batch for all others",
        ),
        (pyg.SAGEConv(9, 8), {}, r"operator=SAGEConv\(9, 8.*must be what builds a layer"),
        (
            pyg.NNConv,
            {"networks": {"nn": [3, "in*out"]}},
            "does not work with x, edge_index alone .*; it takes edge_attr too; edge_positions=true gives it edge_attr",
        ),
        (pyg.RGCNConv, {}, "RGCNConv in a layer from 9 to 8 channels: needs num_relations$"),
        (partial(pyg.RGCNConv, num_relations=2), {}, r"alone \(AssertionError\); it takes edge_type too"),
        (pyg.XConv, {}, "XConv .*: takes no edge_index, and does not fit"),
        (partial(pyg.GCN2Conv, channels=8, alpha=0.1), {}, "GCN2Conv .*: needs x_0, which points do not have"),
        (pyg.DenseGCNConv, {}, "DenseGCNConv .*: takes no edge_index"),
    ],
)
def test_what_does_not_fit_is_said_when_the_network_is_built_even_without_memory(operator, settings, message):
    for device in ("cpu", "meta"):
        with torch.device(device), pytest.raises(ValueError, match=message):
            DeepGCN(conv=partial(MessagePassing, operator=operator, **settings), **SMALL)


@pytest.mark.parametrize("aggr", ["lstm", "median", "powermean"])
def test_aggregations_that_need_sorted_edges_have_them(aggr):
    DeepGCN(conv=partial(MessagePassing, operator=partial(pyg.SAGEConv, aggr=aggr)), **SMALL)(torch.rand(1, 30, 9))


def test_a_trial_does_not_change_the_weights_of_a_seed():
    torch.manual_seed(1)
    expected = pyg.SAGEConv(6, 5)
    torch.manual_seed(1)
    found = MessagePassing(6, 5, operator=pyg.SAGEConv).operator
    assert all(torch.equal(*pair) for pair in zip(expected.parameters(), found.parameters(), strict=True))


def test_a_network_may_be_a_function_of_the_channels():
    network = lambda c_in, c_out: nn.Sequential(nn.Linear(2 * c_in, c_out), nn.BatchNorm1d(c_out), nn.Tanh())
    model = DeepGCN(conv=partial(MessagePassing, operator=pyg.EdgeConv, networks={"nn": network}), **SMALL)
    assert isinstance(model.backbone.head.operator.nn[2], nn.Tanh)
    assert model.backbone.head.operator.nn is not model.backbone.blocks[0].conv.operator.nn
    model(torch.rand(1, 40, 9)).sum().backward()


def test_positions_are_three():
    with pytest.raises(ValueError, match=r"positions=\[0, 1\]: the graph convolution reads three"):
        DeepGCN(conv=conv_of("PointNetConv"), positions=(0, 1), **SMALL)
    assert DeepGCN(conv=conv_of("SAGEConv"), positions=(0, 1), **SMALL)(torch.rand(1, 40, 9)).isfinite().all()
