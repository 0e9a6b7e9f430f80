"""The six-fold score (6-fold cross-validation) of S3DIS: each area is held out once, and all are scored together."""

from collections.abc import Sequence

import torch

from ..evaluation.metrics import Scores, miou_interval
from .result_table import PERCENT, Column, ResultTable, percent, percent_interval
from .results import Folds, experiments, folds, notes_on_checkpoints, notes_on_data, notes_on_repeats
from .run import Run


def six_folds(runs: Sequence[Run]) -> list[ResultTable]:
    """Return tables of runs that differ in ``data.fold`` alone: scores of each area and pooled over all (S3DIS: six).

    The pooled row is of one confusion matrix, summed over the areas. The mean of the areas' scores is another number
    and is named so. If a fold is missing or has several scores, there is no pooled row, and a note names the fold.
    """
    seeds = {run.seed for run in runs}
    return [
        _table(
            f"{experiment.label}{f', seed {each.seed}' if len(seeds) > 1 else ''}, folds",
            each,
            notes_on_repeats([run for run in experiment.runs if run.seed == each.seed]),
        )
        for experiment in experiments(runs)
        for each in folds(experiment)
        if len(each.runs) > 1
    ]


def _table(title: str, folds: Folds, repeats: list[str]) -> ResultTable:
    runs, test = folds.all_runs, folds.all_runs[0].test
    header = ["test area", "mIoU", "mAcc", "OA", *test.classes]
    scores = [run.scores for run in runs]
    names = [f"{run.area}, run {run.name}" if len(folds.runs[run.area]) > 1 else run.area for run in runs]
    rows = [_score_row(name, each) for name, each in zip(names, scores)]
    notes = [f"Data: {runs[0].data}. Protocol: {test.protocol}."]
    notes += notes_on_data(runs) + notes_on_checkpoints(runs) + repeats
    if folds.missing:
        notes.append(f"No {folds.count} number: folds {', '.join(folds.missing)} are missing or unfinished.")
    if (pooled := folds.pooled) is not None:
        means = [sum(values) / len(values) for values in zip(*((s.miou, s.macc, s.oa) for s in scores))]
        rows.append(["mean of areas", *map(percent, means), *[""] * len(test.classes)])
        rows.append(_score_row(f"{folds.count}, pooled", Scores.of(pooled)))
        notes.append(f"Pooled: one confusion matrix summed over the {folds.count.removesuffix('-fold')} areas.")
        rooms = [points for run in runs if (points := run.test.points_by_room) is not None]
        if len(rooms) == len(runs) and (interval := miou_interval(torch.cat(rooms))):
            ends = Column("", *PERCENT).text(percent_interval(interval))
            notes.append(f"95 % interval of the pooled mIoU, over all rooms: {ends}.")
    # Areas side by side: thirteen classes would make the lines too long.
    (first_name, *headings), *body = (list(column) for column in zip(header, *rows))
    columns = [Column(first_name), *(Column(name, *PERCENT) for name in headings)]
    return ResultTable(title, columns, body, notes)


def _score_row(name: str, scores: Scores) -> list:
    return [name, *map(percent, (scores.miou, scores.macc, scores.oa, *scores.iou))]
