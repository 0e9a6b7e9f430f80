"""Classes for a room: its labelled points, and its entry in a store."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np


class Named:
    """Base of what has the names of a room and its area, for example ``office_1`` and ``Area_5``."""

    area: str
    name: str

    @property
    def key(self) -> str:
        """The room in words: ``Area_5/office_1``."""
        return f"{self.area}/{self.name}"


@dataclass
class Room(Named):
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


def natural(name: str) -> list:
    """Return a sorting key for names of areas and rooms, which puts ``office_2`` before ``office_10``."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


# The name of a scan of ScanNet: number of the place, number of the scan.
SCENE = re.compile(r"(scene[0-9]{4})_[0-9]{2}")


def place_of(name: str) -> str:
    """Return the place that a room is a scan of: ``scene0000`` for ``scene0000_01``, else the room's own name."""
    found = SCENE.fullmatch(name)
    return found[1] if found else name


@dataclass(frozen=True)
class RoomEntry(Named):
    """A room of a store: its names and its file."""

    area: str
    name: str
    path: Path

    @property
    def place(self) -> str:
        """The area and the place in it, which several rooms of ScanNet may be scans of (:func:`place_of`)."""
        return f"{self.area}/{place_of(self.name)}"
