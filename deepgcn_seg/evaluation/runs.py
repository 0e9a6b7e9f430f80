"""Runs below a folder: what each was, what it scored, and what varied among them."""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import yaml
from rich.table import Table

from ..data.layouts import natural
from ..errors import UserError
from .metrics import Scores

# Settings that say where a run is or how far it was seen, not what it is.
_NOT_SETTINGS = ("resume", "data.root", "data.store.root", "device", "workers")


@dataclass(frozen=True)
class Run:
    """A finished run. settings: flat, ``data.fold`` -> 5. entry: the test part of ``metrics.json``."""

    folder: Path
    settings: dict[str, Any]
    entry: dict[str, Any]
    metrics: dict[str, Any]

    @property
    def measured(self) -> tuple[str, str]:
        """Data and protocol: numbers compare only where both are the same."""
        return self.entry["data"], self.entry["protocol"]

    @property
    def confusion(self) -> torch.Tensor:
        """(C, C), rows truth."""
        return torch.tensor(self.entry["confusion"])


def find_runs(root: str | Path) -> tuple[list[Run], list[Path]]:
    """Finished runs below ``root``, and folders of unfinished ones.

    Raises:
        UserError: no run there, or a damaged ``metrics.json``.
    """
    root = Path(root)
    folders = sorted(path.parent.parent for path in root.rglob(".hydra/config.yaml"))
    runs, unfinished = [], []
    for folder in folders:
        config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
        if not isinstance(config, dict) or "recipe" not in config:
            continue
        path = folder / "metrics.json"
        if not path.is_file():
            unfinished.append(folder)
            continue
        try:
            metrics = json.loads(path.read_text())
            _check(metrics)
            runs.append(Run(folder, _flat(config), metrics["test"], metrics))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path}: damaged ({error!r})") from None
    if not runs and not unfinished:
        raise UserError(f"runs={root}: no run directories below it (looked for .hydra/config.yaml and metrics.json)")
    return runs, unfinished


def _check(metrics: dict[str, Any]) -> None:
    """Raise if a ``metrics.json`` is not what training writes, as far as reports read it."""

    def share(value: Any) -> bool:
        return value is None or (isinstance(value, (int, float)) and 0 <= value <= 1)

    def count(value: Any) -> bool:
        return isinstance(value, int) and 0 <= value < 2**53

    entry, training = metrics["test"], metrics.get("training", {})
    classes, rooms, pictures = entry["classes"], entry.get("rooms", {}), entry.get("pictures", {})
    sound = {
        "data, protocol": isinstance(entry["data"], str) and isinstance(entry["protocol"], str),
        "mIoU, mAcc, OA": all(share(entry[name]) for name in ("mIoU", "mAcc", "OA")),
        "areas, folds": isinstance(entry["areas"], list) and all(isinstance(area, str) for area in entry["folds"]),
        "classes": bool(classes) and all(isinstance(name, str) for name in classes),
        "confusion": len(entry["confusion"]) == len(classes)
        and all(len(row) == len(classes) and all(map(count, row)) for row in entry["confusion"]),
        "selection": isinstance(entry.get("selection", ""), str),
        "rooms": all(count(room["points"]) and share(room["mIoU"]) and share(room["OA"]) for room in rooms.values()),
        "pictures": all(Path(name).name == name and isinstance(room, str) for name, room in pictures.items()),
        "parameters": count(metrics["parameters"]),
        "cost": all(isinstance(value, (int, float)) for value in training.values())
        and count(entry.get("points_per_second", 0)),
    }
    if wrong := [name for name, good in sound.items() if not good]:
        raise ValueError(f"wrong {'; '.join(wrong)}")


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``data.fold`` -> 5, without :data:`_NOT_SETTINGS`."""
    if not isinstance(config, dict):
        return {} if prefix in _NOT_SETTINGS else {prefix: config}
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def varied(runs: Sequence[Run]) -> list[str]:
    """Settings that differ among runs, the shortest names that tell them apart first."""
    keys = sorted(
        {key for run in runs for key in run.settings}, key=lambda key: (key.count("."), not key.endswith("name"), key)
    )
    columns: dict[tuple, str] = {}
    for key in keys:
        values = tuple(str(run.settings.get(key, "-")) for run in runs)
        if len(set(values)) > 1:
            # Settings that change together are one column.
            columns.setdefault(tuple(values.index(value) for value in values), key)
    return list(columns.values())


@dataclass(frozen=True)
class Report:
    """A table of results that were measured alike, ready for terminal, Markdown, CSV and LaTeX."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]

    def terminal(self) -> Table:
        """For rich."""
        table = Table(title=self.title, caption="\n".join(self.notes))
        for name in self.header:
            table.add_column(name)
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """A Markdown section."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f"## {self.title}\n\n{table}\n\n" + "".join(f"{note}\n\n" for note in self.notes)

    def latex(self) -> str:
        """A LaTeX tabular."""
        escaped = [[_latex(cell) for cell in row] for row in (self.header, *self.rows)]
        body = " \\\\\n".join(" & ".join(row) for row in escaped)
        notes = "".join(f"% {note}\n" for note in (self.title, *self.notes))
        return f"{notes}\\begin{{tabular}}{{{'l' * len(self.header)}}}\n{body} \\\\\n\\end{{tabular}}\n"

    def csv(self) -> str:
        """Comma-separated values."""
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([self.header, *self.rows])
        return out.getvalue()


def _latex(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    return text


def comparisons(runs: Sequence[Run]) -> list[Report]:
    """One table for each data and protocol: what varied, scores, parameters, time and memory."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.measured].append(run)
    tables = []
    for measured, group in groups.items():
        tables.append(_comparison(group, *measured))
        if len({run.settings.get("seed") for run in group}) > 1:
            tables.append(_over_seeds(group, *measured))
    return tables


def _comparison(runs: list[Run], data: str, protocol: str) -> Report:
    keys = varied(runs)
    header = [*keys, "mIoU", "mAcc", "OA", "parameters", "minutes", "peak MB", "points/s", "run"]
    rows = []
    for run in sorted(runs, key=lambda run: [_sortable(run.settings.get(key)) for key in keys]):
        training = run.metrics.get("training", {})
        rows.append(
            [
                *(str(run.settings.get(key, "-")) for key in keys),
                *(_percent(run.entry[name]) for name in ("mIoU", "mAcc", "OA")),
                f"{run.metrics['parameters']:,}",
                f"{training['seconds'] / 60:.1f}" if "seconds" in training else "-",
                f"{training['peak_memory_mb']:,.0f}" if "peak_memory_mb" in training else "-",
                f"{run.entry['points_per_second']:,}" if "points_per_second" in run.entry else "-",
                run.folder.name,
            ]
        )
    areas = sorted({area for run in runs for area in run.entry["areas"]})
    chosen = sorted({run.entry["selection"] for run in runs if "selection" in run.entry})
    notes = [
        f"Data: {data}. Protocol: {protocol}. Test areas: {', '.join(map(str, areas))}.",
        "Minutes and peak MB are of training, points/s of scoring."
        + (f" Checkpoint: {', '.join(chosen)}." if chosen else ""),
    ]
    return Report("Runs", header, rows, notes)


def _over_seeds(runs: list[Run], data: str, protocol: str) -> Report:
    """Means and standard deviations of runs that differ in their seed alone."""
    keys = [key for key in varied(runs) if key != "seed"]
    groups: dict[tuple, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: [_sortable(run.settings.get(key)) for key in keys]):
        groups[tuple(str(run.settings.get(key, "-")) for key in keys)].append(run)
    rows = []
    for values, group in groups.items():
        scores = [[100 * (run.entry[name] or 0) for run in group] for name in ("mIoU", "mAcc", "OA")]
        cells = [f"{mean(part):.2f} +- {stdev(part) if len(part) > 1 else 0:.2f}" for part in scores]
        rows.append([*values, str(len(group)), *cells])
    notes = [f"Data: {data}. Protocol: {protocol}. Mean +- standard deviation over seeds."]
    return Report("Means over seeds", [*keys, "seeds", "mIoU", "mAcc", "OA"], rows, notes)


def _sortable(value: Any) -> tuple:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (0, value, "") if number else (1, 0, str(value))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def six_folds(runs: Sequence[Run]) -> list[Report]:
    """For runs that differ in ``data.fold`` alone: scores pooled over all folds (S3DIS: six), and per area.

    The pooled row is one confusion matrix summed over the areas; the mean of areas is another
    number and named so. Without all folds there is no pooled row, and the missing ones are named.
    """
    groups: dict[tuple, dict[int | str, Run]] = defaultdict(dict)
    for run in runs:
        rest = tuple(sorted((k, str(v)) for k, v in run.settings.items() if k != "data.fold"))
        groups[(run.measured, rest)][run.settings["data.fold"]] = run
    return [_folds(group) for group in groups.values() if len(group) > 1]


def _folds(folds: dict[int | str, Run]) -> Report:
    first = next(iter(folds.values()))
    classes = first.entry["classes"]
    areas = [area.removeprefix("Area_") for area in first.entry["folds"]]
    header = ["test area", "mIoU", "mAcc", "OA", *classes]
    rows, scores = [], []
    ordered = sorted(folds, key=lambda fold: natural(str(fold)))
    for fold in ordered:
        scores.append(Scores.of(folds[fold].confusion))
        rows.append(_score_row(f"Area {fold}" if isinstance(fold, int) else str(fold), scores[-1]))
    notes = [f"Data: {first.entry['data']}. Protocol: {first.entry['protocol']}."]
    count = "six" if len(areas) == 6 else str(len(areas))
    missing = [area for area in areas if area not in {str(fold).removeprefix("Area_") for fold in folds}]
    if missing:
        notes.append(f"No {count}-fold number: folds {', '.join(missing)} are missing or unfinished.")
    else:
        pooled = Scores.of(torch.stack([run.confusion for run in folds.values()]).sum(0))
        means = [sum(values) / len(values) for values in zip(*((s.miou, s.macc, s.oa) for s in scores))]
        rows.append(["mean of areas", *map(_percent, means), *[""] * len(classes)])
        rows.append(_score_row(f"{count}-fold, pooled", pooled))
        notes.append(f"Pooled: one confusion matrix summed over the {count} areas.")
    name = f"{first.settings['backbone.name']}-{first.settings['depth']}, folds"
    # Areas side by side: thirteen classes would make the lines too long.
    head, *body = (list(column) for column in zip(header, *rows))
    return Report(name, head, body, notes)


def _score_row(name: str, scores: Scores) -> list[str]:
    values = [None if v != v else v for v in (scores.miou, scores.macc, scores.oa, *scores.iou)]
    return [name, *map(_percent, values)]
