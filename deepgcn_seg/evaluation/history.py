"""``history.csv``: a row for each epoch of a training, for spreadsheets, pandas and the reports.

An epoch has two rows if ``max_steps`` ended the training in it and a resume went on, or if its loss was changed.

============================  ==========================================================================
``step``, ``epoch``           optimiser steps done, and the epoch that the last one belongs to
``learning_rate``             of the last step
``train_loss``                mean loss of the steps since the row before; passes without a labelled point, and
                              steps of such passes alone, do not count
``validation_loss``           cross-entropy per point on the validation rooms, without label smoothing
``mIoU``, ``mAcc``, ``OA``    on the validation rooms
``IoU/CLASS``                 on the validation rooms, a column for each class
``seconds``                   spent in training steps since the run was started
``peak_memory_mb``            of the process, or on the GPU what was allocated
============================  ==========================================================================

With ``select=test`` the rooms of validations are the test rooms. A cell is empty if there is no such value: in an epoch
without validation, or for a class that no point has.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError, first_line
from ..files import replacing
from .metrics import Scores

NAME = "history.csv"
_BEFORE = ("step", "epoch", "learning_rate", "train_loss", "validation_loss", "mIoU", "mAcc", "OA")
_AFTER = ("seconds", "peak_memory_mb")
_CLASS = "IoU/"
_REMEDY = "move the file away, and the training begins a new one"

# Column -> tags of the same curve in TensorBoard's events: the one that is written, and that of runs before 2026-11-27.
TAGS = {
    "train_loss": ("1_overview/loss_train", "train/loss"),
    "validation_loss": ("1_overview/loss_validation",),
    "mIoU": ("1_overview/mIoU_validation", "validation/mIoU"),
    "learning_rate": ("1_overview/rate", "train/learning_rate"),
}

# Column -> value; None stands for an empty cell.
Row = dict[str, float | None]


@dataclass(frozen=True)
class Epoch:
    """The end of an epoch. The fields are the columns of their names; scores is None without a validation."""

    step: int
    epoch: int
    learning_rate: float
    train_loss: float
    validation_loss: float | None
    scores: Scores | None
    seconds: float
    peak_memory_mb: float

    def row(self, classes: Sequence[str]) -> Row:
        """Return the row of ``history.csv``, for classes of these names."""
        scores = self.scores or Scores.missing(len(classes))
        before = (self.step, self.epoch, self.learning_rate, self.train_loss, self.validation_loss)
        values = (*before, scores.miou, scores.macc, scores.oa, *scores.iou, self.seconds, self.peak_memory_mb)
        names = (*_BEFORE, *(_CLASS + name for name in classes), *_AFTER)
        return {name: value if _is_number(value) else None for name, value in zip(names, values, strict=True)}


class History:
    """The rows of a run's ``history.csv``.

    Args:
        folder: the run directory. step: first step whose row is new, 0 in a new run; rows from it on are dropped.

    Raises:
        UserError: the file is there but no history.
    """

    def __init__(self, folder: Path, step: int):
        self._path = folder / NAME
        rows = read_history(self._path) if step and self._path.exists() else []
        self._rows = [row for row in rows if (row["step"] or 0) < step]

    def append(self, row: Row) -> None:
        """Add a row to the file, which is replaced as a whole.

        Raises:
            UserError: it cannot be written, or has other columns.
        """
        # A row is written by the order of its columns.
        if self._rows and list(self._rows[0]) != list(row):
            raise UserError(f"{self._path}: has other columns than this training, or in another order; {_REMEDY}")
        # A run that was killed between a row and its checkpoint comes to the same step again.
        self._rows = [before for before in self._rows if (before["step"] or 0) < (row["step"] or 0)] + [row]
        try:
            with replacing(self._path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(row)
                writer.writerows(map(_cell, row.values()) for row in self._rows)
        except OSError as error:
            raise UserError(f"cannot write {self._path} ({error.strerror or error})") from None


def read_history(path: Path) -> list[Row]:
    """Return the rows of a ``history.csv``, in order of their steps.

    Raises:
        UserError: cannot be read, or is no history.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            names, *lines = list(csv.reader(file, strict=True)) or [[]]
            rows = [dict(zip(names, map(_value, line), strict=True)) for line in lines]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: not the history of a training ({first_line(error)}); {_REMEDY}") from None
    known = tuple(names[: len(_BEFORE)]) == _BEFORE and tuple(names[-len(_AFTER) :]) == _AFTER
    if not known or len(set(names)) < len(names):
        raise UserError(f"{path}: not the history of a training (its columns are others); {_REMEDY}")
    steps = [row["step"] or 0 for row in rows]
    if steps != sorted(set(steps)):
        raise UserError(f"{path}: not the history of a training (its steps do not rise); {_REMEDY}")
    return rows


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _cell(value: float | None) -> str:
    """Return a value as text; six digits of a loss are enough to compare runs, and all of a step are needed."""
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.6g}"


def _value(cell: str) -> float | None:
    if cell == "":
        return None
    value = int(cell) if cell.isascii() and cell.isdigit() and len(cell) < 18 else float(cell)
    if not math.isfinite(value):
        raise ValueError(f"{cell[:20]} is not finite")
    return value
