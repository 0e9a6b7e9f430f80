"""Mappings that are the whole value of a setting, as ``recipe.loss={focal:1}``: they replace the mapping before them.

Hydra merges mappings, so that ``resume=RUN 'recipe.loss={focal:1}'`` would add a term to the loss of the run. A mapping
is whole for the settings of :data:`NOT_MERGED`, and for every part if it has a ``_target_``, whether it is typed, as
``recipe.schedule={_target_:...}``, or stands in a file.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

NOT_MERGED = ("recipe.loss", "conv.networks")
# Stands for what a file does not set; null is a value.
_UNSET = object()
# Without _partial_ in its mapping, an optimiser keeps that of the recipe.
_MERGED_WITHOUT_PARTIAL = ("recipe.optimizer",)


def unmerged_arguments(arguments: Sequence[str]) -> list[str]:
    """Return arguments with which Hydra does not merge a whole mapping: the setting is null before it."""
    return [part for argument in arguments for part in _unmerged_argument(argument)]


def _unmerged_argument(argument: str) -> list[str]:
    name, value = _named(argument)
    return [f"++{name}=null", f"++{name}={value}"] if _whole_mappings(name, value) else [argument]


def _named(argument: str) -> tuple[str, str]:
    """Return an argument's key, without Hydra's ``+``, and its value."""
    key, _, value = argument.partition("=")
    return key.lstrip("+"), value


def _whole_mappings(name: str, value: str) -> list[dict[str, Any]]:
    """Return the whole mappings among the values that are typed for a setting."""
    if "{" not in value or name.startswith(("-", "~")):
        return []
    return [mapping for mapping in _mappings(value) if _is_whole(name, mapping)]


def _is_whole(name: str, mapping: Mapping[Any, Any]) -> bool:
    """Return whether a mapping is the whole value of the setting that it is given to."""
    # Keys without a dot are groups, or no part of one.
    if "." not in name or name.startswith("hydra."):
        return False
    needed = {"_target_", "_partial_"} if name in _MERGED_WITHOUT_PARTIAL else {"_target_"}
    return name in NOT_MERGED or needed <= mapping.keys()


def _mappings(value: str) -> list[dict[str, Any]]:
    """Return the mapping that a value is in Hydra's grammar, or those that it sweeps over."""
    try:
        parsed = OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return []
    values = getattr(parsed.value(), "list", None) if parsed.is_sweep_override() else [parsed.value()]
    return [{str(key): part for key, part in each.items()} for each in values or [] if isinstance(each, dict)]


def unmerge(config: DictConfig) -> None:
    """Give settings the whole mapping that is typed, or that of the last file that has one.

    Args:
        config: as Hydra composed it, with mappings merged: those of several files, and in a sweep, which keeps one
            argument for each key, those that are typed. It is changed.
    """
    _unmerge_files(config)
    _unmerge_arguments(config)


def _unmerge_arguments(config: DictConfig) -> None:
    typed = list(HydraConfig.get().overrides.task)
    for i, argument in enumerate(typed, 1):
        name, value = _named(argument)
        if mappings := _whole_mappings(name, value):
            _set(config, name, mappings[-1])
            _change_parts(config, name, typed[i:])


def _unmerge_files(config: DictConfig) -> None:
    typed = list(HydraConfig.get().overrides.task)
    files = list(_merged_files())
    for key in dict.fromkeys(key for file in files for key in _whole_in(file)):
        values = [value for file in files if (value := _value_in(file, key)) is not _UNSET]
        last = max(i for i, value in enumerate(values) if isinstance(value, DictConfig) and _is_whole(key, value))
        is_typed = any(_named(argument)[0].lstrip("~") == key for argument in typed)
        if last == 0 or not isinstance(values[-1], DictConfig) or is_typed:
            continue
        _set(config, key, OmegaConf.merge(*values[last:]))
        _change_parts(config, key, typed)


def _change_parts(config: DictConfig, key: str, arguments: Sequence[str]) -> None:
    """Change parts of a setting as typed, ``recipe.loss.focal=2`` or ``~recipe.loss.lovasz``, once it is unmerged.

    Hydra has changed the merged mapping.
    """
    for override in OverridesParser.create().parse_overrides(list(arguments)):
        name = override.key_or_group
        if not name.startswith(f"{key}."):
            continue
        if override.is_delete():
            above, _, part = name.rpartition(".")
            if isinstance(parts := OmegaConf.select(config, above), DictConfig):
                with open_dict(config):
                    parts.pop(part, None)
        else:
            _set(config, name, override.value())


def _set(config: DictConfig, key: str, value: Any) -> None:
    with open_dict(config):
        OmegaConf.update(config, key, value, merge=False)


def _merged_files() -> Iterable[Any]:
    """Yield the files that Hydra merges, in its order, each with its settings where they stand in the config."""
    hydra, loader = HydraConfig.get(), GlobalHydra.instance().config_loader()
    typed: Any = OmegaConf.to_container(hydra.overrides, resolve=False)
    merged = loader.compute_defaults_list(hydra.job.config_name, [*typed["hydra"], *typed["task"]], RunMode.RUN)
    folders = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
    for part in merged.defaults:
        package = part.package or ""
        found = [path for folder in folders if (path := folder / f"{part.config_path}.yaml").is_file()]
        if found and package.partition(".")[0] != "hydra":
            file = OmegaConf.load(found[0])
            for name in reversed(package.split(".") if package else []):
                file = OmegaConf.create({name: file})
            yield file


def _whole_in(file: Any, above: str = "") -> Iterable[str]:
    """Yield the settings for which a file has a whole mapping."""
    for name in file:
        key = f"{above}{name}"
        # What is filled in is read in the config of which the file is a part.
        if not OmegaConf.is_interpolation(file, name) and isinstance(part := file._get_node(name), DictConfig):
            if _is_whole(key, part):
                yield key
            else:
                yield from _whole_in(part, f"{key}.")


def _value_in(file: Any, key: str) -> Any:
    """Return the value that a file has for a setting, or :data:`_UNSET`."""
    return OmegaConf.select(file, key, default=_UNSET, throw_on_resolution_failure=False)
