"""Text with a point in each line: TXT, XYZ, ASC, PTS, CSV, and the rows of other formats' text variants.

Words are numbers by Arrow's conversion, which gives the nearest float64. Its CSV reader is not used: it reads ahead in
threads of its own, and one that holds a Python object when the interpreter ends aborts the process.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv

from ...errors import UserError
from ..scan import Scan
from .bounds import MAX_LINE, Bounds, blocks_of_lines, clean_names
from .token_kernel import split_lines

# Integers of so many digits are float64 exactly.
_EXACT_DIGITS = 15


def column_names(path: Path, count: int, columns: Sequence[str] | None) -> list[str]:
    """Names of ``count`` unnamed columns.

    Raises:
        UserError: as many as that have no usual meaning, or other than ``columns``.
    """
    if columns is not None:
        if len(columns) != count:
            raise UserError(f"{path}: {count} columns, but columns names {len(columns)}: {', '.join(columns)}")
        return list(columns)
    usual = {
        3: ["x", "y", "z"],
        4: ["x", "y", "z", "intensity"],
        6: ["x", "y", "z", "red", "green", "blue"],
        7: ["x", "y", "z", "red", "green", "blue", "label"],
    }
    if count not in usual:
        raise UserError(f"{path}: {count} columns without names; say which they are (columns=[x,y,z,...])")
    return usual[count]


def read_rows(bounds: Bounds, blocks: Iterable[bytes], columns: int, delimiter: str, line: int) -> list[np.ndarray]:
    """Read rows of numbers.

    Args:
        blocks: text in pieces of whole lines. columns: words of each line. line: number of the first line.

    Returns:
        A (N,) array for each column: int64 where all its words are integers, else float64.

    Raises:
        UserError: lines of another length, words that are no numbers, too many points.
    """
    found = [_Column() for _ in range(columns)]
    for block in blocks:
        for column, values in zip(found, _numbers(bounds.path, block, columns, delimiter, line)):
            column.append(values)
        bounds.points(found[0].count)
        line += block.count(b"\n")
    return [column.all() for column in found]


class _Column:
    """Numbers that grow in place: parts joined at the end would take twice the memory."""

    def __init__(self) -> None:
        self.values, self.count = np.empty(0, np.int64), 0

    def append(self, part: np.ndarray) -> None:
        if part.dtype.kind == "f" and self.values.dtype.kind == "i":
            self.values = self.values.astype(np.float64)
        needed = self.count + len(part)
        if needed > len(self.values):
            self.values.resize(needed + needed // 8, refcheck=False)
        self.values[self.count : needed] = part
        self.count = needed

    def all(self) -> np.ndarray:
        self.values.resize(self.count, refcheck=False)
        return self.values


def _numbers(path: Path, block: bytes, columns: int, delimiter: str, line: int) -> list[np.ndarray]:
    if b"\x00" in block:
        raise UserError(f"{path}: not text (it holds NUL bytes)")
    text = np.frombuffer(block, np.uint8)
    lines = block.count(b"\n") + 1
    words = np.empty(len(text), np.uint8)
    ends = np.empty(min(lines * columns, len(text) + columns) + 1, np.int32)
    digits = np.zeros(columns, np.int64)
    rows, wrong, length = split_lines(text, ord(delimiter), columns, words, ends, digits)
    if wrong:
        more = "more than " if length > columns else ""
        raise UserError(
            f"{path}: line {line + wrong - 1:,} has {more}{min(length, columns)} columns, not {columns} as the first"
        )
    strings = pa.Array.from_buffers(pa.string(), rows * columns, [None, pa.py_buffer(ends), pa.py_buffer(words)])
    values = _cast(path, strings, columns)
    found: list[np.ndarray] = []
    for column in range(columns):
        of_column = values[:, column]
        if digits[column] < 0:
            found.append(of_column.copy())
        elif digits[column] <= _EXACT_DIGITS:
            found.append(of_column.astype(np.int64))
        else:
            found.append(_long_integers(strings, columns, column, of_column))
    return found


def _cast(path: Path, strings: pa.Array, columns: int) -> np.ndarray:
    try:
        return strings.cast(pa.float64()).to_numpy(zero_copy_only=False).reshape(-1, columns)
    except pa.ArrowInvalid:
        pass
    for column in range(columns):
        try:
            _column(strings, columns, column).cast(pa.float64())
        except pa.ArrowInvalid:
            raise UserError(f"{path}: column {column + 1} is not all numbers") from None
    raise UserError(f"{path}: not all numbers")


def _column(strings: pa.Array, columns: int, column: int) -> pa.Array:
    return strings.take(pa.array(np.arange(column, len(strings), columns)))


def _long_integers(strings: pa.Array, columns: int, column: int, rounded: np.ndarray) -> np.ndarray:
    try:
        return _column(strings, columns, column).cast(pa.int64()).to_numpy(zero_copy_only=False).copy()
    except pa.ArrowInvalid:
        # Beyond 64 bits.
        return rounded.copy()


def read_text(bounds: Bounds, columns: Sequence[str] | None) -> Scan:
    """Read text with or without a line of names, after comment lines."""
    path = bounds.path
    with open(path, "rb") as file:
        lines = _Lines(path, file)
        comment, first = _after_comments(lines)
        delimiter = next((mark for mark in (",", ";") if mark.encode() in first), " ")
        names = comment and _words(comment, "," if b"," in comment else delimiter)
        headed = not _numeric(first, delimiter)
        if headed:
            names = _words(first, delimiter)
            first = lines.next()
        elif path.suffix.lower() == ".pts" and first.strip().isdigit():
            # Leica's: the number of points on a line of its own.
            first = lines.next()
        while first and not first.strip():
            first = lines.next()
        if not first:
            raise UserError(f"{path}: no points")
        count = len(_words(first, delimiter))
        bounds.fields(count)
        file.seek(-len(first), os.SEEK_CUR)
        values = read_rows(bounds, blocks_of_lines(path, file), count, delimiter, lines.number)
    named = names is not None and len(names) == len(set(names)) == count
    # A comment need not be names, but a first line that is not numbers is.
    if headed and not named and columns is None:
        raise UserError(
            f"{path}: its first line has {len(set(names or ()))} different names, its rows {count} columns; correct it "
            "or say which they are (columns=[x,y,z,...])"
        )
    chosen = names if named and names else column_names(path, count, columns)
    return Scan(path, dict(zip(chosen, values)), delimiter)


class _Lines:
    """Lines on top of a text file. number: that of the last one, from 1."""

    def __init__(self, path: Path, file: BinaryIO):
        self.path, self.file, self.number = path, file, 0

    def next(self) -> bytes:
        line = self.file.readline(MAX_LINE + 1)
        self.number += 1
        if len(line) > MAX_LINE:
            raise UserError(f"{self.path}: a line longer than {MAX_LINE:,} bytes")
        if b"\x00" in line:
            raise UserError(f"{self.path}: not text (it holds NUL bytes)")
        return line


def _after_comments(lines: _Lines) -> tuple[bytes | None, bytes]:
    """The last comment line on top, without its mark, and the first line after it."""
    comment = None
    line = lines.next().removeprefix(b"\xef\xbb\xbf")
    while line and (line.startswith((b"#", b"//")) or not line.strip()):
        comment = line.strip().lstrip(b"#/ ") or comment
        line = lines.next()
    if not line:
        raise UserError(f"{lines.path}: no points")
    return comment, line


def _words(line: bytes, delimiter: str) -> list[str]:
    text = line.decode("utf-8", "replace").strip()
    return [word.strip().strip('"') for word in (text.split() if delimiter == " " else text.split(delimiter))]


def _numeric(line: bytes, delimiter: str) -> bool:
    try:
        return bool([float(word) for word in _words(line, delimiter)])
    except ValueError:
        return False


def write_text(path: Path, scan: Scan, notes: list[str], delimiter: str = " ") -> None:
    """Write a line of names and a line for each point, after notes as comment lines."""
    delimiter = scan.template or delimiter
    with open(path, "wb") as file:
        file.write("".join(f"# {note}\n" for note in notes).encode())
        # A file without names gets them all the same: the new columns would be a riddle.
        names = clean_names(scan.fields, forbidden=delimiter + ',;"#/')
        file.write((delimiter.join(names) + "\n").encode())
        write_rows(file, list(scan.fields.values()), delimiter)


def write_rows(file: BinaryIO, columns: Sequence[np.ndarray], delimiter: str = " ") -> None:
    """Write columns of numbers as lines; numbers keep all their digits."""
    options = csv.WriteOptions(include_header=False, delimiter=delimiter, quoting_style="none")
    table = pa.table({str(number): np.ascontiguousarray(values) for number, values in enumerate(columns)})
    csv.write_csv(table, file, options)
