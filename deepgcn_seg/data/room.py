"""Classes for a room: its labelled points, its entry in a store, and a repair of its raw files."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass
class Room:
    """Points of one room.

    Attributes:
        area, name: names, for example ``Area_5`` and ``office_1``.
        xyz: (N, 3) float64 metres. rgb: (N, 3) uint8, or None without colours.
        label: (N,) unsigned integers; :func:`~deepgcn_seg.data.classes.no_label` for points that nobody has labelled.
    """

    area: str
    name: str
    xyz: np.ndarray
    rgb: np.ndarray | None
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.xyz)

    @property
    def key(self) -> str:
        """The room in words: ``Area_5/office_1``."""
        return f"{self.area}/{self.name}"


# The name of a scan of ScanNet: number of the place, number of the scan.
SCENE = re.compile(r"(scene[0-9]{4})_[0-9]{2}")


def place_of(name: str) -> str:
    """Return the place that a room is a scan of: ``scene0000`` for ``scene0000_01``, else the room's own name."""
    found = SCENE.fullmatch(name)
    return found[1] if found else name


@dataclass(frozen=True)
class RoomEntry:
    """A room of a store: its names and its file."""

    area: str
    name: str
    path: Path

    @property
    def place(self) -> str:
        """The area and the place in it, which several rooms of ScanNet may be scans of (:func:`place_of`)."""
        return f"{self.area}/{place_of(self.name)}"

    @property
    def key(self) -> str:
        """The room in words: ``Area_5/office_1``."""
        return f"{self.area}/{self.name}"


# What can be wrong with points, and what is done with those that nobody has labelled.
NO_COORDINATES, NO_LABEL = "NaN or infinite coordinates", "no label"
KEPT = "kept, but neither trained on nor scored"
# What is done with a room that has no point to train on.
ROOM_SKIPPED = "room skipped"


@dataclass(frozen=True)
class Repair:
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
