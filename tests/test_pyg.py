"""Our layers against an independent assembly from torch_geometric's parts, on the same neighbours."""

from inspect import signature

import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn

from deepgcn_seg.model import GIN, Block, EdgeConv, GENConv, LayerSpec, edge_index
from deepgcn_seg.model.layers import BatchNorm, LayerNorm
from deepgcn_seg.model.neighborhood import Neighborhood

LINEAR = LayerSpec(norm="none", act="none")


def graph(count=40, channels=8, k=5):
    x = torch.randn(2, count, channels, dtype=torch.float64)
    return x, torch.randint(0, count, (2, count, k))


def both(ours, theirs, x, index):
    """Outputs and gradients of ours (dense) and theirs (flat) are equal."""
    a = x.clone().requires_grad_()
    b = x.clone().requires_grad_()
    out_a = ours(a, index)
    out_b = theirs(b.flatten(0, 1), edge_index(index)).view_as(out_a)
    weights = torch.randn_like(out_a)
    (out_a * weights).sum().backward()
    (out_b * weights).sum().backward()
    assert torch.allclose(out_a, out_b, atol=1e-9)
    assert torch.allclose(a.grad, b.grad, atol=1e-8)
    linear = next(m for m in theirs.modules() if isinstance(m, nn.Linear))
    assert torch.allclose(ours.layer.linear.weight.grad, linear.weight.grad, atol=1e-8)
    assert torch.allclose(ours.layer.norm.weight.grad, theirs.nn[1].weight.grad, atol=1e-8)


def test_edge_conv():
    ours = EdgeConv(8, 6).double()
    theirs = pyg.EdgeConv(nn.Sequential(nn.Linear(16, 6), nn.BatchNorm1d(6), nn.ReLU()), aggr="max").double()
    theirs.nn[0].load_state_dict(ours.layer.linear.state_dict())
    both(ours, theirs, *graph())


def test_gin_conv():
    ours = GIN(8, 6).double()
    mlp = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU())
    theirs = pyg.GINConv(mlp, train_eps=True).double()
    theirs.nn[0].load_state_dict(ours.layer.linear.state_dict())
    with torch.no_grad():
        ours.eps.fill_(0.3)
        theirs.eps.fill_(0.3)
    both(ours, theirs, *graph())
    assert torch.allclose(ours.eps.grad, theirs.eps.grad)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("message_norm", [False, True])
@pytest.mark.parametrize(("aggregation", "theirs_name"), [("softmax", "softmax"), ("power", "powermean")])
def test_gen_conv(aggregation, theirs_name, message_norm, layers):
    if theirs_name == "powermean" and "clamp_min" not in signature(pyg.PowerMeanAggregation).parameters:
        pytest.skip("before 2.8, torch_geometric raised numbers from 0 on to a power, instead of 1e-4")
    ours = GENConv(
        8,
        8,
        LINEAR,
        aggregation=aggregation,
        temperature=1.7,
        message_norm=message_norm,
        learn_message_scale=message_norm,
        mlp_layers=layers,
    ).double()
    key = {"softmax": {"t": 1.7, "learn_t": True}, "powermean": {"p": 1.7, "learn_p": True}}[theirs_name]
    theirs = pyg.GENConv(
        8,
        8,
        aggr=theirs_name,
        msg_norm=message_norm,
        learn_msg_scale=message_norm,
        num_layers=layers,
        bias=True,
        **key,
    ).double()
    if aggregation == "power":
        # The authors' range, which is not torch_geometric's.
        theirs.aggr_module.min_value, theirs.aggr_module.max_value = 1e-7, 10.0
    linears = [m for m in theirs.mlp if type(m).__name__ == "Linear"]
    for layer, linear in zip(ours.mlp, linears, strict=True):
        linear.load_state_dict(layer.linear.state_dict())
    x, index = graph()
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    out_a, out_b = ours(a, index), theirs(b.flatten(0, 1), edge_index(index)).view(2, 40, 8)
    weights = torch.randn_like(out_a)
    (out_a * weights).sum().backward()
    (out_b * weights).sum().backward()
    assert torch.allclose(out_a, out_b, atol=1e-6)
    assert torch.allclose(a.grad, b.grad, atol=1e-6)


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("connection", ["res+", "res", "dense", "plain"])
def test_block_is_deep_gcn_layer(connection, training, checkpoint):
    """Norm, act and dropout stand where DeepGCNLayer puts them."""
    inner = EdgeConv(8, 8, LINEAR).double()
    operator = pyg.EdgeConv(nn.Sequential(nn.Linear(16, 8))).double()
    operator.nn[0].load_state_dict(inner.layer.linear.state_dict())
    ours = Block(inner, BatchNorm(8).double(), nn.ReLU(), connection, 0.3, checkpoint).train(training)
    theirs = pyg.DeepGCNLayer(operator, nn.BatchNorm1d(8).double(), nn.ReLU(), connection, 0.3)
    theirs.train(training)
    x, index = graph()
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    torch.manual_seed(5)
    out_a = ours(a, Neighborhood(index))
    torch.manual_seed(5)
    out_b = theirs(b.flatten(0, 1), edge_index(index)).view_as(out_a)
    assert torch.allclose(out_a, out_b, atol=1e-9)
    weights = torch.randn_like(out_a)
    (out_a * weights).sum().backward()
    (out_b * weights).sum().backward()
    assert torch.allclose(a.grad, b.grad, atol=1e-8)
    assert torch.allclose(ours.norm.running_var, theirs.norm.running_var)


def test_a_users_own_conv_norm_and_act_drop_in():
    class Mean(nn.Module):
        def forward(self, x, index, mask=None):
            return torch.stack([x[b][index[b]] for b in range(len(x))]).mean(2)

    block = Block(Mean(), LayerNorm(8), nn.Tanh(), "res+")
    x, index = graph()
    assert block(x.float(), Neighborhood(index)).shape == x.shape


def test_checkpointed_statistics_count_once():
    """Recomputing the convolution in backward must not move running statistics again."""
    plain, checkpointed = (Block(EdgeConv(8, 8).double(), recompute=flag) for flag in (False, True))
    checkpointed.load_state_dict(plain.state_dict())
    x, index = graph()
    for block in (plain, checkpointed):
        block(x.clone().requires_grad_(), Neighborhood(index)).sum().backward()
    for (name, a), b in zip(plain.state_dict().items(), checkpointed.state_dict().values()):
        assert torch.equal(a, b), name
