"""What a checkpoint says of its network: typed values, from which this module, and nothing else, builds it.

A file that travels must not carry a program. So a checkpoint names no function and no class: its description holds
the arguments of :class:`~deepgcn_seg.model.DeepGCN` as numbers and words, a convolution by its name in a table, the
classes and what the network was trained on. Every field has a type and a range, and the description is compared
with the tensors' shapes before anything of that size is built. Parts of a user's own are the one exception: they are
named by module and are built only where the caller says ``trusted=["module"]``.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator
from torch import Tensor, nn

from ..data.blocks import NINE, count_channels
from ..data.classes import ClassList
from ..errors import UserError, first_line
from ..escaping import one_line
from ..schema import Schema
from ..settings import Flag, Metres, Part, Seed, Share, choice, integer, listed, number, rule
from .block import CONNECTIONS
from .convolution import GIN, EdgeConv, GENConv, GraphSAGE, MessagePassing, MRConv
from .deepgcn import DeepGCN
from .graph import SCHEDULES, dilation_schedule
from .layers import ACTS, INITS, NORMS, ORDERS

# Names under which a composed config builds :class:`DeepGCN`.
NETWORK = ("deepgcn_seg.DeepGCN", "deepgcn_seg.model.DeepGCN")

Width = Annotated[int, integer(1, 65_536)]
Depth = Annotated[int, integer(1, 10_000)]
Number = Annotated[float, number(-1e6, 1e6)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
# Points of a block, and of a batch of blocks: more would take memory that the file's own size does not explain.
MAX_POINTS, MAX_BATCH_POINTS = 2**17, 2**24
# Neighbours, and values of features, of one block.
MAX_EDGES, MAX_FEATURES = 2**25, 2**31


def _is_dilation(value: Any) -> bool:
    values = value if isinstance(value, (list, tuple)) else [value]
    whole = all(isinstance(part, int) and not isinstance(part, bool) and part >= 1 for part in values)
    return value in SCHEDULES if isinstance(value, str) else bool(values) and whole


Dilation = Annotated[Any, rule("linear, none, an integer of at least 1 or a list of such integers", _is_dilation)]


class EdgeConvOptions(Schema):
    """:class:`EdgeConv`, which has no options."""

    name: Literal["edge"]


class MRConvOptions(Schema):
    """:class:`MRConv`, which has no options."""

    name: Literal["mr"]


class GraphSAGEOptions(Schema):
    """Options of :class:`GraphSAGE`."""

    name: Literal["sage"]
    normalize: bool = False


class GINOptions(Schema):
    """Options of :class:`GIN`."""

    name: Literal["gin"]
    learn_eps: bool = True


class GENConvOptions(Schema):
    """Options of :class:`GENConv`."""

    name: Literal["gen"]
    aggregation: Literal["softmax", "power"] = "softmax"
    temperature: Number = 1.0
    learn_temperature: bool = True
    message_norm: bool = False
    learn_message_scale: bool = False
    mlp_layers: Annotated[int, integer(1, 64)] = 1
    hidden_norm: Literal["batch", "instance", "layer", "none"] = "batch"
    eps: Share = 1e-7


class GATv2Options(Schema):
    """Options of torch_geometric's ``GATv2Conv``, its heads averaged."""

    name: Literal["gatv2"]
    heads: Width = 1
    concat: Literal[False] = False
    negative_slope: Number = 0.2
    dropout: Share = 0.0
    add_self_loops: bool = True
    bias: bool = True
    share_weights: bool = False


class TransformerOptions(Schema):
    """Options of torch_geometric's ``TransformerConv``, its heads averaged."""

    name: Literal["transformer"]
    heads: Width = 1
    concat: Literal[False] = False
    beta: bool = False
    dropout: Share = 0.0
    bias: bool = True
    root_weight: bool = True


class OwnPart(Schema):
    """A class or function of a user's own: built only where its module is trusted.

    Attributes:
        target: ``module.Name``. options: its arguments as plain values; a mapping with ``_target_`` among them is
            another such part, and ``_partial_`` means that it is to be called later with further arguments.
    """

    name: Literal["own"] = "own"
    target: Annotated[str, StringConstraints(max_length=200, pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")]
    options: dict[str, Any] = Field(default_factory=dict)


Conv = Annotated[
    EdgeConvOptions
    | MRConvOptions
    | GraphSAGEOptions
    | GINOptions
    | GENConvOptions
    | GATv2Options
    | TransformerOptions
    | OwnPart,
    Field(discriminator="name"),
]


class Arguments(Schema):
    """The arguments of :class:`DeepGCN` but for the convolution, with their ranges; see there for what each means."""

    in_channels: Width = 9
    num_classes: Width = 13
    connection: Annotated[str, choice(*CONNECTIONS, "rev")] = "res"
    depth: Depth = 28
    channels: Width = 64
    k: Width = 16
    order: Annotated[str, choice(*ORDERS)] = "norm-act"
    norm: Annotated[str, choice(*NORMS)] = "batch"
    norm_eps: Annotated[float, number(0, 1, above=True)] = 1e-5
    act: Annotated[str, choice(*ACTS)] = "relu"
    bias: Flag = True
    dynamic: Flag = True
    dilation: Dilation = "linear"
    dilation_period: Annotated[int | None, integer(1, 65_536, null=True)] = None
    stochastic: Flag = True
    epsilon: Share = 0.2
    loop: Flag = True
    positions: Annotated[Sequence[int], listed(integer(0, 65_535), 1, 64)] = (6, 7, 8)
    fusion_channels: Width = 1024
    head_channels: Annotated[Sequence[int], listed(integer(1, 65_536), 1, 64)] = (512, 256)
    dropout: Part = 0.3
    block_dropout: Part = 0.0
    checkpoint: Flag = False
    groups: Width = 2
    init: Annotated[str, choice(*INITS)] = "xavier"


class Network(Arguments):
    """What :class:`DeepGCN` is built from."""

    conv: Conv = EdgeConvOptions(name="edge")

    @model_validator(mode="after")
    def _parts_fit(self) -> "Network":
        if max(self.positions) >= self.in_channels:
            raise ValueError(f"positions {list(self.positions)} do not exist among {self.in_channels} input channels")
        if self.connection == "rev" and (self.groups < 2 or self.channels % self.groups):
            raise ValueError(f"rev cannot split {self.channels} channels into {self.groups} groups")
        if isinstance(self.dilation, (list, tuple)) and len(self.dilation) > self.depth:
            raise ValueError(f"{len(self.dilation)} dilations, but {self.depth} layers")
        return self

    @property
    def min_points(self) -> int:
        """Fewest points of a block that have a neighbour of every rank: k x the largest dilation."""
        dilation = list(self.dilation) if isinstance(self.dilation, tuple) else self.dilation
        return self.k * max(dilation_schedule(dilation, self.depth, self.dilation_period)) + (not self.loop)

    @property
    def features(self) -> int:
        """Channels that inference holds for each point at once: those of all layers, and the widest of one."""
        layers = 1 if self.connection == "rev" else self.depth
        return layers * self.channels + max(self.in_channels, self.channels, *self.head_channels[1:], self.num_classes)

    @property
    def convolutions(self) -> int:
        """Number of linear maps that the backbone has at least: each has a tensor of its own."""
        each = self.conv.mlp_layers if isinstance(self.conv, GENConvOptions) else 1
        return (1 + (self.depth - 1) * (self.groups if self.connection == "rev" else 1)) * each


class TrainedOn(Schema):
    """What a network was trained on and expects: channels, blocks and the split of the data.

    Attributes:
        features, variant: of the channels (:mod:`deepgcn_seg.data.blocks`). side, stride, min_points: of the blocks.
        points: of a block. batch_size: blocks a pass.
        source: which of :mod:`deepgcn_seg.data.sources`, None for one of a user's own. name: for tables.
        fold, validation, seed: of the split (:func:`~deepgcn_seg.data.dataset.split_by_area`).
        synthetic: arguments of the synthetic source.
    """

    features: Annotated[tuple[Literal["block", "color", "room", "height"], ...], Field(min_length=1)] = NINE
    variant: Literal["paper", "port"] = "paper"
    side: Metres = 1.0
    stride: Metres = 0.5
    min_points: Annotated[int, integer(0, 2**31)] = 100
    points: Annotated[int, integer(1, MAX_POINTS)] = 4096
    batch_size: Width = 16
    source: Literal["synthetic", "s3dis", "s3dis_hdf5", "folder"] | None = None
    name: Name = "unknown"
    fold: Annotated[int, Field(ge=0, le=10**6)] | Name | None = None
    validation: Part = 0.1
    seed: Seed = 0
    synthetic: "Synthetic | None" = None

    @model_validator(mode="after")
    def _parts_fit(self) -> "TrainedOn":
        count_channels(self.features)
        if self.points * self.batch_size > MAX_BATCH_POINTS:
            raise ValueError(f"a batch of {self.batch_size} blocks of {self.points} points is too large")
        if (self.source == "synthetic") != (self.synthetic is not None):
            raise ValueError("synthetic goes with the source of that name")
        return self


class Synthetic(Schema):
    """Arguments of :func:`deepgcn_seg.data.sources.synthetic`, but for the folder."""

    rooms_per_area: Annotated[int, integer(1, 1000)] = 6
    density: Annotated[float, number(0, 1e5, above=True)] = 1000.0
    seed: Seed = 0


def _kind_of_network(content: Any) -> str:
    return "own" if isinstance(content, OwnPart) or (isinstance(content, dict) and "target" in content) else ""


class Description(Schema):
    """All that a checkpoint says of its network, under the names it has in the file.

    Attributes:
        network: how to build it; in the file ``model_config``. classes, palette: of its labels.
        trained_on: None if it was saved without training.
    """

    network: Annotated[
        Annotated[Network, Tag("")] | Annotated[OwnPart, Tag("own")], Discriminator(_kind_of_network)
    ] = Field(alias="model_config")
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    trained_on: TrainedOn | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> "Description":
        # Refuses names and colours that cannot be.
        classes = self.class_list
        if isinstance(self.network, OwnPart):
            return self
        if self.network.num_classes != len(classes):
            raise ValueError(f"a network of {self.network.num_classes} classes, but {len(classes)} names")
        trained = self.trained_on
        if trained is not None and count_channels(trained.features) != self.network.in_channels:
            raise ValueError(
                f"a network of {self.network.in_channels} input channels, but the channels "
                f"{', '.join(trained.features)} are {count_channels(trained.features)}"
            )
        if trained is not None and self.network.min_points > trained.points:
            raise ValueError(
                f"k x dilation needs blocks of {self.network.min_points} points, but it says {trained.points}"
            )
        if trained is not None and trained.points * self.network.k > MAX_EDGES:
            raise ValueError(f"{self.network.k} neighbours of {trained.points} points are too many")
        if trained is not None and trained.points * self.network.features > MAX_FEATURES:
            raise ValueError(f"{self.network.features} features of {trained.points} points are too many")
        return self

    @property
    def class_list(self) -> ClassList:
        """Names and colours of the labels."""
        return ClassList.of(self.classes, self.palette)


# Name in a description -> what it builds.
_CONVS: dict[str, Callable[..., nn.Module]] = {
    "edge": EdgeConv,
    "mr": MRConv,
    "sage": GraphSAGE,
    "gin": GIN,
    "gen": GENConv,
}
# The same of torch_geometric's operators, imported when one is wanted.
_OPERATORS = {"gatv2": "GATv2Conv", "transformer": "TransformerConv"}


def build_network(description: Network | OwnPart, trusted: Sequence[str] = ()) -> nn.Module:
    """Build the network that a description stands for, with fresh weights.

    Args:
        trusted: modules whose classes and functions may be called.

    Raises:
        UserError: a part of a module that is not trusted, or that is not there.
        ValueError: arguments that do not fit one another.
    """
    if isinstance(description, OwnPart):
        _require_trust(description, trusted)
        return _build_own(description.target, description.options, trusted)
    settings = {name: getattr(description, name) for name in Network.model_fields if name != "conv"}
    if isinstance(settings["dilation"], tuple):
        settings["dilation"] = list(settings["dilation"])
    return DeepGCN(**settings, conv=_build_conv(description.conv, trusted))


def _build_conv(conv: Any, trusted: Sequence[str]) -> Callable[..., nn.Module]:
    if isinstance(conv, OwnPart):
        _require_trust(conv, trusted)
        return _build_own(conv.target, {**conv.options, "_partial_": True}, trusted)
    options = {name: getattr(conv, name) for name in type(conv).model_fields if name != "name"}
    if conv.name in _CONVS:
        return partial(_CONVS[conv.name], **options)
    import torch_geometric.nn

    return partial(MessagePassing, operator=partial(getattr(torch_geometric.nn, _OPERATORS[conv.name]), **options))


def _require_trust(part: OwnPart, trusted: Sequence[str]) -> None:
    """Refuse an own part whose class is not of a trusted module; of our own wrapper, what it wraps must be.

    A network part of this package is described as such, with ranges, and never as an own part.

    Raises:
        UserError: it is not; names the setting that would allow it.
    """
    target = part.target
    if target == "deepgcn_seg.model.MessagePassing":
        operator = part.options.get("operator")
        target = str(operator.get("_target_")) if isinstance(operator, Mapping) else target
    if not _is_trusted(target.rpartition(".")[0], trusted):
        raise UserError(f"it uses {one_line(target, 100)}; {_advice(target)}")


def _advice(target: str) -> str:
    if target.startswith("deepgcn_seg."):
        return "no part of a user's own is called so"
    return f"if you trust that code, set trusted=[{one_line(target.split('.')[0], 50)}]"


def _is_trusted(module: str, trusted: Sequence[str]) -> bool:
    modules = [each.rstrip(".") for each in ([trusted] if isinstance(trusted, str) else trusted)]
    return any(module == each or module.startswith(f"{each}.") for each in modules)


def _build_own(target: str, options: Mapping[str, Any], trusted: Sequence[str]) -> Any:
    """Call what ``target`` names, or make it ready to be called, with plain options and parts of its own kind."""

    def part(value: Any) -> Any:
        if isinstance(value, Mapping) and "_target_" in value:
            return _build_own(str(value["_target_"]), {k: v for k, v in value.items() if k != "_target_"}, trusted)
        if isinstance(value, Mapping):
            return {name: part(each) for name, each in value.items()}
        return [part(each) for each in value] if isinstance(value, (list, tuple)) else value

    arguments = {name: part(value) for name, value in options.items() if name not in ("_partial_", "_convert_")}
    called = _find_own(target, trusted)
    return partial(called, **arguments) if options.get("_partial_") else called(**arguments)


def _find_own(target: str, trusted: Sequence[str]) -> Callable[..., Any]:
    """Return the class or function of a trusted module, or a network part of this package, that a name stands for.

    Raises:
        UserError: it is of another module, or not there.
    """
    module, _, name = target.rpartition(".")
    ours = [part.__name__ for part in (DeepGCN, EdgeConv, MRConv, GraphSAGE, GIN, GENConv, MessagePassing)]
    if module in ("deepgcn_seg", "deepgcn_seg.model") and name in ours:
        return getattr(importlib.import_module("deepgcn_seg.model"), name)
    refused = UserError(f"it uses {one_line(target, 100)}; {_advice(target)}")
    if not _is_trusted(module, trusted):
        raise refused
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"it uses {target}, which cannot be found ({first_line(error)}); is it on PYTHONPATH?"
        ) from None
    # The name alone says nothing: a trusted module's imports are not of the trusted module.
    if not callable(found) or not _is_trusted(str(getattr(found, "__module__", "")), trusted):
        raise refused
    return found


def describe_network(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of the network that a composed config's ``model`` builds, as plain values.

    Args:
        config: plain values with ``_target_``, as Hydra builds them.
    """
    target = str(config["_target_"])
    options = {name: value for name, value in config.items() if name not in ("_target_", "_convert_", "_partial_")}
    if target not in NETWORK:
        return {"name": "own", "target": target, "options": options}
    return {**options, "conv": _describe_conv(options["conv"])} if "conv" in options else options


def _describe_conv(config: Mapping[str, Any]) -> dict[str, Any]:
    target = str(config["_target_"])
    options = {name: value for name, value in config.items() if name not in ("_target_", "_partial_")}
    for name, conv in _CONVS.items():
        if target == f"deepgcn_seg.model.{conv.__name__}":
            return {"name": name, **options}
    if target == "deepgcn_seg.model.MessagePassing":
        operator = options["operator"]
        inner = {name: value for name, value in operator.items() if name not in ("_target_", "_partial_")}
        for name, kind in _OPERATORS.items():
            known = GATv2Options if name == "gatv2" else TransformerOptions
            fits = set(inner) <= set(known.model_fields) and inner.get("concat") is False
            if operator["_target_"] == f"torch_geometric.nn.{kind}" and fits:
                return {"name": name, **inner}
    return {"name": "own", "target": target, "options": options}


def fit_weights(model: nn.Module, tensors: Any, where: str) -> None:
    """Refuse tensors that are not this model's: names, shapes, kinds of numbers, or values that are not finite.

    Args:
        model: of any device, ``meta`` too. tensors: a state dict as a file gave it. where: what messages begin with.

    Raises:
        UserError: names the first tensor that does not fit.
    """
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise UserError(f"{where}: its weights are not tensors by name")
    own = model.state_dict()
    if missing := sorted(own.keys() - tensors.keys()):
        raise UserError(f"{where}: {len(missing)} tensors that its network needs are missing: {missing[0]}, ...")
    if unknown := sorted(map(str, tensors.keys() - own.keys())):
        raise UserError(f"{where}: {len(unknown)} tensors are not of its network: {one_line(unknown[0], 100)}, ...")
    for name, expected in own.items():
        tensor = tensors[name]
        if tensor.shape != expected.shape:
            raise UserError(f"{where}: tensor {name} is {tuple(tensor.shape)}, its network has {tuple(expected.shape)}")
        if tensor.is_floating_point() != expected.is_floating_point() or tensor.is_complex():
            raise UserError(f"{where}: tensor {name} is {tensor.dtype}, its network has {expected.dtype}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{where}: tensor {name} has NaN or infinite values; the training that wrote it failed")
        if name.endswith("running_var") and (tensor < 0).any():
            raise UserError(f"{where}: tensor {name} has negative variances")
