"""The six-fold score (6-fold cross-validation) of S3DIS: each area is held out once, and all are scored together."""

from collections import defaultdict
from collections.abc import Sequence

import torch

from ..data.layouts import natural
from ..evaluation.metrics import Scores, miou_interval
from .naming import experiment, labels
from .result_table import PERCENT, Column, ResultTable, percent, percent_interval
from .runs import Run


def six_folds(runs: Sequence[Run]) -> list[ResultTable]:
    """Return tables of runs that differ in ``data.fold`` alone: scores of each area and pooled over all (S3DIS: six).

    The pooled row is of one confusion matrix, summed over the areas. The mean of the areas' scores is another number
    and is named so. If a fold is missing, there is no pooled row, and a note names the fold.
    """
    groups: dict[tuple, dict[int | str, Run]] = defaultdict(dict)
    names = {}
    for run, label in zip(runs, labels(runs)):
        if "data.fold" in run.settings:
            key = (experiment(run), str(run.settings.get("seed")))
            groups[key][run.settings["data.fold"]] = run
            names[key] = label
    seeds = {run.settings.get("seed") for run in runs}
    return [
        _folds(f"{names[key]}{f', seed {key[1]}' if len(seeds) > 1 else ''}, folds", group)
        for key, group in groups.items()
        if len(group) > 1
    ]


def _folds(title: str, folds: dict[int | str, Run]) -> ResultTable:
    first = next(iter(folds.values()))
    areas = [area.removeprefix("Area_") for area in first.test.folds]
    header = ["test area", "mIoU", "mAcc", "OA", *first.test.classes]
    rows, scores = [], []
    ordered = sorted(folds, key=lambda fold: natural(str(fold)))
    for fold in ordered:
        scores.append(Scores.of(folds[fold].confusion))
        rows.append(_score_row(f"Area {fold}" if isinstance(fold, int) else str(fold), scores[-1]))
    notes = [f"Data: {first.test.data}. Protocol: {first.test.protocol}."]
    count = "six" if len(areas) == 6 else str(len(areas))
    missing = [area for area in areas if area not in {str(fold).removeprefix("Area_") for fold in folds}]
    if missing:
        notes.append(f"No {count}-fold number: folds {', '.join(missing)} are missing or unfinished.")
    else:
        pooled = Scores.of(torch.stack([run.confusion for run in folds.values()]).sum(0))
        means = [sum(values) / len(values) for values in zip(*((s.miou, s.macc, s.oa) for s in scores))]
        rows.append(["mean of areas", *map(percent, means), *[""] * len(first.test.classes)])
        rows.append(_score_row(f"{count}-fold, pooled", pooled))
        notes.append(f"Pooled: one confusion matrix summed over the {count} areas.")
        rooms = [points for run in folds.values() if (points := run.points_by_room) is not None]
        if len(rooms) == len(folds) and (interval := miou_interval(torch.cat(rooms))):
            ends = Column("", *PERCENT).text(percent_interval(interval))
            notes.append(f"95 % interval of the pooled mIoU, by bootstrap over all rooms: {ends}.")
    # Areas side by side: thirteen classes would make the lines too long.
    (first_name, *names), *body = (list(column) for column in zip(header, *rows))
    columns = [Column(first_name), *(Column(name, *PERCENT) for name in names)]
    return ResultTable(title, columns, body, notes)


def _score_row(name: str, scores: Scores) -> list:
    return [name, *map(percent, (scores.miou, scores.macc, scores.oa, *scores.iou))]
