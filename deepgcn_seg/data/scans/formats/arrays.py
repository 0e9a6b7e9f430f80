"""NumPy's NPY and NPZ. Nothing is unpickled, and no array is read before its header has been compared with the file."""

import io
import logging
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ....errors import UserError
from ....escaping import one_line
from .bounds import MAX_DIRECTORY, MAX_FIELDS, MAX_HEADER, Bounds, clean_names, renamed
from .scan import COLORS, LABELS, Scan
from .text import named_columns
from .typed import structured

log = logging.getLogger(__name__)

# Names of arrays with coordinates, in order of preference, and the fields of arrays with several columns; all compared
# without case.
_XYZ = ("xyz", "points", "point", "pos", "position", "positions", "coord", "coords")
_POINTS = (*_XYZ, "pc", "point_cloud", "pointcloud", "arr_0")
_VECTORS: dict[str, Sequence[str]] = dict.fromkeys(_XYZ, "xyz")
_VECTORS |= dict.fromkeys(("rgb", "color", "colors", "colour", "colours"), COLORS[0])
_VECTORS |= dict.fromkeys(("normal", "normals"), ("nx", "ny", "nz"))
_AXES = ("x", "y", "z")
_RGBA = ("rgba", "color", "colors", "colour", "colours")
# Names of arrays that must have one value for each point. If the length of one differs, the file is refused. An array
# of another name and length is taken for something else and left out.
_PER_POINT = {
    *_VECTORS, *_RGBA, *LABELS, *(name for names in COLORS for name in names),
    "alpha", "nx", "ny", "nz", "intensity", "intensities", "reflectance", "strength", "confidence",
    "segment", "segment20", "segment200", "segmentation", "semantics", "instance", "instances",
}  # fmt: skip


def _array_fields(path: Path, rows: np.ndarray, columns: Sequence[str] | None) -> dict[str, np.ndarray]:
    if rows.dtype.names:
        parts = (_named_fields(path, name, rows[name]) for name in rows.dtype.names)
        return {name: values for part in parts for name, values in part.items()}
    if rows.ndim != 2 or rows.dtype.kind not in "fiub":
        raise UserError(f"{path}: must be (N, columns) numbers or have named fields, is {rows.dtype} {rows.shape}")
    first = " ".join(map(str, rows[0].tolist())) if len(rows) else ""
    return named_columns(path, rows.T, columns, first)


def _named_fields(path: Path, name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """Return the fields that a named field of an array is: itself, or several if it has several numbers for each point.

    Raises:
        UserError: it has several numbers whose meaning its name does not say.
    """
    if values.ndim == 1:
        return {name: values}
    parts = _vector_fields(name, values) if values.ndim == 2 else {}
    if not parts:
        shown = one_line(name, 60)
        raise UserError(
            f"{path}: field {shown} has {math.prod(values.shape[1:])} numbers for each point; name it xyz, rgb or "
            f"normals if it has three of these, or write a field for each number ({shown}_0, {shown}_1, ...)"
        )
    return parts


def _vector_fields(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """Return the fields of (N, columns) values whose name says what they are (``rgb``), or nothing."""
    names: Sequence[str] = _VECTORS.get(name.lower(), ())
    if name.lower() in _RGBA and values.shape[1] == 4:
        names = (*COLORS[0], "alpha")
    return dict(zip(names, values.T)) if len(names) == values.shape[1] else {}


def _require_table(path: Path, name: str, shape: tuple[int, ...]) -> None:
    """Refuse an array of several clouds or of an image of points, and say how to make rows of it.

    Raises:
        UserError: more than two dimensions, such as (1, N, 3) or (H, W, 3).
    """
    if len(shape) > 2:
        raise UserError(
            f"{path}: {name} has the shape {shape}, but a row for each point is needed: save "
            f"array.reshape(-1, {shape[-1]}) if it is one cloud"
        )


def _claimed(bounds: Bounds, file: IO[bytes], name: str) -> tuple[tuple[int, ...], int]:
    """Read an array's header and return its shape, and the number of bytes that must follow it.

    Raises:
        UserError: not numbers, or too many points or fields.
    """
    head = io.BytesIO(file.read(MAX_HEADER))
    version = np.lib.format.read_magic(head)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read(head)
    kinds = (
        {f"field {one_line(field, 60)} of {name}": kind[field] for field in kind.names} if kind.names else {name: kind}
    )
    for what, one in kinds.items():
        if one.base.kind not in "fiubSU" or not one.itemsize:
            raise UserError(
                f"{bounds.path}: {what} holds something else than numbers ({one_line(str(one), 60)}); write "
                "numbers, or a field for each number"
            )
        # ARM has another format of 128 bits than x86, and the header does not say which it is.
        if one.base.kind == "f" and one.base.itemsize > 8:
            raise UserError(
                f"{bounds.path}: {what} has the type {one.base}, which other processors read as other numbers; save "
                "array.astype('float64')"
            )
    for length in shape[:1]:
        bounds.check_points(length)
    bounds.check_fields(sum(math.prod(one.shape) for one in kinds.values()))
    if min(shape, default=0) < 0:
        raise UserError(f"{bounds.path}: {name} claims the shape {shape}")
    return shape, math.prod(shape) * kind.itemsize


def read_shape(bounds: Bounds) -> tuple[int, ...]:
    """Return the shape that an NPY file's header claims, without reading the numbers."""
    with open(bounds.path, "rb") as file:
        return _claimed(bounds, file, "the array")[0]


def read_array(bounds: Bounds) -> np.ndarray:
    """Read the array of an NPY file, after comparing what its header claims with the file."""
    with open(bounds.path, "rb") as file:
        shape, claimed = _claimed(bounds, file, "the array")
        _require_table(bounds.path, "the array", shape)
        bounds.check_fields(math.prod(shape[1:]))
        bounds.check_size(f"an array of {claimed:,} bytes", claimed)
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)


def read_npy(bounds: Bounds, columns: Sequence[str] | None) -> Scan:
    """Read an array of (N, columns), or one with named fields."""
    return Scan(bounds.path, _array_fields(bounds.path, read_array(bounds), columns))


def write_npy(path: Path, scan: Scan, notes: list[str]) -> list[str]:
    """Write an array with named fields."""
    with open(path, "wb") as file:
        np.save(file, structured(dict(scan.fields)), allow_pickle=False)
    return []


class _Archive(io.BufferedReader):
    """A file that refuses to read much at once: ``zipfile`` would read a ZIP's list of members whole, however long."""

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(MAX_DIRECTORY + 1 if size is None or size < 0 else min(size, MAX_DIRECTORY + 1))
        if len(content) > MAX_DIRECTORY:
            raise UserError(f"{self.name}: a list of members longer than {MAX_DIRECTORY:,} bytes")
        return content


def read_npz(bounds: Bounds, columns: Sequence[str] | None) -> Scan:
    """Read arrays by name: ``xyz`` and others of several columns, and one for each other field."""
    arrays: dict[str, np.ndarray] = {}
    with _Archive(io.FileIO(bounds.path)) as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        bounds.check_fields(len(members))
        inflated = 0
        for info in members:
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UserError(f"{bounds.path}: compressed in a way that NumPy does not write")
            name = info.filename.removesuffix(".npy")
            if name in arrays:
                raise UserError(f"{bounds.path}: two arrays {one_line(name, 60)}")
            with archive.open(info) as member:
                inflated += _claimed(bounds, member, one_line(name, 60))[1]
            bounds.check_inflated(inflated)
            with archive.open(info) as member:
                arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
    parts = _parts(bounds.path, arrays, columns)
    fields = {name: values for part in parts.values() for name, values in part.items()}
    bounds.check_fields(len(fields))
    return Scan(bounds.path, fields, Arrays(arrays, {name: tuple(part) for name, part in parts.items()}))


@dataclass(frozen=True)
class Arrays:
    """The arrays of an archive, kept to write it again. ``parts`` maps each array to the fields made from it."""

    arrays: dict[str, np.ndarray]
    parts: dict[str, tuple[str, ...]]

    @property
    def others(self) -> list[str]:
        """What only this format keeps: the arrays of which no fields were made."""
        return [f"array {one_line(name, 60)}" for name in self.arrays if name not in self.parts]


def _parts(
    path: Path, arrays: dict[str, np.ndarray], columns: Sequence[str] | None
) -> dict[str, dict[str, np.ndarray]]:
    """Return the fields of each array that has a row for each point.

    Raises:
        UserError: no array has coordinates, or two have different ones; an array of values for each point has another
            length; or columns have no certain meaning.
    """
    points = _points_of(arrays)
    if points is not None:
        first = {points: _array_fields(path, arrays[points], columns)}
    else:
        first = {name: {name: values} for name, values in arrays.items() if values.ndim == 1 and name.lower() in _AXES}
    if not first:
        for name, values in arrays.items():
            if name.lower() in _POINTS:
                _require_table(path, f"array {one_line(name, 60)}", values.shape)
        raise UserError(f"{path}: no array x, xyz or points; it has {one_line(', '.join(arrays), 1000) or 'none'}")
    used = next(iter(first))
    count = len(arrays[used])
    _check_other_points(path, arrays, points)
    for name, values in arrays.items():
        if name.lower() in _PER_POINT and values.ndim and len(values) != count:
            raise UserError(
                f"{path}: array {name} has {len(values):,} rows (shape {values.shape}), but "
                f"{one_line(used, 60)} has {count:,} points"
            )
    found: dict[str, dict[str, np.ndarray]] = {}
    taken: set[str] = set()
    for name, values in arrays.items():
        part = first.get(name) or _fields_of(path, name, values, count)
        # If two arrays give the same field, the first counts. The other is kept for writing, as a camera's array is.
        if part and not taken & set(part):
            found[name] = part
            taken |= set(part)
    return found


def _points_of(arrays: dict[str, np.ndarray]) -> str | None:
    """Return the name of the array that has the coordinates as columns or named fields, or None."""
    tables = {
        name: array for name, array in arrays.items() if array.dtype.names or (array.ndim == 2 and array.shape[1] >= 3)
    }
    named = {name.lower(): name for name in tables} | {name: name for name in tables}
    for name in _POINTS:
        if name in named:
            return named[name]
    if {"x", "y", "z"} <= {name.lower() for name in arrays}:
        return None
    return next(iter(tables)) if len(tables) == 1 else None


def _check_other_points(path: Path, arrays: dict[str, np.ndarray], points: str | None) -> None:
    """Compare the coordinates of an archive that has more than one array of them.

    Raises:
        UserError: they are different.
    """
    known = {name: xyz for name, array in arrays.items() if (xyz := _coordinates(name, array)) is not None}
    axes = {name.lower(): array for name, array in arrays.items() if name.lower() in _AXES and array.ndim == 1}
    if len(axes) == 3 and len({len(array) for array in axes.values()}) == 1:
        known["x, y, z"] = np.stack([axes[axis] for axis in "xyz"], 1)
    if points is None or points not in known:
        return
    for name, xyz in known.items():
        if name == points:
            continue
        if not np.array_equal(xyz, known[points], equal_nan=xyz.dtype.kind == "f" == known[points].dtype.kind):
            raise UserError(
                f"{path}: arrays {points} and {name} have different coordinates, {known[points].shape} and "
                f"{xyz.shape}; remove the one that is not meant"
            )
        log.warning("%s: arrays %s and %s have the same coordinates; %s is used", path, points, name, points)


def _coordinates(name: str, values: np.ndarray) -> np.ndarray | None:
    """Return the coordinates (N, 3) of an array that is named as one with coordinates, or None."""
    # NumPy gives the name arr_0 to any array without one.
    if name.lower() not in _POINTS[:-1]:
        return None
    if values.dtype.names:
        axes = {one.lower(): one for one in values.dtype.names}
        return np.stack([values[axes[axis]] for axis in "xyz"], 1) if {"x", "y", "z"} <= set(axes) else None
    return values[:, :3] if values.ndim == 2 and values.shape[1] >= 3 and values.dtype.kind in "fiub" else None


def _fields_of(path: Path, name: str, values: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Return the fields of an array besides the coordinates: none unless it has ``count`` rows of numbers."""
    if len(values.shape) not in (1, 2) or len(values) != count:
        return {}
    if values.dtype.names:
        return _array_fields(path, values, None) if values.ndim == 1 else {}
    if values.dtype.kind not in "fiub":
        return {}
    if values.ndim == 1:
        return {name: values}
    if values.shape[1] == 1:
        return {name: values[:, 0]}
    if several := _vector_fields(name, values):
        return several
    return (
        {f"{name}_{number}": column for number, column in enumerate(values.T)} if values.shape[1] <= MAX_FIELDS else {}
    )


def write_npz(path: Path, scan: Scan, notes: list[str]) -> list[str]:
    """Write an array for each field. Arrays of several columns that the scan was read from are put together again."""
    template = scan.template or Arrays({}, {})
    left = dict(scan.fields)
    arrays: dict[str, np.ndarray] = {}
    for name, array in template.arrays.items():
        parts = template.parts.get(name)
        if parts is None:
            arrays[name] = array
        # A field that was renamed becomes an array of its own.
        elif array.ndim == 2 and all(part in left for part in parts):
            arrays[name] = np.stack([left.pop(part) for part in parts], 1)
    arrays = left | {name: array for name, array in arrays.items() if name not in left}
    # numpy.savez takes arrays of some names for its own arguments.
    names = clean_names(arrays, forbidden="/\\:")
    with zipfile.ZipFile(path, "w") as archive:
        for name, values in zip(names, arrays.values()):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(values), allow_pickle=False)
    return renamed(arrays, names)
