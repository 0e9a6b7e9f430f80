"""Checks of a composed config before any work: each setting by itself, and settings against one another."""

import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError
from pydantic import ValidationError

from ...data.blocks import NINE, count_channels, place_of_channels
from ...data.dataset import blocks_per_pass
from ...device import device as device_of
from ...distributed import declared
from ...errors import UserError, first_line
from ...evaluation.protocols import Protocol
from ...model import description
from ...model.description import NETWORK
from ...model.freezing import freeze
from ...model.graph import Graph, build_graph, dilation_schedule
from ...model.operators import OperatorError, OperatorSettingError
from ...model.own_layers import TORCH_ACTS, TORCH_NORMS, options_of
from ...old_names import RENAMED
from ...settings import SettingError, setting_problem, shown, validate_given
from .command_settings import COMMANDS, unread
from .help import choices_of, suggestion

# Argument of the network -> the setting that it follows in conf/model/deepgcn.yaml.
_FOLLOWS = {
    **{name: name for name in ("depth", "channels", "k", "conv")},
    **{name: f"graph.{name}" for name in ("dilation", "stochastic", "epsilon", "loop")},
    "graph": "graph.name",
    "dilation_period": "graph.period",
    "connection": "backbone.connection",
}
# The group whose files set other groups' settings and have none of their own.
_EXPERIMENT = "experiment"
# A reference to something other than a setting, as ${oc.env:NAME}.
_FUNCTION = re.compile(r"\$\{[\w.]+:")


def check(config: DictConfig, command: str = "train") -> None:
    """Refuse impossible settings of a command, before any work.

    Raises:
        UserError: names the key, its value and what is allowed.
    """
    try:
        given = _given(config)
        COMMANDS[command].model_validate(given)
        _require_plain_root(given.get("data", {}).get("root"))
        if "_target_" in (OmegaConf.select(config, "data.grid") or {}):
            _build("data.grid", config.data.grid)
        if command == "train":
            _check_training(config)
        elif command == "evaluate":
            # Settings that are null are left out: they come from the checkpoint, later.
            values = {key: value for key, value in _given(config.protocol).items() if value is not None}
            _check_protocol(values)
    except ValidationError as error:
        raise UserError(setting_problem(error)) from None
    if "device" in config:
        device_of(config.device)


def _given(config: DictConfig) -> dict[str, Any]:
    """Return plain values of the settings that have one, without ``???`` and references to what is not known yet.

    Raises:
        UserError: a reference cannot be resolved, as one to an environment variable that is not set.
    """
    values: dict[str, Any] = {}
    for key in config:
        try:
            if OmegaConf.is_missing(config, key):
                continue
            value = config[key]
        except InterpolationResolutionError as error:
            typed = OmegaConf.to_container(config, resolve=False)[key]  # type: ignore[index,call-overload]
            # A reference to another setting waits until that one is set, or refused.
            if not _FUNCTION.search(typed):
                continue
            raise UserError(f"{error.full_key}={shown(typed)}: {why_unresolved(error)}") from None
        if isinstance(value, DictConfig):
            value = _given(value)
        elif OmegaConf.is_config(value):
            value = OmegaConf.to_object(value)
        values[str(key)] = value
    return values


def is_typed(key: str) -> bool:
    """Return whether the command line gives a value to a key."""
    return any(override.lstrip("+").startswith(f"{key}=") for override in HydraConfig.get().overrides.task)


def why_unresolved(error: InterpolationResolutionError) -> str:
    """Return in one line what a reference in the settings needs, as an environment variable that is not set."""
    return first_line(error).rpartition("raised while resolving interpolation: ")[2].strip('"')


def _require_plain_root(root: Any) -> None:
    """Refuse a folder of data whose name, or the variable that it is taken from, would be filled in once more."""
    if "${" in str(root):
        raise UserError(f"data.root={root}: the name of this folder must not have ${{ in it; rename it, or link to it")


def _check_protocol(values: dict[str, Any]) -> None:
    if str(values.get("_target_")).startswith("deepgcn_seg.evaluation."):
        try:
            validate_given(Protocol, values)
        except SettingError as error:
            raise UserError(f"protocol.{error}") from None


def _check_training(config: DictConfig) -> None:
    """Refuse settings of a training that do not fit one another, or the parts that they build."""
    areas = config.data.get("areas")
    if areas and config.data.fold not in range(1, areas + 1):
        raise UserError(f"data.fold={config.data.fold}: must be one of 1..{areas}")
    if config.points * config.batch_size > description.MAX_BATCH_POINTS:
        raise UserError(
            f"batch_size={config.batch_size}: with points={config.points}, a batch of more than "
            f"{description.MAX_BATCH_POINTS} points"
        )
    blocks_per_pass(config.batch_size, max(config.devices, declared().size), config.accumulate)
    protocol = config.protocol
    if config.data.features is None and "features" in protocol:
        # Which of the nine channels there are is known once the data are open. Assume all of them.
        protocol = OmegaConf.merge(protocol, {"features": list(NINE)})
    for key in ("recipe.schedule", "recipe.norm_momentum"):
        _build(key, OmegaConf.select(config, key))
    for i, part in enumerate(config.recipe.augmentation):
        _build(f"recipe.augmentation.{i}", part)
    _check_loss(config.recipe)
    optimizer = _build("recipe.optimizer", config.recipe.optimizer)
    if config.recipe.optimizer._target_.startswith("torch.optim."):
        try:
            optimizer([torch.zeros(2, 2, requires_grad=True)])
        # An optimiser raises all kinds of errors for values that it does not expect.
        except Exception as error:
            unknown = _unknown_argument("recipe.optimizer", error, config.recipe.optimizer)
            raise UserError(unknown or f"recipe.optimizer: {first_line(error)}") from None
    step = getattr(getattr(optimizer, "func", None), "step", None)
    closure = inspect.signature(step).parameters.get("closure") if callable(step) else None
    if closure is not None and closure.default is closure.empty:
        raise UserError(
            f"recipe.optimizer._target_={config.recipe.optimizer._target_}: cannot train here, because each of its "
            "steps needs several passes (a closure); choose another, such as torch.optim.AdamW"
        )
    least = _check_network(config) if config.model._target_ in NETWORK else 1
    side = config.data.grid.get("side", protocol.get("side"))
    protocol_as_trained(config, protocol, config.data.variant, config.data.features, side, least)


def _check_loss(recipe: DictConfig) -> None:
    """Refuse a loss that cannot be built, and class weights that it would not use."""
    loss = recipe.get("loss")
    if isinstance(loss, DictConfig) and "_target_" in loss and not callable(_build("recipe.loss", loss)):
        raise UserError(
            f"recipe.loss: {loss._target_} must be called with logits, labels and class weights, and cannot"
        )
    weights = _plain(recipe.get("class_weights", "none"))
    if weights != "none" and (loss == "lovasz" or (isinstance(loss, DictConfig) and set(loss) == {"lovasz"})):
        raise UserError(
            f"recipe.class_weights={shown(weights)}: lovasz takes none, every class counts the same in it; "
            "leave them out, or add cross_entropy or focal to the loss"
        )


def protocol_as_trained(
    config: DictConfig,
    part: DictConfig,
    variant: str,
    features: Sequence[str] | None,
    side: float | None,
    least: int = 1,
) -> Any:
    """Build a protocol, and refuse one that would score a network on other inputs than it was trained on.

    Args:
        part: the settings of the protocol. A user's own protocol is built unchecked.
        variant, features, side: of the training; None if not known yet.
        least: fewest points of a block that the network takes.

    Raises:
        UserError: names the key.
    """
    if not str(part.get("_target_")).startswith("deepgcn_seg.evaluation."):
        return _build("protocol", part)
    for key, trained in (("variant", variant), ("features", features), ("side", side)):
        asked = part.get(key, getattr(Protocol, key))
        asked, trained = _plain(asked), _plain(trained)
        if trained is not None and asked != trained:
            raise UserError(
                f"protocol.{key}={shown(asked)}: the network is trained with {shown(trained)}, and is scored with the "
                "same"
            )
    protocol = _build("protocol", part)
    # Named as it was typed: the protocol takes the command's values unless it has its own.
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
    """Refuse a network that cannot be built or does not fit the blocks; return the fewest points that it takes."""
    network: Any = OmegaConf.to_container(config.model, resolve=True)
    for name, source in _FOLLOWS.items():
        # The run directory, titles and tables name the setting that the network's argument follows.
        wanted = OmegaConf.select(config, source)
        if network.get(name) != (OmegaConf.to_container(wanted) if OmegaConf.is_config(wanted) else wanted):
            raise UserError(f"model.{name}={shown(network.get(name))}: follows {source}; set {source} instead")
    k, depth, points = network["k"], network["depth"], config.points
    if k > points:
        raise UserError(f"k={k}: must be at most points={points}")
    dilations = dilation_schedule(network["dilation"], depth, network["dilation_period"])
    needed = _fewest_points(network["graph"], {**network, "dilations": dilations})
    if needed > points:
        raise UserError(
            f"k={k} with dilation up to {max(dilations)} (depth={depth}) needs blocks of {needed} points, "
            f"but points={points}: raise points, lower k or depth, or set graph.dilation or graph.period"
        )
    if config.data.features is not None:
        count = count_channels(config.data.features)
        # The default of nine is no mistake: training sets it to the number of channels.
        if network["in_channels"] not in (count_channels(NINE), count):
            raise UserError(f"model.in_channels={network['in_channels']}: data.features sets it, here to {count}")
        try:
            place_of_channels(network["positions"], config.data.features)
        except ValueError as error:
            raise UserError(f"data.features={shown(list(config.data.features))}: {error}") from None
    known = list(description.Network.model_fields)
    if unknown := [name for name in network if name not in known and not name.startswith("_")]:
        raise UserError(_no_such_setting("model", unknown[0], known))
    _check_layers(network)
    _check_description(network)
    try:
        # On the meta device, which has no memory, this finds in no time what does not fit together.
        with torch.device("meta"):
            freeze(_build("model", config.model), list(config.get("freeze") or []))
    except InstantiationException as error:
        # A user's own convolution may need values of tensors to be built; training has them.
        if not isinstance(error.__cause__, RuntimeError):
            raise
    return needed


def _fewest_points(graph: Any, network: dict[str, Any]) -> int:
    """Return the fewest points of a block that a network's graph takes.

    Raises:
        UserError: a user's own graph cannot be built with its settings.
    """
    part = _build("graph.name", graph) if isinstance(graph, dict) else graph
    try:
        return build_graph(part, **{field.name: network[field.name] for field in fields(Graph)}).min_points
    except (ValueError, TypeError) as error:
        raise UserError(_unknown_argument("graph.name", error, graph) or f"graph.name: {first_line(error)}") from None


def _check_layers(network: dict[str, Any]) -> None:
    """Refuse an operator, norm or activation that does not say what builds it, or has settings that it does not know.

    Raises:
        UserError: names the key.
    """
    operator = network["conv"].get("operator", {"_target_": None})
    if not isinstance(operator, dict) or "_target_" not in operator:
        raise UserError(f"conv.operator={shown(operator)}: must be settings with a _target_ and _partial_: true")
    for name, kinds in (("norm", TORCH_NORMS), ("act", TORCH_ACTS)):
        layer: Any = network.get(name)
        kind = kinds.get(str(layer["_target_"]).removeprefix("torch.nn.")) if isinstance(layer, dict) else None
        if kind is not None:
            known = options_of(kind)
            if unknown := [option for option in layer if option not in known and not option.startswith("_")]:
                raise UserError(_no_such_setting(f"model.{name}", unknown[0], sorted(known)))


def _check_description(network: dict[str, Any]) -> None:
    """Refuse a network that a checkpoint could not describe: it must not be trained.

    Raises:
        UserError: names the key.
    """
    try:
        description.Network.of(description.describe_network(network), "model")
    except UserError as error:
        # On the command line these settings do not belong to the group model.
        found = re.fullmatch(r"model: (unknown field )?conv\.(.*)", str(error), re.S)
        if found is None:
            raise
        if found[1]:
            named = inspect.signature(get_object(network["conv"]["_target_"])).parameters
            known = [name for name in named if name not in ("in_channels", "out_channels", "spec")]
            raise UserError(_no_such_setting("conv", found[2], known)) from None
        raise UserError(f"conv.{found[2]}") from None


def _build(key: str, part: Any) -> Any:
    """Build a part from its settings.

    Raises:
        UserError: the constructor refuses them.
    """
    try:
        return instantiate(part)
    except InstantiationException as error:
        if refused := _unknown_argument(key, error.__cause__, part) or refusal(error, key):
            raise UserError(refused) from None
        raise


def _unknown_argument(key: str, error: BaseException | None, part: Any) -> str | None:
    """Return in one line that a part has no setting of some name, with those it has, or None for another error."""
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error)) if isinstance(error, TypeError) else None
    if found is None:
        return None
    names = [
        name for name in inspect.signature(get_object(part["_target_"])).parameters if name not in ("self", "params")
    ]
    return _no_such_setting(key, found[1], names)


def _no_such_setting(key: str, name: str, known: Sequence[str]) -> str:
    """Return in one line that a part has no setting of this name, with one that may have been meant or all of them."""
    full = f"{key}.{name}"
    # By its last part alone: the names before it are the same for all, and would make any two alike.
    hint = suggestion(full if full in RENAMED else name, [f"{key}.{other}" for other in known])
    return f"{full}: no such setting; " + (f"known are {', '.join(known)}" if "--help" in hint else hint)


def refusal(error: InstantiationException, key: str) -> str | None:
    """Return in one line why a constructor refuses its settings, or None if it failed for another reason."""
    cause = error.__cause__
    if found := re.match(r"Error locating target '([^']*)'", str(error)):
        return _not_found(error, key, found[1])
    if isinstance(cause, OperatorSettingError):
        return f"conv.{cause}"
    if isinstance(cause, OperatorError):
        return "conv: " + re.sub(r"\b(?=(networks|edge_positions)=)", "conv.", str(cause))
    if isinstance(cause, SettingError):
        return f"{key}.{cause}"
    refused = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError)
    return f"{key}: {first_line(cause)}" if isinstance(cause, refused) else None


def _not_found(error: InstantiationException, key: str, target: str) -> str:
    """Return in one line that a ``_target_`` does not exist, with names that may have been meant."""
    place = re.search(r"full_key: (\S+)", str(error))
    key = place[1] if place else key
    # The network's convolution is that of the group of the same name.
    key = key.removeprefix("model.") if key.startswith("model.conv") else key
    module, _, name = target.rpartition(".")
    # Loaded by the search for the target, unless there is no such module.
    names = {each.lower(): each for each in dir(sys.modules[module])} if module in sys.modules else {}
    close = get_close_matches(name.lower(), names, 1)
    hint = f"did you mean {names[close[0]]}?" if close else "check its spelling, and that PYTHONPATH has its module"
    return f"{key}._target_={target}: there is no such class or function; {hint}"


def require_read(config: DictConfig, command: str, known: Mapping[str, str]) -> None:
    """Refuse a setting that nothing reads, wherever it stands: on the command line, or in a file of settings.

    A setting that another one refers to by ``${...}`` is read. Groups of a user's own may hold anything below their own
    name, and a run that is resumed keeps what it was stored with.

    Args:
        known: every setting of the command, for hints.

    Raises:
        UserError: names the setting, and those that may have been meant; or a folder of settings that is not there.
    """
    hydra = HydraConfig.get()
    for place in hydra.searchpath:
        folder = str(place).removeprefix("file://")
        if "://" not in folder and not Path(folder).is_dir():
            raise UserError(f"hydra.searchpath={shown([place])}: there is no folder {folder}")
    typed = {override.partition("=")[0].lstrip("+") for override in hydra.overrides.task}
    groups = {choice.replace("/", ".") for choice in hydra.runtime.choices}
    own = groups - COMMANDS[command].model_fields.keys() - {_EXPERIMENT}
    references = OmegaConf.to_yaml(HydraConfig.instance().cfg) + OmegaConf.to_yaml(config)
    plain: Any = OmegaConf.to_container(config, resolve=False)
    for key in unread(COMMANDS[command], plain):
        parts = key.split(".")
        names = {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
        stored = config.get("resume") and not typed & names
        if not (stored or own & names or _is_referred_to(key, references)):
            raise UserError(f"{key}: nothing reads this setting; {_why_unread(key, known)}")


def _is_referred_to(key: str, text: str) -> bool:
    """Return whether a text of settings has a reference to a key, to a part of it, or to a mapping that it is in."""
    outer, _, last = key.rpartition(".")
    whole = [rf"{re.escape(key)}[}},.\[]", rf"\.+{re.escape(last)}[}},.\[]"]
    while outer:
        whole.append(rf"{re.escape(outer)}\}}")
        outer = outer.rpartition(".")[0]
    return re.search(rf"\$\{{(oc\.select:)?({'|'.join(whole)})", text) is not None


def _why_unread(key: str, known: Mapping[str, str]) -> str:
    """Return a hint for a setting that nothing reads: a similar name, or the first line that its file lacks."""
    group, _, rest = key.partition(".")
    if group in known and rest in known:
        return f'a file of {group} that sets {rest} begins with the line "# @package _global_"'
    return suggestion(key, known)


def require_choices(arguments: list[str], conf: Path) -> None:
    """Refuse a group of settings that is set to null or a number, which Hydra meets with a traceback.

    Raises:
        UserError: names the group and its choices.
    """
    for argument in arguments:
        key, _, value = argument.partition("=")
        choices = choices_of(conf, key) if key and not key.startswith("-") else []
        if choices and (value == "null" or value.replace(".", "").isdigit()):
            raise UserError(f"{argument}: must be one of {', '.join(choices)}")
