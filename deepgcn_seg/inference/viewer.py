"""An HTML page that shows a labelled scan in 3-D: one file, which opens offline in any browser.

The page draws with WebGL itself. A plotting library would make it four megabytes larger, and would not turn 300,000
points smoothly.
"""

import base64
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ..data.classes import GREY, UNLABELLED, ClassList, no_label
from ..errors import UserError
from ..escaping import script_json
from ..files import replacing
from .picture import close_together
from .segmenter import Prediction

MAX_POINTS = 300_000


def write_viewer(
    path: str | Path,
    xyz: np.ndarray,
    rgb: np.ndarray | None,
    found: Prediction,
    truth: np.ndarray | None,
    classes: ClassList,
    title: str,
    max_points: int = MAX_POINTS,
) -> None:
    """Write the page.

    Points far away from the rest are left out. Of a larger scan, the page shows a random choice of points. It says so
    in both cases.

    Args:
        xyz: (N, 3), z up. rgb: (N, 3) uint8 or None. found: labels. truth: (N,) labels, or None; points
            with :func:`~deepgcn_seg.data.classes.no_label` are grey, and no errors.
        max_points: to show.

    Raises:
        UserError: the file cannot be written.
    """
    content = {"title": title, **_content(xyz, rgb, found, truth, classes, max_points)}
    page = files(__package__).joinpath("viewer.html").read_text(encoding="utf-8")
    # Nothing else of the page is replaced. Its own script writes names as text, never as HTML.
    page = page.replace("{{data}}", script_json(content))
    try:
        with replacing(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"view={path}: cannot be written ({error})") from None


def _content(
    xyz: np.ndarray,
    rgb: np.ndarray | None,
    found: Prediction,
    truth: np.ndarray | None,
    classes: ClassList,
    max_points: int,
) -> dict[str, Any]:
    """Return what the page's script reads: points, their colours and labels in base64, and the classes."""
    shown = np.arange(len(xyz))
    if len(xyz) > max_points:
        shown = np.sort(np.random.default_rng(0).choice(len(xyz), max_points, replace=False))
    near = close_together(xyz[shown])
    far, shown = int((~near).sum()), shown[near]
    origin = xyz[shown].min(0)
    points = xyz[shown] - origin
    extent = max(float(points.max()), 1e-9)
    return {
        "total": len(xyz),
        "count": len(shown),
        "far": far,
        "extent": extent,
        "size": np.ptp(points, axis=0).tolist(),
        "origin": origin.tolist(),
        # Points without a true label are of one further class, which the script draws in grey.
        "classes": [*classes.names, UNLABELLED],
        "palette": [list(color) for color in (*classes.palette, GREY)],
        # The unit is a 65535th of the extent, which is below a millimetre in a room of 60 m.
        "xyz": _packed(np.rint(points / extent * 65535).astype("<u2")),
        "rgb": None if rgb is None else _packed(rgb[shown]),
        "label": _packed(found.label[shown].astype("<u2")),
        "confidence": _packed(np.rint(found.confidence[shown] * 255).astype(np.uint8)),
        "truth": None if truth is None else _packed(_numbered(truth[shown], classes)),
    }


def _numbered(truth: np.ndarray, classes: ClassList) -> np.ndarray:
    """Return labels as 16 bits, with the number of classes for those that are no class."""
    return np.where(truth == no_label(classes), len(classes), truth).astype("<u2")


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
