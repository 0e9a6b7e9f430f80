"""Limits for what a point-cloud file may claim, and clean names for its fields.

A header is not trusted: before memory is taken, every count and size in it is compared with what the file can hold. A
compressed file may hold more than its own size; for these the limit is ``max_points``. The names of fields reach logs,
pages and other files, so they are cleaned here, once.
"""

import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ....errors import UserError

# Most points of a scan, unless the caller says more: some 15 GB with coordinates, colours and a few fields.
MAX_POINTS = 200_000_000
# Most fields of a point. Wide descriptors have a few hundred.
MAX_FIELDS = 1024
# Most bytes that compressed formats may inflate to, for each of ``max_points``.
POINT_BYTES = 64
# Most bytes of a header in text, of a line of text, and of an archive's list of members. Longer ones are refused.
MAX_HEADER, MAX_LINE, MAX_DIRECTORY = 1 << 16, 1 << 20, 1 << 20
# Text is read in pieces of about this size. Each ends with a whole line.
PIECE_BYTES = 1 << 20

# Latin letters for those that Unicode does not decompose into a letter and an accent, and for Cyrillic ones.
_LATIN = {
    "ß": "ss", "æ": "ae", "ø": "o", "œ": "oe", "đ": "d", "ð": "d", "ł": "l", "þ": "th", "ı": "i", "а": "a", "б": "b",  # noqa: RUF001
    "в": "v", "г": "g", "д": "d", "е": "e", "ж": "zh", "з": "z", "и": "i", "й": "y", "к": "k", "л": "l", "м": "m",  # noqa: RUF001
    "н": "n", "о": "o", "п": "p", "р": "r", "с": "s", "т": "t", "у": "u", "ф": "f", "х": "kh", "ц": "ts", "ч": "ch",  # noqa: RUF001
    "ш": "sh", "щ": "shch", "ы": "y", "э": "e", "ю": "yu", "я": "ya", "і": "i", "ї": "yi", "є": "ye", "ґ": "g",  # noqa: RUF001
    "ъ": "", "ь": "",
}  # fmt: skip

# Characters of a field's name, and of other texts from a header that are written again.
_MAX_NAME, _MAX_TEXT = 64, 1000


@dataclass(frozen=True)
class Bounds:
    """A file and the limits for what it claims.

    Attributes:
        max_points: the most points that the caller wants to read. piece_bytes: of text to read at a time.
    """

    path: Path
    max_points: int = MAX_POINTS
    piece_bytes: int = PIECE_BYTES

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self.path.stat().st_size

    def check_points(self, count: int) -> int:
        """Return a count of points if it is within the limits.

        Raises:
            UserError: negative, or more than ``max_points``.
        """
        if count < 0:
            raise UserError(f"{self.path}: its header claims {count} points")
        if count > self.max_points:
            raise UserError(
                f"{self.path}: {count:,} points, more than max_points={self.max_points:,}; give a larger max_points "
                "if so many are meant"
            )
        return count

    def check_size(self, what: str, needed: int) -> None:
        """Check that the file has as many bytes as its content needs.

        Args:
            what: the content that the header claims, for the message.

        Raises:
            UserError: the file is shorter.
        """
        if needed > self.size:
            raise UserError(f"{self.path}: its header claims {what}, more than the file holds")

    def check_inflated(self, needed: int) -> None:
        """Check the number of bytes that a compressed file inflates to; the file's own size does not limit it.

        Raises:
            UserError: more than ``POINT_BYTES`` for each of ``max_points``.
        """
        if needed > POINT_BYTES * self.max_points:
            raise UserError(
                f"{self.path}: inflates to {needed:,} bytes, more than {POINT_BYTES} for each of max_points="
                f"{self.max_points:,}; give a larger max_points if so many are meant"
            )

    def check_fields(self, count: int) -> None:
        """Check the number of fields.

        Raises:
            UserError: none, or more than ``MAX_FIELDS``.
        """
        if not 0 < count <= MAX_FIELDS:
            raise UserError(f"{self.path}: {count:,} fields for each point; between 1 and {MAX_FIELDS:,} are read")


def clean_word(text: str, most: int = _MAX_TEXT) -> str:
    """Return a word to write into a file: characters that cannot be printed become ``_``, which separates no words."""
    return "".join(character if character.isprintable() else "_" for character in text[:most])


def clean_names(
    names: Iterable[str], forbidden: str = "", most: int = _MAX_NAME, ascii_only: bool = False
) -> list[str]:
    """Return names that can be shown and written: printable, short, not empty and unique.

    Args:
        forbidden: characters that mean something else in the format to be written. most: characters of a name, or
            bytes if it is ASCII only. ascii_only: write other characters than ASCII with Latin letters (``Höhe`` as
            ``Hohe``), or by their number in Unicode.
    """
    found: dict[str, None] = {}
    for name in names:
        clean = clean_word(name, most)
        if ascii_only:
            clean = "".join(map(_latin, unicodedata.normalize("NFC", clean)))[:most]
        clean = "".join("_" if character in forbidden else character for character in clean)
        if not any(c.isalnum() or not c.isascii() for c in clean):
            clean = "unnamed"
        number = 2
        unique = clean
        while unique in found:
            ending = f"_{number}"
            unique, number = clean[: most - len(ending)] + ending, number + 1
        found[unique] = None
    return list(found)


def _latin(character: str) -> str:
    """Return ASCII characters for one character: Latin letters without accents, or else ``u`` and its number."""
    if character.isascii():
        return character
    if (latin := _LATIN.get(character.lower())) is not None:
        return latin if character.islower() else latin.capitalize()
    plain = "".join(c for c in unicodedata.normalize("NFKD", character) if c.isascii() and c.isprintable())
    return plain or f"u{ord(character):04x}"


def decoded(text: bytes) -> str:
    """Return text of a header, which is UTF-8 in new files and Latin-1 in old ones."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")


def renamed(names: Iterable[str], written: Iterable[str]) -> list[str]:
    """Return a line for each field that a format writes under another name."""
    return [f"field {name} is written as {other}" for name, other in zip(names, written) if name != other]


def pieces_of_lines(path: Path, file: BinaryIO, piece_bytes: int = PIECE_BYTES) -> Iterator[bytes]:
    """Yield text in pieces of whole lines, from the file's position to its end.

    Raises:
        UserError: a line longer than ``MAX_LINE``.
    """
    while piece := file.read(piece_bytes):
        if not piece.endswith(b"\n"):
            ending = file.readline(MAX_LINE + 1)
            if len(ending) > MAX_LINE:
                raise UserError(f"{path}: a line longer than {MAX_LINE:,} bytes")
            piece += ending
        yield piece


def line_number(file: BinaryIO) -> int:
    """Return the number, from 1, of the line at the file's position."""
    position, number = file.tell(), 1
    file.seek(0)
    while file.tell() < position:
        number += file.read(min(PIECE_BYTES, position - file.tell())).count(b"\n")
    return number


def first_lines(path: Path, file: BinaryIO, count: int) -> Iterator[bytes]:
    """Yield the next ``count`` lines in pieces of whole lines; afterwards the file's position is behind them.

    Blank lines among them are yielded too, but do not count.

    Raises:
        UserError: a line longer than ``MAX_LINE``, or fewer lines.
    """
    for piece in pieces_of_lines(path, file) if count else ():
        text = np.frombuffer(piece, np.uint8)
        starts = np.r_[0, np.flatnonzero(text[:-1] == ord("\n")) + 1]
        rows = np.flatnonzero(np.logical_or.reduceat(text > ord(" "), starts))
        if len(rows) >= count:
            end = int(np.r_[starts, len(piece)][rows[count - 1] + 1])
            file.seek(end - len(piece), os.SEEK_CUR)
            yield piece[:end]
            return
        count -= len(rows)
        yield piece
    if count:
        raise UserError(f"{path}: its header claims {count:,} lines more than the file holds")
