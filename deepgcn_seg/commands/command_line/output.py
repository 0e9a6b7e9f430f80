"""The output of a command: its directory, its log, and standard output, which another program may stop reading."""

import copy
import logging
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ...escaping import visible
from ...training.run_directory import claim

# The exit status of a command whose output nobody reads any more, as a shell has it for SIGPIPE.
UNREAD = 141


class VisibleFormatter(logging.Formatter):
    """A formatter of log records that writes out control characters: names of files may come from anywhere."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text. Only line breaks of a path are written out, because some messages are lists."""
        args = record.args
        if isinstance(args, tuple):
            record = copy.copy(record)
            record.args = tuple(str(arg).replace("\n", r"\n") if isinstance(arg, Path) else arg for arg in args)
        return visible(super().format(record))


def claim_folder(config: DictConfig, command: str) -> None:
    """Write the config of a command into its output directory; trainings and evaluations do it themselves, locked.

    Raises:
        OccupiedError: the directory holds a training or scores.
    """
    if command not in ("train", "evaluate"):
        claim(config, Path(HydraConfig.get().runtime.output_dir))


@contextmanager
def output_may_go_unread() -> Iterator[None]:
    """End quietly if the program that reads our output has ended, as ``head`` does."""
    # A file's name need not be text.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _is_unread():
            # Another pipe has broken, such as the one to a process that loads data.
            raise
        # The interpreter flushes once more at its end, and must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(UNREAD)


def _is_unread() -> bool:
    """Return whether standard output is a pipe whose reader has ended."""
    output = select.poll()
    output.register(sys.stdout, 0)
    return any(events & select.POLLERR for _, events in output.poll(0))
