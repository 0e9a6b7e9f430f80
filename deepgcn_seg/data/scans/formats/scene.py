"""Scenes of several files: a folder of arrays in Pointcept's layout, and the binary files of mmdetection3d.

The files that belong to a scene are found by the names below, never by their content.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ....errors import UserError
from .arrays import read_array
from .bounds import Bounds
from .scan import COLORS, Scan
from .text import named_columns

# File -> fields. Labels of ScanNet's 20 and 200 classes are in files of their own.
_ARRAYS = {
    "coord": ("x", "y", "z"),
    "color": COLORS[0],
    "normal": ("nx", "ny", "nz"),
    "strength": ("strength",),
    "segment": ("label",),
    "segment20": ("segment20",),
    "segment200": ("segment200",),
    "instance": ("instance",),
}
# Folder beside ``points`` -> field.
_MASKS = {"semantic_mask": "label", "instance_mask": "instance"}
# Bytes of a label -> its type. mmdetection3d writes 8; other programs write fewer.
_LABELS = {8: "<i8", 4: "<i4", 2: "<u2", 1: "u1"}
_ROW = ("x", "y", "z", *COLORS[0])


def is_scene(path: Path) -> bool:
    """Return whether a folder or file is a scene: a folder with ``coord.npy``, or a file ``points/NAME.bin``."""
    if path.suffix.lower() == ".bin":
        return path.parent.name == "points" and path.is_file()
    return (path / "coord.npy").is_file()


def read_scene(bounds: Bounds, columns: Sequence[str] | None) -> Scan:
    """Read a scene: coordinates, and colours, labels and instances if it has them.

    Args:
        columns: of the float32 rows of a ``.bin`` file; by default x y z red green blue.

    Raises:
        UserError: files that do not fit each other.
    """
    if bounds.path.suffix.lower() == ".bin":
        return _read_bin(bounds, columns)
    fields: dict[str, np.ndarray] = {}
    for name, parts in _ARRAYS.items():
        path = bounds.path / f"{name}.npy"
        if path.is_file():
            fields |= _columns(path, read_array(replace(bounds, path=path)), parts)
    return Scan(bounds.path, fields)


def _columns(path: Path, values: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    rows = values[:, None] if values.ndim == 1 else values
    if rows.ndim != 2 or rows.shape[1] != len(names) or rows.dtype.kind not in "fiub":
        raise UserError(
            f"{path}: must be (N, {len(names)}) numbers, {', '.join(names)}; is {values.dtype} {values.shape}"
        )
    return dict(zip(names, rows.T))


def _read_bin(bounds: Bounds, columns: Sequence[str] | None) -> Scan:
    path, names = bounds.path, columns or _ROW
    points, rest = divmod(bounds.size, 4 * len(names))
    if rest:
        raise UserError(
            f"{path}: {bounds.size:,} bytes are no rows of {len(names)} float32 ({', '.join(names)}); say which "
            "columns it has (columns=[x,y,z,...])"
        )
    bounds.check_points(points)
    rows = np.fromfile(path, "<f4", points * len(names)).reshape(points, len(names))
    first = " ".join(f"{value:g}" for value in rows[0]) if points else ""
    fields = named_columns(path, rows.T, columns, first)
    for folder, name in _MASKS.items():
        mask = path.parent.parent / folder / path.name
        if mask.is_file():
            fields[name] = _read_mask(replace(bounds, path=mask), points)
    return Scan(path, fields)


def _read_mask(bounds: Bounds, points: int) -> np.ndarray:
    kind = next((kind for width, kind in _LABELS.items() if bounds.size == width * points), None)
    if kind is None:
        raise UserError(f"{bounds.path}: {bounds.size:,} bytes are no whole numbers for {points:,} points")
    return np.fromfile(bounds.path, kind, points)
