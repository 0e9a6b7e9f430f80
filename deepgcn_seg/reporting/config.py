"""The config of a run as plain values: its settings, and the description of its network.

Nothing is composed or built from it.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..changes import HOW_IT_IS_DONE, WHERE_ROOMS_ARE
from ..errors import UserError
from ..escaping import one_line
from ..evaluation.metrics_file import MAX_COUNT, MAX_SHOWN
from ..model.description import Network, OwnPart, describe_network
from ..old_names import ADDED, renamed, renamed_argument
from ..schema import read_yaml
from .reading import MAX_SETTINGS, own_file, shown

# Settings that say where and how a run was done, not what it is: its scores are the same.
_NOT_SETTINGS = (
    *("resume", *WHERE_ROOMS_ARE, *HOW_IT_IS_DONE),
    # The name of the protocol says it.
    "protocol.min_points",
)
_PACKAGE = __name__.partition(".")[0]
# A setting that stands for the value of another one.
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


@dataclass(frozen=True)
class Configured:
    """The config of a run.

    Attributes:
        settings: flat, ``data.fold`` -> 5, as numbers or as printable text.
        network: the description of its network; None if the config has none that can be read.
        typed: names of the settings and groups that were set on the command line or by a sweep.
    """

    settings: dict[str, Any]
    network: Network | OwnPart | None
    typed: frozenset[str]


def read_config(folder: Path) -> Configured | None:
    """Return the config of a run; None if the run is not a training.

    Raises:
        UserError: cannot be read, or is no config.
    """
    path = own_file(folder, ".hydra/config.yaml")
    config = read_yaml(path)
    if not isinstance(config, dict):
        raise UserError(f"{path}: must be a mapping of names to values")
    if "recipe" not in config:
        return None
    settings = renamed(dict(_flat(config)))
    if len(settings) > MAX_SETTINGS:
        raise UserError(f"{path}: {len(settings)} settings, more than {MAX_SETTINGS}")
    settings = {key: _value(value) for key, value in ADDED.items()} | settings
    settings = {key: value for key, value in settings.items() if key not in _NOT_SETTINGS}
    return Configured(settings, _network(config), _read_typed(folder))


def _read_typed(folder: Path) -> frozenset[str]:
    """Return the names in a run's ``overrides.yaml``, such as ``recipe`` and ``k``; empty if there is no such file."""
    if not os.path.lexists(folder / ".hydra/overrides.yaml"):
        return frozenset()
    path = own_file(folder, ".hydra/overrides.yaml")
    arguments = read_yaml(path)
    if not isinstance(arguments, list) or not all(isinstance(each, str) for each in arguments):
        raise UserError(f"{path}: must be a list of settings such as k=4")
    return frozenset(shown(renamed_argument(each.lstrip("+~")).partition("=")[0]) for each in arguments)


def _network(config: Mapping[str, Any]) -> Network | OwnPart | None:
    """Return the validated description of the network that a config is of, or None.

    A value that refers to another setting is looked up; nothing else is resolved, and nothing is called.
    """
    model = config.get("model")
    if not isinstance(model, dict) or "_target_" not in model:
        return None
    try:
        described = describe_network({key: _referred(config, value) for key, value in model.items()})
        return (OwnPart if described.get("name") == "own" else Network).of(described, "model")
    # Of a file that anybody may have written, parts may be missing or of any type.
    except (UserError, KeyError, TypeError, AttributeError, ValueError):
        return None


def _referred(config: Mapping[str, Any], value: Any) -> Any:
    """Return the value that ``${a.b}`` stands for in a config; other values as they are."""
    for _ in range(4):
        found = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if found is None:
            break
        value = config
        for part in found[1].split("."):
            value = value[part]
    return value


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield names and values."""
    # A sum of losses is one setting.
    if isinstance(value, dict) and name != "recipe.loss":
        for key, part in value.items():
            yield from _flat(part, shown(f"{name}.{key}" if name else key))
    else:
        yield name, _value(value)


def _value(value: Any) -> Any:
    """Return a setting as a number or as printable text."""
    # NaN, and integers that float64 cannot hold, become text: they cannot be sorted.
    if isinstance(value, (int, float)) and abs(value) <= MAX_COUNT:
        return value
    text = _as_text(value)
    # Texts that differ only where they are cut are of different experiments.
    whole = len(text) <= MAX_SHOWN
    return shown(text) if whole else f"{shown(text)} ({hashlib.sha256(text.encode()).hexdigest()[:8]})"


def _as_text(value: Any) -> str:
    """Return a value as text: a list of parts as ``Turn step:90, mine.Fog``, a sum of losses as ``a:1, b:0.5``."""
    if value is None or value == []:
        return "none"
    if isinstance(value, list):
        return ", ".join(_part(each) if isinstance(each, dict) else one_line(each) for each in value)
    return _part(value) if isinstance(value, dict) else one_line(value)


def _part(value: dict[Any, Any]) -> str:
    """Return what a config has for a part: its class, without the module if that is ours, and its arguments."""
    arguments = [f"{one_line(key)}:{one_line(each)}" for key, each in value.items() if key != "_target_"]
    if "_target_" not in value:
        return ", ".join(arguments)
    target = one_line(value["_target_"])
    return " ".join([target.rpartition(".")[2] if target.startswith(f"{_PACKAGE}.") else target, *arguments])
