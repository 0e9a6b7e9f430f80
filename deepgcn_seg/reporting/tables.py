"""Tables of results: runs that were measured alike, means over seeds, IoU by class, and published results."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ..data.room import natural
from ..evaluation.metrics import Scores
from ..settings import counted, three_digits
from .differences import varied
from .naming import title_of
from .published import AREA_5, SIX_FOLD, Published
from .result_table import PERCENT, Column, ResultTable, Spread, percent, percent_interval
from .results import (
    by_measure,
    comparable,
    notes_on_checkpoints,
    notes_on_data,
    notes_on_repeats,
    results,
    to_average,
)
from .run import Run

SCORES = ("mIoU", "mAcc", "OA")
# Settings that a note lists before it counts the others.
_LISTED = 12


def comparisons(runs: Sequence[Run]) -> list[ResultTable]:
    """Return a table for each data and protocol: settings that differ, scores, parameters, time and memory."""
    tables = []
    for measured, group in by_measure(runs).items():
        seeds, notes = _by_seeds(group), notes_on_checkpoints(group) + notes_on_repeats(group)
        tables.append(_comparison(group, *measured, notes))
        if any(len(each) > 1 for each in seeds):
            tables.append(_over_seeds(seeds, *measured, notes))
    return tables


def _settings_columns(keys: Sequence[str]) -> list[Column]:
    """Return a column for each setting, headed by words; by the whole key if two settings have the same words."""
    titles = list(map(title_of, keys))
    return [Column(key if titles.count(title) > 1 else title) for key, title in zip(keys, titles)]


def _changes_together(settings: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a note for each setting with which others change that have no column."""
    notes = []
    for key, others in settings.items():
        more = [f"{len(others) - _LISTED} more"] if len(others) > _LISTED else []
        if others:
            notes.append(f"{title_of(key)} changes together with: {', '.join([*others[:_LISTED], *more])}.")
    return notes


def _comparison(runs: list[Run], data: str, protocol: str, more: list[str]) -> ResultTable:
    settings = varied(runs)
    keys = list(settings)
    intervals = any(run.interval for run in runs)
    areas = {run.area: run for run in sorted(runs, key=lambda run: natural(run.area))}
    # Scores on different areas do not compare networks.
    best = len({run.area for run in runs}) == 1
    columns = [
        *_settings_columns(keys),
        Column("mIoU", *PERCENT, best),
        *[Column("95 % interval", *PERCENT)] * intervals,
        *(Column(name, *PERCENT, best) for name in SCORES[1:]),
        Column("parameters", form=","),
        Column("minutes", form=three_digits),
        Column("peak MB", form=",.0f"),
        Column("points/s", form=","),
        Column("run"),
    ]
    rows = []
    for run in sorted(runs, key=lambda run: [_sortable(run.settings.get(key)) for key in keys]):
        training = run.metrics.training
        rows.append(
            [
                *(run.settings.get(key) for key in keys),
                percent(run.scores.miou),
                *[percent_interval(run.interval)] * intervals,
                *map(percent, (run.scores.macc, run.scores.oa)),
                run.metrics.parameters,
                None if training.seconds is None else training.seconds / 60,
                training.peak_memory_mb,
                run.test.points_per_second,
                run.name,
            ]
        )
    notes = [
        f"Data: {data}. Protocol: {protocol}. Tested on {', '.join(map(_scored, areas.values()))}.",
        *notes_on_data(runs),
        "Minutes and peak MB are of training, points/s of scoring.",
        *["95 % interval: of the mIoU, over the test rooms."] * intervals,
        *_changes_together(settings),
        *more,
    ]
    return ResultTable("Runs", columns, rows, notes)


def _scored(run: Run) -> str:
    """Return the test area with what was scored: ``Area 5 (68 rooms, 78,649,799 points)``."""
    rooms = [counted(len(run.test.rooms), "room")] if run.test.rooms else []
    return f"{run.area} ({', '.join([*rooms, f'{run.confusion.sum():,} points'])})"


def _by_seeds(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs in groups that differ in their seed alone, and of which means are taken."""
    keys = [key for key in varied(runs) if key != "seed"]
    groups: dict[tuple, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: [_sortable(run.settings.get(key)) for key in keys]):
        groups[run.experiment, run.area].append(run)
    return [each for group in groups.values() for each in to_average(group)]


def _over_seeds(groups: Sequence[Sequence[Run]], data: str, protocol: str, more: list[str]) -> ResultTable:
    """Return the table of means and standard deviations of groups of runs that differ in their seed alone."""
    runs = [run for group in groups for run in group]
    settings = varied(runs)
    keys = [key for key in settings if key != "seed"]
    best = len({run.area for run in runs}) == 1
    rows = [
        [
            *(group[0].settings.get(key) for key in keys),
            len(group),
            *_spreads([run.scores for run in group])[: len(SCORES)],
        ]
        for group in groups
    ]
    notes = [f"Data: {data}. Protocol: {protocol}. Mean +- standard deviation over seeds."]
    notes += _changes_together(settings) + more
    columns = [*_settings_columns(keys), Column("seeds"), *(Column(name, *PERCENT, best) for name in SCORES)]
    return ResultTable("Means over seeds", columns, rows, notes)


def _sortable(value: Any) -> tuple:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (0, value, "") if number else (1, 0, str(value))


def class_tables(runs: Sequence[Run]) -> list[ResultTable]:
    """Return a table of the IoU of each class for each data, protocol and rooms, with a row for each network.

    Values are means over seeds.
    """
    tables: list[ResultTable] = []
    groups = by_measure(runs)
    more = {measured: notes_on_checkpoints(each) + notes_on_repeats(each) for measured, each in groups.items()}
    for (data, protocol, rooms), found in comparable(runs).items():
        classes = found[0].classes
        rows = [[each.label, len(each.scores), *_spreads(each.scores)] for each in found]
        notes = [f"Data: {data}. Protocol: {protocol}. Rooms: {rooms}. Of each class: IoU."]
        if any(len(each.scores) > 1 for each in found):
            notes.append("mIoU, mAcc, OA: mean +- standard deviation over seeds. IoU of each class: mean over seeds.")
        notes += more[data, protocol]
        file = f"classes-{len(tables)}" if tables else "classes"
        columns = [Column("network"), Column("seeds"), *(Column(name, *PERCENT, True) for name in SCORES)]
        columns += [Column(name, *PERCENT, True, deviations=False) for name in classes]
        tables.append(ResultTable(f"Classes, {rooms}", columns, rows, notes, file))
    return tables


def _spreads(scores: Sequence[Scores]) -> list[Spread | None]:
    """Return means and deviations over seeds of mIoU, mAcc, OA and the IoU of each class."""
    columns = zip(*((each.miou, each.macc, each.oa, *each.iou) for each in scores))
    return [Spread.of(list(map(percent, column))) for column in columns]


def published_tables(runs: Sequence[Run]) -> list[ResultTable]:
    """Return tables of published results on S3DIS that were measured on the rooms of some runs: Area 5, six-fold."""
    rooms = {result.rooms for result in results([run for run in runs if run.test.dataset == "S3DIS"])}
    found = []
    if rooms & {"Area 5", "six-fold, pooled"}:
        found.append(_published("Published, S3DIS Area 5 (not comparable with six-fold)", AREA_5))
    if "six-fold, pooled" in rooms:
        found.append(_published("Published, S3DIS six-fold (not comparable with Area 5)", SIX_FOLD))
    return found


def _published(title: str, rows: Sequence[Published]) -> ResultTable:
    columns = [Column("method"), Column("OA", "%"), Column("mIoU", "%"), Column("source")]
    cells = [[row.method, row.oa, row.miou, row.source] for row in rows]
    return ResultTable(title, columns, cells, ["As published; protocols differ."])
