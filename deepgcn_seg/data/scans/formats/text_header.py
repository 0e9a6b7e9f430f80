"""What stands above and in the first row of a text file: comments, titles, names of columns, the delimiter."""

import csv
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ....errors import UserError
from ....escaping import one_line
from .bounds import MAX_HEADER, MAX_LINE
from .rows import is_number, plain

# Most digits of a count of points.
_COUNT_DIGITS = 15
_COMMENTS = (b"#", b"//", b"%")
_DELIMITERS = (",", ";", "\t", " ", "|")
_DECIMAL_COMMA = re.compile(rb"[+-]?[0-9]+,[0-9]+([eE][+-]?[0-9]+)?")
# A comment after the words of a row. A # followed by three to eight hexadecimal digits is a colour and no comment.
_COMMENT_AT_END = re.compile(rb"\s(#(?![0-9a-fA-F]{3,8}\s*$)|//).*")
# A row of decimal commas between commas: 1,5,-2,25,... Split at each comma it is pairs of whole numbers, of which only
# the first of each pair may have a sign.
_WHOLE_PAIRS = re.compile(rb"[+-]?[0-9]+,[0-9]+(,[+-]?[0-9]+,[0-9]+){2,}")
# Most lines above the rows that are neither comments nor numbers.
_MOST_TITLES = 20
_KNOWN = (
    "numbers are read with blanks, tabs, commas, semicolons or | between them, without brackets and without "
    "separators of thousands"
)


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


def with_newlines(file: BinaryIO) -> BinaryIO:
    """Return the file, or a view of it whose lines end with LF."""
    head = file.read(MAX_HEADER)
    file.seek(0)
    return io.BufferedReader(_CarriageReturns(file)) if b"\r" in head and b"\n" not in head else file


@dataclass
class Top:
    """The lines above the rows of a text file.

    Attributes:
        first, number: the first row, without a comment at its end, and the number of its line. size: bytes of this
            line in the file. delimiter: between its words.
        counts: of points, each on a line of its own; all but the last are 0, of scans without points.
        titles: lines that are neither comments nor numbers. comment: the last comment that names x, y and z, or None.
        mark: what this comment begins with.
        recoded: number of the first line that is not UTF-8, or None.
    """

    first: bytes = b""
    number: int = 0
    size: int = 0
    delimiter: str = " "
    counts: list[int] = field(default_factory=list)
    titles: list[bytes] = field(default_factory=list)
    comment: bytes | None = None
    mark: bytes = b""
    recoded: int | None = None

    @property
    def claimed(self) -> int | None:
        """The count of points above the first row, or None."""
        return self.counts[-1] if self.counts else None

    @property
    def may_be_decimals(self) -> bool:
        """Whether the first row is 6, 8, ... whole numbers, or 3, 4, ... numbers with decimal commas."""
        return self.delimiter == "," and _WHOLE_PAIRS.fullmatch(self.first.strip()) is not None

    @property
    def names_rows(self) -> bool:
        """Whether the first word of the first row, and no other, stands in quotes, as R writes the names of rows."""
        return self.first.lstrip().startswith(b'"') and self.first.count(b'"') == 2

    @property
    def empty_cell(self) -> tuple[int, str] | None:
        """Return the first empty cell of the first row, as its column from 0 and the name, or None.

        Tabs are read like other blanks, so a cell between tabs is known as empty only by a line of as many names.
        """
        cells = split(self.first, "\t")
        for line in self.titles:
            names = split(line, "\t")
            if self.delimiter == " " and "" in cells and len(names) == len(cells) and all(names):
                return cells.index(""), names[cells.index("")]
        return None


@dataclass(frozen=True)
class Columns:
    """The columns of a text file.

    Attributes:
        names: of the columns in the file, or None. count: how many there are.
        more: whether the rows have lists of different lengths behind these columns.
    """

    names: list[str] | None
    count: int
    more: bool = False


def read_top(path: Path, file: BinaryIO) -> Top:
    """Read a file up to its first row; afterwards the file's position is behind this row.

    Raises:
        UserError: no row, or the header of PTX.
    """
    lines, top = _Lines(path, file), Top()
    while line := lines.next():
        top.recoded = lines.recoded
        words = line.strip()
        if not words:
            continue
        if words.startswith(_COMMENTS):
            comment = words.lstrip(b"#/% \t")
            if any({"x", "y", "z"} <= set(split(comment.lower(), mark)) for mark in _DELIMITERS):
                top.comment, top.mark = comment, words.removesuffix(comment)
        elif not top.claimed and words.isdigit() and len(words) <= _COUNT_DIGITS:
            top.counts.append(int(words))
        elif _is_row(row := _COMMENT_AT_END.sub(b"", line)):
            top.first, top.number, top.size, top.delimiter = row, lines.number, lines.size, _delimiter(row)
            if words.isdigit():
                _refuse_ptx(lines)
            return top
        elif len(top.titles) == _MOST_TITLES:
            raise UserError(
                f"{path}: no numbers in its first {lines.number:,} lines; the first is: {shown(top.titles[0])}"
            )
        else:
            top.titles.append(line)
    if top.titles:
        raise UserError(f"{path}: no points; its first line is: {shown(top.titles[0])}; {_KNOWN}")
    raise UserError(f"{path}: no points")


def _refuse_ptx(lines: "_Lines") -> None:
    """Refuse PTX, which begins with two counts and a scanner's position of three numbers; else leave the file as is."""
    if len(_words(lines.next(), " ")) == 3:
        raise UserError(
            f"{lines.path}: looks like PTX (two counts, then the position of the scanner); give it the ending .ptx"
        )
    lines.file.seek(-lines.size, os.SEEK_CUR)


class _Lines:
    """The lines of a text file, one by one.

    Attributes:
        number: of the last line that was read, from 1. size: its bytes. recoded: number of the first line that is not
            UTF-8, or None.
    """

    def __init__(self, path: Path, file: BinaryIO):
        self.path, self.file, self.number, self.size = path, file, 0, 0
        self.recoded: int | None = None

    def next(self) -> bytes:
        line = self.file.readline(MAX_LINE + 1)
        self.number += 1
        if len(line) > MAX_LINE:
            raise UserError(f"{self.path}: a line longer than {MAX_LINE:,} bytes")
        if b"\x00" in line:
            raise UserError(f"{self.path}: not text in UTF-8 (it holds NUL bytes)")
        line = line.removeprefix(b"\xef\xbb\xbf") if self.number == 1 else line
        self.size = len(line)
        if self.recoded is None and not _is_utf8(line):
            self.recoded = self.number
        return plain(line)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def find_columns(top: Top, given: Sequence[str] | None) -> Columns:
    """Return the columns of a text file: their number and, if the file has them, their names.

    Empty words at the end of the first row are columns only if there are names for them.

    Args:
        given: names from the caller, which count instead of those of the file.
    """
    every = split(top.first, top.delimiter)
    least, most = len(_without_empty_end(every)), len(every)
    if given is not None and least < len(given) <= most:
        return Columns(None, len(given))
    for line in [*reversed(top.titles), *([top.comment] if top.comment else [])]:
        for mark in (top.delimiter, *_DELIMITERS):
            names = split(line, mark)
            # Names with commas behind them are separated by the commas.
            if mark == " " and any(name.endswith((",", ";")) for name in names):
                continue
            lists = next((place for place, name in enumerate(names) if name.endswith("[]") or "[] " in name), None)
            if lists is not None and top.delimiter == " " and lists <= least and _are_unique(names[:lists]):
                return Columns(names[:lists], lists, more=True)
            for some in (names, _without_empty_end(names)):
                if _are_unique(some) and (len(some) == least or (least < len(some) <= most and all(some))):
                    return Columns(some, len(some))
                if _are_unique(some) and len(some) == least - 1 and all(some) and top.names_rows:
                    return Columns(["", *some], least)
    return Columns(None, least)


def _are_unique(names: Sequence[str]) -> bool:
    filled = [name for name in names if name]
    return bool(filled) and len(set(filled)) == len(filled)


def _delimiter(line: bytes) -> str:
    """Return the delimiter of a row's words. A comma within words is a decimal comma."""
    for mark in (";", "|"):
        if mark.encode() in line:
            return mark
    words = line.split()
    decimal = b"." not in line and len(words) > 1 and all(_DECIMAL_COMMA.fullmatch(w) for w in words if b"," in w)
    return "," if b"," in line and not decimal else " "


def split(line: bytes, delimiter: str) -> list[str]:
    """Return the words of a line without quotes around them; a delimiter in quotes separates nothing."""
    text = line.decode("utf-8", "replace").strip("\r\n " if delimiter == "\t" else None)
    if delimiter == " ":
        words = re.findall(r'"[^"]*"(?!\S)|\S+', text)
    elif '"' in text and len(text) <= csv.field_size_limit():
        words = next(csv.reader([text.replace("\r", " ")], delimiter=delimiter, skipinitialspace=delimiter != "\t"), [])
    else:
        words = text.split(delimiter)
    return [word.strip().strip('"') for word in words]


def _without_empty_end(words: list[str]) -> list[str]:
    while words and not words[-1]:
        words = words[:-1]
    return words


def _words(line: bytes, delimiter: str) -> list[str]:
    """Return the words of a row; delimiters at its end make no further words."""
    return _without_empty_end(split(line, delimiter))


def _is_row(line: bytes) -> bool:
    """Return whether more than half of a line's words are numbers. Other words are then errors of the file."""
    delimiter = _delimiter(line)
    words = _words(line, delimiter)
    return 2 * sum(is_number(word if delimiter == "," else word.replace(",", ".")) for word in words) > len(words)


def shown(line: bytes, most: int = 60) -> str:
    """Return a line of a file for a message: without control characters, cut, tabs as ``\\t``."""
    return one_line(line.decode("utf-8", "replace").strip().replace("\t", "\\t"), most)
