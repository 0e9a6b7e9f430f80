"""An HTML page that shows a labelled scan in 3-D: one file, which opens offline in any browser.

The page draws with WebGL itself. A plotting library would make it four megabytes larger, and would not turn two million
points smoothly. While the view moves, the page draws only the first points of the file, as many as the machine draws
smoothly; they are in an order of which every beginning is an even sample (:func:`coarse_to_fine`).
"""

import base64
from collections.abc import Iterable
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..data.classes import GREY, UNLABELLED, ClassList, no_label
from ..data.scans.formats.typed import in_first_that_holds
from ..errors import UserError
from ..escaping import one_line, script_json
from ..files import replacing
from .picture import close_together

# A point takes 16 bytes and at most 8 for each further field, of which base64 makes 21 and 11: at most 128 MB a page.
MAX_POINTS, MAX_FIELDS = 2_000_000, 4
# Coordinates are stored as integers of so many bits, which are below a millimetre in a scan of 60 m.
BITS = 16


def write_viewer(
    path: str | Path,
    xyz: np.ndarray,
    rgb: np.ndarray | None,
    label: np.ndarray,
    confidence: np.ndarray | None,
    truth: np.ndarray | None,
    classes: ClassList,
    title: str,
    fields: Iterable[tuple[str, np.ndarray]] = (),
    max_points: int = MAX_POINTS,
) -> None:
    """Write the page.

    Points without a predicted label and points far away from the rest are left out. Of a larger scan, the page shows a
    random choice of points. It says so if points are missing.

    Args:
        xyz: (N, 3), z up. rgb: (N, 3) uint8 or None. label: (N,) predicted labels. confidence: (N,) in 0..1, or None.
        truth: (N,) labels, or None; points with :func:`~deepgcn_seg.data.classes.no_label` are grey, and no errors.
        fields: names and values (N,) to show of a point that is picked; the first :data:`MAX_FIELDS` numeric ones.
        max_points: to show.

    Raises:
        UserError: the file cannot be written.
    """
    labelled = np.flatnonzero(label < len(classes))
    shown = labelled
    if len(shown) > max_points:
        shown = np.sort(np.random.default_rng(0).choice(shown, max_points, replace=False))
    near = close_together(xyz[shown])
    far, shown = int((~near).sum()), shown[near]
    origin = xyz[shown].min(0)
    points = xyz[shown] - origin
    extent, size = max(float(points.max()), 1e-9), np.ptp(points, axis=0).tolist()
    grid = np.rint(points / extent * (2**BITS - 1)).astype(np.uint16)
    order = coarse_to_fine(grid)
    grid, shown = grid[order], shown[order]
    content = {
        "title": title,
        "total": len(labelled),
        "count": len(shown),
        "far": far,
        "extent": extent,
        "size": size,
        "origin": origin.tolist(),
        # Points without a true label are of one further class, which the script draws in grey.
        "classes": [*classes.names, UNLABELLED],
        "palette": [list(color) for color in (*classes.palette, GREY)],
        "xyz": _packed(grid),
        "rgb": None if rgb is None else _packed(rgb[shown].astype(np.uint8)),
        "label": _packed(_numbered(label[shown], classes)),
        "confidence": None if confidence is None else _packed(np.rint(confidence[shown] * 255).astype(np.uint8)),
        "truth": None if truth is None else _packed(_numbered(truth[shown], classes)),
        "fields": [{"name": "row", **_packed(shown.astype(np.uint32))}, *_packed_fields(fields, shown)],
    }
    before, after = files(__package__).joinpath("viewer.html").read_text(encoding="utf-8").split("{{data}}")
    try:
        with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as page:
            # Nothing else of the page is replaced. Its own script writes names as text, never as HTML.
            page.writelines((before, script_json(content), after))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error})") from None


def coarse_to_fine(grid: np.ndarray) -> np.ndarray:
    """Return an order (N,) of points of which every beginning is an even sample.

    The points of level k, together with those of all levels before, are one in each occupied cell of an octree whose
    cells have a side of 2^(16 - k). Levels come one after the other, with the points of each at random.

    Args:
        grid: (N, 3) uint16 coordinates.
    """
    code = _morton(grid)
    along = np.argsort(code, kind="stable")
    # Neighbours along the curve share a cell as long as the leading bits of their codes are equal. A point is the first
    # of its cell on each level where it and the one before it do not.
    differing = code[along[1:]] ^ code[along[:-1]]
    bits = np.frexp(differing.astype(np.float64))[1]
    level = np.zeros(len(grid), np.int64)
    level[along[1:]] = BITS - (bits - 1) // 3
    return np.lexsort((np.random.default_rng(0).random(len(grid)), level))


def _morton(grid: np.ndarray) -> np.ndarray:
    """Return the position (N,) uint64 of points along the Morton curve: the bits of their coordinates, interleaved."""
    code = np.zeros(len(grid), np.uint64)
    for axis, values in enumerate(grid.T.astype(np.uint64)):
        for bit in range(BITS):
            code |= (values >> np.uint64(bit) & np.uint64(1)) << np.uint64(3 * bit + axis)
    return code


def _numbered(labels: np.ndarray, classes: ClassList) -> np.ndarray:
    """Return labels in as few bytes as they need, with the number of classes for those that are no class."""
    return np.where(labels == no_label(classes), len(classes), labels).astype(np.min_scalar_type(len(classes)))


def _packed_fields(fields: Iterable[tuple[str, np.ndarray]], shown: np.ndarray) -> list[dict[str, Any]]:
    """Return the first numeric fields, of the points that are shown."""
    numeric = ((name, values[shown]) for name, values in fields if values.dtype.kind in "biuf")
    return [{"name": one_line(name, 100), **_packed(_compact(values))} for name, values in islice(numeric, MAX_FIELDS)]


def _compact(values: np.ndarray) -> np.ndarray:
    """Return numbers in the first of the types that the page reads, the smaller ones first, that holds all exactly."""
    return in_first_that_holds(values, *(("f4", "f8") if values.dtype.kind == "f" else ("u4", "i4", "u8", "i8")))


def _packed(values: np.ndarray) -> dict[str, str]:
    """Return an array as the page's script reads it: its type, and its values in base64, little-endian."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return {"type": f"{values.dtype.kind}{values.dtype.itemsize}", "values": base64.b64encode(little.data).decode()}
