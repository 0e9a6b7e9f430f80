"""One HTML page that shows a labelled scan in 3-D: self-contained, opens offline in any browser.

The page draws with WebGL itself: a plotting library would make it four megabytes larger and would not
turn 300,000 points smoothly.
"""

import base64
from importlib.resources import files
from pathlib import Path

import numpy as np

from ..data.classes import ClassList
from ..errors import UserError
from ..escaping import script_json
from ..files import replacing
from .picture import close_together
from .segmenter import Prediction

MOST_POINTS = 300_000


def write_viewer(
    path: str | Path,
    xyz: np.ndarray,
    rgb: np.ndarray | None,
    found: Prediction,
    truth: np.ndarray | None,
    classes: ClassList,
    title: str,
    most: int = MOST_POINTS,
) -> None:
    """Write the page; of larger scans a random ``most`` points, without those far away, and the page says so.

    Args:
        xyz: (N, 3), z up. rgb: (N, 3) uint8 or None. truth: (N,) labels or None.

    Raises:
        UserError: the file cannot be written.
    """
    chosen = np.arange(len(xyz))
    if len(xyz) > most:
        chosen = np.sort(np.random.default_rng(0).choice(len(xyz), most, replace=False))
    near = close_together(xyz[chosen])
    far, chosen = int((~near).sum()), chosen[near]
    origin = xyz[chosen].min(0)
    points = xyz[chosen] - origin
    extent = max(float(points.max()), 1e-9)
    content = {
        "title": title,
        "total": len(xyz),
        "count": len(chosen),
        "far": far,
        "extent": extent,
        "size": np.ptp(points, axis=0).tolist(),
        "origin": origin.tolist(),
        "classes": list(classes.names),
        "palette": [list(color) for color in classes.palette],
        # A 65535th of the extent: millimetres in a room of 60 m.
        "xyz": _packed(np.rint(points / extent * 65535).astype("<u2")),
        "rgb": None if rgb is None else _packed(rgb[chosen]),
        "label": _packed(found.label[chosen].astype("<u2")),
        "confidence": _packed(np.rint(found.confidence[chosen] * 255).astype(np.uint8)),
        "truth": None if truth is None else _packed(truth[chosen].astype("<u2")),
    }
    page = files(__package__).joinpath("viewer.html").read_text(encoding="utf-8")
    # The only place of the page that anything is written into; its own script puts names into text nodes.
    page = page.replace("{{data}}", script_json(content))
    try:
        with replacing(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"view={path}: cannot be written ({error})") from None


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
