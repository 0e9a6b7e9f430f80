"""The start of every command: several processes, ``--help``, resuming, Hydra, and the exit status."""

import functools
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIG_IGN, SIGINT, SIGTERM, signal
from tempfile import TemporaryDirectory
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ...distributed import MAX_DEVICES, World, declared, leave
from ...errors import Finding, Interrupted, OccupiedError, UserError
from ...evaluation.protocols import Protocol
from ...model import DeepGCN
from ...old_names import RENAMED, present_value, renamed_argument
from ...processes import stop_with_parent
from ...provenance import as_called
from . import help
from .arguments import assigned, for_hydra, given, require_settings
from .checks import check, require_choices, require_read
from .failures import USER_ERROR, error_line
from .hydra_main import hydra_main
from .mappings import unmerge
from .output import claim_folder, output_may_go_unread
from .sweeps import SweepSummary, note_failure

# Exit status of work that was stopped but saved and can be resumed.
INTERRUPTED = 75

# Options with which Hydra shows something and runs nothing.
_SHOWING = ("-h", "--help", "--hydra-help", "-c", "--cfg", "-i", "--info", "--version", "-sc", "--shell-completion")

# Command -> the setting that a file or folder without a key is probably meant for.
_MAIN = {
    "predict": "input",
    "evaluate": "checkpoint",
    "convert": "checkpoint",
    "export": "checkpoint",
    "prepare": "source",
    "report": "runs",
}


def command(
    task: Callable[[DictConfig], Any], conf: Path, config_name: str, program: Sequence[str] | None = None
) -> None:
    """Run a task with the config that Hydra composes from the command line, and exit.

    ``resume=RUN_DIR`` takes the config that the run stored, and its directory. ``resume=auto`` does so if
    ``hydra.run.dir`` already holds a checkpoint, and starts anew otherwise. With HYDRA_FULL_ERROR=1, errors of users
    have tracebacks too.

    Args:
        conf: the folder of the settings. config_name: the command. program: what starts it in several processes, as
            torchrun takes it; None for the script that was started.
    """
    with output_may_go_unread():
        _command(task, conf, config_name, program or sys.argv[:1])


@dataclass
class _Outcome:
    """How a command ended.

    Attributes:
        composed: whether Hydra composed a config and called the task. failed: whether a job of it failed.
    """

    composed: bool = False
    failed: bool = False


def _command(task: Callable[[DictConfig], Any], conf: Path, config_name: str, program: Sequence[str]) -> None:
    if config_name == "train":
        # Before the environment is changed, which the other processes inherit.
        _start_processes(program, sys.argv[1:])
    verbose = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # When the disk of the log file is full, logging would print a traceback for each line. The error in one line comes
    # from the other files that are written.
    logging.raiseExceptions = False
    quiet_libraries()
    # Processes of another command, as srun starts them, have nothing to do with one another.
    world, outcome = declared() if config_name == "train" else World(), _Outcome()
    unread = None if world.first else TemporaryDirectory()
    if world.size > 1 and "TORCHELASTIC_RUN_ID" in os.environ:
        # Otherwise the processes go on if torchrun is killed, and keep their GPUs and the run directory.
        stop_with_parent()

    def say(error: BaseException) -> None:
        where = f"process {world.rank}: " if world.size > 1 else ""
        what = "" if isinstance(error, Finding) else "error: "
        print(as_called(f"{what}{where}{error_line(error, conf, config_name)}"), file=sys.stderr)

    try:
        require_known(sys.argv[1:], config_name)
        require_choices(sys.argv[1:], conf)
        if {"-h", "--help"} & set(sys.argv[1:]):
            overrides = [argument for argument in for_hydra(sys.argv[1:]) if not argument.startswith("-")]
            print(as_called(help.page(conf, config_name, overrides)), end="")
            return
        sys.argv[1:] = _resolvable(hydra_arguments(sys.argv[1:], conf))
        if unread is not None:
            sys.argv[1:] = _without_output(sys.argv[1:], unread.name)
        job = _guarded(task, conf, config_name, outcome, None if verbose else say)
        hydra_main(job, conf, config_name)
    except Interrupted as stopped:
        # All is saved. A further Ctrl-C while the process ends would change the status that says so.
        for number in (SIGINT, SIGTERM):
            signal(number, SIG_IGN)
        # A resume of several processes is to be given their number again.
        print(stopped, *(a for a in sys.argv[1:] if a.startswith("devices=")), file=sys.stderr)
        sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        raise
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        if verbose:
            raise
        say(error)
        sys.exit(USER_ERROR)
    except ValueError as error:
        # Hydra raises it for a command line that it cannot compose; any other keeps its traceback.
        if verbose or outcome.composed:
            raise
        say(error)
        sys.exit(USER_ERROR)
    finally:
        several = leave()
        if unread is not None:
            unread.cleanup()
    if outcome.failed or SweepSummary.failed:
        sys.exit(USER_ERROR)
    if several:
        # All is written. A native thread that outlives its owner at exit would abort the process, and torchrun the job.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _guarded(
    task: Callable[[DictConfig], Any],
    conf: Path,
    config_name: str,
    outcome: _Outcome,
    say: Callable[[BaseException], None] | None,
) -> Callable[[DictConfig], Any]:
    """Return the task with its settings checked before, and its errors kept from Hydra.

    Hydra would print more than a line for an error, and end a sweep of several jobs.

    Args:
        say: prints an error as a line; None lets errors through.
    """

    def tells() -> bool:
        # At the end of a multirun the first process lists what failed. If another one ended with an error before, that
        # would end the first.
        return HydraConfig.get().mode != RunMode.MULTIRUN or declared().first

    @functools.wraps(task)
    def guarded(config: DictConfig) -> Any:
        outcome.composed = True
        try:
            return run_checked(task, config, conf, config_name)
        except BrokenPipeError:
            raise
        except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
            outcome.failed = tells()
            if say is None:
                raise
            say(error)
            note_failure(error_line(error, conf, config_name), isinstance(error, OccupiedError))
        except Exception as error:
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                raise
            outcome.failed = tells()
            traceback.print_exc()
            note_failure(error_line(error, conf, config_name), False)
        return None

    return guarded


def run_checked(task: Callable[[DictConfig], Any], config: DictConfig, conf: Path, command: str) -> Any:
    """Check a composed config, claim the output directory, and return what the task returns.

    Raises:
        UserError: a setting is impossible, or nothing reads it; or whatever the task refuses.
    """
    require_read(config, command, help.settings(conf, command))
    unmerge(config)
    check(config, command)
    claim_folder(config, command)
    return task(config)


def _start_processes(program: Sequence[str], arguments: list[str]) -> None:
    """If ``devices=N`` asks for several processes and this is none of them, run them by torchrun, and exit."""
    devices = next((a.split("=", 1)[1] for a in reversed(arguments) if a.startswith("devices=")), "1")
    shows = any(argument.partition("=")[0] in _SHOWING for argument in arguments)
    if shows or not (devices.isdigit() and 1 < int(devices) <= MAX_DEVICES and declared().size == 1):
        return
    # Only the process that starts the others needs these.
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    try:
        run(parse_args(["--standalone", f"--nproc-per-node={devices}", *program, *arguments]))
    except SignalException as stopped:
        # The processes received the signal, too, and had time to end.
        sys.exit(INTERRUPTED if stopped.sigval in (SIGINT, SIGTERM) else 128 + stopped.sigval)
    except ChildFailedError as failed:
        # Processes that were stopped because another one failed do not say what happened.
        statuses = {failure.exitcode for failure in failed.failures.values()} - {-SIGTERM}
        if killed := [-status for status in statuses if status < 0]:
            print(f"error: a process was killed by signal {killed[0]}, and the others were stopped", file=sys.stderr)
        sys.exit(min((max(status, 1) for status in statuses), default=1))
    sys.exit(0)


def _resolvable(arguments: list[str]) -> list[str]:
    """Return Hydra's arguments, with which it can resolve what ``--cfg hydra`` shows: its part of the whole config.

    Of its part alone, it cannot: ``hydra.run.dir`` refers to settings of the command.
    """
    if "--resolve" not in arguments:
        return arguments
    for i, argument in enumerate(arguments):
        # Of an option, the value is a part or the next argument.
        words = argument.split("=", 1) if "=" in argument else arguments[i : i + 2]
        if words in (["--cfg", "hydra"], ["-c", "hydra"]):
            after = i + 1 if "=" in argument else i + 2
            return [*arguments[:i], "--cfg", "all", "--package", "hydra", *arguments[after:]]
    return arguments


def _without_output(arguments: list[str], unread: str) -> list[str]:
    """Return Hydra's arguments for every process but the first, which alone writes: no log and no run directory.

    Args:
        unread: a folder for what Hydra writes all the same.
    """
    quiet = ["hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none"]
    folders = [assigned("hydra.run.dir", unread), assigned("hydra.sweep.dir", unread), "hydra.sweep.subdir=."]
    rest = [a for a in arguments if not a.startswith(("hydra.run", "hydra.sweep", "hydra/job_log"))]
    # Beside the first setting: Hydra takes options before all settings or after them.
    place = next((i for i, a in enumerate(rest) if "=" in a and not a.startswith("-")), len(rest))
    return [*rest[:place], *quiet, *folders, *rest[place:]]


def quiet_libraries() -> None:
    """Hide warnings of libraries that say nothing to a user.

    Our launcher configs have the names of Hydra's plugins' own, which are their schemas. A search path that is not
    there is an error of ours (:func:`~.checks.require_read`). torch_geometric scripts functions when it is imported,
    of which PyTorch warns visibly since 2.15.
    """
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/.*' is validated against ConfigStore schema")
    warnings.filterwarnings("ignore", message=r"provider=hydra\.searchpath .* is not available")
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated")


def require_known(arguments: Sequence[str], command: str) -> None:
    """Refuse an argument of a command that is neither an option nor ``KEY=VALUE``.

    Raises:
        UserError: says what to write.
    """
    require_settings(arguments, _MAIN.get(command))


def hydra_arguments(arguments: list[str], conf: Path) -> list[str]:
    """Return Hydra's arguments, with ``resume=DIR`` turned into that run's stored config and directory.

    Raises:
        UserError: that is no run directory, or a setting that a resumed run cannot change.
    """
    arguments = [renamed_argument(argument) for argument in arguments]
    run = given(arguments, "resume")
    if run is None:
        return for_hydra(arguments)
    rest = [argument for argument in arguments if not argument.startswith("resume=")]
    if run == "auto":
        run = given(arguments, "hydra.run.dir")
        if run is None:
            raise UserError("resume=auto needs hydra.run.dir=DIR, the directory to look in and to write to")
        if not (Path(run) / "checkpoints" / "last.ckpt").is_file():
            return for_hydra(rest)
        # A job that was put back into a queue has the command line of its start, which the stored config says too.
        rest = []
    stored = Path(run) / ".hydra" / "config.yaml"
    if not stored.is_file():
        raise UserError(f"resume={run}: not a run directory (no {stored})")
    rest = [argument for argument in rest if not argument.startswith("hydra.run.dir=")]
    for argument in rest:
        key, equals, _ = argument.partition("=")
        if key and equals and (key == "weights" or (conf / key).is_dir()):
            raise UserError(f"{argument}: a resumed run keeps its own {key}")
    return [
        f"--config-path={stored.parent.resolve()}",
        "--config-name=config",
        f"--config-dir={conf.resolve()}",
        "hydra/job_logging=plain",
        "hydra.output_subdir=null",
        "hydra.job.name=train",
        assigned("hydra.run.dir", run),
        assigned("resume", run),
        *_renamed(stored),
        *for_hydra(rest),
    ]


def _renamed(stored: Path) -> list[str]:
    """Return Hydra's arguments that give settings of a stored config their present names.

    The arguments of a user's own model or protocol have the names that they have in its class, and stay.
    """
    config: Any = OmegaConf.to_container(OmegaConf.load(stored))
    arguments = []
    for old, present in RENAMED.items():
        group, key = old.split(".")
        part = config.get(group)
        if isinstance(part, dict) and key in part and _is_ours(part.get("_target_"), DeepGCN, Protocol):
            arguments += [f"~{old}", f"+{present.name}={json.dumps(present_value(old, part[key]))}"]
    return arguments


def _is_ours(target: Any, *kinds: type) -> bool:
    """Return whether the name of a class is that of one of these or of a subclass, or there is none."""
    if target is None:
        return True
    try:
        found = get_class(target)
    # The module may be a user's own, which is built later and fails there in one line.
    except Exception:
        return False
    return issubclass(found, kinds)
