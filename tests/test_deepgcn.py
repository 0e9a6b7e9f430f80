from functools import partial

import pytest
import torch
import torch_geometric.nn as pyg
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from deepgcn_seg import DeepGCN, ops
from deepgcn_seg.model import EdgeConv, GENConv, MessagePassing, MRConv, fast_inference
from deepgcn_seg.model.connection import Connection, Dense
from deepgcn_seg.model.fusion import JointPointwise
from deepgcn_seg.model.gcn_block import Block
from deepgcn_seg.model.layers import BatchNorm, LayerSpec
from deepgcn_seg.model.neighborhood import Neighborhood
from deepgcn_seg.model.reversible import ReversibleBlock

SMALL = {"depth": 4, "channels": 8, "k": 4, "fusion_channels": 16, "head_channels": (16, 8)}
CONNECTIONS = ["plain", "res", "dense", "res+", "rev"]


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"depth": 7}, 1_403_853),
        ({"depth": 14}, 2_150_669),
        ({}, 3_644_301),
        ({"conv": MRConv}, 3_644_301),
        ({"depth": 56}, 6_631_565),
        ({"depth": 112}, 12_606_093),
        ({"channels": 128}, 7_066_893),
        ({"channels": 256}, 15_239_181),
        ({"connection": "dense", "depth": 14}, 11_735_309),
        ({"connection": "dense", "channels": 32}, 21_397_197),
        ({"connection": "dense"}, 43_678_605),
    ],
    ids=str,
)
def test_parameters_are_those_of_the_official_model(settings, count):
    assert sum(p.numel() for p in DeepGCN(**settings).parameters()) == count


@pytest.mark.parametrize("graph", ["dynamic", "fixed"])
@pytest.mark.parametrize("connection", CONNECTIONS)
def test_every_parameter_gets_a_gradient(connection, graph):
    model = DeepGCN(connection=connection, graph=graph, **SMALL)
    logits = model(torch.rand(2, 40, 9))
    assert logits.shape == (2, 40, 13)
    F.cross_entropy(logits.flatten(0, 1), torch.randint(13, (80,))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_evaluation_is_deterministic_and_blocks_do_not_mix(connection):
    model = DeepGCN(connection=connection, **SMALL).eval()
    points = torch.rand(3, 40, 9)
    together = model(points)
    assert torch.equal(together, model(points))
    assert torch.allclose(together[1:2], model(points[1:2]), atol=1e-5)


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_points_may_come_in_any_order(connection):
    model = DeepGCN(connection=connection, **SMALL).eval().double()
    points = torch.rand(1, 40, 9, dtype=torch.float64)
    order = torch.randperm(40)
    assert torch.allclose(model(points)[:, order], model(points[:, order]), atol=1e-9)


@pytest.mark.parametrize("graph", ["dynamic", "fixed"])
@pytest.mark.parametrize("connection", CONNECTIONS)
def test_blocks_of_unequal_size_in_one_batch(connection, graph):
    model = DeepGCN(connection=connection, graph=graph, **SMALL).eval().double()
    sizes = [40, 25, 31]
    points = torch.rand(3, 40, 9, dtype=torch.float64)
    mask = torch.arange(40)[None] < torch.tensor(sizes)[:, None]
    points[~mask] = torch.nan
    logits = model(points, mask)
    assert (logits[~mask] == 0).all()
    for i, size in enumerate(sizes):
        assert torch.allclose(logits[i, :size], model(points[i : i + 1, :size])[0], atol=1e-9)


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_training_on_a_padded_block_is_training_on_the_block(connection):
    model = DeepGCN(connection=connection, stochastic=False, dropout=0.0, **SMALL).double().train()
    points = torch.rand(1, 40, 9, dtype=torch.float64)
    mask = torch.arange(40)[None] < 30
    names = [name for name, _ in model.named_parameters()]
    alone = torch.autograd.grad(model(points[:, :30]).square().sum(), model.parameters())
    padded = torch.autograd.grad(model(points, mask)[:, :30].square().sum(), model.parameters())
    for name, a, b in zip(names, alone, padded):
        assert torch.allclose(a, b, atol=1e-8), name


@pytest.mark.parametrize("connection", ["res", "dense", "res+"])
def test_gradient_checkpointing_changes_nothing(connection):
    settings = {"connection": connection, **SMALL}
    plain, saving = DeepGCN(**settings), DeepGCN(recompute=True, **settings)
    saving.load_state_dict(plain.state_dict())
    points = torch.rand(2, 40, 9)
    grads = []
    for model in (plain, saving):
        torch.manual_seed(1)
        model(points).square().mean().backward()
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads))
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), saving.buffers()))


def test_fixed_graph_searches_once(monkeypatch):
    from deepgcn_seg.model import graph

    calls = []
    original = graph.nearest_ranks
    monkeypatch.setattr(graph, "nearest_ranks", lambda *a, **k: calls.append(1) or original(*a, **k))
    DeepGCN(graph="fixed", **SMALL).eval()(torch.rand(1, 40, 9))
    # One for the head, one ordered search for all other layers.
    assert len(calls) == 2


def test_head_graph_is_made_of_the_position_channels():
    model = DeepGCN(**{**SMALL, "depth": 1}, positions=(0, 1, 2)).eval()
    other = DeepGCN(**{**SMALL, "depth": 1}, positions=(6, 7, 8)).eval()
    other.load_state_dict(model.state_dict())
    points = torch.rand(1, 60, 9)
    assert not torch.allclose(model(points), other(points))
    swapped = points[..., [6, 7, 8, 3, 4, 5, 6, 7, 8]]
    assert torch.equal(model(swapped), other(swapped))


def test_features_of_every_layer():
    points = torch.rand(1, 40, 9)
    assert [f.shape[-1] for f in DeepGCN.resgcn(**SMALL).features(points)] == [8, 8, 8, 8]
    assert [f.shape[-1] for f in DeepGCN.densegcn(**SMALL).features(points)] == [8, 16, 24, 32]


def test_short_constructors():
    assert DeepGCN.plaingcn(**SMALL).backbone.graphs[-1].dilation == 1
    assert not DeepGCN.plaingcn(**SMALL).backbone.graphs[-1].stochastic
    assert DeepGCN.resgcn(**SMALL).backbone.graphs[-1].dilation == 3
    assert DeepGCN.resgcnplus(**SMALL).backbone.blocks[0].connection.name == "res+"
    assert isinstance(DeepGCN.revgcn(**SMALL).backbone.blocks[0], ReversibleBlock)


# -- reversible ---------------------------------------------------------------------------------


def plain_run(model, points, mask=None):
    """Backbone of a reversible model with ordinary autograd through its blocks, without autocast."""
    b = model.backbone
    positions = points[..., b.positions]
    neighbors = b.graph.neighbors(b.graphs, positions, mask)
    x = b.head(points, neighbors(0, positions), mask)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    with torch.autocast("cpu", enabled=False):
        for i, block in enumerate(b.blocks):
            x = block(x, Neighborhood(neighbors(i + 1, x), mask))
    return b._finish(x, mask)


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("conv", [None, partial(GENConv, mlp_layers=2)], ids=["edge", "gen"])
def test_reversible_gradients_are_exact_with_batch_norm_in_training(conv, groups):
    extra = {} if conv is None else {"conv": conv}
    model = DeepGCN.revgcn(**{**SMALL, "depth": 9, "groups": groups, "stochastic": False, **extra}).double()
    points = torch.rand(2, 40, 9, dtype=torch.float64)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    expected = torch.autograd.grad(plain_run(model, points).square().sum(), model.backbone.parameters())
    statistics = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(before)
    found = torch.autograd.grad(model.backbone(points)[0].square().sum(), model.backbone.parameters())
    for (name, _), a, b in zip(model.backbone.named_parameters(), expected, found):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-7), name
    for name, value in model.state_dict().items():
        assert torch.allclose(value, statistics[name]), name


def test_reversible_inverse():
    model = DeepGCN.revgcn(**SMALL).eval().double()
    block = model.backbone.blocks[0]
    x, around = torch.rand(2, 40, 8, dtype=torch.float64), Neighborhood(torch.randint(0, 40, (2, 40, 4)))
    assert torch.allclose(block.inverse(block(x, around), around), x, atol=1e-12)


def test_reversible_memory_does_not_grow_with_depth_but_for_graphs():
    def saved(depth):
        # k x dilation stays small: memory is that of features.
        model = DeepGCN.revgcn(**{**SMALL, "depth": depth, "dilation": "none"})
        seen = set()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.add((t.data_ptr(), t.numel())) or t, lambda t: t):
            model.backbone(torch.rand(1, 40, 9))
        parameters = {p.data_ptr() for p in model.parameters()}
        return sum(n for pointer, n in seen if pointer not in parameters)

    assert saved(40) == saved(5)


def test_reversible_blocks_keep_every_eighth_input():
    blocks = DeepGCN.revgcn(**{**SMALL, "depth": 41, "dilation": "none"}).backbone.blocks
    x, index = torch.rand(1, 40, 8, requires_grad=True), torch.randint(0, 40, (1, 40, 4))
    kept = blocks(x, lambda i, y: Neighborhood(index)).grad_fn
    assert (len(kept.graphs), len(kept.inputs)) == (40, 5)


def test_reversible_dropout_is_one_mask_split_over_the_groups():
    """eff_gcn_modules/rev: a mask of all channels, drawn once, each group's branch taking its part, in every block."""
    model = DeepGCN.revgcn(**SMALL, block_dropout=0.4, stochastic=False).double()
    backbone, points = model.backbone, torch.rand(2, 40, 9, dtype=torch.float64)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(3)
    found = backbone(points)[0]
    grads = torch.autograd.grad(found.square().sum(), backbone.parameters())
    model.load_state_dict(before)
    torch.manual_seed(3)
    mask = F.dropout(torch.ones(2, 40, 8, dtype=torch.float64), 0.4)
    assert not torch.equal(mask[..., :4], mask[..., 4:])
    positions = points[..., backbone.positions]
    neighbors = backbone.graph.neighbors(backbone.graphs, positions, None)
    y = backbone.head(points, neighbors(0, positions))
    for i, block in enumerate(backbone.blocks):
        index = neighbors(i + 1, y)
        first, second = block.branches
        one, two = y[..., :4], y[..., 4:]
        one = one + first.conv(first.act(first.norm(two)) * mask[..., :4], index)
        two = two + second.conv(second.act(second.norm(one)) * mask[..., 4:], index)
        y = torch.cat([one, two], -1)
    expected = backbone._finish(y, None)
    assert torch.allclose(found, expected)
    for a, b in zip(grads, torch.autograd.grad(expected.square().sum(), backbone.parameters())):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("connection", ["res+", "rev"])
def test_pre_activated_layers_are_linear_maps_after_norm_and_activation(connection):
    """DeeperGCN and RevGNN: x + W act(norm(x)) in each block, and one norm and activation after the last."""
    settings = {**SMALL, "depth": 3, "graph": "fixed", "dilation": "none"}
    backbone = DeepGCN(connection=connection, **settings).double().eval().backbone
    for norm in (part for part in backbone.modules() if isinstance(part, BatchNorm)):
        for values in (norm.weight.data, norm.bias.data, norm.running_mean):
            values.normal_()
    points = torch.rand(2, 40, 9, dtype=torch.float64)
    index = ops.nearest_ranks(points[..., 6:], torch.arange(settings["k"]))

    def activated(norm, x):
        return F.relu(norm.weight * (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() + norm.bias)

    def convolved(conv, x):
        neighbors = ops.gather_neighbors(x, index)
        own = x[:, :, None].expand_as(neighbors)
        return conv.layer.linear(torch.cat([own, neighbors - own], -1)).amax(2)

    x = convolved(backbone.head, points)
    for block in backbone.blocks:
        if connection == "res+":
            x = x + convolved(block.conv, activated(block.norm, x))
            continue
        (first, second), (one, two) = block.branches, x.chunk(2, -1)
        one = one + convolved(first.conv, activated(first.norm, two))
        two = two + convolved(second.conv, activated(second.norm, one))
        x = torch.cat([one, two], -1)
    assert torch.allclose(backbone(points)[-1], activated(backbone.last_norm, x))


def test_reversible_groups_start_from_the_sum_of_the_others():
    block = DeepGCN.revgcn(**{**SMALL, "channels": 12, "groups": 3}).double().train().backbone.blocks[0]
    x, index = torch.randn(2, 40, 12, dtype=torch.float64), torch.randint(0, 40, (2, 40, 4))
    one, two, three = x.chunk(3, -1)
    y = two + three
    expected = []
    for branch, group in zip(block.branches, (one, two, three)):
        y = group + branch.conv(branch.act(branch.norm(y)), index)
        expected.append(y)
    around = Neighborhood(index)
    assert torch.allclose(block(x, around), torch.cat(expected, -1))
    assert torch.allclose(block.inverse(block(x, around), around), x)


def test_reversible_blocks_keep_neighbours_whose_numbers_exceed_16_bits():
    count = (1 << 15) + 1
    blocks = DeepGCN.revgcn(**{**SMALL, "channels": 2, "depth": 2}).double().backbone.blocks
    x = torch.randn(1, count, 2, dtype=torch.float64, requires_grad=True)
    around = Neighborhood(torch.arange(count).flip(0)[None, :, None])
    reversible, plain = (
        torch.autograd.grad(out.square().sum(), x)[0] for out in (blocks(x, lambda *_: around), blocks[0](x, around))
    )
    assert torch.allclose(reversible, plain)


@pytest.mark.parametrize("depth", [14, 28, pytest.param(112, marks=pytest.mark.slow)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("seed", range(2))
def test_reversible_gradients_are_those_of_autograd(depth, precision, seed):
    """Under autocast too: the blocks run in float32, else they would not recover their inputs."""
    torch.manual_seed(seed)
    settings = {**SMALL, "depth": depth, "stochastic": False, "dilation": "none"}
    model, points = DeepGCN.revgcn(**settings), torch.rand(2, 48, 9)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    upstream, found = torch.randn(2, 48, 8), []
    for forward in (plain_run, lambda model, points: model.backbone(points)[0]):
        model.load_state_dict(before)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            out = forward(model, points)
        grads = torch.autograd.grad(out, model.backbone.parameters(), upstream)
        found.append(torch.cat([grad.flatten() for grad in grads]))
    expected, reversible = found
    # Of float32 sums that are rounded in another order, or, under autocast, of the head's bfloat16 gradients.
    assert (expected - reversible).norm() < (1e-4 if precision == "fp32" else 5e-3) * expected.norm()
    assert F.cosine_similarity(expected.double(), reversible.double(), dim=0) > 0.9999


def test_reversible_weights_of_half_precision_are_refused_in_training():
    model = DeepGCN.revgcn(**SMALL).bfloat16()
    with pytest.raises(ValueError, match=r"torch\.bfloat16: keep the weights in float32"):
        model(torch.rand(1, 40, 9, dtype=torch.bfloat16))


def test_reversible_convolutions_may_not_draw_random_numbers():
    """The inverse would draw others, and recover something else."""
    conv = partial(MessagePassing, operator=partial(pyg.GATv2Conv, heads=2, concat=False, dropout=0.5))
    model = DeepGCN.revgcn(**SMALL, conv=conv)
    with pytest.raises(ValueError, match="draws random numbers"):
        model(torch.rand(1, 40, 9))
    assert model.eval()(torch.rand(1, 40, 9)).isfinite().all()


def test_reversible_depth_112_trains():
    model = DeepGCN.revgcn(**{**SMALL, "depth": 112, "dilation": "none"})
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    points, labels = torch.rand(1, 32, 9), torch.arange(32) % 2
    losses = []
    for _ in range(6):
        loss = F.cross_entropy(model(points)[0], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shared", [0, 5])
@pytest.mark.parametrize(("widths", "nested"), [([4, 3, 2], False), ([2, 4, 7], True), ([4], True)])
def test_a_joint_layer_is_a_linear_map_of_the_concatenation(widths, nested, shared, bias):
    layer = JointPointwise(widths, 6, LayerSpec(norm="none", act="none", bias=bias), nested, shared).double()
    x = torch.randn(2, 3, widths[-1] if nested else sum(widths), dtype=torch.float64, requires_grad=True)
    front = torch.randn(2, shared, dtype=torch.float64, requires_grad=True)

    def concatenated(x, front):
        features = [x[..., :width] for width in widths] if nested else [x]
        return layer.linear(torch.cat([front[:, None].expand(-1, 3, -1), *features], -1))

    results = [layer(x, shared=front if shared else None), concatenated(x, front)]
    assert torch.allclose(*results)
    inputs = (x, *layer.parameters(), *([front] if shared else []))
    upstream = torch.randn_like(results[0])
    gradients = [torch.autograd.grad(result, inputs, upstream) for result in results]
    for ours, plain in zip(*gradients):
        assert torch.allclose(ours, plain)
    with torch.no_grad():
        assert torch.equal(layer(x, shared=front if shared else None), results[0])
    layer.requires_grad_(False)
    assert torch.allclose(
        torch.autograd.grad(layer(x, shared=front if shared else None), x, upstream)[0], gradients[0][0]
    )


@pytest.mark.parametrize("switched_on", ["as built", "in one block later", "by the mode of blocks alone"])
def test_dropout_in_a_dense_backbone_reaches_the_fusion_block_as_it_was_drawn(switched_on):
    """Each layer drops channels of its whole output: what it repeats of earlier ones is no longer theirs."""
    later = switched_on == "in one block later"
    settings = {"block_dropout": 0.0 if later else 0.4, "stochastic": False, "dropout": 0.0}
    model = DeepGCN.densegcn(**SMALL, **settings).double().train(switched_on != "by the mode of blocks alone")
    for block in model.backbone.blocks:
        block.training = True
    if later:
        model.backbone.blocks[1].dropout = 0.4
    points = torch.rand(2, 40, 9, dtype=torch.float64)
    torch.manual_seed(3)
    found = model(points)
    torch.manual_seed(3)
    layers = torch.cat(model.features(points), -1)
    fusion, head = model.fusion.layer, model.head
    fused = fusion.finish(fusion.linear(layers)).amax(1)
    expected = head.first.finish(head.first.linear(torch.cat([fused[:, None].expand(-1, 40, -1), layers], -1)))
    for layer in head.rest:
        expected = layer(expected)
    assert torch.allclose(found, head.classifier(expected))
    with torch.no_grad():
        torch.manual_seed(3)
        assert torch.allclose(model(points), found)


def test_moments_of_equal_blocks_may_be_counted_once_for_all():
    mean, var = torch.randn(3, 4), torch.rand(3, 4)
    norms = [BatchNorm(4), BatchNorm(4)]
    results = [norm.scale_shift(mean, var, counts) for norm, counts in zip(norms, (7, torch.full((3,), 7)))]
    for one, each in zip(*results):
        assert torch.allclose(one, each)
    for one, each in zip(norms[0].buffers(), norms[1].buffers()):
        assert torch.allclose(one, each)


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.rand(1, 40, 6), r"\(B, N, 9\), got \(1, 40, 6\)"),
        (torch.rand(40, 9), r"got \(40, 9\)"),
        (torch.rand(0, 40, 9), "batch is empty"),
        (torch.rand(1, 11, 9), "11 points, but k x dilation needs 12"),
        (torch.full((1, 40, 9), torch.nan), "40 points have NaN"),
        (torch.full((1, 40, 9), torch.inf), "infinite"),
    ],
)
def test_bad_points(points, message):
    with pytest.raises(ValueError, match=message):
        DeepGCN(**SMALL)(points)


def test_large_values_are_not_infinite_ones():
    DeepGCN(**SMALL)(torch.full((1, 40, 9), 3e38))


@pytest.mark.parametrize("mask", [torch.ones(1, 39, dtype=torch.bool), torch.ones(1, 40)])
def test_bad_mask(mask):
    with pytest.raises(ValueError, match="mask must be bool"):
        DeepGCN(**SMALL)(torch.rand(1, 40, 9), mask)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_channels": 0}, "in_channels=0: must be an integer from 1"),
        ({"num_classes": 2.0}, "num_classes=2.0: must be an integer from 1"),
        ({"depth": 0}, "depth=0: must be"),
        ({"depth": True}, "depth=true: must be"),
        ({"channels": "8"}, "channels=8: must be an integer from 1"),
        ({"k": 0}, "k=0: must be"),
        ({"fusion_channels": -1}, "fusion_channels=-1: must be"),
        ({"head_channels": ()}, r"head_channels=\[\]: must be a list of 1 to"),
        ({"head_channels": (16, 0)}, r"head_channels=\[16,0\]: 0 must be an integer from 1"),
        ({"head_channels": 16}, "head_channels=16: must be a list"),
        ({"dropout": 1.01}, "dropout=1.01: must be a number of at least 0 and below 1"),
        ({"block_dropout": -0.1}, "block_dropout=-0.1: must be"),
        ({"epsilon": float("nan")}, "epsilon=nan: must be"),
        ({"epsilon": "0.2"}, "epsilon=0.2: must be"),
        ({"norm_eps": 0.0}, "norm_eps=0.0: must be a number above 0"),
        ({"norm_eps": float("inf")}, "norm_eps=inf: must be"),
        ({"positions": ()}, r"positions=\[\]: must be a list of 1 to"),
        ({"positions": (7, 8, 9)}, "positions must be different channels of the 9"),
        ({"positions": (6, 6, 7)}, "positions must be different"),
        ({"positions": (-1, 0, 1)}, r"positions=\[-1,0,1\]: -1 must be an integer from 0"),
        ({"connection": "rse"}, "connection=rse: must be one of plain, res, dense, res\\+, rev$"),
        ({"init": "he"}, "init=he: must be one of"),
        ({"act": "swish"}, "act=swish: must be one of"),
        ({"norm": None}, "norm is not set: must be one of"),
        ({"order": ["norm-act"]}, "order=.*: must be one of"),
        ({"connection": "rev", "channels": 9}, "groups=2 must divide the channels of rev, 9"),
        ({"connection": "rev", "groups": 1}, "groups=1: must be an integer from 2"),
        ({"bias": "false"}, "bias=false: must be true or false"),
        ({"graph": 1}, "graph=1: must be one of dynamic, fixed$"),
        ({"graph": "dynamci"}, "graph=dynamci: must be one of dynamic, fixed$"),
        ({"graph": MRConv}, "unknown graph .*MRConv.*: choose one of dynamic, fixed, or give a subclass of Graph"),
        ({"stochastic": None}, "stochastic is not set: must be"),
        ({"loop": "yes"}, "loop=yes: must be"),
        ({"recompute": 0}, "recompute=0: must be"),
        ({"conv": "edge"}, "conv must build"),
        ({"dilation": "log"}, "dilation=log: must be linear, none,"),
        ({"dilation": 0}, "dilation=0: must be .* an integer of at least 1"),
        ({"dilation": True}, "dilation=true: must be"),
        ({"dilation": []}, r"dilation=\[\]: must be .* a list of such integers"),
        ({"dilation": [1, 1.5]}, r"dilation=\[1,1.5\]: must be .* a list of such integers"),
        ({"dilation": [1, 2, 3, 4, 5]}, r"dilation=\[1,2,3,4,5\]: must be a list of 1 to 4"),
        ({"dilation_period": 0}, "dilation_period=0: must be null or an integer"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        DeepGCN(**{**SMALL, **settings})


@pytest.mark.parametrize("norm", ["batch", "instance", "layer", "none"])
@pytest.mark.parametrize("act", ["relu", "prelu", "gelu"])
@pytest.mark.parametrize("order", ["norm-act", "act-norm"])
@pytest.mark.parametrize("connection", ["res", "dense"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("slice_points", [32, 200], ids=["parts of a block", "both blocks"])
@pytest.mark.parametrize("points_at_a_time", [100, 200], ids=["one by one", "together"])
def test_inference_in_parts_is_inference(norm, act, order, connection, masked, slice_points, points_at_a_time):
    settings = {"depth": 3, "channels": 8, "k": 4, "dropout": 0.0, "stochastic": False}
    model = DeepGCN(connection=connection, norm=norm, act=act, order=order, **settings).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.weight.uniform_(-1, 1)
                module.running_mean.uniform_(-1, 1)
    points = torch.rand(2, 75, 9)
    # The second block's last slices are absent altogether.
    mask = torch.arange(75) < torch.tensor([[75], [40]]) if masked else None
    expected = model(points, mask)
    sizes = fast_inference.Sizes(points_at_a_time, slice_points)
    # Of products of another shape, instance norm magnifies the rounding, where a channel hardly varies.
    magnified = norm == "instance" and points_at_a_time == 100
    with torch.no_grad():
        assert fast_inference.applies(model)
        parts = fast_inference.infer(model, torch.where(mask[:, :, None], points, 0) if masked else points, mask, sizes)
        assert torch.allclose(parts, expected, atol=1e-3 if magnified else 1e-5)
    # Batch statistics are of all points together: nothing is sliced then.
    model.train()
    with torch.no_grad():
        assert not fast_inference.applies(model)
        once = model(points, mask)
    assert torch.allclose(once, model(points, mask), atol=1e-5)


def test_hooks_see_the_whole_batch_in_inference():
    # Blocks of more than half of what goes through the network together.
    count = fast_inference.CPU.together // 2 + 1
    model, points, seen = DeepGCN(**SMALL).eval(), torch.rand(3, count, 9), []
    block = model.backbone.blocks[0]
    with torch.no_grad():
        expected = model(points)
        hook = block.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[:2]))
        assert torch.allclose(model(points), expected, atol=1e-5)
        hook.remove()
    assert seen == [(3, count)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("connection", ["res", "dense", "res+", "rev"])
def test_hooks_see_the_backbone(connection, training):
    """In training and in inference of many points; what a hook returns is what goes on."""
    model = DeepGCN(**SMALL, connection=connection, dropout=0.0).train(training)
    points, seen = torch.rand(2, 600, 9), []
    with torch.set_grad_enabled(training):
        hook = model.backbone.register_forward_hook(lambda module, inputs, layers: seen.append(layers))
        model(points)
        hook.remove()
        model.backbone.register_forward_hook(lambda module, inputs, layers: [layer * 0 for layer in layers])
        silenced = model(points)
    assert [layer.shape[-1] for layer in seen[0]] == model.backbone.layer_widths()
    assert torch.allclose(silenced, silenced[:, :1].expand_as(silenced), atol=1e-5)
    assert len(seen) == 1


@pytest.mark.parametrize("inference", [False, True], ids=["no_grad", "inference_mode"])
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
def test_blocks_side_by_side_in_inference(set_threads, inference, autocast):
    """Threads of their own take the blocks, under the modes of the caller; the last of five is left over."""
    model, points = DeepGCN(**SMALL).eval(), torch.rand(5, 300, 9)
    set_threads(2)
    with torch.inference_mode(inference), torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        one_by_one = torch.cat([model(block) for block in points.split(1)])
        together = fast_inference.infer(model, points, None, fast_inference.Sizes(300, 512))
    assert together.dtype == one_by_one.dtype
    assert together.is_inference() == inference
    assert (together == one_by_one).float().mean() > 0.99


def test_what_watches_operations_sees_them_in_inference():
    """Counters of FLOPs, as every mode, belong to one thread: then blocks stay on it."""
    model, points, counts = DeepGCN(**SMALL).eval(), torch.rand(4, 50, 9), []
    for blocks in points[:1], points:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            fast_inference.infer(model, blocks, None, fast_inference.Sizes(50, 512))
        counts.append(counter.get_total_flops())
    assert counts[1] == 4 * counts[0] > 0


def held_for_backward(model, points):
    """Bytes of distinct storages that autograd keeps for a backward pass, parameters left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = model(points)
    return out, sum(held.values())


class Copied(Dense):
    """A dense connection that concatenates anew in every layer."""

    start = Connection.start


class Concatenated(Copied):
    """A dense connection whose layers are all handed on, and not the last alone."""

    nested = False


class Halved(Block):
    def forward(self, *given):
        return super().forward(*given).mul_(0.5)


def change_layers(model, how):
    """Change what a layer of the network puts out."""
    block = model.backbone.blocks[1]
    if how == "hook":
        block.register_forward_hook(lambda block, given, out: 0.5 * out)
    elif how == "hook in place":
        block.register_forward_hook(lambda block, given, out: out.mul_(0.5))
    elif how == "own block":
        block.__class__ = Halved
    else:
        model.backbone.register_forward_hook(lambda backbone, given, layers: [0.5 * layers[0], *layers[1:]])
    return model


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("how", ["hook", "hook in place", "own block", "hook of the backbone"])
def test_a_changed_layer_of_a_dense_backbone_leaves_the_others_as_they_are(how, training):
    settings = {**SMALL, "dropout": 0.0, "stochastic": False}
    model, other = (DeepGCN(connection=kind(), **settings).double().train(training) for kind in (Dense, Concatenated))
    other.load_state_dict(model.state_dict())
    change_layers(model, how), change_layers(other, how)
    points = torch.rand(2, 40, 9, dtype=torch.float64)
    torch.testing.assert_close(model.features(points), other.features(points))
    found, expected = model(points), other(points)
    torch.testing.assert_close(found, expected)
    for gradients in zip(*(torch.autograd.grad(out.square().sum(), list(network.parameters()))
                           for out, network in ((found, model), (expected, other)))):  # fmt: skip
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("conv", [EdgeConv, MRConv])
@pytest.mark.parametrize("recompute", [False, True], ids=["whole", "recomputed"])
def test_dense_layers_append_instead_of_copying(conv, recompute):
    settings = {"conv": conv, "channels": 6, "k": 4, "dropout": 0.0, "stochastic": False, "recompute": recompute}
    settings |= {"depth": 7, "fusion_channels": 8, "head_channels": [8]}
    model, copying = (DeepGCN(connection=kind(), **settings).double() for kind in (Dense, Copied))
    copying.load_state_dict(model.state_dict())
    points = torch.rand(2, 60, 9, dtype=torch.float64)

    def passes(network):
        out, held = held_for_backward(network, points)
        return [out, *torch.autograd.grad(out.square().sum(), list(network.parameters()))], held

    appended, held = passes(model)
    concatenated, held_before = passes(copying)
    for found, expected in zip(appended, concatenated):
        assert torch.allclose(found, expected)
    # Copies: 6 + 12 + ... + 42 channels, 168 in all; appended: 42 once.
    assert held_before - held > (168 - 42) * 2 * 60 * 8 * 0.9
