"""Sweeps: the directory of each job, the notes that failed jobs leave, and what is said before and after the jobs."""

import sys
from contextlib import suppress
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
from ...files import replacing
from ...settings import counted
from ...training.run_directory import job_directory
from .failures import USER_ERROR
from .mappings import unmerge

# The note of a failed job, in its directory.
FAILED = "failed.txt"
# Until the end of a sweep, the notes of jobs whose directories are another run's, in the sweep's directory.
_REFUSED = ".refused_job_"


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
        whole: Any = OmegaConf.load(sweep / "multirun.yaml")
        swept = {each.key_or_group for each in _sweeps(whole)}
        return str(job_directory(config, sweep / name, sweep, swept).relative_to(sweep))
    return name


OmegaConf.register_new_resolver("job_directory", _job_directory, replace=True)


def note_failure(reason: str, occupied: bool) -> None:
    """Write why a job of a sweep failed to where :class:`SweepSummary` finds it: into the job's directory.

    Args:
        occupied: whether that directory is another run's, into which nothing may be written. A directory with scores
            is one, too: a run that goes on has set its own aside.
    """
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN or not declared().first:
        return
    folder = Path(hydra.runtime.output_dir)
    if occupied or (folder / "metrics.json").exists():
        note = Path(hydra.sweep.dir) / f"{_REFUSED}{hydra.job.num}"
    else:
        note = folder / FAILED
    with suppress(OSError), replacing(note) as temporary:
        temporary.write_text(reason + "\n")


def forget_failure() -> None:
    """Remove the note of an earlier try, now that the job has succeeded."""
    with suppress(OSError):
        (Path(HydraConfig.get().runtime.output_dir) / FAILED).unlink()


class SweepSummary(Callback):
    """Hydra's callback that refuses an impossible multirun before its first job, and lists its failed jobs at its end.

    It does so whatever launches the jobs.
    """

    failed = False

    def on_multirun_start(self, config: DictConfig, config_name: str | None = None, **_: Any) -> None:
        """End the program with one line if there is nothing to run, or if a job would be a multirun of its own."""
        reason = _sweeps_nothing(config) or _sweeps_over_sweeps(config, config_name)
        if reason is not None:
            if declared().first:
                print(f"error: {one_line(reason)}", file=sys.stderr)
            # Hydra turns other exceptions of a callback into warnings.
            sys.exit(USER_ERROR)
        if declared().first:
            root = Path(config.hydra.sweep.dir)
            _keep_record(root / "multirun.yaml", OmegaConf.to_yaml(config))
            # Notes of an earlier sweep: its jobs may have other numbers, and so other directories, or be left out now.
            _take_refusals(root)
            for note in root.glob(f"**/{FAILED}"):
                note.unlink(missing_ok=True)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """List the failed jobs below the sweep's directory, and those whose directories are other runs'."""
        if not declared().first:
            return
        root = Path(config.hydra.sweep.dir)
        refused = _take_refusals(root)
        failed = {path.parent: path.read_text().strip() for path in sorted(root.glob(f"**/{FAILED}"))}
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
    before = path.read_text() if path.is_file() else now
    numbered = (path.with_name(f"{path.stem}_{number}{path.suffix}") for number in count(1))
    while before != now:
        # Another sweep may take the same number at the same time.
        with suppress(FileExistsError), open(next(numbered), "x") as copy:
            copy.write(before)
            return


def _take_refusals(root: Path) -> list[str]:
    """Return the notes of jobs that were refused, in their order, and remove them."""
    notes = sorted(root.glob(f"{_REFUSED}*"), key=lambda path: (len(path.name), path.name))
    reasons = [path.read_text().strip() for path in notes]
    for path in notes:
        path.unlink(missing_ok=True)
    return reasons


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
