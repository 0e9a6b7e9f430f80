"""Rows of numbers as text: in text files, and in the text variants of other formats.

Arrow converts words to numbers, to the nearest float64. Its CSV reader is not used, because it reads ahead in threads
of its own: one that still holds a Python object when the interpreter ends aborts the process.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv

from ....errors import UserError
from .bounds import Bounds
from .token_kernel import split_lines

# Integers of up to so many digits are exact in float64.
_EXACT_DIGITS = 15


def read_rows(bounds: Bounds, pieces: Iterable[bytes], columns: int, delimiter: str, line: int) -> list[np.ndarray]:
    """Read rows of numbers.

    Args:
        pieces: of whole lines of text. columns: words of each line. line: number of the first line.

    Returns:
        An array (N,) for each column: int64 if all its words are integers, else float64.

    Raises:
        UserError: lines with another number of words, words that are no numbers, too many points.
    """
    found = [_Column() for _ in range(columns)]
    for piece in pieces:
        for column, values in zip(found, _numbers(bounds.path, piece, columns, delimiter, line)):
            column.append(values)
        bounds.check_points(found[0].count)
        line += piece.count(b"\n")
    return [column.all() for column in found]


class _Column:
    """A column of numbers that grows in place, because joining parts at the end would take twice the memory."""

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


def _numbers(path: Path, piece: bytes, columns: int, delimiter: str, line: int) -> list[np.ndarray]:
    if b"\x00" in piece:
        raise UserError(f"{path}: not text in UTF-8 (it holds NUL bytes)")
    if b"\r" in piece:
        piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if delimiter != "," and b"," in piece and b"." not in piece:
        piece = piece.replace(b",", b".")
    text = np.frombuffer(piece, np.uint8)
    lines = piece.count(b"\n") + 1
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
        # The integers have more than 64 bits.
        return rounded.copy()


def write_rows(file: BinaryIO, columns: Sequence[np.ndarray], delimiter: str = " ") -> None:
    """Write columns of numbers as lines, with all digits."""
    options = csv.WriteOptions(include_header=False, delimiter=delimiter, quoting_style="none")
    table = pa.table({str(number): np.ascontiguousarray(values) for number, values in enumerate(columns)})
    csv.write_csv(table, file, options)
