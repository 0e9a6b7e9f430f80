"""Progress of long work: a bar with the time left on a terminal, a line every few seconds elsewhere."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .escaping import one_line

T = TypeVar("T")
log = logging.getLogger(__name__)

# Seconds between lines where there is no terminal.
LINE_INTERVAL = 15.0


class Meter:
    """A progress display for work of known size, with a text beside it.

    It is a context manager; call :meth:`advance` after each step.
    """

    def __init__(self, title: str, total: int, done: int = 0):
        self.title, self.total, self.done = one_line(title), total, done
        self._started = self._said = time.monotonic()
        self._first = done
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            from rich.console import Console

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}", markup=False),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(self.title, total=total, completed=done, text="")

    def __enter__(self) -> "Meter":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, text: str = "", steps: int = 1) -> None:
        """Count ``steps`` as done and show ``text``."""
        self.done += steps
        text = one_line(text)
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, text=text)
            return
        now = time.monotonic()
        if now - self._said >= LINE_INTERVAL:
            self._said = now
            left = (now - self._started) / max(self.done - self._first, 1) * (self.total - self.done)
            log.info("%s: %d of %d, about %.0f s left%s", self.title, self.done, self.total, left, text and f", {text}")


def track(items: Iterable[T], total: int, title: str) -> Iterator[T]:
    """Yield ``items`` and show the progress."""
    with Meter(title, total) as meter:
        for item in items:
            yield item
            meter.advance()
