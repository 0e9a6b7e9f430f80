"""The description of a network in a checkpoint: typed values, from which :mod:`.from_description` builds the network.

A checkpoint from somebody else must not decide what code runs. So a checkpoint names no function and no class. Its
description holds the arguments of :class:`~deepgcn_seg.model.DeepGCN` as numbers and text, a convolution, graph, norm
or activation by its name in a table, the classes, and what the network was trained on. Every field has a type and a
range, and the description is compared with the tensors' shapes before anything of that size is built. A user's own
parts are the one exception: they are named by module, and are built only if the caller says ``trusted=["module"]``.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PlainValidator, StringConstraints, Tag, model_validator

from ..data.blocks import NINE, count_channels
from ..data.classes import ClassList
from ..data.label_numbers import LabelNumbers
from ..old_names import renamed
from ..schema import Schema
from ..settings import Metres, Part, Seed, choice, integer, key_of, number, rule
from .arguments import Arguments, Depth, Dilation, Width
from .connection import Connection, find_connection
from .convolution import CONVOLUTIONS, EdgeConvOptions
from .graph import GRAPHS, build_graph, dilation_schedule
from .layers import ACTS, NORMS
from .message_passing import OPERATORS, MessagePassing
from .own_layers import TORCH_ACTS, TORCH_NORMS, options_of

__all__ = ["Arguments", "Depth", "Description", "Dilation", "Network", "OwnPart", "TrainedOn", "Width"]

# The values of ``_target_`` in a config that stand for :class:`~deepgcn_seg.model.DeepGCN`.
NETWORK = ("deepgcn_seg.DeepGCN", "deepgcn_seg.model.DeepGCN")

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
# Most points of a block, and of a batch of blocks. They bound the memory that a small file can ask for.
MAX_POINTS, MAX_BATCH_POINTS = 2**17, 2**24
# Most neighbours of all points of a block, and most values of its features.
MAX_EDGES, MAX_FEATURES = 2**25, 2**31


class OwnPart(Schema):
    """A class or function of a user's own, which is called only if its module is trusted.

    Attributes:
        target: ``module.Name``. options: its arguments as plain values. A mapping with ``_target_`` among them is
            another such part. ``_partial_`` means that it is called later, with further arguments.
    """

    name: Literal["own"] = "own"
    target: Annotated[str, StringConstraints(max_length=200, pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")]
    options: dict[str, Any] = Field(default_factory=dict)


def _is_option(value: Any) -> bool:
    if isinstance(value, str):
        return value.isidentifier() and len(value) <= 20
    return value is None or (isinstance(value, (bool, int, float)) and abs(value) <= 1e6)


Option = Annotated[Any, rule("true, false, null, a word or a number of at most 1e6", _is_option)]


class TorchLayer(Schema):
    """A norm or activation of torch.nn, by the name of its class in a table.

    Attributes:
        kind: the name. options: the arguments of the class, but for the number of channels.
    """

    name: Literal["torch"] = "torch"
    kind: Annotated[str, choice(*TORCH_NORMS, *TORCH_ACTS)]
    options: dict[str, Option] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _options_exist(self) -> "TorchLayer":
        if unknown := sorted(self.options.keys() - options_of({**TORCH_NORMS, **TORCH_ACTS}[self.kind])):
            raise ValueError(f"torch.nn.{self.kind} has no option {unknown[0]}")
        return self


def _kind_of_layer(content: Any) -> str:
    if isinstance(content, (TorchLayer, OwnPart)):
        return content.name
    return "" if not isinstance(content, dict) else "torch" if content.get("name") == "torch" else "own"


def _layer(*names: str) -> Any:
    """Return the type of a norm or activation: one of some names, one of torch.nn, or a user's own."""
    named = Annotated[str, choice(*names), Tag("")]
    return Annotated[
        named | Annotated[TorchLayer, Tag("torch")] | Annotated[OwnPart, Tag("own")], Discriminator(_kind_of_layer)
    ]


Norm, Act = _layer(*NORMS), _layer(*ACTS)
# A name, which is looked up when a description is validated because the table may grow, or a user's own.
Graph = Annotated[
    Annotated[str, key_of(GRAPHS), Tag("")] | Annotated[OwnPart, Tag("own")],
    Discriminator(lambda content: "own" if isinstance(content, (dict, OwnPart)) else ""),
]


def _conv(content: Any) -> Any:
    """Return the validated options of a convolution, which its ``name`` selects from the tables."""
    options = {name: kind for table in (CONVOLUTIONS, OPERATORS) for name, (_, kind) in table.items()}
    options["own"] = OwnPart
    name = content.get("name") if isinstance(content, dict) else getattr(content, "name", None)
    if not isinstance(name, str) or name not in options:
        raise ValueError(f"must be the options of a convolution, whose name is one of {', '.join(options)}")
    return options[name].model_validate(content)


Conv = Annotated[Any, PlainValidator(_conv)]


class Network(Arguments):
    """All arguments of :class:`~deepgcn_seg.model.DeepGCN`, and how they fit one another."""

    conv: Conv = EdgeConvOptions(name="edge")
    graph: Graph = "dynamic"  # type: ignore[assignment]
    norm: Norm = "batch"  # type: ignore[valid-type]
    act: Act = "relu"  # type: ignore[valid-type]

    @model_validator(mode="before")
    @classmethod
    def _present_names(cls, content: Any) -> Any:
        return renamed(content, "model") if isinstance(content, dict) else content

    @model_validator(mode="after")
    def _parts_fit(self) -> "Network":
        if max(self.positions) >= self.in_channels:
            raise ValueError(f"positions {list(self.positions)} do not exist among {self.in_channels} input channels")
        self._connected.check(self.channels)
        if isinstance(self.dilation, (list, tuple)) and len(self.dilation) > self.depth:
            raise ValueError(f"{len(self.dilation)} dilations, but {self.depth} layers")
        return self

    @property
    def has_own_parts(self) -> bool:
        """Whether a part is a user's own."""
        return any(isinstance(part, OwnPart) for part in (self.conv, self.graph, self.norm, self.act))

    @property
    def _connected(self) -> Connection:
        return find_connection(self.connection, self.groups)

    @property
    def min_points(self) -> int:
        """The fewest points that a block may have (:attr:`.Graph.min_points`); 1 if that needs a user's own graph."""
        if isinstance(self.graph, OwnPart):
            return 1
        dilation = list(self.dilation) if isinstance(self.dilation, tuple) else self.dilation
        dilations = dilation_schedule(dilation, self.depth, self.dilation_period)
        return build_graph(self.graph, k=self.k, dilations=dilations, loop=self.loop).min_points

    @property
    def features(self) -> int:
        """Number of channels that inference holds per point: those of all layers and of the widest other tensor."""
        layers = self._connected.concatenated_width(self.depth, self.channels)
        return layers + max(self.in_channels, self.channels, *self.head_channels[1:], self.num_classes)

    @property
    def convolutions(self) -> int:
        """The least number of linear maps in the backbone; each has a tensor of its own."""
        return self._connected.convolutions(self.depth) * getattr(self.conv, "mlp_layers", 1)


class TrainedOn(Schema):
    """What a network was trained on and expects: channels, blocks and the split of the data.

    Attributes:
        features, variant: features of a point, and variant of their channels (:mod:`deepgcn_seg.data.blocks`).
        side, stride, min_points: how rooms are cut (:class:`~deepgcn_seg.data.blocks.BlockGrid`).
        points: points per block. batch_size: blocks per pass.
        source: a function of :mod:`deepgcn_seg.data.sources`, or None for a user's own. name: the name in tables.
        fold, validation, seed: how rooms are split (:func:`~deepgcn_seg.data.dataset.split_by_area`).
        synthetic: arguments of the synthetic source.
        label_numbers: which numbers stand for the classes in scans like those of the training, if it is known.
    """

    features: Annotated[tuple[Literal["block", "color", "room", "height"], ...], Field(min_length=1)] = NINE
    variant: Literal["paper", "port"] = "paper"
    side: Metres = 1.0
    stride: Metres = 0.5
    min_points: Annotated[int, integer(0, 2**31)] = 100
    points: Annotated[int, integer(1, MAX_POINTS)] = 4096
    batch_size: Width = 16
    source: Literal["synthetic", "s3dis", "s3dis_hdf5", "scannet", "folder"] | None = None
    name: Name = "unknown"
    fold: Annotated[int, Field(ge=0, le=10**6)] | Name | None = None
    validation: Part = 0.1
    seed: Seed = 0
    synthetic: "Synthetic | None" = None
    label_numbers: LabelNumbers | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> "TrainedOn":
        count_channels(self.features)
        if self.points * self.batch_size > MAX_BATCH_POINTS:
            raise ValueError(f"a batch of {self.batch_size} blocks of {self.points} points is too large")
        if (self.source == "synthetic") != (self.synthetic is not None):
            raise ValueError("synthetic goes with the source of that name")
        return self


class Synthetic(Schema):
    """The arguments of :func:`deepgcn_seg.data.sources.synthetic` without the folder."""

    rooms_per_area: Annotated[int, integer(1, 1000)] = 6
    density: Annotated[float, number(0, 1e5, above=True)] = 1000.0
    seed: Seed = 0


def _kind_of_network(content: Any) -> str:
    return "own" if isinstance(content, OwnPart) or (isinstance(content, dict) and "target" in content) else ""


class Description(Schema):
    """All that a checkpoint says about its network, under the names that the fields have in the file.

    Attributes:
        network: how to build it; the file calls it ``model_config``. classes, palette: names and colours of its labels.
        trained_on: None if the network was saved without training.
    """

    network: Annotated[
        Annotated[Network, Tag("")] | Annotated[OwnPart, Tag("own")], Discriminator(_kind_of_network)
    ] = Field(alias="model_config")
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    trained_on: TrainedOn | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> "Description":
        # The constructor of a class list checks names and colours.
        classes = self.class_list
        if self.trained_on is not None and self.trained_on.label_numbers is not None:
            self.trained_on.label_numbers.require(len(classes))
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


def describe_network(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of the network that the ``model`` of a config builds, as plain values.

    Args:
        config: plain values with ``_target_``, as Hydra takes them.
    """
    target = str(config["_target_"])
    options = _options(config)
    options.pop("_convert_", None)
    if target not in NETWORK:
        return {"name": "own", "target": target, "options": options}
    described = {
        name: _describe_layer(options[name])
        for name in ("graph", "norm", "act")
        if isinstance(options.get(name), Mapping)
    }
    if "conv" in options:
        described["conv"] = _describe_conv(options["conv"])
    return {**options, **described}


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments in settings of Hydra, without what they are arguments of."""
    return {name: value for name, value in config.items() if name not in ("_target_", "_partial_")}


def names_of(part: type) -> tuple[str, str]:
    """Return the names under which a config may have a class of this package: its own module's, and the short one."""
    return f"{part.__module__}.{part.__name__}", f"deepgcn_seg.model.{part.__name__}"


def _describe_layer(config: Mapping[str, Any]) -> dict[str, Any]:
    target = str(config["_target_"])
    options = _options(config)
    kind = target.removeprefix("torch.nn.")
    if kind != target and kind in {**TORCH_NORMS, **TORCH_ACTS}:
        return {"name": "torch", "kind": kind, "options": options}
    return {"name": "own", "target": target, "options": options}


def _describe_conv(config: Mapping[str, Any]) -> dict[str, Any]:
    target = str(config["_target_"])
    options = _options(config)
    for name, (conv, _) in CONVOLUTIONS.items():
        if target in names_of(conv):
            return {"name": name, **options}
    if target in names_of(MessagePassing):
        operator = options["operator"]
        inner = _options(operator)
        # With networks or relative positions it is not the operator that the table describes.
        alone = not any(value for name, value in options.items() if name != "operator")
        for name, (kind, known) in OPERATORS.items():
            fits = alone and set(inner) <= set(known.model_fields) and inner.get("concat") is False
            if operator["_target_"] == f"torch_geometric.nn.{kind}" and fits:
                return {"name": name, **inner}
    return {"name": "own", "target": target, "options": options}
