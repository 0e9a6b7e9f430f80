"""Settings of the commands, as schemas of their composed configs: validated before any work.

Each group of settings stands once, with the type and range of every value. What a ``_target_`` builds validates
itself, by its constructor; the values of a user's own parts are theirs alone.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError
from pydantic import ConfigDict, ValidationError, WrapValidator

from ..data.blocks import NINE, VARIANTS, channels, count_channels, place_of_channels
from ..device import device
from ..distributed import MAX_DEVICES, declared
from ..errors import UserError, first_line
from ..evaluation.protocols import Protocol
from ..model import description
from ..model.description import NETWORK, Depth, Dilation, Width
from ..model.graph import dilation_schedule
from ..settings import (
    Count,
    Flag,
    Modules,
    Part,
    Seed,
    SettingError,
    Settings,
    Share,
    Text,
    choice,
    integer,
    listed,
    number,
    problem,
    rule,
    shown,
    text,
    validate_given,
)


def _of(*targets: str) -> WrapValidator:
    """Validate a part only if its ``_target_`` begins with one of these: the values of a user's own are theirs."""

    def check(value: Any, handler: Callable[[Any], Any]) -> Any:
        foreign = isinstance(value, dict) and not str(value.get("_target_")).startswith(targets)
        return value if foreign else handler(value)

    return WrapValidator(check)


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


class Graph(Settings):
    """``graph``: neighbours of every layer."""

    dynamic: Flag
    dilation: Dilation
    period: MaybeCount
    stochastic: Flag
    epsilon: Share
    loop: Flag


class Network(description.Arguments):
    """``model``: the arguments of :class:`deepgcn_seg.DeepGCN`."""

    model_config = ConfigDict(extra="ignore")
    conv: Built
    # Among the nine channels, whichever of them the data have.
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
    label_smoothing: Part
    ema: Annotated[float | None, number(0, 1, below=True, null=True)]


class Train(Settings):
    """``tools/train.py``. Groups come before what takes their values, so that a message names the key that was set."""

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
    save_every: Count
    resume: MaybeText
    graph: Graph
    data: Data
    recipe: Recipe
    protocol: Built
    model: Annotated[Network, _of(*NETWORK)]


class GivenData(Settings):
    """``data`` of other commands: what is not set is the checkpoint's, or is not needed."""

    root: MaybeText = None
    fold: Area = None
    validation: Annotated[float | None, number(0, 1, below=True, null=True)] = None
    variant: Annotated[str | None, choice(*VARIANTS, null=True)] = None
    features: Annotated[list[str] | None, channels(null=True)] = None
    store: Annotated[SyntheticRooms | None, _of("deepgcn_seg.data.sources.synthetic")] = None


class Evaluate(Settings):
    """``tools/evaluate.py``."""

    checkpoint: Text = ""
    points: MaybePoints
    batch_size: MaybeBlocks
    device: Text
    trusted: Modules
    data: GivenData


class Predict(Settings):
    """``tools/predict.py``."""

    checkpoint: Text = ""
    input: Text = ""
    output: Text = ""
    view: MaybeText
    picture: MaybeText
    colors: Flag
    classification: Flag
    max_points: MaxPoints
    columns: Annotated[list[str] | None, listed(text(), 3, null=True)]
    scale: Annotated[float | None, number(0, 1e6, above=True, null=True)]
    up: Annotated[str, choice("z", "y", "x")]
    stride: Annotated[float | None, number(0, 1e6, above=True, null=True)]
    votes: Annotated[int, integer(1, 1000)]
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
    check: Flag
    export: MaybeText


class Convert(Settings):
    """``tools/convert.py``."""

    checkpoint: Text = ""
    output: Text = ""
    k: Count
    act: Annotated[str, choice("relu", "leakyrelu", "prelu")]
    connection: Annotated[str | None, choice("plain", "res", "dense", null=True)]
    points: Points
    batch_size: Blocks
    seed: Seed


class Report(Settings):
    """``tools/report.py``."""

    runs: MaybeText
    output: MaybeText


class Axes(Settings):
    """``axes`` of ``tools/benchmark.py``."""

    points: MaybeCounts = None
    batch: MaybeCounts = None
    depth: MaybeCounts = None
    k: MaybeCounts = None


class Benchmark(Settings):
    """``tools/benchmark.py``."""

    depth: Depth
    channels: Width
    k: Count
    points: Count
    batch_sizes: Counts
    repeats: Annotated[int, integer(1, 10_000)]
    device: Text
    precision: Precision
    axes: Axes
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
    "report": Report,
    "benchmark": Benchmark,
}


def check(config: DictConfig, command: str = "train") -> None:
    """Refuse impossible settings of a command, before any work.

    Raises:
        UserError: names the key, its value and what is allowed.
    """
    try:
        COMMANDS[command].model_validate(_given(config))
        if "_target_" in (OmegaConf.select(config, "data.grid") or {}):
            _build("data.grid", config.data.grid)
        if command == "train":
            _check_training(config)
        elif command == "evaluate":
            # On the blocks of the checkpoint, with which the protocol is built later.
            values = {key: value for key, value in _given(config.protocol).items() if value is not None}
            _check_protocol(values)
    except ValidationError as error:
        raise UserError(problem(error)) from None
    if "device" in config:
        device(config.device)


def _given(config: DictConfig) -> dict[str, Any]:
    """Plain values of the settings that have one: neither ``???`` nor a reference to what a checkpoint will say."""
    values: dict[str, Any] = {}
    for key in config:
        if OmegaConf.is_missing(config, key):
            continue
        try:
            value = config[key]
        except InterpolationResolutionError:
            continue
        if isinstance(value, DictConfig):
            value = _given(value)
        elif OmegaConf.is_config(value):
            value = OmegaConf.to_object(value)
        values[str(key)] = value
    return values


def _check_protocol(values: dict[str, Any]) -> None:
    if str(values.get("_target_")).startswith("deepgcn_seg.evaluation."):
        try:
            validate_given(Protocol, values)
        except SettingError as error:
            raise UserError(f"protocol.{error}") from None


def _check_training(config: DictConfig) -> None:
    """What the settings of a training are to one another, and to the parts they build."""
    areas = config.data.get("areas")
    if areas and config.data.fold not in range(1, areas + 1):
        raise UserError(f"data.fold={config.data.fold}: must be one of 1..{areas}")
    if config.points * config.batch_size > description.MAX_BATCH_POINTS:
        raise UserError(
            f"batch_size={config.batch_size}: with points={config.points}, a batch of more than "
            f"{description.MAX_BATCH_POINTS} points"
        )
    processes = max(config.devices, declared().size)
    parts = processes * config.accumulate
    if config.batch_size % parts:
        raise UserError(
            f"batch_size={config.batch_size}: must be a multiple of {parts} "
            f"({processes} processes x accumulate={config.accumulate})"
        )
    protocol = config.protocol
    if config.data.features is None and "groups" in protocol:
        # Known once the data are open: those of them that there are.
        protocol = OmegaConf.merge(protocol, {"groups": list(NINE)})
    for key in ("recipe.schedule", "recipe.norm_momentum"):
        _build(key, OmegaConf.select(config, key))
    for i, part in enumerate(config.recipe.augmentation):
        _build(f"recipe.augmentation.{i}", part)
    optimizer = _build("recipe.optimizer", config.recipe.optimizer)
    if config.recipe.optimizer._target_.startswith("torch.optim."):
        try:
            optimizer([torch.zeros(2, 2, requires_grad=True)])
        # Whatever it does with values that it does not expect.
        except Exception as error:
            raise UserError(f"recipe.optimizer: {first_line(error)}") from None
    least = _check_network(config) if config.model._target_ in NETWORK else 1
    side = config.data.grid.get("side", protocol.get("side"))
    protocol_as_trained(config, protocol, config.data.variant, config.data.features, side, least)


def protocol_as_trained(
    config: DictConfig,
    part: DictConfig,
    variant: str,
    groups: Sequence[str] | None,
    side: float | None,
    least: int = 1,
) -> Any:
    """Build a protocol, which must score a network on such inputs as it is trained on.

    Args:
        part: the settings of the protocol; those of a user's own are theirs alone. variant, groups, side: of the
            training; groups may not be known yet. least: fewest points of a block that the network takes.

    Raises:
        UserError: names the key.
    """
    if not str(part.get("_target_")).startswith("deepgcn_seg.evaluation."):
        return _build("protocol", part)
    for key, trained in (("variant", variant), ("groups", groups), ("side", side)):
        asked = part.get(key, getattr(Protocol, key))
        asked, trained = _plain(asked), _plain(trained)
        if trained is not None and asked != trained:
            raise UserError(
                f"protocol.{key}={shown(asked)}: the network is trained with {shown(trained)}, and is scored with the "
                "same"
            )
    protocol = _build("protocol", part)
    # As it was typed: without a value of its own, the protocol has the command's.
    points, batch_size = (
        key if getattr(protocol, key) == config.get(key) else f"protocol.{key}" for key in ("points", "batch_size")
    )
    if protocol.points < least:
        raise UserError(f"{points}={protocol.points}: the network's k x dilation needs blocks of {least} points")
    if protocol.points > description.MAX_POINTS:
        raise UserError(f"{points}={protocol.points}: must be at most {description.MAX_POINTS}")
    if protocol.points * protocol.batch_size > description.MAX_BATCH_POINTS:
        raise UserError(
            f"{batch_size}={protocol.batch_size}: with {points}={protocol.points}, a batch of more than "
            f"{description.MAX_BATCH_POINTS} points"
        )
    return protocol


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _check_network(config: DictConfig) -> int:
    """Refuse a network that cannot be, or does not fit the blocks; return the fewest points that it takes."""
    network: Any = OmegaConf.to_container(config.model, resolve=True)
    k, depth, points = network["k"], network["depth"], config.points
    name = "k" if k == config.k else "model.k"
    if k > points:
        raise UserError(f"{name}={k}: must be at most points={points}")
    largest = max(dilation_schedule(network["dilation"], depth, network["dilation_period"]))
    needed = k * largest + (not network["loop"])
    if needed > points:
        raise UserError(
            f"{name}={k} with dilation up to {largest} (depth={depth}) needs blocks of {needed} points, "
            f"but points={points}: raise points, lower k or depth, or set graph.dilation or graph.period"
        )
    if config.data.features is not None:
        count = count_channels(config.data.features)
        # Of the command's own nine, training makes so many.
        if network["in_channels"] not in (count_channels(NINE), count):
            raise UserError(f"model.in_channels={network['in_channels']}: data.features sets it, here to {count}")
        try:
            place_of_channels(network["positions"], config.data.features)
        except ValueError as error:
            raise UserError(f"data.features={shown(list(config.data.features))}: {error}") from None
    # What a checkpoint could not describe must not be trained.
    description.Network.of(description.describe_network(network), "model")
    try:
        # Without memory or time for weights: what does not fit together, as groups that do not divide the channels.
        with torch.device("meta"):
            _build("model", config.model)
    except InstantiationException as error:
        # A convolution of the user's own may need values to be built, which training gives it.
        if not isinstance(error.__cause__, RuntimeError):
            raise
    return needed


def _build(key: str, part: Any) -> Any:
    """What a part's settings build.

    Raises:
        UserError: its constructor refuses them.
    """
    try:
        return instantiate(part)
    except InstantiationException as error:
        if refused := refusal(error, key):
            raise UserError(refused) from None
        raise


def refusal(error: InstantiationException, key: str) -> str | None:
    """What a constructor said of its settings, in one line, or None if it failed in another way."""
    cause = error.__cause__
    if isinstance(cause, SettingError):
        return f"{key}.{cause}"
    refused = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError)
    return f"{key}: {first_line(cause)}" if isinstance(cause, refused) else None
