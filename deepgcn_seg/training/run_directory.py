"""The directory of a run: lock it for one process, write its config, and find out whether it holds a run already."""

import fcntl
import logging
import os
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ..changes import HOW_IT_IS_DONE, Change, Values, changes_of, typed
from ..distributed import World
from ..errors import OccupiedError, UserError
from ..evaluation.metrics_file import Metrics
from ..files import replacing, write_json
from ..old_names import ADDED, ADDED_TO_PARTS, renamed
from ..schema import read_json, read_yaml
from ..settings import some_of

LOCK = ".lock"
# The note of a failed job of a sweep, in its directory.
FAILED = "failed.txt"
# Changed settings that a message lists before it counts the others.
_LISTED = 8

log = logging.getLogger(__name__)


@contextmanager
def sole_writer(folder: Path, world: World = World()) -> Iterator[None]:
    """Lock a run's directory inside the context. The first of several processes that train together locks it for all.

    The kernel releases the lock when the process ends for whatever reason, and processes that load data do not inherit
    it. It works across machines if their common file system (NFS) has locks; if not, a warning says so.

    Raises:
        OccupiedError: another training or evaluation has locked it.
    """
    handle, problem = _lock(folder / LOCK) if world.first else (None, None)
    problem = world.share(problem)
    if problem is not None:
        raise OccupiedError(f"{folder}: {problem}")
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _lock(path: Path) -> tuple[int | None, str | None]:
    """Return an open handle that holds the lock, or the reason why the lock could not be taken."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        holder = os.read(handle, 200).decode(errors="replace").strip()
        os.close(handle)
        return (
            None,
            f"another command writes here ({holder or 'just started'}); wait for it, or choose another directory",
        )
    except OSError as error:
        log.warning("%s: this file system has no locks (%s); start no second command here", path.parent, error.strerror)
        return handle, None
    # The text in the file serves the message above only.
    with suppress(OSError):
        os.truncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    return handle, None


def keep_config(config: DictConfig, folder: Path) -> None:
    """Write the full config into ``.hydra`` of a run's directory, and remove the note of an earlier try that failed.

    Hydra would write it itself, but before the run has checked that the directory does not hold another run.
    """
    hydra = HydraConfig.instance().cfg
    for name, part in (("config", config), ("hydra", hydra), ("overrides", HydraConfig.get().overrides.task)):
        with replacing(folder / ".hydra" / f"{name}.yaml") as temporary:
            temporary.write_text(OmegaConf.to_yaml(part), "utf-8")
    (folder / FAILED).unlink(missing_ok=True)


def complete(config: DictConfig) -> None:
    """Give a config that an older version stored the settings that it lacks."""
    for key, value in ADDED.items():
        if OmegaConf.select(config, key, default=ADDED) is ADDED:
            OmegaConf.update(config, key, value, force_add=True)


def require_free(folder: Path) -> None:
    """Refuse to begin a run in a folder that holds one already, or the scores of an evaluation.

    Raises:
        OccupiedError: it does.
    """
    if (folder / "checkpoints" / "last.ckpt").is_file():
        raise OccupiedError(
            f"{folder} already holds a run: resume={folder} goes on with it, or choose another directory"
        )
    require_no_scores(folder)


def require_no_scores(folder: Path) -> None:
    """Refuse to write scores into a folder that holds some already.

    Raises:
        OccupiedError: it does.
    """
    if (path := folder / "metrics.json").exists():
        raise OccupiedError(f"{path}: scores that are there are kept; choose another directory, or move this one")


def claim(config: DictConfig, folder: Path) -> None:
    """Write the config of a command that is no training into its directory.

    Raises:
        OccupiedError: the directory holds a training or scores, whose config and results would be overwritten.
    """
    if (folder / "run.json").exists() or (folder / "checkpoints" / "last.ckpt").exists():
        raise OccupiedError(f"{folder} holds a training, whose files are kept; choose another directory")
    require_no_scores(folder)
    keep_config(config, folder)


def job_directory(config: DictConfig, folder: Path, sweep: Path, swept: Collection[str]) -> Path:
    """Return the directory of a job of a sweep: the one that holds its run already, else a free one.

    Jobs have directories by their number, which is another one once the sweep has further values. So a run is found by
    its settings, wherever below the sweep's directory it is. If it is not there, and another run has the directory of
    the job's number, a number is added: ``3_resgcn28_2``. A job on another device or of another number of processes,
    whose result is the same, is another job if the sweep is over these.

    Args:
        config: of the job. folder: the directory of the job's number. sweep: the directory of the sweep. swept: names
            of the settings that the sweep is over.
    """
    settings = run_settings(config)
    for path in (folder, *sorted(last.parents[1] for last in sweep.glob("**/checkpoints/last.ckpt"))):
        try:
            before = recorded_settings(path)
            same = before is not None and not changed_settings(before, settings) and not recorded_changes(path)
            found = same and _works_alike(config, path, swept)
        except UserError:
            # What is damaged is told by its own job.
            found = path == folder
        if found:
            return path
    numbered = (folder.with_name(f"{folder.name}_{number}") for number in count(2))
    return next(path for path in chain([folder], numbered) if _is_free(path))


def _is_free(folder: Path) -> bool:
    try:
        require_free(folder)
    except OccupiedError:
        return False
    return True


def _works_alike(config: DictConfig, folder: Path, swept: Collection[str]) -> bool:
    """Return whether the run in a folder was to be done in the same way, as far as the sweep is over ways to do it."""
    ways = [name for name in HOW_IT_IS_DONE if name in swept]
    recorded = OmegaConf.create(read_yaml(folder / ".hydra" / "config.yaml") if ways else {})
    return all(OmegaConf.select(recorded, name) == OmegaConf.select(config, name) for name in ways)


def finished_miou(config: DictConfig, folder: Path) -> float | None:
    """Return the mIoU if ``folder`` holds a finished run of the same settings, else None.

    A run whose ``metrics.json`` cannot be read, or contradicts itself, has not finished: it is scored again.

    Raises:
        OccupiedError: it holds a run of other settings, or one that had other settings at first.
    """
    if not (folder / "checkpoints" / "last.ckpt").is_file():
        return None
    before = recorded_settings(folder)
    if before is None:
        raise UserError(f"{folder / 'run.json'}: says nothing of the run's settings")
    if changed := changed_settings(before, run_settings(config)):
        raise OccupiedError(
            f"{folder} holds a run of other settings ({', '.join(list(changed)[:5])}); choose another hydra.sweep.dir"
        )
    if changes := recorded_changes(folder):
        raise OccupiedError(
            f"{folder} holds a run that had other settings at first ({changes[0]}); choose another hydra.sweep.dir"
        )
    path = folder / "metrics.json"
    try:
        return Metrics.of(read_json(path), str(path)).test.mIoU if path.is_file() else None
    except UserError as error:
        log.warning("%s: the run is scored again", str(error).partition(";")[0])
        return None


def changed_settings(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, Values]:
    """Return the settings that two runs have not the same, with both values; None for one that a run does not have."""
    there, here = _whole(before), _whole(now)
    added = {**ADDED, **ADDED_TO_PARTS}
    there = {**{key: str(value) for key, value in added.items() if key in here}, **there}
    if here.get("protocol.name") == there.get("protocol.name") == "rooms":
        # It leaves out no block, but runs before that setting count as having its default.
        for settings in (here, there):
            settings.pop("protocol.min_points", None)
    every = {key: (there.get(key), here.get(key)) for key in {**here, **there}}
    return {key: values for key, values in every.items() if values[0] != values[1]}


def _whole(settings: Mapping[str, str]) -> dict[str, str]:
    """Return settings with the parts of a loss, as ``recipe.loss.focal``, put together to the one setting they are."""
    inside = {key: value for key, value in settings.items() if key.startswith("recipe.loss.")}
    rest = {key: value for key, value in settings.items() if key not in inside}
    if not inside:
        return rest
    parts = [f"{key.removeprefix('recipe.loss.')}:{value}" for key, value in sorted(inside.items())]
    return {**rest, "recipe.loss": f"{{{','.join(parts)}}}"}


def _record(folder: Path) -> dict[str, Any]:
    """Return the content of ``run.json``; empty if there is none, or if it is something else.

    Raises:
        UserError: it cannot be read.
    """
    path = folder / "run.json"
    facts = read_json(path) if path.is_file() else None
    return facts if isinstance(facts, dict) else {}


def recorded_settings(folder: Path) -> dict[str, str] | None:
    """Return a run's settings by their present names, as its ``run.json`` has them; None if it has none."""
    settings = _record(folder).get("settings")
    if not isinstance(settings, dict):
        return None
    present = renamed({key: str(value) for key, value in settings.items()})
    return {key: value for key, value in present.items() if key not in HOW_IT_IS_DONE}


def recorded_changes(folder: Path) -> list[Change]:
    """Return the settings that were changed during a run, as its ``run.json`` has them.

    Raises:
        UserError: they are damaged.
    """
    return changes_of(_record(folder), f"{folder / 'run.json'}")


def recorded_weights(folder: Path) -> Any:
    """Return where a run's first weights came from, as its ``run.json`` has it; None if it began with random ones."""
    try:
        return _record(folder).get("weights")
    except UserError:
        return None


def record_changes(
    folder: Path,
    now: Mapping[str, str],
    class_weights: Mapping[str, float] | None,
    changed: Mapping[str, Values],
    changes: Sequence[Change],
) -> None:
    """Say which settings a resume has changed, such as more epochs, and put them into the run's ``run.json``.

    Args:
        now: as :func:`run_settings` returns them. class_weights: those of the loss by class, if it has some.
        changed: settings of ``now`` that are not as before, with both values. changes: of the whole run.
    """
    if changed:
        told = [f"{key} {typed(there)} -> {typed(here)}" for key, (there, here) in changed.items()]
        log.info("Changed: %s", some_of(told, _LISTED))
    before = _record(folder)
    if not isinstance(before.get("settings"), dict):
        return
    facts = {**before, "settings": dict(now), "class_weights": class_weights}
    facts["changes"] = [change.plain() for change in changes]
    facts = {key: value for key, value in facts.items() if key not in ("class_weights", "changes") or value}
    if facts != before:
        write_json(folder / "run.json", facts)


def set_scores_aside(folder: Path, step: int) -> None:
    """Rename the ``metrics.json`` of a finished run that is trained further: until its end, it is unfinished."""
    path = folder / "metrics.json"
    if path.is_file():
        kept = path.with_name(f"metrics_step{step}.json")
        path.replace(kept)
        log.info("The scores until now are kept as %s", kept)


def run_settings(config: DictConfig) -> dict[str, str]:
    """Return the settings that decide a run's result, by dotted name: all but how it is done and resumed."""
    flat: dict[str, str] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), part)
        elif prefix not in ("resume", *HOW_IT_IS_DONE):
            flat[prefix] = str(value)

    walk("", OmegaConf.to_container(config, resolve=True))
    return flat
