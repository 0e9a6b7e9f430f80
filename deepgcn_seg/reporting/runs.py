"""Runs below a folder: what each was, and what it scored."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..changes import values_in_time
from ..errors import UserError
from ..escaping import one_line
from ..model.description import Network, OwnPart
from .config import read_config
from .measured import data_names
from .reading import LeftOut, Metrics, Tested, read_metrics, shown, why_unfinished

# Runs that differ in these settings alone repeat one experiment.
REPEATS = ("data.fold", "seed")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        settings: flat, ``data.fold`` -> 5, as numbers or as printable text.
        data: the name of the data that it was scored on (:func:`~.measured.data_names`).
        network: the description of its network; None if its config has none that can be read.
        typed: names of the settings and groups that were set on the command line, by a sweep or when it was resumed.
    """

    folder: Path
    settings: dict[str, Any]
    metrics: Metrics
    data: str
    network: Network | OwnPart | None = None
    typed: frozenset[str] = frozenset()

    @property
    def test(self) -> Tested:
        """Its scores on the test rooms, and how they were measured."""
        return self.metrics.test

    @property
    def name(self) -> str:
        """Name of its folder, as printable text."""
        return one_line(self.folder.name)

    @property
    def measured(self) -> tuple[str, str]:
        """Data and protocol: scores can be compared only where both are the same."""
        return self.data, self.test.protocol

    @property
    def seed(self) -> str:
        """Its seed as text."""
        return str(self.settings.get("seed"))

    @property
    def area(self) -> str:
        """The area that it was tested on, as tables name it."""
        return self.test.area

    @property
    def confusion(self) -> torch.Tensor:
        """Its confusion matrix (C, C) on the test rooms, rows truth."""
        return torch.tensor(self.test.confusion)

    @property
    def points_by_room(self) -> torch.Tensor | None:
        """Points (R, 3, C) of its test rooms, as :func:`~deepgcn_seg.evaluation.metrics.points_by_class` has them.

        None if the run was scored by a version that did not keep them.
        """
        rooms = [room.counts for room in self.test.rooms.values()]
        return torch.tensor(rooms) if rooms and all(map(all, rooms)) else None


def find_runs(root: str | Path, left_out: LeftOut) -> tuple[list[Run], list[Path]]:
    """Return the finished runs below ``root`` and the folders of unfinished ones.

    Args:
        left_out: runs that cannot be read are added to it.

    Raises:
        UserError: no run can be read.
    """
    root = Path(root)
    runs, unfinished = [], []
    for folder in sorted(path.parent.parent for path in root.rglob(".hydra/config.yaml")):
        with left_out.noting():
            config = read_config(folder)
            if config is None:
                continue
            metrics = read_metrics(folder)
            if metrics is None:
                unfinished.append(folder)
            else:
                # A run that was trained with several values of a setting is not one with the last of them.
                changed = {shown(key): shown(values) for key, values in values_in_time(metrics.changes).items()}
                settings, typed = {**config.settings, **changed}, config.typed.union(changed)
                runs.append(Run(folder, settings, metrics, metrics.test.data, config.network, typed))
    if not runs and not unfinished:
        if left_out.reasons:
            raise UserError(f"runs={root}: none of the runs below it can be read; the first: {left_out.reasons[0]}")
        raise UserError(f"runs={root}: no run directories below it (looked for .hydra/config.yaml and metrics.json)")
    names = data_names([run.test for run in runs])
    return [replace(run, data=name) for run, name in zip(runs, names)], unfinished


def describe_unfinished(folders: Sequence[Path], left_out: LeftOut) -> list[str]:
    """Return a line for each unfinished run: that it failed and why, or how far it came."""
    lines = []
    for folder in folders:
        state = "unfinished"
        with left_out.noting():
            state = why_unfinished(folder)
        lines.append(one_line(f"{folder}: {state}"))
    return lines
