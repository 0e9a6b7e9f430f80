"""One HTML page of runs, with tables, curves, confusion matrices and pictures inside, so that it can be mailed."""

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from ..files import replacing
from .naming import labels, title_of
from .reading import LeftOut, own_file, read_facts, read_picture
from .result_table import PERCENT, Column, ResultTable, percent
from .run import REPEATS, Run
from .runs import describe_unfinished

# Pixels: with pictures of this width, a page of forty runs can still be attached to a mail.
PICTURE_WIDTH = 1000
WORST_ROOMS_LISTED = 5


def write_page(
    path: Path,
    runs: Sequence[Run],
    unfinished: Sequence[Path],
    tables: Sequence[ResultTable],
    figures: dict[str, Path],
    left_out: LeftOut,
) -> None:
    """Write the page.

    Args:
        tables, figures: of all runs together; figures are caption -> PNG file.
        left_out: shown on the page; pictures and facts that cannot be read are added to it.
    """
    environment = Environment(
        loader=PackageLoader(__package__, "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    best, names = _best(runs), dict(zip([run.folder for run in runs], labels(runs)))
    about = [_about(run, names[run.folder], run.folder in best, left_out) for run in _by_score(runs)]
    for shown, run in zip(about, _by_score(runs)):
        shown["pages"] = _pages(run, path.parent, left_out)
    pictures = {}
    for caption, file in figures.items():
        with Image.open(file) as image:
            pictures[caption] = _embedded(image.convert("RGB"), "PNG")
    page = environment.get_template("page.html").render(
        tables=tables,
        figures=pictures,
        runs=about,
        unfinished=describe_unfinished(unfinished, left_out),
        left_out=left_out.reasons,
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _by_score(runs: Sequence[Run]) -> list[Run]:
    return sorted(runs, key=lambda run: (run.measured, -run.order))


def _best(runs: Sequence[Run]) -> set[Path]:
    """Return the folder of the best run of each data and protocol, whose worst rooms the page shows."""
    return {run.folder for run in {run.measured: run for run in reversed(_by_score(runs))}.values()}


def _about(run: Run, label: str, best: bool, left_out: LeftOut) -> dict[str, Any]:
    """Return what the page shows of a run."""
    test = run.test
    confusion, scores = run.confusion.numpy(), run.scores
    facts, pictures = {}, {}
    with left_out.noting():
        facts = read_facts(run.folder)
    for name, room in test.pictures.items():
        if (best or name == "room.png") and os.path.lexists(run.folder / name):
            about = test.rooms.get(room)
            with left_out.noting():
                picture = _embedded(read_picture(run.folder, name), "JPEG")
                pictures[f"{room}: mIoU {_percent(about.mIoU if about else None)} %"] = picture
    worst = sorted(test.rooms.items(), key=lambda item: (item[1].mIoU is None, item[1].mIoU or 0))[:WORST_ROOMS_LISTED]
    return {
        "name": run.name,
        "what": ", ".join([label, *(f"{title_of(key)} {run.settings[key]}" for key in REPEATS if key in run.settings)]),
        "best": best,
        "scores": {"mIoU": _percent(scores.miou), "mAcc": _percent(scores.macc), "OA": _percent(scores.oa)},
        "measured": "{}; protocol {}".format(*run.measured),
        "facts": facts,
        "classes": test.classes,
        "iou": list(map(_percent, scores.iou)),
        "accuracy": list(map(_percent, scores.accuracy)),
        "counts": confusion.tolist(),
        "shares": (confusion / np.maximum(confusion.sum(1, keepdims=True), 1)).tolist(),
        "worst": [(room, f"{about.points:,}", _percent(about.mIoU), _percent(about.OA)) for room, about in worst],
        "room_count": len(test.rooms),
        "pictures": pictures,
    }


def _pages(run: Run, folder: Path, left_out: LeftOut) -> dict[str, str]:
    """Return the addresses, from a folder, of the pages that show rooms of a run in 3-D, by room; the worst first."""
    pages = {}
    for name, room in run.test.pages.items():
        if os.path.lexists(run.folder / name):
            with left_out.noting():
                # "./" because a name with a colon would be taken for a scheme.
                pages[room] = "./" + quote(os.path.relpath(own_file(run.folder, name), folder).replace(os.sep, "/"))
    scores = {room: about.mIoU for room, about in run.test.rooms.items()}
    return dict(sorted(pages.items(), key=lambda item: (scores.get(item[0]) is None, scores.get(item[0]) or 0)))


def _percent(share: float | None) -> str:
    return Column("", *PERCENT).text(percent(share))


def _embedded(picture: Image.Image, kind: str) -> str:
    """Return a picture as a data URI, scaled down if it is wide. JPEG takes a fifth of PNG for pictures of rooms."""
    out = io.BytesIO()
    picture.thumbnail((PICTURE_WIDTH, 10 * PICTURE_WIDTH))
    picture.save(out, kind, quality=85, optimize=True)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"
