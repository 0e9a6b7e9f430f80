"""NumPy's NPY and NPZ. Nothing is unpickled, and no array is made before its header was compared with the file."""

import io
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...errors import UserError
from ..scan import COLORS, Scan
from .bounds import MAX_DIRECTORY, MAX_HEADER, Bounds, clean_names, printable
from .text import column_names
from .typed import structured

_VECTORS: dict[str, Sequence[str]] = dict.fromkeys(("xyz", "points", "pos", "coord", "coords"), "xyz")
_VECTORS |= dict.fromkeys(("rgb", "color", "colors", "colours"), COLORS[0])


def _array_fields(path: Path, rows: np.ndarray, columns: Sequence[str] | None) -> dict[str, np.ndarray]:
    if rows.dtype.names:
        return {name: rows[name] for name in rows.dtype.names}
    if rows.ndim != 2 or rows.dtype.kind not in "fiub":
        raise UserError(f"{path}: must be (N, columns) numbers or have named fields, is {rows.dtype} {rows.shape}")
    return dict(zip(column_names(path, rows.shape[1], columns), rows.T))


def _claimed(bounds: Bounds, file: BinaryIO | zipfile.ZipExtFile, name: str) -> tuple[tuple[int, ...], int]:
    """Read an array's header and return its shape, and how many bytes of numbers follow it.

    Raises:
        UserError: not numbers, or too many points or fields.
    """
    head = io.BytesIO(file.read(MAX_HEADER))
    version = np.lib.format.read_magic(head)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read(head)
    kinds = [kind[field] for field in kind.names] if kind.names else [kind]
    for one in kinds:
        if one.kind not in "fiubSU" or not one.itemsize:
            raise UserError(f"{bounds.path}: {name} holds something else than numbers ({printable(str(one), 60)})")
    for length in shape[:1]:
        bounds.points(length)
    bounds.fields(len(kinds))
    if min(shape, default=0) < 0:
        raise UserError(f"{bounds.path}: {name} claims the shape {shape}")
    return shape, math.prod(shape) * kind.itemsize


def read_shape(bounds: Bounds) -> tuple[int, ...]:
    """Return the shape that an NPY file's header claims, without its numbers."""
    with open(bounds.path, "rb") as file:
        return _claimed(bounds, file, "the array")[0]


def read_npy(bounds: Bounds, columns: Sequence[str] | None) -> Scan:
    """Read an array with named fields, or of (N, columns)."""
    with open(bounds.path, "rb") as file:
        shape, claimed = _claimed(bounds, file, "the array")
        bounds.fields(math.prod(shape[1:]))
        bounds.held(f"an array of {claimed:,} bytes", claimed)
        file.seek(0)
        rows = np.lib.format.read_array(file, allow_pickle=False)
    return Scan(bounds.path, _array_fields(bounds.path, rows, columns))


def write_npy(path: Path, scan: Scan, notes: list[str]) -> None:
    """Write an array with named fields."""
    with open(path, "wb") as file:
        np.save(file, structured(dict(scan.fields)), allow_pickle=False)


class _Archive(io.BufferedReader):
    """A file that never gives much at once: a ZIP's list of members is read whole, however long."""

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(MAX_DIRECTORY + 1 if size is None or size < 0 else min(size, MAX_DIRECTORY + 1))
        if len(content) > MAX_DIRECTORY:
            raise UserError(f"{self.name}: a list of members longer than {MAX_DIRECTORY:,} bytes")
        return content


def read_npz(bounds: Bounds, columns: Sequence[str] | None) -> Scan:
    """Read arrays by name: vectors such as ``xyz``, and one for each other field."""
    arrays: dict[str, np.ndarray] = {}
    with _Archive(io.FileIO(bounds.path)) as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        bounds.fields(len(members))
        inflated = 0
        for info in members:
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UserError(f"{bounds.path}: compressed in a way that NumPy does not write")
            name = info.filename.removesuffix(".npy")
            if name in arrays:
                raise UserError(f"{bounds.path}: two arrays {printable(name, 60)}")
            with archive.open(info) as member:
                inflated += _claimed(bounds, member, printable(name, 60))[1]
            bounds.inflated(inflated)
            with archive.open(info) as member:
                arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
    fields: dict[str, np.ndarray] = {}
    for name, values in arrays.items():
        if values.ndim == 2 and values.shape[1] == 3 and name.lower() in _VECTORS:
            fields |= dict(zip(_VECTORS[name.lower()], values.T))
        elif len(arrays) == 1 and (values.ndim == 2 or values.dtype.names):
            fields |= _array_fields(bounds.path, values, columns)
        elif values.ndim == 1 and values.dtype.kind in "fiub":
            fields[name] = values
    # Other arrays, such as a camera's, are kept for writing.
    along = Scan(bounds.path, fields).field("x")
    length = len(fields[along]) if along else 0
    return Scan(bounds.path, {name: values for name, values in fields.items() if len(values) == length}, arrays)


def write_npz(path: Path, scan: Scan, notes: list[str]) -> None:
    """Write an array for each field, and those of the file that the scan came from."""
    kept: dict[str, np.ndarray] = scan.template or {}
    vectors = {name for key in kept for name in _VECTORS.get(key.lower(), ())}
    # A field that was changed or added counts, not the array it had.
    arrays = {**kept, **{name: values for name, values in scan.fields.items() if name not in vectors}}
    # Not numpy.savez, which takes arrays of some names for its own arguments.
    with zipfile.ZipFile(path, "w") as archive:
        for name, values in zip(clean_names(arrays, forbidden="/\\:"), arrays.values()):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(values), allow_pickle=False)
