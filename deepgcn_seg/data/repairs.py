"""What is wrong with raw files, what was done about it, and the report that lists it."""

import logging
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ..files import replacing
from ..settings import counted

log = logging.getLogger(__name__)

# What can be wrong with points, and what is done with those that nobody has labelled.
NO_COORDINATES, NO_LABEL = "NaN or infinite coordinates", "no label"
KEPT = "kept, but neither trained on nor scored"
# What is done with coordinates that were rounded before.
ROUNDED = "kept as they are"
# What is done with a room that has no point to train on.
ROOM_SKIPPED = "room skipped"


class Repair(NamedTuple):
    """A problem in a raw file, and what was done about it.

    Attributes:
        points: number of affected points, if they are counted instead of listed line by line.
    """

    file: str
    line: int | None
    problem: str
    action: str
    points: int | None = None

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}, line {self.line}"
        count = "" if self.points is None else f"{self.points:,} points with "
        return f"{where}: {count}{self.problem}; {self.action}"


def write_repairs(path: Path, repairs: list[Repair]) -> None:
    """Write what was repaired in a store, or remove the file if it was nothing."""
    if not repairs:
        return path.unlink(missing_ok=True)
    with replacing(path) as temporary:
        # Names of files need not be UTF-8.
        lines = dict.fromkeys(f"{repair}\n" for repair in repairs)
        temporary.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
    return None


def log_repairs(path: Path, repairs: list[Repair]) -> None:
    """Count in the log what was repaired in a store; path: its list."""
    if damaged := sum(repair.action not in (KEPT, ROUNDED) for repair in repairs):
        log.warning("%d places of the raw files were repaired or skipped: see %s", damaged, path)
    if coarse := [repair.file for repair in repairs if repair.action == ROUNDED]:
        log.warning("Coordinates of %s were rounded, such as %s: see %s", counted(len(coarse), "room"), coarse[0], path)
    if left_out := [repair.file for repair in repairs if repair.action == ROOM_SKIPPED]:
        log.warning("%d rooms are not in the store, such as %s: see %s", len(left_out), left_out[0], path)
    counts: Counter[tuple[str, str]] = Counter()
    for repair in repairs:
        counts[repair.problem, repair.action] += repair.points or 0
    for (problem, action), count in (+counts).items():
        log.warning("%s points with %s were %s", f"{count:,}", problem, action)
