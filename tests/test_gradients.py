"""Gradients in the ways people take them from PyTorch: what is computed is autograd's, and all else is an error."""

from copy import deepcopy
from functools import partial

import pytest
import torch
import torch.distributed as dist

from deepgcn_seg import DeepGCN
from deepgcn_seg.distributed import SummedOverAll
from deepgcn_seg.model.convolution import EdgeConv, MRConv
from deepgcn_seg.model.layers import Pointwise

SMALL = {"channels": 8, "k": 4, "fusion_channels": 16, "head_channels": (8,), "dropout": 0.0, "stochastic": False}
NETWORKS = {"res": {}, "dense": {"connection": "dense"}, "rev": {"connection": "rev"}, "mr": {"conv": MRConv}}
# What the backward pass computes again, and how it is switched off.
AGAIN = {"rev": {"connection": "rev"}, "recomputed": {"recompute": True}}


@pytest.fixture
def points():
    return torch.rand(2, 40, 9, dtype=torch.float64)


def small(**settings):
    return DeepGCN(**{"depth": 4, **SMALL, **settings}).double()


def by_autograd(model):
    """Return a copy of the network, through which autograd goes as through any other."""
    copy = deepcopy(model)
    for block in copy.backbone.blocks:
        block.recompute = False
    copy.backbone.blocks.forward = partial(in_order, copy.backbone.blocks)
    return copy


def in_order(blocks, x, around, dropout=0.0):
    for i, block in enumerate(blocks):
        x = block(x, around(i, x))
    return x


def gradients(model, points):
    return torch.autograd.grad(model(points).square().sum(), list(model.parameters()))


def assert_equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6 * float(b.abs().max() + 1))


@pytest.mark.parametrize("part", ["backbone", "fusion", "head", "whole"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_second_derivative_is_refused(network, part, points):
    model = small(**NETWORKS[network]).eval()
    points.requires_grad_()
    # Frozen layers have second derivatives by their input.
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(part))
    (gradient,) = torch.autograd.grad(model(points).square().sum(), points, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        gradient.square().sum().backward()


def test_a_second_derivative_is_refused_where_no_gradient_that_comes_in_has_a_history():
    conv, x = EdgeConv(3, 4).eval(), torch.rand(1, 20, 3, requires_grad=True)
    loss = conv(x, torch.randint(20, (1, 20, 4))).sum() + x.square().sum()
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivatives only"):
        gradient.square().sum().backward()


def test_layers_with_hooks_have_second_derivatives():
    """docs/model.md says so."""
    model = small(depth=3, act="leakyrelu", graph="fixed")
    for layer in model.modules():
        if isinstance(layer, Pointwise):
            layer.register_forward_hook(lambda *_: None)
    points = torch.rand(1, 10, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: model(x).square(), points)


def test_the_sum_over_processes_has_second_derivatives(monkeypatch):
    # Two processes with the same values. Autograd does not see what the other one adds.
    monkeypatch.setattr(dist, "all_reduce", lambda values: values.data.mul_(2))
    x = torch.rand(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: SummedOverAll.apply(x).pow(3), x)
