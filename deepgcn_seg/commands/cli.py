"""What the command lines share: Hydra's start, resuming, and one-line errors."""

import functools
import logging
import os
import re
import select
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..distributed import MAX_DEVICES, declared, leave, torchrun
from ..errors import Interrupted, OccupiedError, UserError
from ..escaping import one_line
from ..files import replacing
from . import help
from .arguments import assigned, for_hydra, given
from .config import check, refusal

# Exit statuses: a user's error; work that was stopped but saved and can be resumed; output that nobody reads any more.
USER_ERROR, INTERRUPTED, UNREAD = 2, 75, 141
# Characters of an error that are shown: lists of classes are long, hostile names longer.
MAX_MESSAGE = 4000


def command(task: Callable[[DictConfig], Any], conf: Path, config_name: str) -> None:
    """Run ``task`` with the config Hydra composes from the command line, and exit.

    ``resume=RUN_DIR`` takes the config that the run stored, and its directory; ``resume=auto``
    does so if ``hydra.run.dir`` already holds a checkpoint, and starts anew otherwise.
    Set HYDRA_FULL_ERROR=1 to see tracebacks of user errors too.
    """
    with _reader_may_leave():
        _command(task, conf, config_name)


@contextmanager
def _reader_may_leave() -> Iterator[None]:
    """End quietly where what reads our output has ended, as ``head`` does."""
    # A file's name need not be text.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _is_unread():
            # Another pipe, as that to a process that loads data.
            raise
        # Nor must the interpreter's own last flush complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(UNREAD)


def _is_unread() -> bool:
    """Whether standard output is a pipe whose reader has ended."""
    output = select.poll()
    output.register(sys.stdout, 0)
    return any(events & select.POLLERR for _, events in output.poll(0))


def _command(task: Callable[[DictConfig], Any], conf: Path, config_name: str) -> None:
    verbose = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # A log file on a full disk: whatever else cannot be written tells the reason, without logging's tracebacks.
    logging.raiseExceptions = False
    # Our launcher configs have the names of the plugins' own, which are their schemas.
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/.*' is validated against ConfigStore schema")
    _start_processes(sys.argv)
    world = declared()
    failures: list[BaseException] = []
    composed = False

    def say(error: BaseException) -> None:
        where = f"process {world.rank}: " if world.size > 1 else ""
        print(f"error: {where}{_one_line(error, conf, config_name)}", file=sys.stderr)

    @functools.wraps(task)
    def guarded(config: DictConfig) -> Any:
        nonlocal composed
        composed = True
        # Kept from Hydra, which would print more than a line and end a multirun.
        try:
            _require_read(config, help.settings(conf, config_name))
            check(config, config_name)
            result = task(config)
            forget_failure()
            return result
        except BrokenPipeError:
            raise
        except (UserError, HydraException, OSError) as error:
            failures.append(error)
            if verbose:
                raise
            say(error)
            if not isinstance(error, OccupiedError):
                note_failure(_one_line(error, conf, config_name))
        except Exception as error:
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                raise
            failures.append(error)
            traceback.print_exc()
            note_failure(_one_line(error, conf, config_name))
        return None

    try:
        _require_choices(sys.argv[1:], conf)
        if {"-h", "--help"} & set(sys.argv[1:]):
            overrides = [argument for argument in for_hydra(sys.argv[1:]) if not argument.startswith("-")]
            print(help.page(conf, config_name, overrides), end="")
            return
        sys.argv[1:] = _resumed(sys.argv[1:], conf)
        if not world.first:
            # One process writes; the others must not make run directories of their own.
            quiet = ["hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none"]
            sys.argv[1:] = [a for a in sys.argv[1:] if not a.startswith(("hydra.run", "hydra.sweep", "hydra/job_log"))]
            sys.argv[1:] += [*quiet, "hydra.run.dir=.", "hydra.sweep.dir=.", "hydra.sweep.subdir=."]
        hydra.main(version_base="1.3", config_path=str(conf.resolve()), config_name=config_name)(guarded)()
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
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
        # Hydra's, of a command line it cannot compose; any other keeps its traceback.
        if verbose or composed:
            raise
        say(error)
        sys.exit(USER_ERROR)
    finally:
        several = leave()
    if failures or SweepSummary.failed:
        sys.exit(USER_ERROR)
    if several:
        # All is written. A native thread that outlives its owner at exit would abort the process, and torchrun the job.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _start_processes(argv: list[str]) -> None:
    """Become torchrun's, if ``devices=N`` asks for several processes and this is not one of them."""
    devices = next((a.split("=", 1)[1] for a in reversed(argv[1:]) if a.startswith("devices=")), "1")
    if devices.isdigit() and 1 < int(devices) <= MAX_DEVICES and declared().size == 1:
        os.execv(sys.executable, [sys.executable, *torchrun(int(devices), argv[0], argv[1:])])


FAILED = "failed.txt"


def note_failure(reason: str) -> None:
    """Leave the reason in the directory of a sweep's job, where the end of the sweep finds it."""
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return
    folder = Path(HydraConfig.get().runtime.output_dir)
    if declared().first and folder.is_dir():
        with suppress(OSError), replacing(folder / FAILED) as temporary:
            temporary.write_text(reason + "\n")


def forget_failure() -> None:
    """The job went well this time."""
    with suppress(OSError):
        (Path(HydraConfig.get().runtime.output_dir) / FAILED).unlink()


class SweepSummary(Callback):
    """Says at the end of a multirun which jobs failed, and why, whatever launched them."""

    failed = False

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """List the failed jobs below the sweep's directory."""
        root = Path(config.hydra.sweep.dir)
        notes = {path.parent: path.read_text().strip() for path in sorted(root.glob(f"**/{FAILED}"))}
        if not notes or not declared().first:
            return
        SweepSummary.failed = True
        jobs = len({path.parent.parent for path in root.glob("**/.hydra/config.yaml")} | notes.keys())
        print(f"{len(notes)} of {jobs} jobs failed; the same command again runs what is missing", file=sys.stderr)
        for folder, reason in notes.items():
            print(f"  {folder}: {reason}", file=sys.stderr)


def _resumed(arguments: list[str], conf: Path) -> list[str]:
    """Return Hydra's arguments, with ``resume=DIR`` turned into that run's stored config and directory."""
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
        # A queued job comes back with its own command line: the stored config is what it says.
        rest = []
    stored = Path(run) / ".hydra" / "config.yaml"
    if not stored.is_file():
        raise UserError(f"resume={run}: not a run directory (no {stored})")
    rest = [argument for argument in rest if not argument.startswith("hydra.run.dir=")]
    for argument in rest:
        key, equals, _ = argument.partition("=")
        if key and equals and (conf / key).is_dir():
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
        *for_hydra(rest),
    ]


def _require_read(config: DictConfig, known: dict[str, str]) -> None:
    """Refuse a setting that was added with ``+`` and that nothing reads.

    What a ``_target_`` builds refuses what it does not take; another setting may refer to one by ``${...}``.

    Raises:
        UserError: names the setting, and those that may have been meant.
    """
    for override in HydraConfig.get().overrides.task:
        key = override.partition("=")[0].lstrip("+")
        parts = key.split(".")
        inside = [OmegaConf.select(config, ".".join(parts[:i])) for i in range(1, len(parts))]
        built = any(isinstance(part, DictConfig) and "_target_" in part for part in inside)
        if not override.startswith("+") or built or key in known or key in HydraConfig.get().runtime.choices:
            continue
        if re.search(rf"\$\{{\.*{re.escape(key)}[}}.\[]", OmegaConf.to_yaml(config)) is None:
            raise UserError(f"+{key}: nothing reads this setting; {help.suggestion(key, known)}")


def _require_choices(arguments: list[str], conf: Path) -> None:
    """Refuse a group of settings that is set to null or a number, which Hydra meets with a traceback.

    Raises:
        UserError: names the group and its choices.
    """
    for argument in arguments:
        key, _, value = argument.partition("=")
        choices = sorted(path.stem for path in (conf / key).glob("*.yaml")) if key and not key.startswith("-") else []
        if choices and (value == "null" or value.replace(".", "").isdigit()):
            raise UserError(f"{argument}: must be one of {', '.join(choices)}")


def _one_line(error: BaseException, conf: Path, config_name: str) -> str:
    """Return the error as one line, in which names from files neither move the cursor nor begin another."""
    return one_line(_reason(error, conf, config_name), MAX_MESSAGE)


def _reason(error: BaseException, conf: Path, config_name: str) -> str:
    """Return what an error says; of an unknown choice or key with what is allowed, or close to it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            # A worker process that loads data sends its traceback along.
            return str(cause).rstrip().rsplit("UserError: ", 1)[-1]
        if isinstance(cause, OSError) and cause.filename is not None:
            return f"{cause.filename}: {cause.strerror}"
        cause = cause.__cause__ or cause.__context__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, InstantiationException):
        key = next((line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")), "settings")
        return refusal(error, key) or " ".join(lines[:2])
    text = lines[0] if lines else type(error).__name__
    if text.startswith("In '") and len(lines) > 1 and lines[1].startswith("Available options"):
        missing = text.split("'")[3] if text.count("'") >= 4 else text
        group, _, choice = missing.rpartition("/")
        options = [line for line in lines[2:] if not line.startswith(("Config search", "provider"))]
        return f"{group}={choice}: must be one of {', '.join(options)}"
    if text.startswith("Could not override '"):
        key = text.split("'")[1]
        return f"{key}: no such setting; {help.suggestion(key, help.settings(conf, config_name))}"
    return " ".join(lines[:2])
