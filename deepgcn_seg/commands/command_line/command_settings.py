"""Settings of the commands, as schemas of their composed configs.

Each group of settings stands once, with the type and range of every value; :data:`COMMANDS` has the settings of each
command. What a ``_target_`` builds validates itself, by its constructor. The values of a user's own parts are not
validated here.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, PlainValidator, WrapValidator

from ...data.blocks import VARIANTS, channels
from ...distributed import MAX_DEVICES
from ...model import description
from ...model.connection import PAPER_CONNECTIONS
from ...model.description import NETWORK, Depth, Dilation, Width
from ...model.graph import GRAPHS
from ...model.layers import ACTS, NORMS
from ...palette import PALETTES
from ...settings import (
    Count,
    Flag,
    Modules,
    Part,
    Seed,
    Settings,
    Share,
    Text,
    choice,
    integer,
    is_number,
    listed,
    number,
    rule,
    text,
)
from ...training.class_weights import RULES
from ...training.losses import NAMES


def _of(*targets: str) -> WrapValidator:
    """Return a validator of parts whose ``_target_`` begins with one of these; other parts are a user's own."""

    def check(value: Any, handler: Callable[[Any], Any]) -> Any:
        foreign = isinstance(value, dict) and not str(value.get("_target_")).startswith(targets)
        return value if foreign else handler(value)

    return WrapValidator(check)


def _file(*endings: str, null: bool = True) -> Any:
    """Return a validator of files to write, whose ending says what is written into them."""
    fits = lambda value: isinstance(value, str) and Path(value).suffix.lower() in endings
    return rule(f"a file whose name ends in {' or '.join(endings)}", fits, null)


def _folder(*endings: str) -> Any:
    """Return a validator of folders to write: they are there, or can be made and do not end as a file in them would."""

    def fits(value: Any) -> bool:
        if not isinstance(value, str) or not value:
            return False
        path = Path(value)
        if path.suffix.lower() in endings and not path.is_dir():
            return False
        existing = next(part for part in (path, *path.parents) if os.path.lexists(part))
        return existing.is_dir() and os.access(existing, os.W_OK)

    return rule(
        "a folder that can be written: several files are written into it, and its name cannot end in "
        f"{' or '.join(endings)}",
        fits,
        True,
    )


Points = Annotated[int, integer(1, description.MAX_POINTS)]
Blocks = Annotated[int, integer(1, 65_536)]
MaxPoints = Annotated[int, integer(1)]
Workers = Annotated[int, integer(0, 256)]
Counts = Annotated[list[int], listed(integer(1, 1_000_000), 1)]
MaybeCounts = Annotated[list[int] | None, listed(integer(1, 1_000_000), 1)]
MaybeCount = Annotated[int | None, integer(1, 1_000_000, null=True)]
MaybeText = Annotated[str | None, text(null=True)]
MaybePoints = Annotated[int | None, integer(1, description.MAX_POINTS, null=True)]
MaybeBlocks = Annotated[int | None, integer(1, 65_536, null=True)]
# S3DIS numbers its areas.
Area = Annotated[int | str | None, rule("the name or number of an area", lambda v: type(v) in (int, str), null=True)]
Precision = Annotated[str, choice("fp32", "bf16")]


def _built(null: bool = False) -> Any:
    fits = lambda value: isinstance(value, dict) and "_target_" in value
    return rule("settings with a _target_", fits, null)


Built = Annotated[Any, _built()]


def _named_or_built(names: Collection[str]) -> PlainValidator:
    """Return a validator of some names, and of settings that the network builds a part from.

    Args:
        names: the names, or a table of them as it is when a value is validated: it may grow.
    """

    def check(value: Any) -> Any:
        if value in names if isinstance(value, str) else _builds_later(value):
            return value
        raise ValueError(f"must be one of {', '.join(names)}, or settings with a _target_ and _partial_: true")

    return PlainValidator(check)


def _builds_later(value: Any) -> bool:
    return isinstance(value, dict) and "_target_" in value and value.get("_partial_") is True


# Of a class or a loss in a sum: larger ones make steps that are not finite.
MAX_WEIGHT = 1e6


def _is_loss(value: Any) -> bool:
    if not isinstance(value, dict):
        return value in NAMES
    weights = [weight for weight in value.values() if is_number(weight) and 0 < weight <= MAX_WEIGHT]
    return "_target_" in value or (len(weights) == len(value) > 0 and all(name in NAMES for name in value))


def _are_class_weights(value: Any) -> bool:
    if not isinstance(value, list):
        return value in RULES
    return all(is_number(weight) and 0 <= weight <= MAX_WEIGHT for weight in value) and any(value)


LossTerms = Annotated[
    Any,
    rule(
        f"one of {', '.join(NAMES)}, a weighted sum as {{cross_entropy:1,lovasz:0.5}}, or settings with a _target_",
        _is_loss,
    ),
]
ClassWeights = Annotated[
    Any,
    rule(
        f"one of {', '.join(RULES)}, or a list with a number from 0 to 1e6 for each class, not all 0",
        _are_class_weights,
    ),
]


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


class Backbone(Settings):
    """``backbone``: connections between layers; the network validates them."""

    name: Any
    connection: Any


class Graph(Settings):
    """``graph``: neighbours of every layer."""

    name: Annotated[Any, _named_or_built(GRAPHS)]
    dilation: Dilation
    period: MaybeCount
    stochastic: Flag
    epsilon: Share
    loop: Flag


class Network(description.Arguments):
    """``model``: the arguments of :class:`deepgcn_seg.DeepGCN`."""

    model_config = ConfigDict(extra="ignore")
    conv: Built
    graph: Annotated[Any, _named_or_built(GRAPHS)]
    norm: Annotated[Any, _named_or_built(NORMS)]
    act: Annotated[Any, _named_or_built(ACTS)]
    # Among the nine channels, even if the data have fewer.
    positions: Annotated[list[int], listed(integer(0, 8), 1, 9)]


class SyntheticRooms(description.Synthetic):
    """``data.store`` of the synthetic rooms."""

    model_config = ConfigDict(extra="ignore")


class Data(Settings):
    """``data``: rooms, how they are split, and their channels."""

    name: Text
    root: Annotated[str, text("the folder of the prepared rooms (see tools/prepare.py)")]
    areas: MaybeCount = None
    fold: Area = None
    validation: Part
    variant: Annotated[str, choice(*VARIANTS)]
    features: Annotated[list[str] | None, channels(null=True)]
    store: Annotated[SyntheticRooms, _of("deepgcn_seg.data.sources.synthetic")]
    grid: Built


class Optimizer(Settings):
    """``recipe.optimizer``, if it is PyTorch's."""

    lr: Annotated[float, number(0, above=True)]
    weight_decay: Annotated[float, number(0, 1000)] = 0.0


class Recipe(Settings):
    """``recipe``: how the network is trained."""

    name: Text
    optimizer: Annotated[Optimizer, _of("torch.optim.")]
    schedule: Built
    norm_momentum: Annotated[Any, _built(null=True)]
    augmentation: Annotated[list[Any], listed(_built())]
    loss: LossTerms = "cross_entropy"
    label_smoothing: Part
    focal_gamma: Annotated[float, number(0, 100)] = 2.0
    class_weights: ClassWeights = "none"
    effective_beta: Annotated[float | None, number(0, 1, below=True, null=True)] = None
    ema: Annotated[float | None, number(0, 1, below=True, null=True)]


class Train(Settings):
    """``tools/train.py``. Groups come before settings that refer to them: a message names the key that was set."""

    depth: Depth
    channels: Width
    k: Count
    points: Points
    batch_size: Blocks
    accumulate: Blocks
    epochs: Count
    max_steps: Annotated[int | None, integer(1, null=True)]
    seed: Seed
    device: Text
    devices: Annotated[int, integer(1, MAX_DEVICES)]
    sync_norms: Flag
    precision: Precision
    workers: Workers
    validate_every: Count
    select: Annotated[str, choice("validation", "test", "last")]
    pages: Flag = True
    save_every: Count
    resume: MaybeText
    weights: MaybeText = None
    freeze: Annotated[list[str], rule("a list of names of parts, as [backbone]", _are_texts)] = Field(
        default_factory=list
    )
    backbone: Backbone
    conv: Built
    graph: Graph
    data: Data
    recipe: Recipe
    protocol: Built
    model: Annotated[Network, _of(*NETWORK)]


class GivenData(Settings):
    """``data`` of other commands, where settings may be null: they are the checkpoint's, or are not needed."""

    name: Any = None
    root: MaybeText = None
    areas: Any = None
    fold: Area = None
    validation: Annotated[float | None, number(0, 1, below=True, null=True)] = None
    variant: Annotated[str | None, choice(*VARIANTS, null=True)] = None
    features: Annotated[list[str] | None, channels(null=True)] = None
    store: Annotated[SyntheticRooms | None, _of("deepgcn_seg.data.sources.synthetic")] = None
    grid: Any = None


def _are_checkpoints(value: Any) -> bool:
    several = value if isinstance(value, (list, tuple)) and value else [value]
    return all(isinstance(path, str) and path for path in several)


_CHECKPOINTS = rule("a file or run directory, or a list of them to average: [A,B]", _are_checkpoints)


class Evaluate(Settings):
    """``tools/evaluate.py``."""

    checkpoint: Annotated[Any, _CHECKPOINTS] = ""
    part: Any
    points: MaybePoints
    batch_size: MaybeBlocks
    device: Text
    palette: Annotated[str, choice(*PALETTES)] = "screen"
    pages: Flag
    trusted: Modules
    data: GivenData
    protocol: Any


class Predict(Settings):
    """``tools/predict.py``."""

    checkpoint: Annotated[Any, _CHECKPOINTS] = ""
    input: Annotated[str, text("a file or folder")] = ""
    output: Annotated[str, text("a file or folder")] = ""
    view: Annotated[str | None, _file(".html")]
    picture: Annotated[str | None, _file(".png", ".pdf", ".svg")]
    palette: Annotated[str, choice(*PALETTES)] = "screen"
    submission: Annotated[str | None, _folder(".txt", ".zip")]
    colors: Flag
    classification: Flag
    max_points: MaxPoints
    columns: Annotated[list[str] | None, listed(text(), 3, null=True)]
    scale: Annotated[float | None, number(0, 1e6, above=True, null=True)]
    up: Annotated[str, choice("z", "y", "x")]
    stride: Annotated[float | None, number(0, 1e6, above=True, null=True)]
    votes: Annotated[int | None, integer(1, 1000, null=True)]
    tta: Flag
    tile: Annotated[float, number(0, 1000, above=True)]
    batch_size: MaybeBlocks
    device: Text
    trusted: Modules


class Prepare(Settings):
    """``tools/prepare.py``."""

    source: MaybeText
    workers: Annotated[int, integer(1, 256)]
    max_points: MaxPoints
    scale: Annotated[float | None, number(0, 1e6, above=True, null=True)]
    shard: Any
    check: Flag
    data: GivenData
    export: Annotated[str | None, _folder(".h5", ".hdf5", ".zip")]


class Convert(Settings):
    """``tools/convert.py``."""

    checkpoint: Text = ""
    output: Annotated[str, _file(".ckpt", ".pt", ".pth", null=False)] = ""
    k: Count
    act: Annotated[str, choice("relu", "leakyrelu", "prelu")]
    connection: Annotated[str | None, choice(*PAPER_CONNECTIONS, null=True)]
    points: Points
    batch_size: Blocks
    seed: Seed
    conv: Any = None
    data: GivenData


class Export(Settings):
    """``tools/export.py``."""

    checkpoint: Text = ""
    output: Annotated[str, _file(".onnx", ".pt2", null=False)] = ""
    check: Flag
    trusted: Modules


class Report(Settings):
    """``tools/report.py``."""

    runs: MaybeText
    output: Annotated[str | None, _folder(".html", ".md", ".tex", ".csv", ".png", ".pdf", ".svg")]
    palette: Annotated[str, choice(*PALETTES)] = "screen"


class Axes(Settings):
    """``axes`` of ``tools/benchmark.py``."""

    points: MaybeCounts = None
    batch: MaybeCounts = None
    depth: MaybeCounts = None
    k: MaybeCounts = None


class OnGpu(Settings):
    """``gpu`` of ``tools/benchmark.py``."""

    parts: Annotated[list[Any], listed(text(), 1)]
    blocks: Count
    sizes: Counts
    depth: Depth
    clouds: Counts
    minutes: Annotated[float, number(0, 1e6, above=True)]
    limit: Annotated[float, number(0, 1e6, above=True)]


class Benchmark(Settings):
    """``tools/benchmark.py``."""

    measure: Any
    conv: Any
    connection: Any
    networks: Any
    task: Any
    depth: Depth
    channels: Width
    k: Count
    points: Count
    batch_sizes: Counts
    repeats: Annotated[int, integer(1, 10_000)]
    device: Text
    precision: Precision
    axes: Axes
    gpu: OnGpu
    sizes: Annotated[list[Any], listed(listed(integer(1, 1_000_000), 5, 5), 1)]
    workers: Workers
    batches: Count
    data: GivenData
    rows: Annotated[int, integer(1, 10**9)]


COMMANDS: dict[str, type[Settings]] = {
    "train": Train,
    "evaluate": Evaluate,
    "predict": Predict,
    "prepare": Prepare,
    "convert": Convert,
    "export": Export,
    "report": Report,
    "benchmark": Benchmark,
}


def unread(kind: type[Settings], given: Mapping[Any, Any], group: str = "") -> Iterator[str]:
    """Yield the dotted keys of composed settings that a command does not have.

    What is inside a part with a ``_target_`` is left to the part's constructor.

    Args:
        kind: the settings of the command, or of one of its groups. given: plain values. group: where they stand, with a
            dot at its end.
    """
    for name, value in given.items():
        key, field = f"{group}{name}", kind.model_fields.get(str(name))
        inside = isinstance(value, dict) and "_target_" not in value
        if field is None:
            yield from (unread(Settings, value, f"{key}.") if inside and value else [key])
        elif inside and isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            yield from unread(field.annotation, value, f"{key}.")
