"""Rows of numbers as text: in text files, and in the text variants of other formats.

Arrow converts words to numbers, to the nearest float64. Its CSV reader is not used, because it reads ahead in threads
of its own: one that still holds a Python object when the interpreter ends aborts the process.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv

from ....errors import UserError
from ....escaping import one_line
from .bounds import Bounds
from .token_kernel import split_lines

# Integers of up to this many digits are exact in float64.
_EXACT_DIGITS = 15
# Missing and infinite numbers as R, databases and Microsoft's C library write them.
_SPELLINGS = dict.fromkeys(("na", "n/a", "null", "nan(ind)", "-nan(ind)"), "nan") | {
    f"{sign}1.#{name}": value
    for sign in ("", "-")
    for name, value in {"qnan": "nan", "snan": "nan", "ind": "nan", "inf": f"{sign}inf"}.items()
}
# Fortran writes the exponents of double precision with D.
_FORTRAN = re.compile(r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))[dD]([+-]?[0-9]+)")
# Only Arrow looks at longer words.
_LONGEST_NUMBER = 400
_HEXADECIMAL = re.compile(r"#[0-9a-fA-F]+")


def plain(text: bytes) -> bytes:
    """Return text in UTF-8, with spaces for no-break spaces and hyphens for Unicode's minus signs.

    Text that is not UTF-8 is taken as cp1252, the encoding of Western Windows.
    """
    if text.isascii():
        return text
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        decoded = text.decode("cp1252", "replace")
    return decoded.replace("\u00a0", " ").replace("\u2212", "-").encode()


def read_rows(
    bounds: Bounds,
    pieces: Iterable[bytes],
    columns: int,
    delimiter: str,
    line: int,
    names: Sequence[str | None] = (),
    more: bool = False,
) -> list[np.ndarray]:
    """Read rows of numbers.

    Args:
        pieces: of whole lines of text. columns: words of each line. line: number of the first line.
        names: of the columns, for messages. more: whether lines may have further words, which are skipped.

    Returns:
        An array (N,) for each column: int64 if all its words are integers, else float64.

    Raises:
        UserError: lines with another number of words, words that are no numbers, too many points.
    """
    found = [_Column() for _ in range(columns)]
    for piece in pieces:
        try:
            parts = _numbers(bounds.path, piece, columns, delimiter, line, more)
        except _NotANumber as error:
            name = names[error.column] if error.column < len(names) else None
            raise not_a_number(bounds.path, error.line, error.column, error.text, name) from None
        for column, values in zip(found, parts):
            column.append(values)
        bounds.check_points(found[0].count)
        line += piece.count(b"\n")
    return [column.all() for column in found]


class UnevenRows(UserError):
    """A line has another number of words than the first. words: how many it has, one more than the first at most."""

    def __init__(self, message: str, words: int):
        super().__init__(message)
        self.words = words


class _NotANumber(Exception):
    """A cell of text that is no number. line, column: its place, the column from 0. text: what the cell holds."""

    def __init__(self, line: int, column: int, text: str):
        self.line, self.column, self.text = line, column, text


def not_a_number(path: Path, line: int, column: int, text: str, name: str | None) -> UserError:
    """Return the error that says where a cell is, what it holds, and what the user can do about it.

    Args:
        line: from 1. column: from 0. text: the cell. name: of the column, if it has one.
    """
    named = f" ({one_line(name, 40)})" if name else ""
    holds = f"is no number: {one_line(text, 40)}"
    help = "write a number, write NaN where it is missing, or remove the column"
    if not text:
        holds, help = "is empty", "write NaN where a number is missing"
    elif "," in text:
        help = "write all numbers with decimal points or all with decimal commas, without thousands separators"
    elif _HEXADECIMAL.fullmatch(text):
        help = "write colours as three columns of numbers, r, g and b"
    elif column == 0 and text in ("v", "vn", "vt", "o", "g"):
        help = "the file looks like Wavefront OBJ; save it as PLY"
    return UserError(f"{path}: line {line:,}, column {column + 1}{named} {holds}; {help}")


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


def _numbers(path: Path, piece: bytes, columns: int, delimiter: str, line: int, more: bool) -> list[np.ndarray]:
    if b"\x00" in piece:
        raise UserError(f"{path}: not text in UTF-8 (it holds NUL bytes)")
    piece = plain(piece)
    if b"\r" in piece:
        piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if delimiter != "," and b"," in piece and b"." not in piece:
        piece = piece.replace(b",", b".")
    text = np.frombuffer(piece, np.uint8)
    lines = piece.count(b"\n") + 1
    words = np.empty(len(text), np.uint8)
    ends = np.empty(min(lines * columns, len(text) + columns) + 1, np.int32)
    digits = np.zeros(columns, np.int64)
    rows, wrong, length = split_lines(text, ord(delimiter), columns, words, ends, digits, more)
    if wrong:
        above = "more than " if length > columns else ""
        wide = f"{above}{min(length, columns)}"
        raise UnevenRows(f"{path}: line {line + wrong - 1:,} has {wide} columns, not {columns} as the first", length)
    strings = pa.Array.from_buffers(pa.string(), rows * columns, [None, pa.py_buffer(ends), pa.py_buffer(words)])
    values, odd = _cast(strings)
    if odd is not None:
        row, column = divmod(odd, columns)
        raise _NotANumber(line + _line_of(piece, row), column, strings[odd].as_py())
    values = values.reshape(-1, columns)
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


def _cast(strings: pa.Array) -> tuple[np.ndarray, int | None]:
    """Return words as float64, and the position of the first that is no number, or None."""
    try:
        return strings.cast(pa.float64()).to_numpy(zero_copy_only=False), None
    except pa.ArrowInvalid:
        pass
    # Different words are listed in the order in which they appear, so the first odd one is the first of the piece.
    encoded = strings.dictionary_encode()
    indices = encoded.indices.to_numpy(zero_copy_only=False)
    words = pa.array([_spelled(word) for word in encoded.dictionary.to_pylist()], pa.string())
    if _are_numbers(words):
        return words.cast(pa.float64()).to_numpy(zero_copy_only=False)[indices], None
    return np.empty(0), int(np.argmax(indices == _first_odd(words)))


def _spelled(word: str) -> str:
    """Return a word as Arrow reads numbers, if it is a number in another spelling."""
    if len(word) > _LONGEST_NUMBER:
        return word
    fortran = _FORTRAN.fullmatch(word)
    return f"{fortran[1]}e{fortran[2]}" if fortran else _SPELLINGS.get(word.lower(), word)


def is_number(word: str) -> bool:
    """Return whether a word is a number in any spelling that is read."""
    try:
        float(_spelled(word))
    except ValueError:
        return False
    return True


def _are_numbers(words: pa.Array) -> bool:
    try:
        words.cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _first_odd(words: pa.Array) -> int:
    """Return the position of the first word that is no number, by halving the part that holds it."""
    low, high = 0, len(words)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _are_numbers(words[low:middle]) else (low, middle)
    return low


def _line_of(piece: bytes, row: int) -> int:
    """Return the number, from 0, of the line with a row of numbers; blank lines and comments are no rows."""
    lines = (line.strip() for line in piece.split(b"\n"))
    rows = (number for number, line in enumerate(lines) if line and not line.startswith((b"#", b"//")))
    return next(islice(rows, row, None))


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
