"""Each convolution against a naive loop over points and neighbours, in every norm, act and order."""

from functools import partial

import pytest
import torch
import torch_geometric.nn as pyg

from deepgcn_seg import ops
from deepgcn_seg.model import (
    ACTS,
    GIN,
    NORMS,
    ORDERS,
    EdgeConv,
    GENConv,
    GraphSAGE,
    LayerSpec,
    MessagePassing,
    MRConv,
)

CONVS = {
    "edge": EdgeConv,
    "mr": MRConv,
    "sage": GraphSAGE,
    "sage-normalized": partial(GraphSAGE, normalize=True),
    "gin": GIN,
    "gen-softmax": partial(GENConv, temperature=0.7, message_norm=True, learn_message_scale=True),
    "gen-power": partial(GENConv, aggregation="power", temperature=1.3, mlp_layers=2),
    "gatv2": partial(MessagePassing, operator=partial(pyg.GATv2Conv, heads=2, concat=False, add_self_loops=False)),
    "transformer": partial(MessagePassing, operator=partial(pyg.TransformerConv, heads=2, concat=False)),
}


def scramble(module):
    """Give every parameter and running statistic a value of its own; some norm scales negative."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p) * 0.4)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    for m in module.modules():
        if isinstance(m, torch.nn.PReLU):
            m.weight.data.abs_()
    return module


def data(count=29, channels=6, k=4):
    x = torch.randn(2, count, channels, dtype=torch.float64, requires_grad=True)
    return x, torch.randint(0, count, (2, count, k))


def textbook(layer, rows):
    """linear, norm and act of a Pointwise on (M, C) rows at once, from PyTorch's own parts."""
    y = rows @ layer.linear.weight.T + layer.linear.bias
    norm = layer.norm
    if isinstance(norm, torch.nn.BatchNorm1d):
        normed = partial(
            torch.nn.functional.batch_norm,
            running_mean=norm.running_mean.clone(),
            running_var=norm.running_var.clone(),
            weight=norm.weight,
            bias=norm.bias,
            training=norm.training,
        )
    elif norm is None:
        normed = lambda v: v
    else:
        normed = norm
    act = layer.act or (lambda v: v)
    return act(normed(y)) if layer.order == "norm-act" else normed(act(y))


def naive(conv, x, index):
    """The convolution by its formula over explicit edges."""
    own = x[:, :, None].expand(-1, -1, index.shape[2], -1)
    other = torch.stack([x[b][index[b]] for b in range(len(x))])
    if isinstance(conv, EdgeConv):
        edges = torch.cat([own, other - own], -1)
        return textbook(conv.layer, edges.flatten(0, 2)).view(*index.shape, -1).amax(2)
    if isinstance(conv, MRConv):
        rows = torch.cat([x, (other - own).amax(2)], -1)
        return textbook(conv.layer, rows.flatten(0, 1)).view(*x.shape[:2], -1)
    if isinstance(conv, GraphSAGE):
        h = textbook(conv.pool, x.flatten(0, 1)).view(*x.shape[:2], -1)
        pooled = torch.stack([h[b][index[b]] for b in range(len(x))]).amax(2)
        out = textbook(conv.layer, torch.cat([x, pooled], -1).flatten(0, 1)).view(*x.shape[:2], -1)
        return out / out.norm(dim=-1, keepdim=True).clamp(min=1e-12) if conv.normalize else out
    if isinstance(conv, GIN):
        rows = (1 + conv.eps) * x + other.sum(2)
        return textbook(conv.layer, rows.flatten(0, 1)).view(*x.shape[:2], -1)
    raise NotImplementedError


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("name", ["edge", "mr", "sage", "sage-normalized", "gin"])
@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_equals_the_formula(name, norm, act, order, training, backend):
    conv = scramble(CONVS[name](6, 5, LayerSpec(order, norm, act))).double().train(training)
    x, index = data()
    expected = naive(conv, x, index)
    weights = torch.randn_like(expected)
    parameters = [p for p in conv.parameters() if p.requires_grad]
    expected_grads = torch.autograd.grad((expected * weights).sum(), [x, *parameters])
    with ops.backend(backend):
        found = conv(x, index)
        grads = torch.autograd.grad((found * weights).sum(), [x, *parameters])
    assert torch.allclose(found, expected, atol=1e-9)
    for grad, expected_grad in zip(grads, expected_grads):
        assert torch.allclose(grad, expected_grad, atol=1e-8)


def test_edge_conv_updates_running_statistics_as_batch_norm_over_edges_does():
    conv = scramble(EdgeConv(6, 5)).double().train()
    x, index = data()
    own = x[:, :, None].expand(-1, -1, 4, -1)
    other = torch.stack([x[b][index[b]] for b in range(2)])
    reference = torch.nn.BatchNorm1d(5).double()
    reference.load_state_dict(conv.layer.norm.state_dict())
    reference(conv.layer.linear(torch.cat([own, other - own], -1)).flatten(0, 2))
    conv(x, index)
    assert torch.allclose(conv.layer.norm.running_mean, reference.running_mean)
    assert torch.allclose(conv.layer.norm.running_var, reference.running_var)
    assert conv.layer.norm.num_batches_tracked == reference.num_batches_tracked


def test_negative_prelu_slopes_take_the_path_over_edges():
    conv = scramble(EdgeConv(6, 5, LayerSpec(act="prelu"))).double()
    conv.layer.act.weight.data.fill_(-0.4)
    x, index = data()
    assert torch.allclose(conv(x, index), naive(conv, x, index), atol=1e-9)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", CONVS)
def test_every_combination_runs_and_learns(name, norm, act, order):
    conv = CONVS[name](6, 8, LayerSpec(order, norm, act))
    x, index = data()
    out = conv(x.float(), index)
    assert out.shape == (2, 29, 8)
    assert torch.isfinite(out).all()
    out.square().mean().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in conv.parameters())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", CONVS)
def test_absent_points_do_not_exist(name, norm, training):
    """Padding a block changes nothing: same output, same running statistics."""
    conv = scramble(CONVS[name](6, 8, LayerSpec(norm=norm))).double().train(training)
    before = {k: v.clone() for k, v in conv.state_dict().items()}
    x, index = data(count=20)
    x, index = x[:1].detach(), index[:1] % 14
    alone = conv(x[:, :14], index[:, :14])
    statistics = {k: v.clone() for k, v in conv.state_dict().items()}
    conv.load_state_dict(before)
    padded = conv(x, index, torch.arange(20)[None] < 14)
    assert torch.allclose(padded[:, :14], alone, atol=1e-9)
    for k, v in conv.state_dict().items():
        assert torch.allclose(v, statistics[k], atol=1e-9), k


@pytest.mark.parametrize("wrong", [{"order": "act"}, {"norm": "group"}, {"act": "swishh"}])
def test_unknown_layer_spec(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong.values()))):
        LayerSpec(**wrong)
