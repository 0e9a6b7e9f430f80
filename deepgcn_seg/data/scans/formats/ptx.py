"""PTX, the text format of Leica: for each scan ten lines of header, and then a line for each direction of the scanner.

The header has the number of columns and that of rows, the position of the scanner and its three axes (four lines of
three numbers), and a matrix of four lines that takes points, as row vectors, into shared coordinates:
[x y z 1] matrix. The position and axes repeat the matrix; as in other programs, the matrix alone moves points.

The lines of points are x y z intensity or x y z intensity r g b. Where no light came back, a line has ``0 0 0``.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ....errors import UserError
from ....escaping import one_line
from .bounds import MAX_LINE, Bounds, first_lines
from .rows import plain, read_rows
from .scan import COLORS, Scan
from .setups import MAX_SCANS, Pose, joined

# Numbers in each line of a header: columns, rows, position, three axes, four lines of the matrix.
_HEADER = (1, 1, 3, 3, 3, 3, 4, 4, 4, 4)
_NAMES = ("x", "y", "z", "intensity", *COLORS[0])
# Bytes of the shortest line of points, "0 0 0 0\n".
_SHORTEST = 8
# Most columns and most rows of a scan.
_MOST = 1_000_000
# Points to transform at a time.
_PIECE = 1 << 18


def read_ptx(bounds: Bounds, columns: Sequence[str] | None) -> Scan:
    """Read the scans of a PTX file as one cloud in shared coordinates. Points at ``0 0 0`` get NaN.

    Raises:
        UserError: a header that is none, fewer lines than it claims, or lines without 4 or 7 numbers.
    """
    parts: list[dict[str, np.ndarray]] = []
    points, number = 0, 1
    with open(bounds.path, "rb") as file:
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
    scaled = abs(np.linalg.det(matrix[:3, :3]))
    if matrix[:, 3].tolist() != [0, 0, 0, 1] or not 1e-6 < scaled < 1e6:
        raise UserError(
            f"{path}: line {number + 6:,}: {matrix.tolist()} is no matrix of a scan: its last column must be 0 0 0 1, "
            "its last row has the translation, and the rest is a rotation"
        )
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
    path, start = bounds.path, file.tell()
    width = len(file.readline(MAX_LINE).split()) if count else 4
    file.seek(start)
    if width not in (4, 7):
        raise UserError(f"{path}: line {number:,} has {width} words; a point has 4, x y z intensity, or 7 with r g b")
    values = read_rows(bounds, first_lines(path, file, count), width, " ", number, _NAMES)
    if len(values[0]) != count:
        raise UserError(f"{path}: the header above line {number:,} claims {count:,} points, it has {len(values[0]):,}")
    fields = {name: of.astype(np.float64, copy=False) for name, of in zip(_NAMES[:4], values[:4])}
    fields |= {name: _color(path, name, of) for name, of in zip(_NAMES[4:], values[4:])}
    for first in range(0, count, _PIECE):
        piece = slice(first, first + _PIECE)
        xyz = np.stack([fields[axis][piece] for axis in "xyz"], 1)
        xyz[~xyz.any(1)] = np.nan
        for axis, moved in zip("xyz", pose.apply(xyz).T):
            fields[axis][piece] = moved
    return fields


def _color(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    colors = values.astype(np.uint8) if len(values) and 0 <= values.min() <= values.max() <= 255 else values[:0]
    if not np.array_equal(colors, values):
        raise UserError(f"{path}: colours ({name}) that are not whole numbers in 0..255")
    return colors
