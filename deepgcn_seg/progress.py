"""Progress of long work: a bar with the time left on a terminal or in a notebook, elsewhere a line now and then."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .escaping import one_line

T = TypeVar("T")
log = logging.getLogger(__name__)

# Seconds between lines where there is no terminal.
LINE_INTERVAL = 15.0
# Seconds between two states of a bar in a notebook, each of which is a message to the browser.
CELL_INTERVAL = 0.5


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook (Jupyter, Colab, Databricks)."""
    return Console().is_jupyter


class Meter:
    """A progress display for work of known size, with a text beside it.

    It is a context manager; call :meth:`advance` after each step. In a notebook a display within another is not shown,
    because each leaves its last state in the cell: a training would leave one for each validation.
    """

    _in_cell = False

    def __init__(self, title: str, total: int, done: int = 0):
        self.title, self.total, self.done = one_line(title), total, done
        self._started = self._said = time.monotonic()
        self._first = done
        self._bar: Progress | None = None
        self._cell: Any = None
        if sys.stderr.isatty() or in_notebook():
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
        if self._bar is not None and not in_notebook():
            self._bar.start()
        elif self._bar is not None and not Meter._in_cell:
            # Rich itself redraws a bar only with ipywidgets; a displayed object can be updated in every notebook.
            from IPython.display import display

            self._cell = display(self._drawn(), display_id=True)
            Meter._in_cell = True
        return self

    def __exit__(self, *_) -> None:
        if self._cell is not None:
            self._cell.update(self._drawn())
            Meter._in_cell = False
        elif self._bar is not None:
            self._bar.stop()

    def advance(self, text: str = "", steps: int = 1) -> None:
        """Count ``steps`` as done and show ``text``."""
        self.done += steps
        text = one_line(text)
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, text=text)
            if self._cell is not None and now - self._said >= CELL_INTERVAL:
                self._said = now
                self._cell.update(self._drawn())
        elif now - self._said >= LINE_INTERVAL:
            self._said = now
            left = (now - self._started) / max(self.done - self._first, 1) * (self.total - self.done)
            log.info("%s: %d of %d, about %.0f s left%s", self.title, self.done, self.total, left, text and f", {text}")

    def _drawn(self) -> Table:
        """Return the bar as it is now, as a table of Rich, which notebooks can show."""
        assert self._bar is not None
        return self._bar.make_tasks_table(self._bar.tasks)


def track(items: Iterable[T], total: int, title: str) -> Iterator[T]:
    """Yield ``items`` and show the progress."""
    with Meter(title, total) as meter:
        for item in items:
            yield item
            meter.advance()
