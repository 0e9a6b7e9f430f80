"""Scores of networks over seeds, on each test area or pooled over all of them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..data.room import natural
from ..escaping import one_line
from ..evaluation.metrics import Scores
from ..evaluation.metrics_file import area_title
from ..model.connection import CONNECTIONS
from .beginnings import OWN
from .naming import kind_of, labels
from .result_table import Spread, percent
from .run import Run


@dataclass(frozen=True)
class Experiment:
    """Runs of the same settings with several seeds and folds, also repeated ones. label: as a paper names it."""

    label: str
    runs: list[Run]


@dataclass(frozen=True)
class Folds:
    """Runs of an experiment with one seed.

    Attributes:
        runs: by the area that each was tested on, in order of the areas. An area has several if the same training was
            done again with other scores.
    """

    seed: str
    runs: dict[str, list[Run]]

    @property
    def all_runs(self) -> list[Run]:
        """The runs in order of the areas."""
        return [run for runs in self.runs.values() for run in runs]

    @property
    def of_data(self) -> list[str]:
        """All areas of the data that the runs were trained on, as tables name them but without ``Area``."""
        return [area_title(area).removeprefix("Area ") for area in self.all_runs[0].test.folds]

    @property
    def missing(self) -> list[str]:
        """The areas that no run was tested on, as :attr:`of_data` has them."""
        there = {area.removeprefix("Area ") for area in self.runs}
        return [area for area in self.of_data if area not in there]

    @property
    def count(self) -> str:
        """How the score over all areas is called: ``six-fold``."""
        return f"{'six' if len(self.of_data) == 6 else len(self.of_data)}-fold"

    @property
    def pooled(self) -> torch.Tensor | None:
        """One confusion matrix (C, C), rows truth, summed over all areas.

        None if an area is missing or has several scores, or if the data have only one.
        """
        if self.missing or len(self.of_data) < 2 or len(self.all_runs) > len(self.runs):
            return None
        return torch.stack([run.confusion for run in self.all_runs]).sum(0)


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

    @property
    def mious(self) -> list[float]:
        """The mIoU in percent of each seed that has one."""
        return [value for score in self.scores if (value := percent(score.miou)) is not None]

    @property
    def miou(self) -> Spread | None:
        """Mean and deviation of :attr:`mious`; None if no seed has one."""
        return Spread.of(self.mious)

    @property
    def order(self) -> float:
        """The mean mIoU, to sort by; -1 if there is none."""
        return -1 if self.miou is None else self.miou.mean


def experiments(runs: Sequence[Run]) -> list[Experiment]:
    """Return the runs by experiment, ordered by kind of network and name."""
    groups: dict[tuple, list[Run]] = defaultdict(list)
    names = {}
    for run, label in zip(runs, labels(runs)):
        groups[run.experiment].append(run)
        names[run.experiment] = label
    found = [Experiment(names[key], group) for key, group in groups.items()]
    order = [connection.network for connection in CONNECTIONS.values()]
    kind = lambda each: order.index(name) if (name := kind_of(each.runs[0])) in order else len(order)
    return sorted(found, key=lambda each: (kind(each), natural(each.label)))


def folds(experiment: Experiment) -> list[Folds]:
    """Return the runs of an experiment by seed and area."""
    by_seed: dict[str, dict[str, list[Run]]] = defaultdict(dict)
    for group in sorted(by_repeat(experiment.runs), key=lambda group: natural(group[0].area)):
        by_seed[group[0].seed][group[0].area] = distinct(group)
    return [Folds(seed, by_area) for seed, by_area in by_seed.items()]


def by_repeat(runs: Sequence[Run]) -> list[list[Run]]:
    """Return runs of one experiment in groups of the same seed and area, which should all have the same scores."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.seed, run.area].append(run)
    return list(groups.values())


def distinct(runs: Sequence[Run]) -> list[Run]:
    """Return runs of one experiment without those that have seed, area and confusion matrix of one before."""
    return list({(run.seed, run.area, run.test.confusion): run for run in reversed(runs)}.values())[::-1]


def to_average(runs: Sequence[Run]) -> list[list[Run]]:
    """Return runs of one experiment and area in groups that a mean is taken of: one run for each seed.

    If a seed has several scores, it is not known which of them belongs to the others, and each run stands by itself.
    """
    every = distinct(runs)
    return [every] if len(every) == len(by_repeat(every)) else [[run] for run in every]


def notes_on_data(runs: Sequence[Run]) -> list[str]:
    """Return notes on runs of the same data if they name them differently, or if others are scored on other rooms."""
    names, notes = sorted({run.test.data for run in runs}), []
    if runs[0].data not in names:
        notes.append("Other runs with data of this name were scored on other rooms, points, areas or classes.")
    if len(names) > 1:
        notes.append(f"The data have several names, but in no area other rooms or points: {', '.join(names)}.")
    return notes


def notes_on_checkpoints(runs: Sequence[Run]) -> list[str]:
    """Return a note on how the checkpoints that were scored were chosen, as far as the runs say it."""
    selections = sorted({run.test.selection for run in runs if run.test.selection})
    return [f"Checkpoint: {', '.join(selections)}."] if selections else []


def notes_on_repeats(runs: Sequence[Run]) -> list[str]:
    """Return notes on what means have to leave out or to take together.

    There is one for each seed that was run several times on the same area, with the same scores or with others, and one
    for each experiment whose runs began with weights of their own.
    """
    notes = []
    for each in experiments(runs):
        own = [f"{run.name} with {run.weights}" for run in each.runs if run.settings.get("weights") == OWN]
        if own:
            notes.append(f"{each.label}: repeats began with different weights: {', '.join(own)}.")
        for group in by_repeat(each.runs):
            again = f"{each.label}, seed {group[0].seed}, {group[0].area} was run {len(group)} times"
            names = ", ".join(one_line(run.folder) for run in group)
            if len(group) > 1 and len(distinct(group)) == 1:
                notes.append(f"{again} with the same scores, and counts once: {names}.")
            elif len(group) > 1:
                notes.append(f"{again} with different scores, which are not averaged or pooled: {names}.")
    return notes


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


def comparable(runs: Sequence[Run]) -> dict[tuple[str, str, str], list[Result]]:
    """Return the results whose scores can be compared, by their data, protocol and rooms."""
    found: dict[tuple[str, str, str], list[Result]] = defaultdict(list)
    for (data, protocol), group in by_measure(runs).items():
        for result in results(group):
            found[data, protocol, result.rooms].append(result)
    return found


def _by_area(experiment: Experiment) -> list[Result]:
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(experiment.runs, key=lambda run: natural(run.area)):
        groups[run.area].append(run)
    found = []
    for area, group in groups.items():
        for runs in (every := to_average(group)):
            label = experiment.label if len(every) == 1 else f"{experiment.label}, run {runs[0].name}"
            scores, confusion = [run.scores for run in runs], torch.stack([run.confusion for run in runs]).sum(0)
            found.append(Result(label, area, runs[0].test.classes, scores, confusion))
    return found


def _pooled(experiment: Experiment) -> list[Result]:
    """Return the one result that is pooled over the folds; none if no seed has all of several folds."""
    whole = [(each, pooled) for each in folds(experiment) if (pooled := each.pooled) is not None]
    if not whole:
        return []
    confusions = [pooled for _, pooled in whole]
    scores, classes = list(map(Scores.of, confusions)), experiment.runs[0].test.classes
    rooms = f"{whole[0][0].count}, pooled"
    return [Result(experiment.label, rooms, classes, scores, torch.stack(confusions).sum(0))]
