"""Scores of networks over seeds, on each test area or pooled over all of them."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..data.layouts import natural
from ..evaluation.metrics import Scores
from ..model.connection import CONNECTIONS
from .naming import experiment, kind_of, labels
from .runs import Run


@dataclass(frozen=True)
class Experiment:
    """Runs of the same settings with several seeds and folds. label: as a paper names it."""

    label: str
    runs: list[Run]


@dataclass(frozen=True)
class Folds:
    """Runs of an experiment with one seed. runs: by the area that each was tested on, in order of the areas."""

    seed: str
    runs: dict[str, Run]

    @property
    def of_data(self) -> list[str]:
        """All areas of the data that the runs were trained on, without ``Area_``."""
        return [area.removeprefix("Area_") for area in next(iter(self.runs.values())).test.folds]

    @property
    def missing(self) -> list[str]:
        """The areas that no run was tested on, without ``Area_``."""
        there = {area.removeprefix("Area ") for area in self.runs}
        return [area for area in self.of_data if area not in there]

    @property
    def count(self) -> str:
        """How the score over all areas is called: ``six-fold``."""
        return f"{'six' if len(self.of_data) == 6 else len(self.of_data)}-fold"

    @property
    def pooled(self) -> torch.Tensor | None:
        """One confusion matrix (C, C), rows truth, summed over all areas; None if some are missing, or there is one."""
        if self.missing or len(self.of_data) < 2:
            return None
        return torch.stack([run.confusion for run in self.runs.values()]).sum(0)


@dataclass(frozen=True)
class Result:
    """What an experiment scored on the same rooms.

    Attributes:
        label: name of the experiment. rooms: the test area, or how many were pooled. classes: their names.
        scores: for each seed. confusion: (C, C), rows truth, summed over the seeds.
    """

    label: str
    rooms: str
    classes: tuple[str, ...]
    scores: list[Scores]
    confusion: torch.Tensor


def experiments(runs: Sequence[Run]) -> list[Experiment]:
    """Return the runs by experiment, ordered by kind of network and name."""
    groups: dict[tuple, list[Run]] = defaultdict(list)
    names = {}
    for run, label in zip(runs, labels(runs)):
        groups[experiment(run)].append(run)
        names[experiment(run)] = label
    found = [Experiment(names[key], group) for key, group in groups.items()]
    order = [connection.network for connection in CONNECTIONS.values()]
    kind = lambda each: order.index(name) if (name := kind_of(each.runs[0])) in order else len(order)
    return sorted(found, key=lambda each: (kind(each), natural(each.label)))


def folds(experiment: Experiment) -> list[Folds]:
    """Return the runs of an experiment by seed and area."""
    by_seed: dict[str, dict[str, Run]] = defaultdict(dict)
    for run in sorted(experiment.runs, key=lambda run: natural(run.area)):
        by_seed[str(run.settings.get("seed"))][run.area] = run
    return [Folds(seed, by_area) for seed, by_area in by_seed.items()]


def results(runs: Sequence[Run]) -> list[Result]:
    """Return the scores of each experiment, in the order of :func:`experiments`.

    They are pooled if a seed has all folds: one confusion matrix, summed over the areas. If no seed has, there is a
    result for each area. Seeds without all folds take no part in a pooled result.
    """
    return [result for each in experiments(runs) for result in _pooled(each) or _by_area(each)]


def by_measure(runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    """Return the runs of each data and protocol: scores can be compared only within these."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.measured].append(run)
    return groups


def comparable(runs: Sequence[Run]) -> dict[tuple[str, str, str, tuple[str, ...]], list[Result]]:
    """Return the results whose scores can be compared, by their data, protocol, rooms and classes."""
    found: dict[tuple[str, str, str, tuple[str, ...]], list[Result]] = defaultdict(list)
    for (data, protocol), group in by_measure(runs).items():
        for result in results(group):
            found[data, protocol, result.rooms, result.classes].append(result)
    return found


def _by_area(experiment: Experiment) -> list[Result]:
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(experiment.runs, key=lambda run: natural(run.area)):
        groups[run.area].append(run)
    return [Result(experiment.label, area, group[0].test.classes, *_scores(group)) for area, group in groups.items()]


def _scores(runs: list[Run]) -> tuple[list[Scores], torch.Tensor]:
    """Return the scores of runs, as their metrics.json has them, and the sum of their confusion matrices."""
    nan = lambda value: float("nan") if value is None else value
    scores = [
        dataclasses.replace(
            Scores.of(run.confusion), miou=nan(run.test.mIoU), macc=nan(run.test.mAcc), oa=nan(run.test.OA)
        )
        for run in runs
    ]
    return scores, torch.stack([run.confusion for run in runs]).sum(0)


def _pooled(experiment: Experiment) -> list[Result]:
    """Return the one result that is pooled over the folds; none if no seed has all of several folds."""
    whole = [(each, pooled) for each in folds(experiment) if (pooled := each.pooled) is not None]
    if not whole:
        return []
    confusions = [pooled for _, pooled in whole]
    scores, classes = list(map(Scores.of, confusions)), experiment.runs[0].test.classes
    rooms = f"{whole[0][0].count}, pooled"
    return [Result(experiment.label, rooms, classes, scores, torch.stack(confusions).sum(0))]
