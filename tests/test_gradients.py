"""Gradients in the ways people take them from PyTorch: what is computed is autograd's, and all else is an error."""

from copy import deepcopy
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.autograd import forward_ad
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.func import functional_call

from deepgcn_seg import DeepGCN, ops
from deepgcn_seg.distributed import SummedOverAll
from deepgcn_seg.model.convolution import EdgeConv, GraphSAGE, MRConv
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
    trained = [points, *(parameter for parameter in model.parameters() if parameter.requires_grad)]
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(model(points).square().sum(), trained, create_graph=True)


@pytest.mark.parametrize("conv", [EdgeConv, MRConv, GraphSAGE])
def test_products_with_the_hessian_are_refused(conv):
    layer, index = conv(3, 4).eval(), torch.randint(20, (1, 20, 4))
    loss = lambda x: layer(x, index).square().sum() + x.square().sum()
    x = torch.rand(1, 20, 3)
    for second in (torch.autograd.functional.hvp, torch.autograd.functional.vhp):
        with pytest.raises(RuntimeError, match="first derivatives only"):
            second(loss, x, x)


@pytest.mark.parametrize("gradients", [True, False])
def test_forward_mode_is_refused(gradients):
    layer, index = EdgeConv(3, 4).eval(), torch.randint(20, (1, 20, 4))
    with forward_ad.dual_level(), torch.set_grad_enabled(gradients):
        x = forward_ad.make_dual(torch.rand(1, 20, 3), torch.rand(1, 20, 3))
        with pytest.raises(NotImplementedError):
            layer(x, index)


TRANSFORMS = {
    "vmap": lambda call, x: torch.func.vmap(call)(torch.stack([x, x])),
    "grad": lambda call, x: torch.func.grad(lambda x: call(x).sum())(x),
    "jacrev": lambda call, x: torch.func.jacrev(call)(x),
    "jvp": lambda call, x: torch.func.jvp(call, (x,), (x,)),
}


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("part", ["network", "EdgeConv", "MRConv", "search", "fusion"])
def test_transforms_of_torch_func_are_refused(part, transform, gradients, points):
    model, index = small().eval(), torch.randint(40, (2, 40, 4))
    edge, mr = (kind(9, 4).double().eval() for kind in (EdgeConv, MRConv))
    calls = {
        "network": model,
        "EdgeConv": lambda x: edge(x, index),
        "MRConv": lambda x: mr(x, index),
        "search": lambda x: ops.nearest_ranks(x, torch.arange(4)) * x.sum(),
        "fusion": lambda x: model.fusion(x[..., :1].expand(-1, -1, 32)),
    }
    with torch.set_grad_enabled(gradients), pytest.raises(RuntimeError, match="transforms of torch.func"):
        transform(calls[part], points)


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


@pytest.mark.parametrize("shared", ["blocks", "branches", "weight", "computed"])
def test_reversible_blocks_may_share_parameters(shared, points):
    model = small(depth=5, connection="rev")
    blocks = model.backbone.blocks
    if shared == "blocks":
        blocks[1] = blocks[2] = blocks[0]
    for block in blocks:
        if shared == "branches":
            block.branches[1] = block.branches[0]
        if shared == "weight":
            block.branches[0].conv.layer.linear.weight = blocks[0].branches[0].conv.layer.linear.weight
        if shared == "computed":
            nn.utils.parametrizations.weight_norm(block.branches[0].conv.layer.linear)
    other = by_autograd(model)
    assert_equal(gradients(model, points), gradients(other, points))


@pytest.mark.parametrize("settings", AGAIN.values(), ids=AGAIN)
def test_parameters_may_be_frozen_unused_or_left_out(settings, points):
    model = small(bias=False, **settings)
    frozen, changed, *_ = model.backbone.blocks
    frozen.requires_grad_(False)
    changed.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    other = by_autograd(model)
    for network in (model, other):
        network(points).square().sum().backward()
    used = [[p.grad for p in network.parameters() if p.grad is not None] for network in (model, other)]
    assert_equal(*used)
    assert changed.unused.grad is None and all(p.grad is None for p in frozen.parameters())


@pytest.mark.parametrize("settings", AGAIN.values(), ids=AGAIN)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_the_mode_may_change_before_the_backward_pass(settings, training, points):
    model = small(**settings).train(training)
    expected = gradients(by_autograd(model), points)
    loss = model(points).square().sum()
    model.train(not training)
    assert_equal(torch.autograd.grad(loss, list(model.parameters())), expected)
    assert all(part.training != training for part in model.modules())


@pytest.mark.parametrize("settings", AGAIN.values(), ids=AGAIN)
def test_parameters_modified_before_the_backward_pass_are_refused(settings, points):
    model = small(**settings)
    loss = model(points).square().sum()
    with torch.no_grad():
        for parameter in model.backbone.blocks.parameters():
            parameter.add_(0.1)
    with pytest.raises(RuntimeError, match=r"modified in place.*before it is modified"):
        loss.backward()


def test_running_statistics_may_change_before_the_backward_pass_of_reversible_blocks(points):
    model = small(connection="rev").eval()
    expected = gradients(by_autograd(model), points)
    loss = model(points).square().sum()
    with torch.no_grad():
        model.backbone.blocks.train()
        model(points)
    after = [buffer.clone() for buffer in model.buffers()]
    assert_equal(torch.autograd.grad(loss, list(model.parameters())), expected)
    assert all(map(torch.equal, model.buffers(), after))


class Tracked(nn.Module):
    """A norm of a user's own, which subtracts a running mean that it updates before."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))

    def forward(self, x, mask=None):
        with torch.no_grad():
            self.mean.lerp_(x.mean((0, 1)), 0.5)
        return x - self.mean.clone()


class Replaced(Tracked):
    """The same, with a new tensor in the place of the running mean."""

    def forward(self, x, mask=None):
        self.mean = self.mean.lerp(x.detach().mean((0, 1)), 0.5)
        return x - self.mean


def with_spectral_norm(model, wrap):
    """The model with a norm of each linear map's weights, whose vectors are still far from the singular ones."""
    for linear in [part for part in model.backbone.modules() if isinstance(part, nn.Linear)]:
        wrap(linear)
    for name, buffer in model.named_buffers():
        if name.endswith(("_u", "_v")):
            nn.init.normal_(buffer)
    return model


CHANGING = {
    "spectral norm": lambda **settings: with_spectral_norm(small(**settings), nn.utils.spectral_norm),
    "spectral norm as a parametrization": lambda **settings: with_spectral_norm(
        small(**settings), nn.utils.parametrizations.spectral_norm
    ),
    "own norm": partial(small, norm=Tracked),
    "own norm with new tensors": partial(small, norm=Replaced),
}


@pytest.mark.parametrize("settings", AGAIN.values(), ids=AGAIN)
@pytest.mark.parametrize("build", CHANGING.values(), ids=CHANGING)
def test_parts_may_change_their_buffers_in_training(build, settings, points):
    model = build(**settings)
    other = by_autograd(model)
    expected = gradients(other, points)
    loss = model(points).square().sum()
    for _ in range(2):
        assert_equal(torch.autograd.grad(loss, list(model.parameters()), retain_graph=True), expected)
    assert_equal(model.buffers(), other.buffers())


def test_blocks_may_share_a_part_that_changes_its_buffers(points):
    model = small(connection="rev", norm=Tracked)
    model.backbone.blocks[2] = model.backbone.blocks[1]
    other = by_autograd(model)
    assert_equal(gradients(model, points), gradients(other, points))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("settings", AGAIN.values(), ids=AGAIN)
def test_functional_call_gives_gradients_of_its_parameters(settings, training, points):
    model = small(**settings).train(training)
    base = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    # As after a step of an inner loop, parameters are results; and one is computed from another.
    given = {name: 1.1 * p for name, p in base.items()}
    first, *_, last = (name for name in base if name.startswith("backbone.blocks.") and name.endswith("linear.weight"))
    given[last] = given[last] + given[first]
    found = []
    for network in (model, by_autograd(model)):
        buffers = {name: buffer.clone() + 0.5 for name, buffer in model.named_buffers() if "running" in name}
        loss = functional_call(network, {**given, **buffers}, (points,)).square().sum()
        found.append(torch.autograd.grad(loss, list(base.values()), retain_graph=True))
    assert_equal(*found)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("settings", AGAIN.values(), ids=AGAIN)
def test_hooks_of_parameters_run_once_in_each_backward_pass(settings, points):
    model = small(**settings)
    expected = gradients(by_autograd(model), points)
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: 3 * gradient)
    loss = model(points).square().sum()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for times in (3, 6):
        loss.backward(retain_graph=True)
        assert_equal([p.grad for p in model.parameters()], [times * gradient for gradient in expected])
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize("part", ["", ".branches.1.conv", ".branches.0.norm"], ids=["block", "convolution", "norm"])
def test_a_hook_may_change_what_a_part_of_a_reversible_block_puts_out(part, points):
    model = small(connection="rev")
    model.get_submodule(f"backbone.blocks.1{part}").register_forward_hook(lambda part, given, out: 0.5 * out)
    assert_equal(gradients(model, points), gradients(by_autograd(model), points))


def replica(model):
    """What torch.nn.DataParallel makes of a network on each GPU."""
    copies = {part: part._replicate_for_data_parallel() for part in model.modules()}
    for part, copy in copies.items():
        copy._modules.update({name: copies[child] for name, child in part.named_children()})
        vars(copy).update(
            {name: parameter * 1 for name, parameter in part._parameters.items() if parameter is not None}
        )
    return copies[model]


@pytest.mark.parametrize("settings", [{}, {"connection": "dense"}, {"recompute": True}], ids=str)
def test_a_replica_of_data_parallel_gives_gradients(settings, points):
    model = small(**settings)
    loss = replica(model)(points).square().sum()
    assert_equal(torch.autograd.grad(loss, list(model.parameters())), gradients(model, points))


def test_a_replica_of_data_parallel_is_refused_by_reversible_blocks(points):
    model = small(connection="rev")
    with pytest.raises(RuntimeError, match="DistributedDataParallel"):
        replica(model)(points)
    with torch.no_grad():
        replica(model)(points)


class Scaled(EdgeConv):
    """A convolution that reads a parameter which is not its own."""

    def forward(self, x, index, mask=None):
        return self.scale[0] * super().forward(x, index, mask)


def test_reversible_blocks_refuse_a_parameter_of_another_module(points):
    model = small(conv=Scaled, connection="rev")
    for part in model.modules():
        part.scale = [nn.Parameter(torch.tensor(2.0, dtype=torch.float64))]
    with pytest.raises(RuntimeError, match=r"tensor \(\) that is no parameter of its own"):
        model(points).sum().backward()


@pytest.fixture
def mesh():
    """One process, as FullyShardedDataParallel wants processes."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view")
@pytest.mark.parametrize("parts", [[], ["backbone.blocks.0", "head"], ["backbone.head", "fusion.layer"]], ids=str)
@pytest.mark.parametrize("settings", [{}, {"connection": "dense"}, *AGAIN.values()], ids=str)
def test_a_network_that_is_sharded_has_the_same_gradients_or_is_refused(settings, parts, points, mesh):
    model = small(**settings)
    expected = gradients(deepcopy(model), points)
    for part in [*map(model.get_submodule, parts), model]:
        fully_shard(part, mesh=mesh)
    loss = model(points).square().sum()
    if "rev" in settings.values() and "backbone.blocks.0" in parts:
        with pytest.raises(RuntimeError, match=r"no parameter of its own.*fully_shard\(model\)"):
            loss.backward()
    else:
        loss.backward()
        assert_equal([parameter.grad.full_tensor() for parameter in model.parameters()], expected)


@pytest.mark.parametrize("connection", ["res", "dense", "rev"])
@pytest.mark.parametrize("grad", [True, False])
def test_features_are_tensors_of_their_own(connection, grad, points):
    model = small(connection=connection).eval()
    with torch.set_grad_enabled(grad):
        layers = model.features(points)
        expected = [layer.clone() for layer in layers]
        for i, layer in enumerate(layers):
            assert torch.equal(layer, expected[i])
            layer.zero_()
