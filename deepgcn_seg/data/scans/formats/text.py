"""Text with a point in each line: TXT, XYZ, ASC, PTS, CSV."""

import io
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ....errors import UserError
from ....escaping import one_line
from ..scan import Scan
from .bounds import MAX_HEADER, MAX_LINE, Bounds, clean_names, pieces_of_lines, renamed
from .rows import read_rows, write_rows

log = logging.getLogger(__name__)

# Most digits of a count of points.
_COUNT_DIGITS = 15
_COMMENTS = (b"#", b"//", b"%")
_DELIMITERS = (",", ";", "\t", " ")
_DECIMAL_COMMA = re.compile(rb"[+-]?[0-9]+,[0-9]+([eE][+-]?[0-9]+)?")
# Most lines above the rows that are neither comments nor numbers.
_MOST_TITLES = 20


def named_columns(
    path: Path,
    values: Sequence[np.ndarray] | np.ndarray,
    columns: Sequence[str] | None,
    first: str,
    leica: bool = False,
) -> dict[str, np.ndarray]:
    """Give names to the columns of text or an array that have none.

    A meaning is never guessed. Columns are colours only if they are whole numbers in 0..255, some of them above 1. The
    last three of six columns may be normals; of seven columns the fourth may be an intensity, or the last a label.

    Args:
        columns: names that the caller gives. first: the first row, for messages. leica: whether columns are in the
            order of PTS, where the intensity comes before the colours.

    Raises:
        UserError: ``columns`` does not fit, or the meaning of the columns is not certain.
    """
    count = len(values)
    if columns is not None:
        if len(columns) != count:
            raise UserError(f"{path}: {count} columns, but columns names {len(columns)}: {', '.join(columns)}")
        if len(set(columns)) < count:
            raise UserError(f"{path}: columns gives one name to two columns: {', '.join(columns)}")
        return dict(zip(columns, values))
    if count == 3 or count == 4:
        return dict(zip(("x", "y", "z", "intensity"), values))
    if count == 6 and _are_colors(values[3:]):
        return dict(zip(("x", "y", "z", "red", "green", "blue"), values))
    if count == 7 and leica and _are_colors(values[4:]):
        return dict(zip(("x", "y", "z", "intensity", "red", "green", "blue"), values))
    raise ambiguous(path, f"{count} columns without names", first, count)


def ambiguous(path: Path, what: str, first: str, count: int) -> UserError:
    """Return the error that shows the first row and asks for the names of the columns."""
    example = {2: "x,y,z", 6: "x,y,z,r,g,b] or [x,y,z,nx,ny,nz", 7: "x,y,z,intensity,r,g,b"}.get(count, "x,y,z,...")
    return UserError(
        f"{path}: {what}, which may mean different things; its first line is: {one_line(first.strip(), 100)}; say "
        f"which columns these are, e.g. columns=[{example}]"
    )


def _are_colors(values: Sequence[np.ndarray] | np.ndarray) -> bool:
    """Return whether three columns are colours: whole numbers in 0..255, all 0 or some above 1."""
    largest = 0.0
    for of in values:
        known = of[np.isfinite(of)] if of.dtype.kind == "f" else of
        if not len(known) or known.min() < 0 or known.max() > 255 or not np.array_equal(known, np.rint(known)):
            return False
        largest = max(largest, float(known.max()))
    return largest != 1


def read_text(bounds: Bounds, columns: Sequence[str] | None) -> Scan:
    """Read rows of text, which may follow comments, titles, a line of names and a count of points."""
    path = bounds.path
    with open(path, "rb") as opened:
        file = _with_newlines(opened)
        top = _read_top(path, file)
        count = len(_words(top.first, top.delimiter))
        bounds.check_fields(count)
        file.seek(-len(top.first), os.SEEK_CUR)
        values = read_rows(bounds, pieces_of_lines(path, file, bounds.piece_bytes), count, top.delimiter, top.number)
    if top.claimed is not None and top.claimed > len(values[0]):
        raise UserError(
            f"{path}: says that it has {top.claimed:,} points, but has {len(values[0]):,}: it is cut off, or its first "
            "line is no count of points and must go"
        )
    if top.claimed not in (None, len(values[0])):
        log.warning("%s: says that it has %s points, but has %s", path, f"{top.claimed:,}", f"{len(values[0]):,}")
    first = top.first.decode("utf-8", "replace")
    names = None if columns is not None else _names(path, top, count)
    if names is not None:
        fields = dict(zip(clean_names(names), values))
    else:
        fields = named_columns(path, values, columns, first, leica=path.suffix.lower() == ".pts")
    return Scan(path, fields, top.delimiter)


class _CarriageReturns(io.RawIOBase):
    """A file with LF in place of CR, for lines that end with CR alone, as classic Macs wrote them."""

    def __init__(self, file: BinaryIO):
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._file.read(len(buffer)).replace(b"\r", b"\n")
        buffer[: len(piece)] = piece
        return len(piece)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)


def _with_newlines(file: BinaryIO) -> BinaryIO:
    """Return the file, or a view of it whose lines end with LF."""
    head = file.read(MAX_HEADER)
    file.seek(0)
    return io.BufferedReader(_CarriageReturns(file)) if b"\r" in head and b"\n" not in head else file


@dataclass
class _Top:
    """The lines above the rows of a text file.

    Attributes:
        first, number: the first row and the number of its line. delimiter: between its words.
        claimed: a count of points on a line of its own, or None.
        titles: lines that are neither comments nor numbers. comment: the last comment that names x, y and z, or None.
    """

    first: bytes = b""
    number: int = 0
    delimiter: str = " "
    claimed: int | None = None
    titles: list[bytes] = field(default_factory=list)
    comment: bytes | None = None


def _read_top(path: Path, file: BinaryIO) -> _Top:
    lines, top = _Lines(path, file), _Top()
    while line := lines.next():
        words = line.strip()
        if not words:
            continue
        if words.startswith(_COMMENTS):
            comment = words.lstrip(b"#/% \t")
            if any({"x", "y", "z"} <= set(_split(comment.lower(), mark)) for mark in _DELIMITERS):
                top.comment = comment
        elif top.claimed is None and words.isdigit() and len(words) <= _COUNT_DIGITS:
            top.claimed = int(words)
        elif _is_row(line):
            top.first, top.number, top.delimiter = line, lines.number, _delimiter(line)
            return top
        elif len(top.titles) == _MOST_TITLES:
            raise UserError(
                f"{path}: no numbers in its first {lines.number:,} lines; the first is: {_shown(top.titles[0])}"
            )
        else:
            top.titles.append(line)
    if top.titles:
        raise UserError(f"{path}: no points; its first line is: {_shown(top.titles[0])}")
    raise UserError(f"{path}: no points")


class _Lines:
    """The lines of a text file, one by one. number: of the last line that was read, from 1."""

    def __init__(self, path: Path, file: BinaryIO):
        self.path, self.file, self.number = path, file, 0

    def next(self) -> bytes:
        line = self.file.readline(MAX_LINE + 1)
        self.number += 1
        if len(line) > MAX_LINE:
            raise UserError(f"{self.path}: a line longer than {MAX_LINE:,} bytes")
        if b"\x00" in line:
            raise UserError(f"{self.path}: not text in UTF-8 (it holds NUL bytes)")
        return line.removeprefix(b"\xef\xbb\xbf") if self.number == 1 else line


def _names(path: Path, top: _Top, count: int) -> list[str] | None:
    """Return the names of the columns, or None if the file has no names.

    Raises:
        UserError: there are lines above the rows, but none with as many names as there are columns.
    """
    for line in [*reversed(top.titles), *([top.comment] if top.comment else [])]:
        for mark in (top.delimiter, *_DELIMITERS):
            every = _split(line, mark)
            for names in (every, _without_empty_end(every)):
                filled = [name for name in names if name]
                if len(names) == count and filled and len(set(filled)) == len(filled):
                    return names
    first = top.first.decode("utf-8", "replace")
    if top.titles:
        raise ambiguous(
            path, f"its lines on top ({_shown(top.titles[-1])}) do not name its {count} columns", first, count
        )
    if top.comment and count > 3:
        raise ambiguous(path, f"its comment ({_shown(top.comment)}) does not name its {count} columns", first, count)
    return None


def _delimiter(line: bytes) -> str:
    """Return the delimiter of a row's words. A comma within words is a decimal comma."""
    if b";" in line:
        return ";"
    words = line.split()
    decimal = b"." not in line and len(words) > 1 and all(_DECIMAL_COMMA.fullmatch(w) for w in words if b"," in w)
    return "," if b"," in line and not decimal else " "


def _split(line: bytes, delimiter: str) -> list[str]:
    text = line.decode("utf-8", "replace").strip("\r\n " if delimiter == "\t" else None)
    return [word.strip().strip('"') for word in (text.split() if delimiter == " " else text.split(delimiter))]


def _without_empty_end(words: list[str]) -> list[str]:
    while words and not words[-1]:
        words = words[:-1]
    return words


def _words(line: bytes, delimiter: str) -> list[str]:
    """Return the words of a row; delimiters at its end make no further words."""
    return _without_empty_end(_split(line, delimiter))


def _is_row(line: bytes) -> bool:
    """Return whether more than half of a line's words are numbers. Other words are then errors of the file."""
    delimiter = _delimiter(line)
    words = _words(line, delimiter)
    return 2 * sum(_is_number(word if delimiter == "," else word.replace(",", ".")) for word in words) > len(words)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _shown(line: bytes) -> str:
    return one_line(line.decode("utf-8", "replace").strip(), 60)


def write_text(path: Path, scan: Scan, notes: list[str], delimiter: str = " ", comments: bool = True) -> list[str]:
    """Write notes as comment lines, a line of names, and a line for each point.

    Args:
        delimiter: unless the scan was read from text, which had its own. comments: whether to write the notes; without
            them the first line has the names, as spreadsheets and pandas expect.
    """
    delimiter = scan.template or delimiter
    # A file without names gets them too, because nobody could tell what the new columns are.
    names = clean_names(scan.fields, forbidden=delimiter + ',;"#/%')
    with open(path, "wb") as file:
        if comments:
            file.write("".join(f"# {note}\n" for note in notes).encode())
        file.write((delimiter.join(names) + "\n").encode())
        write_rows(file, list(scan.fields.values()), delimiter)
    return renamed(scan.fields, names)
