"""Sweeps: the directory of each job, the notes that failed jobs leave, and what is said before and after the jobs."""

import atexit
import os
import sys
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ...distributed import declared
from ...errors import UserError
from ...escaping import one_line
from ...files import replacing, temporary_folder, write_json
from ...schema import read_json, read_yaml
from ...settings import counted
from ...training.run_directory import FAILED, job_directory
from .failures import USER_ERROR
from .mappings import unmerge

# The environment variable that names the folder of a sweep's notes to its jobs, which may be other processes. Another
# sweep may run in the same directory, and has notes of its own.
_NOTES = "DEEPGCN_SEG_SWEEP_NOTES"


def _job_directory(name: str | int, *, _root_: DictConfig) -> str:
    """Return the directory of a training in a sweep, below that of the sweep.

    :func:`~deepgcn_seg.training.run_directory.job_directory` finds it. The settings have it as
    ``${job_directory:NAME}``. Hydra asks for it when the job begins, before it opens the log.
    """
    name = str(name)
    if _root_.hydra.mode != RunMode.MULTIRUN:
        return name
    config = OmegaConf.masked_copy(_root_, [str(key) for key in _root_ if key != "hydra"])
    sweep = Path(_root_.hydra.sweep.dir).absolute()
    # Settings that cannot be composed or read are refused by the job itself.
    with suppress(UserError, HydraException, OmegaConfBaseException, OSError, ValueError):
        # In a copy: Hydra composes the job's own config, which the command unmerges, apart from its directory.
        unmerge(config)
        # Hydra's list of the whole sweep; the job has its own values alone.
        whole = OmegaConf.create(read_yaml(sweep / "multirun.yaml"))
        swept = {each.key_or_group for each in _sweeps(whole)}
        return str(job_directory(config, sweep / name, sweep, swept).relative_to(sweep))
    return name


OmegaConf.register_new_resolver("job_directory", _job_directory, replace=True)


def note_failure(reason: str, occupied: bool) -> None:
    """Write why a job of a sweep failed to where :class:`SweepSummary` finds it, and into the job's directory.

    Args:
        occupied: whether that directory is another run's, into which nothing may be written. A directory with scores
            is one, too: a run that goes on has set its own aside.
    """
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN or not declared().first:
        return
    folder = Path(hydra.runtime.output_dir)
    own = not (occupied or (folder / "metrics.json").exists())
    named, sweep = os.environ.get(_NOTES), Path(hydra.sweep.dir)
    # If a launcher does not pass on the environment, every sweep that runs here is told.
    for notes in [Path(named)] if named else sweep.glob(".notes.*"):
        # The sweep may have ended before its job.
        if notes.is_dir():
            with suppress(OSError):
                write_json(notes / f"{hydra.job.num}.json", {"folder": str(folder) if own else None, "reason": reason})
    if own:
        with suppress(OSError), replacing(folder / FAILED) as temporary:
            temporary.write_text(reason + "\n", "utf-8")


class SweepSummary(Callback):
    """Hydra's callback that refuses an impossible multirun before its first job, and lists its failed jobs at its end.

    It does so whatever launches the jobs.
    """

    # Of the class, because a launcher may send the callback to other processes.
    failed = False
    _notes = ExitStack()

    def on_multirun_start(self, config: DictConfig, config_name: str | None = None, **_: Any) -> None:
        """End the program with one line if there is nothing to run, or if a job would be a multirun of its own."""
        reason = _sweeps_nothing(config) or _sweeps_over_sweeps(config, config_name)
        root = Path(config.hydra.sweep.dir).absolute()
        if reason is None and declared().first:
            try:
                _keep_record(root / "multirun.yaml", OmegaConf.to_yaml(config))
                os.environ[_NOTES] = str(self._notes.enter_context(temporary_folder(root / "notes")))
            except OSError as error:
                reason = f"{root}: cannot be written ({error.strerror})"
            # If the sweep is stopped, it does not come to its end.
            atexit.register(self._notes.close)
        if reason is not None:
            if declared().first:
                print(f"error: {one_line(reason)}", file=sys.stderr)
            # Hydra turns other exceptions of a callback into warnings.
            sys.exit(USER_ERROR)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """List the failed jobs below the sweep's directory, and those whose directories are other runs'."""
        if not declared().first:
            return
        root = Path(config.hydra.sweep.dir).absolute()
        notes = _read_notes(Path(os.environ.pop(_NOTES)))
        self._notes.close()
        failed = {Path(folder): reason for folder, reason in notes if folder is not None}
        refused = [reason for folder, reason in notes if folder is None]
        SweepSummary.failed = bool(refused or failed)
        if failed:
            jobs = len({path.parent.parent for path in root.glob("**/.hydra/config.yaml")} | failed.keys())
            print(
                f"{len(failed)} of {jobs} jobs failed; the same command again runs what is missing, but a job whose "
                "own settings are the reason fails again",
                file=sys.stderr,
            )
        for folder, reason in failed.items():
            print(f"  {folder}: {reason}", file=sys.stderr)
        if refused:
            whose = "its" if len(refused) == 1 else "their"
            print(f"{counted(len(refused), 'job')} without a directory of {whose} own did not run", file=sys.stderr)
        for reason in refused:
            print(f"  {reason}", file=sys.stderr)


def _keep_record(path: Path, now: str) -> None:
    """Copy the file in which Hydra has written what was swept over, if it will write something else."""
    before = path.read_text("utf-8") if path.is_file() else now
    numbered = (path.with_name(f"{path.stem}_{number}{path.suffix}") for number in count(1))
    while before != now:
        # Another sweep may take the same number at the same time.
        with suppress(FileExistsError), open(next(numbered), "x", encoding="utf-8") as copy:
            copy.write(before)
            return


def _read_notes(folder: Path) -> list[tuple[str | None, str]]:
    """Return the directory of each job that failed, None if it is another run's, and the reason, in order of jobs."""
    contents = [read_json(path) for path in sorted(folder.glob("*.json"), key=lambda path: int(path.stem))]
    return [(content["folder"], content["reason"]) for content in contents]


def _params(config: DictConfig) -> dict[str, Any]:
    """Return what a multirun sweeps over by its files of settings."""
    params: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=False)
    return params.get("params") or {}


def _sweeps(config: DictConfig) -> list[Override]:
    """Return the settings that a multirun sweeps over, each with a list of values."""
    settings = [f"{key}={value}" for key, value in _params(config).items()]
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    # The last value that a setting is given counts.
    overrides = {each.key_or_group: each for each in parser.parse_overrides([*settings, *_typed(config, "task")])}
    # Those of other sweepers, as an interval, have no list of values.
    return [each for each in overrides.values() if each.is_sweep_override() and each.is_discrete_sweep()]


def _typed(config: DictConfig, kind: str) -> list[str]:
    """Return the arguments that are settings of the ``task``, or those of ``hydra``, as they were typed.

    They may have references, such as ``hydra.sweep.subdir=${hydra.job.num}``, that have no value yet.
    """
    typed: Any = OmegaConf.to_container(config.hydra.overrides[kind], resolve=False)
    return typed


def _sweeps_nothing(config: DictConfig) -> str | None:
    """Return that a multirun sweeps over no value, as with a ``glob(...)`` that nothing matches; or None."""
    empty = (each.input_line for each in _sweeps(config) if not any(True for _ in each.sweep_iterator()))
    return next((f"{line}: no value, so that there is nothing to run; list them: A,B" for line in empty), None)


def _sweeps_over_sweeps(config: DictConfig, config_name: str | None) -> str | None:
    """Return that a multirun sweeps over files of settings of which one is a multirun; or None.

    Each job would ignore what its own file sweeps over.
    """
    loader = GlobalHydra.instance().config_loader()
    typed, hydra = _typed(config, "task"), _typed(config, "hydra")
    known = {*_params(config), *(line.partition("=")[0].lstrip("+") for line in typed)}
    for sweep in _sweeps(config):
        group = sweep.key_or_group
        for choice in sweep.sweep_string_iterator() if loader.get_group_options(group) else ():
            # What cannot be composed is refused when Hydra composes the jobs. Other sweeps are left out here.
            with suppress(HydraException, OmegaConfBaseException):
                job = loader.load_configuration(config_name, [*hydra, *typed, f"{group}={choice}"], RunMode.MULTIRUN)
                if further := [key for key in _params(job) if key not in known]:
                    return f"{group}={choice}: is a multirun of its own, over {', '.join(further)}; run it alone"
    return None
