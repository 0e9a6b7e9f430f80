"""What a point-cloud file may claim.

A header costs its author nothing, so every count and size in it is compared, before memory is taken, with what the
file can hold. Where a file may hold more than its size (compressed ones), the limit is ``max_points``. Names that a
file gives to its fields reach logs, pages and other files; they are cleaned here and nowhere else.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ....errors import UserError

# Points of a scan, unless the caller says more: some 15 GB with coordinates, colours and a few fields.
MAX_POINTS = 200_000_000
# Fields of a point. Wide descriptors have a few hundred.
MAX_FIELDS = 1024
# Bytes that compressed formats may inflate to, for each of ``max_points``.
POINT_BYTES = 64
# A header in text, a line of text, a directory of members: longer ones are something else.
MAX_HEADER, MAX_LINE, MAX_DIRECTORY = 1 << 16, 1 << 20, 1 << 20
# Text is read in pieces of this size, which end with a line.
BLOCK_BYTES = 1 << 20

_MAX_NAME = 64


@dataclass(frozen=True)
class Bounds:
    """A file and the limits for what it claims. max_points: the most points that the caller wants to read."""

    path: Path
    max_points: int = MAX_POINTS

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size

    def points(self, count: int) -> int:
        """Return a count of points that is in the limits.

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

    def held(self, what: str, needed: int) -> None:
        """Check that the file is as long as something in it needs.

        Raises:
            UserError: names ``what`` the header claims.
        """
        if needed > self.size:
            raise UserError(f"{self.path}: its header claims {what}, more than the file holds")

    def inflated(self, needed: int) -> None:
        """Check what a compressed file inflates to, which its own size does not limit.

        Raises:
            UserError: more than ``POINT_BYTES`` for each of ``max_points``.
        """
        if needed > POINT_BYTES * self.max_points:
            raise UserError(
                f"{self.path}: inflates to {needed:,} bytes, more than {POINT_BYTES} for each of max_points="
                f"{self.max_points:,}; give a larger max_points if so many are meant"
            )

    def fields(self, count: int) -> None:
        """Check the number of fields.

        Raises:
            UserError: none, or more than ``MAX_FIELDS``.
        """
        if not 0 < count <= MAX_FIELDS:
            raise UserError(f"{self.path}: {count:,} fields for each point; between 1 and {MAX_FIELDS:,} are read")


def printable(text: str, most: int = 1000) -> str:
    """Return text for one line: control and other characters that cannot be printed become ``_``."""
    return "".join(character if character.isprintable() else "_" for character in text[:most])


def clean_names(
    names: Iterable[str], forbidden: str = "", most: int = _MAX_NAME, ascii_only: bool = False
) -> list[str]:
    """Return names as they may be shown and written: printable, short, not empty and unique.

    Args:
        forbidden: characters that mean something else in the format to be written. most: bytes of a name that is
            ASCII only, else characters. ascii_only: what is not ASCII becomes ``_``.
    """
    found: dict[str, None] = {}
    for name in names:
        clean = printable(name, most)
        if ascii_only:
            clean = clean.encode("ascii", "replace").decode().replace("?", "_")
        clean = "".join("_" if character in forbidden else character for character in clean)
        if not any(map(str.isalnum, clean)):
            clean = "unnamed"
        number = 2
        unique = clean
        while unique in found:
            ending = f"_{number}"
            unique, number = clean[: most - len(ending)] + ending, number + 1
        found[unique] = None
    return list(found)


def renamed(names: Iterable[str], written: Iterable[str]) -> list[str]:
    """Return a line for each field that a format writes under another name."""
    return [f"field {name} is written as {other}" for name, other in zip(names, written) if name != other]


def blocks_of_lines(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """Read text in pieces of whole lines, from where the file stands to its end.

    Raises:
        UserError: a line longer than ``MAX_LINE``.
    """
    while block := file.read(BLOCK_BYTES):
        if not block.endswith(b"\n"):
            ending = file.readline(MAX_LINE + 1)
            if len(ending) > MAX_LINE:
                raise UserError(f"{path}: a line longer than {MAX_LINE:,} bytes")
            block += ending
        yield block


def first_lines(path: Path, file: BinaryIO, count: int) -> Iterator[bytes]:
    """Read so many lines in pieces of whole lines; the file then stands behind them.

    Raises:
        UserError: a line longer than ``MAX_LINE``, or fewer lines.
    """
    for block in blocks_of_lines(path, file) if count else ():
        found = block.count(b"\n") + (not block.endswith(b"\n"))
        if found >= count:
            ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + 1
            end = int(ends[count - 1]) if count <= len(ends) else len(block)
            file.seek(end - len(block), os.SEEK_CUR)
            yield block[:end]
            return
        count -= found
        yield block
    if count:
        raise UserError(f"{path}: its header claims {count:,} lines more than the file holds")
