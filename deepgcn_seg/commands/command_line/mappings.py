"""Settings that are one value even if it is a mapping, as ``recipe.loss={focal:1}``: a later value replaces an earlier.

Hydra merges mappings, so that ``resume=RUN 'recipe.loss={focal:1}'`` would add a term to the loss of the run. The
settings of :data:`NOT_MERGED` are replaced, and so is every part whose ``_target_`` is given with the rest of it:
``recipe.schedule={_target_:...}``.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from . import help

NOT_MERGED = ("recipe.loss", "conv.networks")
# Without _partial_ in its mapping, an optimiser keeps that of the recipe.
_MERGED_WITHOUT_PARTIAL = ("recipe.optimizer",)


def replacing_arguments(arguments: Sequence[str]) -> list[str]:
    """Return Hydra's arguments, of which those that give a setting a mapping replace what was there."""
    return [part for argument in arguments for part in _replacing_argument(argument)]


def _replacing_argument(argument: str) -> list[str]:
    name, value = _named(argument)
    return [f"++{name}=null", f"++{name}={value}"] if _replacing_mappings(name, value) else [argument]


def _named(argument: str) -> tuple[str, str]:
    """Return an argument's key, without Hydra's ``+``, and its value."""
    key, _, value = argument.partition("=")
    return key.lstrip("+"), value


def _replacing_mappings(name: str, value: str) -> list[dict[str, Any]]:
    """Return the mappings, among the values given to a setting, that replace what was there."""
    # Keys without a dot are groups, or no part of one.
    if "{" not in value or "." not in name or name.startswith(("hydra.", "-", "~")):
        return []
    needed = {"_target_", "_partial_"} if name in _MERGED_WITHOUT_PARTIAL else {"_target_"}
    return [mapping for mapping in _mappings(value) if name in NOT_MERGED or needed <= mapping.keys()]


def _mappings(value: str) -> list[dict[str, Any]]:
    """Return the mapping that a value is in Hydra's grammar, or those that it sweeps over."""
    try:
        parsed = OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return []
    values = getattr(parsed.value(), "list", None) if parsed.is_sweep_override() else [parsed.value()]
    return [{str(key): part for key, part in each.items()} for each in values or [] if isinstance(each, dict)]


def replace_mappings(config: DictConfig, conf: Path, command: str) -> None:
    """Give settings that are one value the mapping that is typed, or that of the last file that sets it.

    Args:
        config: as Hydra composed it, with mappings merged: those of several files, and in a sweep, which keeps one
            argument for each key, those that are typed. It is changed.
        conf: the folder of the settings.
    """
    _replace_by_arguments(config)
    _replace_by_files(config, conf, command)


def _replace_by_arguments(config: DictConfig) -> None:
    replaced: list[str] = []
    for argument in HydraConfig.get().overrides.task:
        name, value = _named(argument)
        mappings = _replacing_mappings(name, value)
        if mappings:
            replaced.append(name)
            with open_dict(config):
                OmegaConf.update(config, name, mappings[-1], merge=False)
        elif any(name.startswith(f"{key}.") for key in replaced):
            with open_dict(config):
                OmegaConf.update(config, name, OverridesParser.create().parse_override(argument).value())


def _replace_by_files(config: DictConfig, conf: Path, command: str) -> None:
    typed = [override.partition("=")[0].lstrip("+~") for override in HydraConfig.get().overrides.task]
    for key in NOT_MERGED:
        if any(name == key or name.startswith(f"{key}.") for name in typed):
            continue
        values = [value for path, inside in _chosen_files(conf, command) if (value := _value_in(path, inside, key))]
        if len(values) > 1 and isinstance(values[-1], DictConfig):
            with open_dict(config):
                OmegaConf.update(config, key, values[-1], merge=False)


def _chosen_files(conf: Path, command: str) -> Iterable[tuple[Path, str]]:
    """Yield the files of the groups' choices in the order in which Hydra merges them, each with its group."""
    runtime = HydraConfig.get().runtime
    folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
    for group in help.groups_of(conf, command):
        name = runtime.choices.get(group)
        found = [path for folder in folders if (path := folder / group / f"{name}.yaml").is_file()]
        yield from ((path, group) for path in found[:1])


def _value_in(path: Path, group: str, key: str) -> Any:
    """Return the value that a file of a group sets for a key, or None."""
    inside = "" if re.match(r"#\s*@package\s+_global_", path.read_text()) else f"{group}."
    return OmegaConf.select(OmegaConf.load(path), key.removeprefix(inside)) if key.startswith(inside) else None
