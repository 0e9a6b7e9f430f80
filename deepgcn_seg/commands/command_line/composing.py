"""A command without a command line: its config composed from settings, and its task run in this process."""

import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import current_process
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ...data.dataset import GUARD
from ...distributed import declared
from ...errors import UserError
from ...progress import in_notebook
from ...provenance import called_as
from ...torch_defaults import torch_defaults
from .arguments import quote
from .checks import require_choices
from .failures import error_line
from .main import hydra_arguments, quiet_libraries, require_known, run_checked
from .settings_folder import settings_folder

# Hydra's state is that of the process. A thread may call a command within another, but two threads take turns.
_turn = threading.RLock()


def run_command(
    command: str,
    task: Callable[[DictConfig], Any],
    settings: Sequence[str],
    config_dir: str | PathLike[str] | None = None,
) -> tuple[Path, Any]:
    """Run a task with the config that Hydra composes from settings, as the command line of that name does.

    Args:
        settings: texts KEY=VALUE. config_dir: a folder with further groups and choices; with a config of the command's
            name in it, the folder is taken in the place of the package's.

    Returns:
        The output directory, and what the task returns.

    Raises:
        UserError: a setting cannot be used, or whatever the task refuses.
    """
    _require_main_process(command)
    own = None if config_dir is None else Path(config_dir).resolve()
    if own is not None and not own.is_dir():
        raise UserError(f"config_dir={config_dir}: no such folder")
    replaced = own is not None and (own / f"{command}.yaml").is_file()
    conf = own if own is not None and replaced else settings_folder()
    _require_plain(settings)
    call = f"deepgcn_seg.{command}({', '.join(map(repr, settings))})"
    with _turn, called_as(call), _user_errors(conf, command), _process_as_before(), torch_defaults():
        require_known(settings, command)
        require_choices(list(settings), conf)
        folder, name, overrides = _place(hydra_arguments(list(settings), conf), conf, command)
        if own is not None and not replaced:
            overrides.append(f"hydra.searchpath=[{quote(f'file://{own}')}]")
        with _hydra(folder, command):
            if compose(name, overrides, return_hydra_config=True).hydra.mode == RunMode.MULTIRUN:
                raise UserError("these settings are a multirun: use tools/train.py, or call once for each run")
            return _run(task, conf, command, name, overrides)


def _require_main_process(command: str) -> None:
    """End a process that is being started to load data, and for that runs the caller's script once more."""
    # As multiprocessing itself finds it out, for an error of several paragraphs.
    if getattr(current_process(), "_inheriting", False):
        sys.exit(f"error: a process that loads data runs the whole script: {GUARD.format(call=f'{command}(...)')}")


@contextmanager
def _process_as_before() -> Iterator[None]:
    """Give the process its warning filters, hook for errors of threads and random state back afterwards."""
    hook = threading.excepthook
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices):
            quiet_libraries()
            yield
    finally:
        threading.excepthook = hook


def _require_plain(settings: Sequence[str]) -> None:
    """Refuse what only the command line can do."""
    for setting in settings:
        if not isinstance(setting, str):
            raise UserError(f"{setting!r}: settings are texts, as 'depth=14'")
        if setting.startswith("-"):
            raise UserError(f"{setting}: options are for the command line; settings are texts, as 'depth=14'")
    if declared().size > 1:
        raise UserError("several processes are for the command line: torchrun tools/train.py, or devices=N there")


def _place(arguments: Sequence[str], conf: Path, command: str) -> tuple[Path, str, list[str]]:
    """Return folder and name of the config, and the overrides, of Hydra's arguments."""
    options = dict(argument[2:].split("=", 1) for argument in arguments if argument.startswith("--"))
    # Logging is not configured here, so that the settings for it need not be found.
    overrides = [argument for argument in arguments if not argument.startswith(("--", "hydra/job_logging="))]
    return Path(options.get("config-path", conf)).resolve(), options.get("config-name", command), overrides


@contextmanager
def _hydra(folder: Path, command: str) -> Iterator[None]:
    """Have Hydra read configs from a folder. A Hydra application that calls us has its own state back afterwards."""
    callers = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(folder), job_name=command, version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = callers


def _run(
    task: Callable[[DictConfig], Any], conf: Path, command: str, name: str, overrides: list[str]
) -> tuple[Path, Any]:
    """Run the task as Hydra's job, and return its directory and result."""
    results: list[Any] = []
    errors: list[Exception] = []

    def job(config: DictConfig) -> None:
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            with _logged(folder / f"{command}.log"):
                results.extend((folder, run_checked(task, config, conf, command)))
        # Hydra would print it besides.
        except Exception as error:
            errors.append(error)

    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    hydra.run(name, job, overrides, with_log_configuration=False)
    if errors:
        raise errors[0]
    folder, result = results
    return folder, result


@contextmanager
def _user_errors(conf: Path, command: str) -> Iterator[None]:
    """Turn the errors that a command line tells in one line into errors of that line."""
    try:
        yield
    except UserError:
        raise
    except (HydraException, OmegaConfBaseException, OSError) as error:
        raise UserError(error_line(error, conf, command)) from error


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Write the log into a file and, unless the caller has set up logging, onto the terminal or into the notebook."""
    logger = logging.getLogger(__name__.partition(".")[0])
    level = logger.level
    file = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handlers: list[logging.Handler] = [file]
    if not logging.getLogger().handlers:
        # Notebooks show standard error as if it were an error.
        handlers.append(logging.StreamHandler(sys.stdout if in_notebook() else sys.stderr))
    with ExitStack() as stack:
        stack.callback(logger.setLevel, level)
        logger.setLevel(logging.INFO)
        for handler in handlers:
            stack.callback(handler.close)
            logger.addHandler(handler)
            stack.callback(logger.removeHandler, handler)
        yield
