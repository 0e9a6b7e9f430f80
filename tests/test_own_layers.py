"""Norms and activations of torch.nn and of a user's own, in the place of those of this package."""

import sys
from copy import deepcopy
from functools import partial
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deepgcn_seg import DeepGCN, load_model
from deepgcn_seg.data.classes import S3DIS
from deepgcn_seg.errors import UserError
from deepgcn_seg.model import ORDERS, EdgeConv, GENConv, GraphSAGE, LayerSpec, MRConv, fast_inference
from deepgcn_seg.model.checkpoint import save_checkpoint
from deepgcn_seg.model.description import describe_network
from deepgcn_seg.model.layers import BatchNorm, Pointwise
from deepgcn_seg.model.own_layers import TORCH_ACTS, TORCH_NORMS, TorchNorm

SMALL = {"depth": 3, "channels": 8, "k": 4, "fusion_channels": 16, "head_channels": (16, 8)}
CONVS = {"edge": EdgeConv, "mr": MRConv, "sage": GraphSAGE, "gen": partial(GENConv, mlp_layers=2)}
GROUPS = partial(nn.GroupNorm, num_groups=4)


class OwnReLU(nn.ReLU):
    """A ReLU of which nothing is known, as it may be anything."""


class OwnBatchNorm(nn.BatchNorm1d):
    """Batch norm by the protocol of a user's own norm: Norm(channels), norm(x, mask)."""

    def forward(self, x, mask=None):
        out = torch.zeros_like(x)
        present = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        out[present] = super().forward(x[present])
        return out


# What the fused or weighted path knows -> the same function, which takes the plain path over edges or whole blocks.
SAME = {
    "instance norm": ({"norm": "instance"}, {"norm": nn.InstanceNorm1d}),
    "layer norm": ({"norm": "layer"}, {"norm": nn.LayerNorm}),
    "batch norm": ({"norm": "batch"}, {"norm": OwnBatchNorm}),
    "one group for each channel": (
        {"norm": "instance"},
        {"norm": lambda c: TorchNorm(nn.GroupNorm(c, c, 1e-5, False))},
    ),
    "relu": ({"act": "relu"}, {"act": OwnReLU}),
    "relu of torch.nn": ({"act": "relu"}, {"act": nn.ReLU}),
    "leaky relu": ({"act": "leakyrelu"}, {"act": partial(nn.LeakyReLU, 0.2)}),
    "gelu": ({"act": "gelu"}, {"act": nn.GELU}),
    "both": ({"norm": "instance", "act": "relu"}, {"norm": nn.InstanceNorm1d, "act": OwnReLU}),
}


def loaded(other, module):
    """The other module with the parameters and statistics of a module, whatever their names."""
    values = list(module.state_dict().values())
    for own, value in zip(other.state_dict().values(), values, strict=True):
        own.copy_(value)
    return other


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("same", SAME)
@pytest.mark.parametrize("name", CONVS)
def test_the_plain_path_computes_what_the_fused_path_does(name, same, order, masked, training):
    fused, plain = (CONVS[name](6, 5, LayerSpec(order, **settings)).double().train(training) for settings in SAME[same])
    loaded(plain, fused)
    x = torch.randn(2, 20, 6, dtype=torch.float64, requires_grad=True)
    index = torch.randint(0, 15 if masked else 20, (2, 20, 4))
    mask = torch.arange(20) < torch.tensor([[20], [15]]) if masked else None
    there = torch.ones(2, 20, dtype=torch.bool) if mask is None else mask
    upstream, found = torch.randn(2, 20, 5, dtype=torch.float64)[there], []
    for conv in (fused, plain):
        out = conv(x, index, mask)[there]
        parameters = [parameter for parameter in conv.parameters() if parameter.requires_grad]
        found.append([out, *torch.autograd.grad((out * upstream).sum(), [x, *parameters]), *conv.buffers()])
    for ours, other in zip(*found, strict=True):
        assert torch.allclose(ours.double(), other.double(), atol=1e-9)


@pytest.mark.parametrize("connection", ["res", "dense", "res+", "rev"])
@pytest.mark.parametrize("same", SAME)
def test_a_network_computes_the_same_with_either_in_training_and_lean_inference(same, connection):
    settings = {**SMALL, "connection": connection, "stochastic": False, "dropout": 0.0, "norm": "instance"}
    ours, other = (DeepGCN(**{**settings, **given}).double() for given in SAME[same])
    loaded(other, ours)
    points = torch.rand(2, 40, 9, dtype=torch.float64)
    mask = torch.arange(40) < torch.tensor([[40], [30]])
    assert torch.allclose(ours(points, mask), other(points, mask), atol=1e-9)
    ours.eval(), other.eval()
    with torch.no_grad():
        small = fast_inference.Sizes(together=40, slice=16)
        expected = fast_inference.infer(ours, points, mask, small)
        assert torch.allclose(expected, fast_inference.infer(other, points, mask, small), atol=1e-9)
        assert torch.allclose(expected, other(points, mask), atol=1e-9)


def test_lean_inference_leaves_whole_batches_to_own_parts():
    for settings, applies in (({}, True), ({"norm": GROUPS}, True), ({"act": nn.SiLU}, True),
                              ({"norm": OwnBatchNorm}, False), ({"act": OwnReLU}, False)):  # fmt: skip
        with torch.no_grad():
            assert fast_inference.applies(DeepGCN(**SMALL, **settings).eval()) == applies, settings


class Adapted(nn.Linear):
    """A linear map with a term of a user's own, as an adapter of low rank is."""

    def forward(self, x):
        return super().forward(x) + x.sum(-1, keepdim=True)


class TwiceBatchNorm(BatchNorm):
    def forward(self, x, mask=None, counts=None):
        return 2 * super().forward(x, mask)


class RoundedWeights(torch.Tensor):
    """Weights that know what a linear map does with them and nothing else, as quantised ones do."""

    @staticmethod
    def __new__(cls, numbers):
        return torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=numbers.dtype)

    def __init__(self, numbers):
        self.numbers = numbers

    def __tensor_flatten__(self):
        return ["numbers"], None

    @classmethod
    def __torch_function__(cls, function, types, given=(), options=None):
        if function is F.linear:
            return F.linear(given[0], given[1].numbers.round(decimals=1), *given[2:])
        return super().__torch_function__(function, types, given, options)

    @classmethod
    def __torch_dispatch__(cls, function, types, given=(), options=None):
        assert function is torch.ops.aten.detach.default, f"{function} of rounded weights"
        return cls(given[0].numbers)


def twice(method):
    def own(self, *given):
        out = method(self, *given)
        return [2 * part for part in out] if isinstance(out, list) else 2 * out

    return own


def changed(model, how):
    """The model with a part that must be called in every graph convolution, the fusion block and the head."""
    for part in [part for part in model.modules() if isinstance(part, Pointwise)]:
        if how == "adapter":
            part.linear.__class__ = Adapted
        elif how == "weights":
            part.linear.weight = nn.Parameter(RoundedWeights(part.linear.weight.detach()), requires_grad=False)
        elif how == "hook of a linear map":
            part.linear.register_forward_hook(lambda linear, given, out: out + given[0].sum(-1, keepdim=True))
        elif how == "hook of a layer":
            part.register_forward_pre_hook(lambda layer, given: (3 * given[0], *given[1:]))
        elif how == "layer":
            part.__class__ = type("Twice", (type(part),), {"forward": twice(type(part).forward)})
        elif how == "finish of a layer":
            part.__class__ = type("Twice", (type(part),), {"finish": twice(type(part).finish)})
        elif how == "norm" and part.norm is not None:
            part.norm.__class__ = TwiceBatchNorm
        elif how == "hook of a norm" and part.norm is not None:
            part.norm.register_forward_hook(lambda norm, given, out: 2 * out)
        elif how == "hook of an activation":
            part.act.register_forward_hook(lambda act, given, out: -out)
    return model


def plainly(conv, x, index, mask):
    """EdgeConv, MRConv or GraphSAGE by their formulas."""
    present = None if mask is None else mask.repeat_interleave(index.shape[2], 1)
    on_edges = lambda layer, edges: layer(edges.flatten(1, 2), present).view(*index.shape, -1).amax(2)
    neighbors = torch.stack([block[rows] for block, rows in zip(x, index)])
    center = x[:, :, None].expand_as(neighbors)
    if isinstance(conv, MRConv):
        return conv.layer(torch.cat([x, (neighbors - center).amax(2)], -1), mask)
    if isinstance(conv, GraphSAGE):
        return conv.layer(torch.cat([x, on_edges(conv.pool, neighbors)], -1), mask)
    return on_edges(conv.layer, torch.cat([center, neighbors - center], -1))


HOWS = ["adapter", "hook of a linear map", "layer", "finish of a layer", "hook of a layer"]
HOWS += ["weights", "norm", "hook of a norm", "hook of an activation"]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("kind", [EdgeConv, MRConv, GraphSAGE])
def test_a_part_that_must_be_called_is_called_by_graph_convolutions(kind, how, masked, training):
    torch.manual_seed(0)
    conv = changed(kind(6, 5).double().train(training), how)
    x, index = torch.randn(2, 20, 6, dtype=torch.float64), torch.randint(0, 15 if masked else 20, (2, 20, 4))
    mask = torch.arange(20) < torch.tensor([[20], [15]]) if masked else None
    there = torch.ones(2, 20, dtype=torch.bool) if mask is None else mask
    torch.testing.assert_close(conv(x, index, mask)[there], plainly(conv, x, index, mask)[there])


@pytest.mark.parametrize("connection", ["res", "dense"])
@pytest.mark.parametrize("how", [how for how in HOWS if how not in ("layer", "hook of a layer")])
def test_a_part_that_must_be_called_is_called_by_fusion_block_and_head(how, connection):
    torch.manual_seed(0)
    model = DeepGCN(**SMALL, connection=connection).double().eval()
    changed(model.fusion, how), changed(model.head, how)
    points = torch.rand(2, 40, 9, dtype=torch.float64)
    features = torch.cat(model.backbone(points), -1)
    fused = Pointwise.forward(model.fusion.layer, features).amax(1)
    x = torch.cat([fused[:, None].expand(-1, 40, -1), features], -1)
    for layer in (model.head.first, *model.head.rest):
        x = Pointwise.forward(layer, x)
    expected = model.head.classifier(x)
    torch.testing.assert_close(model(points), expected)
    with torch.no_grad():
        assert not fast_inference.applies(model)
        torch.testing.assert_close(model(points), expected)


class Wrapper(nn.Module):
    """A module of a user's own around a part of the network, whose output it doubles."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, *given):
        return 2 * self.part(*given)


class OpenWrapper(Wrapper):
    """One that hands on the attributes of the part, as those of torch.compile, PEFT and checkpointing do."""

    def __getattr__(self, name):
        return self._modules["part"] if name == "part" else getattr(self.part, name)


IN_ALL = ["backbone.head.layer", "backbone.head.layer.linear", "backbone.blocks.1", "backbone.blocks.1.conv"]
IN_ALL += ["fusion", "fusion.layer", "head", "head.first", "head.rest.0", "head.classifier"]
WRAPPED = [(*network, place) for network in (("edge", "dense"), ("mr", "res"), ("sage", "res")) for place in IN_ALL]
WRAPPED += [("sage", "res", "backbone.head.pool")]


@pytest.mark.parametrize("kind", [Wrapper, OpenWrapper])
@pytest.mark.parametrize(("conv", "connection", "place"), WRAPPED)
def test_a_wrapper_around_a_part_is_called(conv, connection, place, kind):
    model = DeepGCN(**SMALL, conv=CONVS[conv], connection=connection, graph="fixed").double().eval()
    hooked = deepcopy(model)
    hooked.get_submodule(place).register_forward_hook(lambda part, given, out: 2 * out)
    parent, _, name = place.rpartition(".")
    setattr(model.get_submodule(parent), name, kind(model.get_submodule(place)))
    points = torch.rand(1, fast_inference.CPU.slice + 8, 9, dtype=torch.float64)
    expected = hooked(points)
    torch.testing.assert_close(model(points), expected)
    with torch.no_grad():
        torch.testing.assert_close(model(points), expected)


OWN_METHODS = [("backbone", "forward"), ("backbone", "concatenate"), ("backbone.blocks.0", "forward")]
OWN_METHODS += [("backbone.head.layer", "forward"), ("fusion", "forward"), ("fusion.layer", "forward")]
OWN_METHODS += [
    ("head", "classify"),
    ("head.first", "forward"),
    ("head.rest.0", "finish"),
    ("head.classifier", "forward"),
]


@pytest.mark.parametrize("connection", ["res", "dense", "res+"])
@pytest.mark.parametrize(("place", "method"), OWN_METHODS)
def test_evaluation_without_gradients_calls_classes_of_ones_own(place, method, connection):
    """With so many points that parts of the network are computed in slices."""
    torch.manual_seed(0)
    model = DeepGCN(**SMALL, connection=connection, graph="fixed").double().eval()
    points = torch.rand(1, fast_inference.CPU.slice + 8, 9, dtype=torch.float64)
    before, part = model(points), model.get_submodule(place)
    part.__class__ = type("Own", (type(part),), {method: twice(getattr(type(part), method))})
    expected = model(points)
    assert not torch.allclose(expected, before, rtol=1e-2)
    with torch.no_grad():
        torch.testing.assert_close(model(points), expected)


@pytest.mark.parametrize("place", ["backbone.blocks.0.norm", "backbone.last_norm"])
def test_lean_inference_leaves_whole_batches_to_an_own_norm_between_layers(place):
    model = DeepGCN(**SMALL, connection="res+").eval()
    model.get_submodule(place).__class__ = OwnBatchNorm
    with torch.no_grad():
        assert not fast_inference.applies(model)


class Centred(nn.Linear):
    """A linear map of a user's own that takes the mean over all points of a block."""

    def forward(self, x):
        return super().forward(x - x.mean(1, keepdim=True))


@pytest.mark.parametrize("place", ["fusion.layer.linear", "head.first.linear", "head.rest.0.linear", "head.classifier"])
def test_an_own_linear_map_gets_all_points_of_a_block(place):
    torch.manual_seed(0)
    model = DeepGCN(**SMALL).double().eval()
    points = torch.rand(1, fast_inference.CPU.slice + 8, 9, dtype=torch.float64)
    model.get_submodule(place).__class__ = Centred
    with torch.no_grad():
        found = model(points)
    torch.testing.assert_close(found, model(points))


@pytest.mark.parametrize("act", TORCH_ACTS)
@pytest.mark.parametrize("order", ORDERS)
def test_every_activation_of_torch_trains(act, order):
    options = {"Threshold": {"threshold": 0.1, "value": 0.0}}.get(act, {})
    model = DeepGCN(**SMALL, order=order, act=partial(TORCH_ACTS[act], **options))
    points = torch.rand(2, 40, 9)
    F.cross_entropy(model(points).flatten(0, 1), torch.randint(13, (80,))).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval()
    with torch.no_grad():
        together = model(points)
        assert torch.allclose(together[1], model(points[1:])[0], atol=1e-4)


@pytest.mark.parametrize("norm", TORCH_NORMS)
def test_a_norm_of_torch_on_a_block_is_that_norm(norm):
    options = {"GroupNorm": {"num_groups": 4}, "InstanceNorm1d": {"affine": True}}.get(norm, {})
    layer = LayerSpec(norm=partial(TORCH_NORMS[norm], **options), eps=1e-3).make_norm(8).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    assert layer.norm.eps == 1e-3
    x, mask = torch.randn(2, 20, 8, dtype=torch.float64), torch.arange(20) < torch.tensor([[20], [12]])
    found = layer(x, mask)
    for block, present in zip(range(2), mask):
        alone = x[block, present]
        by_channel = norm in ("GroupNorm", "InstanceNorm1d")
        expected = layer.norm(alone.T[None])[0].T if by_channel else layer.norm(alone)
        assert torch.allclose(found[block, present], expected)
        assert torch.allclose(layer(alone[None])[0], expected)


# A norm in the place of one in a network that was built -> what builds the same network.
REPLACED = {
    "group": (partial(nn.GroupNorm, 1), partial(nn.GroupNorm, num_groups=1)),
    "instance": (nn.InstanceNorm1d, nn.InstanceNorm1d),
    "layer": (nn.LayerNorm, nn.LayerNorm),
    "rms": (partial(nn.RMSNorm, eps=1e-5), nn.RMSNorm),
    "none": (nn.Identity, "none"),
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("connection", ["res", "res+"])
@pytest.mark.parametrize("conv", ["edge", "mr", "sage"])
@pytest.mark.parametrize(("make", "norm"), REPLACED.values(), ids=REPLACED)
def test_norms_of_a_network_that_was_built_may_be_replaced(make, norm, conv, connection, training):
    settings = {**SMALL, "conv": CONVS[conv], "connection": connection, "stochastic": False, "dropout": 0.0}
    model = DeepGCN(**settings).double()
    for name, child in list(model.named_modules()):
        if isinstance(child, BatchNorm):
            model.set_submodule(name, make(child.num_features).double())
    other = DeepGCN(**settings, norm=norm).double()
    with torch.no_grad():
        loaded(other, model)
    points, mask = torch.rand(2, 40, 9, dtype=torch.float64), torch.arange(40) < torch.tensor([[40], [30]])
    out = model.train(training)(points, mask)
    torch.testing.assert_close(out, other.train(training)(points, mask))
    out.sum().backward()


def test_the_epsilon_that_a_norm_says_counts():
    assert LayerSpec(norm=partial(nn.GroupNorm, 4, eps=0.5), eps=1e-3).make_norm(8).norm.eps == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": nn.BatchNorm1d}, "norm: torch.nn.BatchNorm1d cannot stand here; known are GroupNorm, Inst"),
        ({"norm": partial(nn.GroupNorm, num_groups=3)}, "must be divisible by num_groups"),
        ({"norm": partial(nn.InstanceNorm1d, track_running_stats=True)}, "track_running_stats=true cannot be used"),
        ({"norm": nn.LayerNorm(8)}, "norm=.*: is one layer for all places; give what builds one: LayerNorm"),
        ({"norm": "group"}, "norm=group: must be one of batch, instance, layer, none"),
        ({"act": nn.Softmax}, "act: torch.nn.Softmax cannot stand here; known are CELU"),
        ({"act": nn.SiLU()}, "act=.*: is one layer for all places; give what builds one: SiLU"),
        ({"act": partial(nn.ReLU, inplace=True)}, "act: inplace=true would overwrite"),
        ({"act": partial(nn.PReLU, num_parameters=8)}, "act: num_parameters=8: a PReLU has one slope"),
    ],
)
def test_what_cannot_stand_in_the_place_of_a_norm_or_activation(settings, message):
    with pytest.raises(ValueError, match=message):
        DeepGCN(**SMALL, **settings)


@pytest.fixture
def mine(monkeypatch):
    module = ModuleType("mine_of_layers")
    for part in (OwnReLU, OwnBatchNorm):
        setattr(module, part.__name__, type(part.__name__, (part,), {"__module__": module.__name__}))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def saved(path, given, config):
    """A checkpoint of a network with these parts, and its logits of some points."""
    torch.manual_seed(1)
    model = DeepGCN(**SMALL, **given).eval()
    save_checkpoint(path, model, describe_network({"_target_": "deepgcn_seg.DeepGCN", **SMALL, **config}), S3DIS)
    points = torch.rand(1, 40, 9)
    return points, model(points)


def target(name, **options):
    return {"_target_": name, "_partial_": True, **options}


def test_a_checkpoint_with_layers_of_torch_needs_no_trust(tmp_path):
    given = {"norm": GROUPS, "act": partial(nn.ELU, alpha=0.5)}
    config = {"norm": target("torch.nn.GroupNorm", num_groups=4), "act": target("torch.nn.ELU", alpha=0.5)}
    points, logits = saved(tmp_path / "a.ckpt", given, config)
    assert torch.equal(load_model(tmp_path / "a.ckpt")(points), logits)


def test_a_checkpoint_with_layers_of_ones_own_loads_where_they_are_trusted(tmp_path, mine):
    config = {"norm": target("mine_of_layers.OwnBatchNorm"), "act": target("mine_of_layers.OwnReLU")}
    points, logits = saved(tmp_path / "a.ckpt", {"norm": mine.OwnBatchNorm, "act": mine.OwnReLU}, config)
    with pytest.raises(UserError, match=r"uses mine_of_layers\.Own\w+; .* set trusted=\[mine_of_layers\]"):
        load_model(tmp_path / "a.ckpt")
    assert torch.equal(load_model(tmp_path / "a.ckpt", trusted=["mine_of_layers"])(points), logits)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("norm", {"name": "torch", "kind": "Linear"}, "kind='Linear': must be one of GroupNorm"),
        ("norm", {"name": "torch", "kind": "GroupNorm", "options": {"device": "cpu"}}, "has no option device"),
        ("norm", {"name": "torch", "kind": "GroupNorm", "options": {"num_channels": 8}}, "has no option num_channels"),
        ("norm", {"name": "torch", "kind": "GroupNorm", "options": {"num_groups": 10**9}}, "a number of at most 1e6"),
        (
            "norm",
            {"name": "torch", "kind": "GroupNorm", "options": {"num_groups": float("nan")}},
            "a number of at most",
        ),
        ("norm", {"name": "torch", "kind": "GroupNorm", "options": {"num_groups": [4]}}, "a number of at most 1e6"),
        ("norm", {"name": "torch", "kind": "GroupNorm"}, "cannot be built .*num_groups"),
        ("norm", {"name": "torch", "kind": "SiLU"}, "norm.*SiLU"),
        ("act", {"name": "torch", "kind": "LayerNorm"}, "act.*LayerNorm"),
        ("norm", {"_target_": "os.system", "command": "false"}, "norm"),
        ("act", {"name": "own", "target": "os.system", "options": {}}, r"uses os\.system; .*trusted=\[os\]"),
        ("norm", 5, "norm=5: must be one of batch"),
        ("norm", "group", "norm='group': must be one of batch"),
    ],
    ids=str,
)
def test_a_checkpoint_names_layers_of_the_table_with_plain_options_only(tmp_path, field, value, message):
    path = tmp_path / "a.ckpt"
    saved(path, {"norm": GROUPS}, {"norm": target("torch.nn.GroupNorm", num_groups=4)})
    content = torch.load(path, weights_only=True)
    content["model_config"][field] = value
    torch.save(content, path)
    with pytest.raises(UserError, match=message):
        load_model(path)
