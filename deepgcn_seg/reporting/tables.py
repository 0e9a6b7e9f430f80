"""Tables of results: runs that were measured alike, means over seeds, and folds pooled."""

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from ..data.layouts import natural
from ..escaping import csv_cell, latex, markdown, terminal
from ..evaluation.metrics import Scores, miou_interval
from .published import Published
from .runs import Run, varied


@dataclass(frozen=True)
class ResultTable:
    """A table of results that were measured alike, to be written for a terminal, in Markdown, CSV or LaTeX."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]

    def terminal(self) -> Table:
        """Return the table as rich prints it."""
        notes = (terminal(note, "table.caption") for note in self.notes)
        table = Table(title=terminal(self.title, "table.title"), caption=Text("\n").join(notes))
        for name in self.header:
            table.add_column(terminal(name))
        for row in self.rows:
            table.add_row(*map(terminal, row))
        return table

    def markdown(self) -> str:
        """Return a section in Markdown."""
        header, *rows = ([markdown(cell) for cell in row] for row in (self.header, *self.rows))
        table = "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *rows))
        return f"## {markdown(self.title)}\n\n{table}\n\n" + "".join(f"{markdown(note)}\n\n" for note in self.notes)

    def latex(self) -> str:
        """Return a tabular in LaTeX."""
        body = " \\\\\n".join(" & ".join(map(latex, row)) for row in (self.header, *self.rows))
        notes = "".join(f"% {latex(note)}\n" for note in (self.title, *self.notes))
        return f"{notes}\\begin{{tabular}}{{{'l' * len(self.header)}}}\n{body} \\\\\n\\end{{tabular}}\n"

    def csv(self) -> str:
        """Return the table as comma-separated values."""
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(map(csv_cell, row) for row in (self.header, *self.rows))
        return out.getvalue()


def comparisons(runs: Sequence[Run]) -> list[ResultTable]:
    """Return a table for each data and protocol: settings that differ, scores, parameters, time and memory."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.measured].append(run)
    tables = []
    for measured, group in groups.items():
        tables.append(_comparison(group, *measured))
        if len({run.settings.get("seed") for run in group}) > 1:
            tables.append(_over_seeds(group, *measured))
    return tables


def _comparison(runs: list[Run], data: str, protocol: str) -> ResultTable:
    keys = varied(runs)
    intervals = any(run.test.mIoU_interval for run in runs)
    header = [*keys, "mIoU", *["95 %"] * intervals, "mAcc", "OA", "parameters", "minutes", "peak MB", "points/s", "run"]
    rows = []
    for run in sorted(runs, key=lambda run: [_sortable(run.settings.get(key)) for key in keys]):
        training = run.metrics.training
        rows.append(
            [
                *(str(run.settings.get(key, "-")) for key in keys),
                _percent(run.test.mIoU),
                *[_interval(run.test.mIoU_interval)] * intervals,
                *map(_percent, (run.test.mAcc, run.test.OA)),
                f"{run.metrics.parameters:,}",
                "-" if training.seconds is None else f"{training.seconds / 60:.1f}",
                "-" if training.peak_memory_mb is None else f"{training.peak_memory_mb:,.0f}",
                "-" if run.test.points_per_second is None else f"{run.test.points_per_second:,}",
                run.name,
            ]
        )
    areas = sorted({str(area) for run in runs for area in run.test.areas}, key=natural)
    selections = sorted({run.test.selection for run in runs if run.test.selection})
    notes = [
        f"Data: {data}. Protocol: {protocol}. Test areas: {', '.join(areas)}.",
        "Minutes and peak MB are of training, points/s of scoring."
        + (f" Checkpoint: {', '.join(selections)}." if selections else ""),
        *["95 %: interval of the mIoU, by bootstrap over the test rooms."] * intervals,
    ]
    return ResultTable("Runs", header, rows, notes)


def _over_seeds(runs: list[Run], data: str, protocol: str) -> ResultTable:
    """Return the table of means and standard deviations of runs that differ in their seed alone."""
    keys = [key for key in varied(runs) if key != "seed"]
    groups: dict[tuple, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: [_sortable(run.settings.get(key)) for key in keys]):
        groups[tuple(str(run.settings.get(key, "-")) for key in keys)].append(run)
    rows = []
    for values, group in groups.items():
        scores = zip(*([100 * (share or 0) for share in (r.test.mIoU, r.test.mAcc, r.test.OA)] for r in group))
        cells = [f"{mean(part):.2f} +- {stdev(part) if len(part) > 1 else 0:.2f}" for part in scores]
        rows.append([*values, str(len(group)), *cells])
    notes = [f"Data: {data}. Protocol: {protocol}. Mean +- standard deviation over seeds."]
    return ResultTable("Means over seeds", [*keys, "seeds", "mIoU", "mAcc", "OA"], rows, notes)


def _sortable(value: Any) -> tuple:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (0, value, "") if number else (1, 0, str(value))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _interval(ends: tuple[float | None, float | None] | None) -> str:
    return "-" if ends is None else f"{_percent(ends[0])} to {_percent(ends[1])}"


def six_folds(runs: Sequence[Run]) -> list[ResultTable]:
    """Return tables of runs that differ in ``data.fold`` alone: scores of each area and pooled over all (S3DIS: six).

    The pooled row is of one confusion matrix, summed over the areas. The mean of the areas' scores is another number
    and is named so. If a fold is missing, there is no pooled row, and a note names the fold.
    """
    groups: dict[tuple, dict[int | str, Run]] = defaultdict(dict)
    for run in runs:
        rest = tuple(sorted((k, str(v)) for k, v in run.settings.items() if k != "data.fold"))
        if "data.fold" in run.settings:
            groups[(run.measured, run.test.classes, rest)][run.settings["data.fold"]] = run
    return [_folds(group) for group in groups.values() if len(group) > 1]


def _folds(folds: dict[int | str, Run]) -> ResultTable:
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
        rows.append(["mean of areas", *map(_percent, means), *[""] * len(first.test.classes)])
        rows.append(_score_row(f"{count}-fold, pooled", pooled))
        notes.append(f"Pooled: one confusion matrix summed over the {count} areas.")
        rooms = [points for run in folds.values() if (points := run.points_by_room) is not None]
        if len(rooms) == len(folds) and (interval := miou_interval(torch.cat(rooms))):
            notes.append(f"95 % interval of the pooled mIoU, by bootstrap over all rooms: {_interval(interval)}.")
    name = f"{first.settings.get('backbone.name', '-')}-{first.settings.get('depth', '-')}, folds"
    # Areas side by side: thirteen classes would make the lines too long.
    head, *body = (list(column) for column in zip(header, *rows))
    return ResultTable(name, head, body, notes)


def _score_row(name: str, scores: Scores) -> list[str]:
    values = [None if v != v else v for v in (scores.miou, scores.macc, scores.oa, *scores.iou)]
    return [name, *map(_percent, values)]


def published_table(title: str, rows: Sequence[Published]) -> ResultTable:
    """Return a table of published results."""
    cells = [[row.method, "-" if row.oa is None else f"{row.oa}", f"{row.miou}", row.source] for row in rows]
    return ResultTable(title, ["method", "OA", "mIoU", "source"], cells, ["As published; protocols differ."])
