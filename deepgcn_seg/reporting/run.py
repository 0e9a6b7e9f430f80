"""A finished run: what it was, and what it scored."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..evaluation.metrics import Scores, miou_interval
from ..evaluation.metrics_file import Metrics, Tested
from ..model.description import Network, OwnPart

# Runs that differ in these settings alone repeat one experiment.
REPEATS = ("data.fold", "seed")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        settings: flat, ``data.fold`` -> 5, as numbers or as printable text.
        data: the name of the data that it was scored on (:func:`~.measured.data_names`).
        network: the description of its network; None if its config has none that can be read.
        weights: name of the file whose weights it began with (:func:`~.beginnings.with_beginnings`); empty for random
            ones, and if it was not compared with other runs.
        typed: names of the settings and groups that were set on the command line, by a sweep or when it was resumed.
        name: of its folder, as printable text; if several runs of a report have the same, with the folders above it.
    """

    folder: Path
    settings: dict[str, Any]
    metrics: Metrics
    data: str
    network: Network | OwnPart | None = None
    typed: frozenset[str] = frozenset()
    weights: str = ""
    name: str = ""

    @property
    def test(self) -> Tested:
        """Its scores on the test rooms, and how they were measured."""
        return self.metrics.test

    @property
    def measured(self) -> tuple[str, str]:
        """Data and protocol: scores can be compared only where both are the same."""
        return self.data, self.test.protocol

    @property
    def order(self) -> float:
        """Its mIoU, to sort by; -1 if it has none."""
        miou = self.scores.miou
        return -1 if miou != miou else miou

    @property
    def seed(self) -> str:
        """Its seed as text."""
        return str(self.settings.get("seed"))

    @property
    def area(self) -> str:
        """The area that it was tested on, as tables name it."""
        return self.test.area

    @property
    def experiment(self) -> tuple:
        """What it shares with the runs that repeat it with other seeds and folds, and with no others."""
        settings = tuple(sorted((key, str(value)) for key, value in self.settings.items() if key not in REPEATS))
        return (*self.measured, settings)

    @property
    def confusion(self) -> torch.Tensor:
        """Its confusion matrix (C, C) on the test rooms, rows truth."""
        return torch.tensor(self.test.confusion, device="cpu")

    @cached_property
    def scores(self) -> Scores:
        """Its scores, which follow from the confusion matrix; those that ``metrics.json`` has beside it are alike."""
        return Scores.of(self.confusion)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of its mIoU over its test rooms; None if it has only one, or they are not known.

        It is not read from ``metrics.json``: versions of before 2026-11-28 wrote one that is too narrow.
        """
        points = self.test.points_by_room
        return None if points is None else miou_interval(points)
