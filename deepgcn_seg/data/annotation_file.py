"""Read the rows ``x y z r g b`` of an annotation file of raw S3DIS, some of which may be damaged.

A compiled loop parses the rows as fast as disks read (:mod:`.row_kernel`). Lines that it cannot parse are parsed one by
one: known kinds of damage are repaired or skipped, and each is reported. More than :data:`MAX_BAD_LINES` bad lines in a
file are an error, and so are numbers of which no line is a row: points must not be lost as if they were a note.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import UserError
from ..files import why_no_file
from .repairs import NO_COORDINATES, Repair
from .row_kernel import parse_text
from .scans.formats.bounds import MAX_HEADER, PIECE_BYTES, pieces_of_lines
from .scans.formats.text_header import with_newlines

# A file with more bad lines is probably not a damaged annotation, but something else.
MAX_BAD_LINES = 10
# Most bytes of a line that may be a row.
_MAX_ROW = 1000

_NUMBER = re.compile(rb"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")
# Other bytes than ASCII before a number may be its minus, as a dash or as U+2212.
_MAYBE_MINUS = re.compile(rb"(?:^|\s)[\x80-\xff]+[0-9.]")
_NOT_FINITE = re.compile(rb"[-+]?(?:nan|inf|infinity)", re.I)


def read_points(file: str | Path, repairs: list[Repair], piece_bytes: int = PIECE_BYTES) -> np.ndarray:
    """Return the rows of an annotation file, (N, 6) float64: metres, and colours in 0..255 or fractions of 1.

    Args:
        repairs: a list to which lines that were repaired or skipped are appended.
        piece_bytes: number of bytes to read at a time.

    Raises:
        UserError: the file cannot be read, or more than :data:`MAX_BAD_LINES` lines are not such rows, or many
            numbers are on no such row.
    """
    file = Path(file)
    bad: list[Repair] = []
    lost: list[int] = []
    parts, lines = [np.empty((0, 6))], 0
    try:
        # A pipe or device may never end.
        if not file.is_file():
            raise UserError(f"{file}: {why_no_file(file)}")
        with open(file, "rb") as opened:
            content = with_newlines(opened)
            commas = _has_decimal_commas(content)
            for text in pieces_of_lines(file, content, piece_bytes):
                piece = text.replace(b",", b".") if commas else text
                parts.append(_points_of(file, piece, lines, bad, lost))
                lines += piece.count(b"\n")
            if bad and not any(map(len, parts)):
                content.seek(0)
                if _holds_numbers(content.read(MAX_HEADER)):
                    raise UserError(f"{bad[0]}; and no other line of the file is a row 'x y z r g b'")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error})") from None
    repairs.extend(bad)
    if lost:
        repairs.append(Repair(str(file), None, NO_COORDINATES, "left out", len(lost)))
    return np.concatenate(parts) if len(parts) > 2 else parts[-1]


def _has_decimal_commas(content: BinaryIO) -> bool:
    """Return whether a file begins with rows whose numbers have decimal commas. Its position is at the begin again."""
    head = content.read(MAX_HEADER)
    content.seek(0)
    return b"." not in head and any(map(_with_decimal_points, head.splitlines()[: MAX_BAD_LINES + 1]))


def _holds_numbers(text: bytes) -> bool:
    """Return whether a text has as many numbers as a row, which a note about a room seldom has."""
    words = re.split(rb"[\s,;|]+", text)
    return sum(bool(_NUMBER.fullmatch(word)) for word in words) >= 6


def _points_of(file: Path, piece: bytes, before: int, bad: list[Repair], lost: list[int]) -> np.ndarray:
    """Return the rows of some whole lines. ``before`` lines come earlier in the file.

    Appends damaged lines to ``bad``, and the numbers of lines without coordinates to ``lost``.
    """
    rows, odd = parse_text(piece)
    keep = np.ones(len(rows), bool)
    for row, start, stop, line in odd.tolist():
        values, problem, action = _parse_line(piece[start:stop])
        if problem == NO_COORDINATES:
            lost.append(before + line)
        elif problem:
            bad.append(Repair(str(file), before + line, problem, action))
        if stop - start > _MAX_ROW and _holds_numbers(piece[start:stop][:MAX_HEADER]):
            raise UserError(f"{bad[-1]}; it has the numbers of many rows, and {stop - start:,} bytes")
        if len(bad) > MAX_BAD_LINES:
            raise UserError(f"{bad[0]}; and more than {MAX_BAD_LINES} such lines: not a file of 'x y z r g b' rows")
        if values is None:
            keep[row] = False
        else:
            rows[row] = values
    return rows if keep.all() else rows[keep]


def _six_numbers(words: list[bytes]) -> list[float] | None:
    """Return words as numbers, or None if they are not six numbers."""
    return [float(word) for word in words] if len(words) == 6 and all(map(_NUMBER.fullmatch, words)) else None


def _plausible(row: list[float]) -> bool:
    """Return whether a row has finite coordinates and colours in 0..255."""
    return bool(np.isfinite(row).all()) and all(0 <= color <= 255 for color in row[3:])


def _parse_line(line: bytes) -> tuple[list[float] | None, str, str]:
    """Return the row or None, what is wrong with the line ('' if nothing), and what is done about it."""
    if len(line) > _MAX_ROW:
        return None, f"not six numbers: {line[:40]!r}...", "line skipped"
    words = line.split()
    if not words:
        return None, "", ""
    if (row := _six_numbers(words)) is not None:
        return (row, "", "") if _plausible(row) else (None, "value out of range", "line skipped")
    if len(words) == 6 and all(_NUMBER.fullmatch(word) or _NOT_FINITE.fullmatch(word) for word in words):
        coordinates = any(map(_NOT_FINITE.fullmatch, words[:3]))
        return None, NO_COORDINATES if coordinates else "colours that are not numbers", "line skipped"
    for words, problem in _repaired(line):
        if (row := _six_numbers(words)) is not None and _plausible(row):
            return row, problem, f"read as '{b' '.join(words).decode()}'"
    return None, f"not six numbers: {line[:40]!r}", "line skipped"


def _repaired(line: bytes) -> Iterator[tuple[list[bytes], str]]:
    """Yield the words that a damaged line may have had, and what is wrong with it.

    A byte that may be part of a number is not removed: the number would become another one.
    """
    if with_points := _with_decimal_points(line):
        yield with_points.split(), "decimal commas"
    line = re.sub(rb"\xef\xbb\xbf|\xc2?\xa0", b" ", line)
    if _MAYBE_MINUS.search(line):
        return
    # A stray byte may replace the space between two numbers (S3DIS: 185<byte>187).
    spaced = re.sub(rb"[^0-9eE.+\-,]", b" ", line)
    yield spaced.split(), "stray characters"
    yield [word.strip() for word in spaced.split(b",")], "commas between the numbers"
    # Or it stands inside a number, of which no control character is a part.
    yield re.sub(rb"[\x00-\x1f\x7f]", b"", line).split(), "stray characters"


def _with_decimal_points(line: bytes) -> bytes | None:
    """Return a row whose numbers have decimal commas as one with decimal points, or None if it is no such row."""
    if b"," not in line or b"." in line or any(word.count(b",") > 1 for word in line.split()):
        return None
    changed = line.replace(b",", b".")
    return changed if _six_numbers(changed.split()) is not None else None
