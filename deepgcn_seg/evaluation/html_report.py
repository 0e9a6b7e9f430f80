"""Runs as one HTML page that can be mailed: tables, curves, confusion matrices and pictures, all inside."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from ..data.files import replacing
from .metrics import Scores
from .runs import Report, Run, varied

# A page of forty runs must still pass for a mail's attachment.
PICTURE_WIDTH = 1000
WORST_ROOMS_LISTED = 5


def write_page(
    path: Path, runs: Sequence[Run], unfinished: Sequence[Path], tables: Sequence[Report], figures: dict[str, Path]
) -> None:
    """Write the page.

    Args:
        tables: of all runs together. figures: caption -> PNG file, of all runs together.
    """
    environment = Environment(
        loader=PackageLoader(__package__, "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    best, keys = _best(runs), varied(runs)
    page = environment.get_template("report.html").render(
        tables=tables,
        figures={caption: _embedded(file, "PNG") for caption, file in figures.items()},
        runs=[_about(run, keys, run.folder in best) for run in _by_score(runs)],
        unfinished=[str(folder) for folder in unfinished],
    )
    with replacing(path) as temporary:
        temporary.write_text(page)


def _by_score(runs: Sequence[Run]) -> list[Run]:
    return sorted(runs, key=lambda run: (run.measured, -(run.entry["mIoU"] or 0)))


def _best(runs: Sequence[Run]) -> set[Path]:
    """Folder of the best run of each data and protocol: its worst rooms are shown."""
    return {run.folder for run in {run.measured: run for run in reversed(_by_score(runs))}.values()}


def _about(run: Run, keys: Sequence[str], best: bool) -> dict[str, Any]:
    """What the page shows of a run."""
    rooms = run.entry.get("rooms", {})
    confusion, scores = run.confusion.numpy(), Scores.of(run.confusion)
    pictures = {
        f"{room}: mIoU {_percent(rooms.get(room, {}).get('mIoU'))}": _embedded(run.folder / name, "JPEG")
        for name, room in run.entry.get("pictures", {}).items()
        if (best or name == "room.png") and (run.folder / name).is_file()
    }
    worst = sorted(rooms.items(), key=lambda item: (item[1]["mIoU"] is None, item[1]["mIoU"]))[:WORST_ROOMS_LISTED]
    return {
        "name": run.folder.name,
        "what": ", ".join(f"{key} {run.settings.get(key, '-')}" for key in keys),
        "best": best,
        "scores": {name: _percent(run.entry[name]) for name in ("mIoU", "mAcc", "OA")},
        "measured": f"{run.measured[0]}; protocol {run.measured[1]}",
        "facts": _provenance(run.folder),
        "classes": run.entry["classes"],
        "iou": [_percent(None if value != value else value) for value in scores.iou],
        "accuracy": [_percent(None if value != value else value) for value in scores.accuracy],
        "counts": confusion.tolist(),
        "shares": (confusion / np.maximum(confusion.sum(1, keepdims=True), 1)).tolist(),
        "worst": [
            (room, f"{about['points']:,}", _percent(about["mIoU"]), _percent(about["OA"])) for room, about in worst
        ],
        "room_count": len(rooms),
        "pictures": pictures,
    }


def _provenance(folder: Path) -> dict[str, str]:
    """Command, commit, versions and hardware, from ``run.json``; empty if the run has none."""
    try:
        facts = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError):
        return {}
    shown = {}
    for key, value in facts.items():
        if key != "settings":
            shown[key] = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
    return shown


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _embedded(path: Path, kind: str) -> str:
    """A picture as a data URI, scaled down if it is wide; JPEG for pictures of rooms, a fifth of the size."""
    out = io.BytesIO()
    with Image.open(path) as image:
        picture = image.convert("RGB")
        picture.thumbnail((PICTURE_WIDTH, 10 * PICTURE_WIDTH))
        picture.save(out, kind, quality=85, optimize=True)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"
