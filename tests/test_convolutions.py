"""Each convolution against a naive loop over points and neighbours, in every norm, act and order."""

from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch_geometric.nn as pyg
from torch import nn
from torch.nn import functional as F

from deepgcn_seg import ops
from deepgcn_seg.model import ACTS, GIN, NORMS, ORDERS, EdgeConv, GENConv, GraphSAGE, LayerSpec, MessagePassing, MRConv
from deepgcn_seg.model.layers import make_norm, sync_norms

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


# Compiled kernels and PyTorch's where they are used; GENConv has its own parts, whatever norm and activation follow.
FORMULAS = [(name, backend) for name in ("edge", "mr", "sage") for backend in ("numba", "torch")]
FORMULAS += [(name, "torch") for name in ("sage-normalized", "gin")]
CASES = [(*formula, norm, act) for formula in FORMULAS for norm in NORMS for act in ACTS]
CASES += [(name, "torch", norm, "relu") for name in ("gen-softmax", "gen-power") for norm in NORMS]


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


def normed(norm, values):
    """A norm over (B, M, C) values, points or edges, by PyTorch's own functions."""
    if norm is None:
        return values
    if isinstance(norm, torch.nn.BatchNorm1d):
        statistics = norm.running_mean.clone(), norm.running_var.clone()
        flat = F.batch_norm(values.flatten(0, 1), *statistics, norm.weight, norm.bias, norm.training, eps=norm.eps)
        return flat.view_as(values)
    if isinstance(norm, torch.nn.LayerNorm):
        return F.layer_norm(values, values.shape[-1:], norm.weight, norm.bias, norm.eps)
    return F.instance_norm(values.mT, eps=norm.eps).mT


def textbook(layer, values):
    """linear, norm and act of a Pointwise on values (B, M, C), or on edges (B, N, k, C) laid side by side."""
    y = (values @ layer.linear.weight.T + layer.linear.bias).view(len(values), -1, len(layer.linear.weight))
    act = layer.act or (lambda v: v)
    y = act(normed(layer.norm, y)) if layer.order == "norm-act" else normed(layer.norm, act(y))
    return y.view(*values.shape[:-1], -1)


def naive(conv, x, index):
    """The convolution by its formula over explicit edges."""
    own = x[:, :, None].expand(-1, -1, index.shape[2], -1)
    other = torch.stack([x[b][index[b]] for b in range(len(x))])
    if isinstance(conv, EdgeConv):
        return textbook(conv.layer, torch.cat([own, other - own], -1)).amax(2)
    if isinstance(conv, MRConv):
        return textbook(conv.layer, torch.cat([x, (other - own).amax(2)], -1))
    if isinstance(conv, GraphSAGE):
        # gcn_lib/tf_vertex.py: tf.gather, then conv2d with its batch norm over (B, N, k), then the maximum.
        out = textbook(conv.layer, torch.cat([x, textbook(conv.pool, other).amax(2)], -1))
        # tf.nn.l2_normalize.
        return out * out.square().sum(-1, keepdim=True).clamp(min=1e-12).rsqrt() if conv.normalize else out
    if isinstance(conv, GIN):
        return textbook(conv.layer, (1 + conv.eps) * x + other.sum(2))
    if isinstance(conv, GENConv):
        if conv.project is not None:
            x = x @ conv.project.weight.T + conv.project.bias
            other = torch.stack([x[b][index[b]] for b in range(len(x))])
        message, t = other.clamp(min=0) + 1e-7, conv.temperature
        if conv.aggregation == "softmax":
            weight = (t * message).exp() / (t * message).exp().sum(2, keepdim=True)
            pooled = (weight * message).sum(2)
        else:
            pooled = (message.clamp(1e-7, 10) ** t).mean(2).clamp(1e-7, 10) ** (1 / t)
        if conv.message_scale is not None:
            length = pooled.norm(dim=-1, keepdim=True).clamp(min=1e-12)
            pooled = conv.message_scale * x.norm(dim=-1, keepdim=True) * pooled / length
        x = x + pooled
        for layer in conv.mlp:
            x = textbook(layer, x)
        return x
    raise NotImplementedError


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("name", "backend", "norm", "act"), CASES)
def test_equals_the_formula(name, backend, norm, act, order, training):
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


@pytest.mark.parametrize("name", ["edge", "sage"])
def test_running_statistics_are_those_of_batch_norm_over_edges(name):
    conv = scramble(CONVS[name](6, 5)).double().train()
    layer = conv.layer if name == "edge" else conv.pool
    x, index = data()
    own = x[:, :, None].expand(-1, -1, 4, -1)
    other = torch.stack([x[b][index[b]] for b in range(2)])
    reference = torch.nn.BatchNorm1d(layer.linear.out_features).double()
    reference.load_state_dict(layer.norm.state_dict())
    edges = torch.cat([own, other - own], -1) if name == "edge" else other
    reference(layer.linear(edges).flatten(0, 2))
    conv(x, index)
    assert torch.allclose(layer.norm.running_mean, reference.running_mean)
    assert torch.allclose(layer.norm.running_var, reference.running_var)
    assert layer.norm.num_batches_tracked == reference.num_batches_tracked


@pytest.fixture
def one_process():
    """A group of one process: synced norms sum over it."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("name", CONVS)
def test_synced_norms_are_the_same_norms(one_process, name, masked):
    conv = scramble(CONVS[name](6, 8)).double().train()
    before = {k: v.clone() for k, v in conv.state_dict().items()}
    x, index = data()
    index, mask = (index % 20, torch.arange(29) < torch.tensor([[24], [20]])) if masked else (index, None)
    upstream, found = torch.randn(2, 29, 8, dtype=torch.float64), []
    for sync in (lambda module: None, sync_norms):
        conv.load_state_dict(before)
        sync(conv)
        out = conv(x, index, mask)
        grads = torch.autograd.grad((out * upstream).sum(), [x, *conv.parameters()], allow_unused=True)
        found.append([out, *[grad for grad in grads if grad is not None], *(b.clone() for b in conv.buffers())])
    for alone, synced in zip(*found):
        assert torch.allclose(alone, synced, atol=1e-9)


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("synced", [False, True], ids=["alone", "synced"])
def test_statistics_are_not_rounded_under_autocast(one_process, norm, synced):
    """Means of bfloat16 values, in bfloat16, would be off by up to half a percent."""
    layer = make_norm(norm, 4).train()
    if synced:
        sync_norms(layer)
    x = torch.randn(2, 300, 4) + 40
    mask = torch.arange(300) < torch.tensor([[300], [150]])
    for part in (None, mask):
        found = layer(x.bfloat16(), part)
        assert found.dtype == torch.bfloat16
        difference = (found.float() - layer(x.bfloat16().float(), part)).abs()
        assert (difference if part is None else difference[part]).max() < 0.02


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("synced", [False, True], ids=["alone", "synced"])
@pytest.mark.parametrize("name", ["edge", "mr", "sage", "gin", "gen-power", "gatv2"])
def test_one_value_has_no_variance(one_process, name, synced, masked):
    """A point alone in training, with one neighbour: PyTorch's own error, not a division by zero."""
    conv = CONVS[name](6, 5)
    if synced:
        sync_norms(conv)
    x, index = torch.rand(1, 2 if masked else 1, 6), torch.zeros(1, 2 if masked else 1, 1, dtype=torch.int64)
    mask = torch.tensor([[True, False]]) if masked else None
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        conv(x, index, mask)
    assert all(torch.isfinite(buffer).all() for buffer in conv.buffers())
    assert torch.isfinite(conv.eval()(x, index, mask)).all()


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


@pytest.mark.parametrize("name", CONVS)
def test_what_is_built_without_memory_is_reset_as_it_was_built(name):
    """As tools do it that shard a network: built on the device "meta", given memory, and reset module by module."""
    with torch.device("meta"):
        conv = CONVS[name](5, 8)
    conv.to_empty(device="cpu")
    for parameter in conv.parameters():
        nn.init.constant_(parameter, torch.nan)
    for module in conv.modules():
        getattr(module, "reset_parameters", lambda: None)()
    built = dict(CONVS[name](5, 8).named_parameters())
    for parameter_name, parameter in conv.named_parameters():
        assert not parameter.isnan().any(), parameter_name
        if parameter.dim() == 0:
            assert parameter == built[parameter_name]


def test_short_vectors_are_normalised_as_by_tensorflow():
    conv = GraphSAGE(2, 2, LayerSpec(norm="none", act="none"), normalize=True).double()
    for linear in (conv.pool.linear, conv.layer.linear):
        linear.weight.data.copy_(torch.eye(2, linear.in_features))
        linear.bias.data.zero_()
    x = torch.tensor([[[3e-8, 4e-8], [3.0, 4.0]]], dtype=torch.float64)
    expected = torch.tensor([[[0.03, 0.04], [0.6, 0.8]]], dtype=torch.float64)
    assert torch.allclose(conv(x, torch.tensor([[[0], [1]]])), expected)


def test_power_mean_clamps_as_the_authors_code():
    """gcn_lib/sparse/torch_message.py: messages and their mean to 1e-7..10."""
    conv = GENConv(1, 1, LayerSpec(norm="none", act="none"), aggregation="power", temperature=2.0).double()
    conv.mlp[0].linear.weight.data.fill_(1)
    conv.mlp[0].linear.bias.data.zero_()
    x = torch.tensor([[[-5.0], [3e-6], [20.0], [4.0]]], dtype=torch.float64)
    index = torch.tensor([[[0, 0], [1, 1], [2, 2], [2, 3]]])
    # Squares 1e-14, 9.6e-12 fall below the range, 100 and (100 + 16) / 2 rise above it; the root is of its ends.
    expected = torch.tensor([1e-7**0.5, 1e-7**0.5, 10**0.5, 10**0.5], dtype=torch.float64)
    assert torch.allclose(conv(x, index)[0, :, 0] - x[0, :, 0], expected)
    mild = torch.tensor([[[1.0], [2.0]]], dtype=torch.float64)
    assert torch.allclose(conv(mild, torch.tensor([[[0, 1], [1, 1]]]))[0, 0, 0] - 1, torch.tensor(2.5).double().sqrt())


@pytest.mark.parametrize("learned", [True, False])
def test_softmax_weights_carry_a_gradient_only_if_the_temperature_is_learned(learned):
    """As the authors' code: ``with torch.no_grad()`` around the softmax otherwise."""
    conv = GENConv(6, 6, LayerSpec(norm="none", act="none"), temperature=0.7, learn_temperature=learned).double()
    x, index = data()
    message = torch.stack([x[b][index[b]] for b in range(2)]).relu() + 1e-7
    weight = (0.7 * message).softmax(2)
    expected = conv.mlp[0].linear(x + ((weight if learned else weight.detach()) * message).sum(2))
    found = conv(x, index)
    upstream = torch.randn_like(found)
    assert torch.allclose(found, expected)
    assert torch.allclose(*(torch.autograd.grad(out, x, upstream)[0] for out in (found, expected)))


@pytest.mark.parametrize("wrong", [{"order": "act"}, {"norm": "group"}, {"act": "swishh"}])
def test_unknown_layer_spec(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong.values()))):
        LayerSpec(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"aggregation": "mean"}, {"mlp_layers": 0}, {"temperature": float("nan")}, {"hidden_norm": "group"}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_bad_settings_of_gen_conv(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)).removeprefix("hidden_")):
        GENConv(6, 6, **{"mlp_layers": 2, **wrong})


@pytest.mark.parametrize(
    ("conv", "settings", "message"),
    [
        (GraphSAGE, {"normalize": "no"}, "normalize=no: must be true or false"),
        (GIN, {"learn_eps": "no"}, "learn_eps=no: must be true or false"),
        (GENConv, {"learn_temperature": 1}, "learn_temperature=1: must be true or false"),
        (GENConv, {"message_norm": "no"}, "message_norm=no: must be true or false"),
        (GENConv, {"learn_message_scale": "no"}, "learn_message_scale=no: must be true or false"),
        (GENConv, {"hidden_norm": "group"}, "hidden_norm=group: must be one of batch"),
        (GENConv, {"temperature": "hot"}, "temperature=hot: must be a number"),
        (GENConv, {"aggregation": "power", "temperature": 0}, "temperature=0: must be not 0 for the power mean"),
        (GENConv, {"eps": -1}, "eps=-1: must be a number of at least 0"),
    ],
)
def test_arguments_are_validated(conv, settings, message):
    with pytest.raises(ValueError, match=message):
        conv(4, 4, **settings)


def test_the_bias_of_a_layer_is_true_or_false():
    with pytest.raises(ValueError, match="bias=no: must be true or false"):
        LayerSpec(bias="no")
