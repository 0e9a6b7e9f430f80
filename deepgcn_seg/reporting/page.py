"""Runs as one HTML page that can be mailed: tables, curves, confusion matrices and pictures, all inside."""

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from ..escaping import one_line
from ..evaluation.metrics import Scores
from ..files import replacing
from .run_files import LeftOut, read_facts, read_picture
from .runs import Report, Run, varied

# A page of forty runs must still pass for a mail's attachment.
PICTURE_WIDTH = 1000
WORST_ROOMS_LISTED = 5


def write_page(
    path: Path,
    runs: Sequence[Run],
    unfinished: Sequence[Path],
    tables: Sequence[Report],
    figures: dict[str, Path],
    left_out: LeftOut,
) -> None:
    """Write the page.

    Args:
        tables: of all runs together. figures: caption -> PNG file, of all runs together.
        left_out: shown, and added to: pictures and facts that cannot be read.
    """
    environment = Environment(
        loader=PackageLoader(__package__, "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    best, keys = _best(runs), varied(runs)
    about = [_about(run, keys, run.folder in best, left_out) for run in _by_score(runs)]
    pictures = {}
    for caption, file in figures.items():
        with Image.open(file) as image:
            pictures[caption] = _embedded(image.convert("RGB"), "PNG")
    page = environment.get_template("page.html").render(
        tables=tables,
        figures=pictures,
        runs=about,
        unfinished=[one_line(folder) for folder in unfinished],
        left_out=left_out.reasons,
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _by_score(runs: Sequence[Run]) -> list[Run]:
    return sorted(runs, key=lambda run: (run.measured, -(run.test.mIoU or 0)))


def _best(runs: Sequence[Run]) -> set[Path]:
    """Folder of the best run of each data and protocol: its worst rooms are shown."""
    return {run.folder for run in {run.measured: run for run in reversed(_by_score(runs))}.values()}


def _about(run: Run, keys: Sequence[str], best: bool, left_out: LeftOut) -> dict[str, Any]:
    """What the page shows of a run."""
    test = run.test
    confusion, scores = run.confusion.numpy(), Scores.of(run.confusion)
    facts, pictures = {}, {}
    with left_out.noting():
        facts = read_facts(run.folder)
    for name, room in test.pictures.items():
        if (best or name == "room.png") and os.path.lexists(run.folder / name):
            about = test.rooms.get(room)
            with left_out.noting():
                picture = _embedded(read_picture(run.folder, name), "JPEG")
                pictures[f"{room}: mIoU {_percent(about and about.mIoU)}"] = picture
    worst = sorted(test.rooms.items(), key=lambda item: (item[1].mIoU is None, item[1].mIoU or 0))[:WORST_ROOMS_LISTED]
    return {
        "name": run.name,
        "what": ", ".join(f"{key} {run.settings.get(key, '-')}" for key in keys),
        "best": best,
        "scores": {"mIoU": _percent(test.mIoU), "mAcc": _percent(test.mAcc), "OA": _percent(test.OA)},
        "measured": f"{test.data}; protocol {test.protocol}",
        "facts": facts,
        "classes": test.classes,
        "iou": [_percent(None if value != value else value) for value in scores.iou],
        "accuracy": [_percent(None if value != value else value) for value in scores.accuracy],
        "counts": confusion.tolist(),
        "shares": (confusion / np.maximum(confusion.sum(1, keepdims=True), 1)).tolist(),
        "worst": [(room, f"{about.points:,}", _percent(about.mIoU), _percent(about.OA)) for room, about in worst],
        "room_count": len(test.rooms),
        "pictures": pictures,
    }


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _embedded(picture: Image.Image, kind: str) -> str:
    """A picture as a data URI, scaled down if it is wide; JPEG for pictures of rooms, a fifth of the size."""
    out = io.BytesIO()
    picture.thumbnail((PICTURE_WIDTH, 10 * PICTURE_WIDTH))
    picture.save(out, kind, quality=85, optimize=True)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"
