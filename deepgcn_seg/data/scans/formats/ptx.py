"""PTX, the text format of Leica: for each scan ten lines of header, and then a line for each direction of the scanner.

The header has the number of columns and that of rows, the position of the scanner and its three axes (four lines of
three numbers), and a matrix of four lines that takes points, as row vectors, into shared coordinates:
[x y z 1] matrix. The position and axes repeat the matrix; as in other programs, the matrix alone moves points.

The lines of points are x y z intensity or x y z intensity r g b, with colours in 0..255 or fractions of 1. Where no
light came back, a line has ``0 0 0``, and may lack the colours.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ....errors import UserError
from ....escaping import one_line
from .bounds import MAX_LINE, Bounds, first_lines
from .colors import BYTES, FRACTIONS, ONE, as_bytes, guessed_full
from .rows import plain, read_rows
from .scan import COLORS, Scan
from .setups import MAX_SCANS, Pose, joined
from .text_header import with_newlines

# Numbers in each line of a header: columns, rows, position, three axes, four lines of the matrix.
_HEADER = (1, 1, 3, 3, 3, 3, 4, 4, 4, 4)
_NAMES = ("x", "y", "z", "intensity", *COLORS[0])
# Bytes of the shortest line of points, "0 0 0 0\n".
_SHORTEST = 8
# Most columns and most rows of a scan.
_MOST = 1_000_000
# The factors by which a matrix may scale points: from nanometres to metres, and back.
_SCALES = (1e-9, 1e9)
_MARK = b"\xef\xbb\xbf"
# A line of four numbers for a direction without a return, behind the end of the line before.
_NO_RETURN = re.compile(rb"\n[ \t]*(?:[+-]?0(?:\.0*)?[ \t]+){3}[^ \t\r\n]+(?=[ \t]*\r?(?:\n|\Z))")
# Points to transform at a time.
_PIECE = 1 << 18


def read_ptx(bounds: Bounds, columns: Sequence[str] | None) -> Scan:
    """Read the scans of a PTX file as one cloud in shared coordinates. Points at ``0 0 0`` get NaN.

    Raises:
        UserError: a header that is none, fewer lines than it claims, or lines without 4 or 7 numbers.
    """
    parts: list[dict[str, np.ndarray]] = []
    points, number = 0, 1
    with open(bounds.path, "rb") as opened:
        file = with_newlines(opened)
        if file.read(len(_MARK)) != _MARK:
            file.seek(0)
        while (blank := _blank_lines(file)) is not None:
            if len(parts) == MAX_SCANS:
                raise UserError(f"{bounds.path}: more than {MAX_SCANS:,} scans")
            number += blank
            count, pose = _read_header(bounds, file, number)
            points = bounds.check_points(points + count)
            # The last line may end without a newline.
            bounds.check_size(f"{count:,} points", file.tell() + count * _SHORTEST - 1)
            parts.append(_read_points(bounds, file, count, pose, number + len(_HEADER)))
            number += len(_HEADER) + count
    if not points:
        raise UserError(f"{bounds.path}: no points")
    return Scan(bounds.path, joined(bounds.path, parts))


def _blank_lines(file: BinaryIO) -> int | None:
    """Go to the next line that is not blank, and return the number of blank ones before it, or None if all are."""
    blank = 0
    while line := file.readline(MAX_LINE):
        if line.strip():
            file.seek(-len(line), os.SEEK_CUR)
            return blank
        blank += 1
    return None


def _read_header(bounds: Bounds, file: BinaryIO, number: int) -> tuple[int, Pose]:
    """Return the number of points and the pose of the scan whose header begins at the file's position.

    Args:
        number: of the header's first line.
    """
    path = bounds.path
    lines = list(_header_lines(path, file, number))
    columns, rows = lines[0][0], lines[1][0]
    if not all(0 <= count <= _MOST and count == round(count) for count in (columns, rows)):
        raise UserError(f"{path}: line {number:,}: a scan of {columns:g} columns and {rows:g} rows")
    matrix = np.array(lines[6:])
    where = f"{path}: line {number + 6:,}: {matrix.tolist()} is no matrix of a scan"
    if matrix[:, 3].tolist() != [0, 0, 0, 1]:
        raise UserError(f"{where}: its last column must be 0 0 0 1, and its last row has the translation")
    scales = np.linalg.svd(matrix[:3, :3], compute_uv=False)
    if not (_SCALES[0] <= scales.min() and scales.max() <= _SCALES[1]):
        shown = ", ".join(f"{scale:.3g}" for scale in scales)
        raise UserError(f"{where}: it scales points by {shown}; each must be in {_SCALES[0]:g}..{_SCALES[1]:g}")
    return int(columns) * int(rows), Pose(matrix[:3, :3].T, matrix[3, :3])


def _header_lines(path: Path, file: BinaryIO, first: int) -> Iterator[list[float]]:
    for number, wanted in enumerate(_HEADER, first):
        line = file.readline(MAX_LINE)
        try:
            found = [float(word) for word in plain(line).split()]
        except ValueError:
            found = []
        if len(found) != wanted or not np.isfinite(found).all():
            raise UserError(
                f"{path}: line {number:,} is no line {number - first + 1} of the header of a scan, which has "
                f"{wanted} number{'s' * (wanted > 1)}: {one_line(line.decode('utf-8', 'replace').strip(), 60)}"
            )
        yield found


def _read_points(bounds: Bounds, file: BinaryIO, count: int, pose: Pose, number: int) -> dict[str, np.ndarray]:
    """Return the fields of the next ``count`` lines, the first of which has this number."""
    path, width = bounds.path, _width(file, count)
    if width not in (4, 7):
        raise UserError(f"{path}: line {number:,} has {width} words; a point has 4, x y z intensity, or 7 with r g b")
    pieces = first_lines(path, file, count)
    if width == 7:
        pieces = (_NO_RETURN.sub(rb"\g<0> 0 0 0", b"\n" + piece)[1:] for piece in pieces)
    values = read_rows(bounds, pieces, width, " ", number, _NAMES)
    if len(values[0]) != count:
        raise UserError(f"{path}: the header above line {number:,} claims {count:,} points, it has {len(values[0]):,}")
    fields = {name: column.astype(np.float64, copy=False) for name, column in zip(_NAMES[:4], values[:4])}
    fields |= _colors(path, dict(zip(_NAMES[4:], values[4:])))
    for first in range(0, count, _PIECE):
        piece = slice(first, first + _PIECE)
        xyz = np.stack([fields[axis][piece] for axis in "xyz"], 1)
        xyz[~xyz.any(1)] = np.nan
        for axis, moved in zip("xyz", pose.apply(xyz).T):
            fields[axis][piece] = moved
    return fields


def _width(file: BinaryIO, count: int) -> int:
    """Return the number of words of the first of ``count`` lines that has a return, or else of the last line."""
    start, width = file.tell(), 4
    for _ in range(count):
        _blank_lines(file)
        if not (line := file.readline(MAX_LINE)):
            break
        width = len(line.split())
        if not _NO_RETURN.fullmatch(b"\n" + line.rstrip()):
            break
    file.seek(start)
    return width


def _colors(path: Path, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the colours of a scan as uint8. Numbers with decimal points, none above 1, are fractions."""
    if not columns:
        return {}
    floats = any(column.dtype.kind == "f" for column in columns.values())
    full = guessed_full(max(column.max(initial=0) for column in columns.values()), floats)
    for name, column in columns.items():
        inside = 0 <= column.min(initial=0) <= column.max(initial=0) <= (ONE if full == FRACTIONS else BYTES)
        if not (inside and (full == FRACTIONS or np.array_equal(column, np.rint(column)))):
            raise UserError(f"{path}: colours ({name}) that are not whole numbers in 0..255, nor fractions in 0..1")
    return {name: as_bytes(column, 0, full) for name, column in columns.items()}
