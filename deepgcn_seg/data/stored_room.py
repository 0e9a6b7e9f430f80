"""Rooms whose points are sorted by cell, in a file of a store or in memory."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from ..errors import UserError
from ..files import open_file
from .cells import FloorCells, RowRange
from .classes import no_label
from .room import Named, RoomEntry
from .room_file import HEADER_BYTES, MAKE_AGAIN, ROWS, verify


class SortedRoom(ABC):
    """A room whose points are sorted by cell, from which blocks of points are cut.

    Attributes:
        cells: which rows lie in which cell. count: number of points.
        size: (3,) extent in metres; the minimum of each coordinate is 0.
    """

    cells: FloorCells
    count: int
    size: np.ndarray

    @abstractmethod
    def read(self, ranges: Sequence[RowRange]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the points of some ranges of rows: xyz (n, 3) float32, rgb (n, 3) uint8, label (n,)."""

    @abstractmethod
    def all(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return every point, in the order of the cells, as :meth:`read` does."""


class RoomSource(Protocol):
    """An object that opens rooms by their entry: a room store, or a scan that was cut into tiles."""

    def open(self, room: RoomEntry, /) -> SortedRoom:
        """Open a room for reading."""


class StoredRoom(SortedRoom, Named):
    """A room of a store.

    Its file is open only during reading, because a store may have more rooms than a process may open files.

    Args:
        path: the room's file. sha256: the checksum that it must have. classes: number of classes of its labels.

    Attributes:
        area, name: names. colored: whether it has colours.
        origin: (3,) what was subtracted from the source's coordinates.

    Raises:
        UserError: the file is missing, damaged, of another format or that of another room.
    """

    def __init__(self, path: str | Path, sha256: str | None = None, classes: int | None = None):
        self.path, self._classes = Path(path), classes
        with open_file(self.path) as (file, self._identity):
            self._sha256, self._header = verify(self.path, self._identity)
            header = self._header
            if sha256 not in (None, self._sha256):
                raise UserError(f"{path}: not the file that store.json lists; {MAKE_AGAIN}")
            place = self.path.absolute()
            if (header.area, f"{header.room}.h5") != (place.parent.name, place.name):
                raise UserError(f"{path}: holds the room {header.area}/{header.room}; {MAKE_AGAIN}")
            for name in ROWS:
                start, kind, shape = header.layout(name)
                if start < HEADER_BYTES or start + kind.itemsize * math.prod(shape) > self._identity[2]:
                    raise UserError(f"{path}: {name} lies outside of the file; {MAKE_AGAIN}")
            starts = self._rows(file, "cells", [(0, header.layout("cells")[2][0])])
        self.area, self.name, self.count, self.colored = header.area, header.room, header.points, header.colored
        self.size, self.origin = np.array(header.size, np.float32), np.array(header.origin)
        if starts[0] != 0 or starts[-1] != self.count or (np.diff(starts) < 0).any():
            raise UserError(f"{path}: cells without order; {MAKE_AGAIN}")
        self.cells = FloorCells(starts, np.array(header.grid))

    def read(self, ranges: Sequence[RowRange]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the points of some ranges of rows: xyz (n, 3) float32, rgb (n, 3) uint8, label (n,).

        Raises:
            UserError: the file has changed, or has points outside of the room or labels that are not classes.
        """
        xyz, rgb, label = self._read(["xyz", "rgb", "label"], ranges)
        # NaN fails both comparisons.
        if not ((xyz >= 0) & (xyz <= self.size)).all():
            raise UserError(f"{self.path}: points outside of the room's extent; {MAKE_AGAIN}")
        return xyz, rgb, self._check_labels(label)

    def all(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return every point of the room, in the order of the store.

        Raises:
            UserError: as :meth:`read`, or the points do not fit the room's extent and cells.
        """
        xyz, rgb, label = self.read([(0, self.count)])
        if not (np.array_equal(xyz.max(0), self.size) and self.cells.fit(xyz)):
            raise UserError(f"{self.path}: points that do not fit the room's extent and cells; {MAKE_AGAIN}")
        return xyz, rgb, label

    def labels(self) -> np.ndarray:
        """Return the labels (N,) alone, in the order of the store."""
        return self._check_labels(self._read(["label"], [(0, self.count)])[0])

    def order(self) -> np.ndarray:
        """Return each stored point's place (N,) in the source."""
        (order,) = self._read(["order"], [(0, self.count)])
        if order.max() >= self.count or not np.bincount(order, minlength=self.count).all():
            raise UserError(f"{self.path}: order is not a permutation; {MAKE_AGAIN}")
        return order

    def _check_labels(self, label: np.ndarray) -> np.ndarray:
        """Return labels if each is a class or :func:`~.classes.no_label`."""
        if self._classes is not None and len(label) and label.max() >= self._classes:
            wrong = label[(label >= self._classes) & (label != no_label(range(self._classes)))]
            if len(wrong):
                raise UserError(f"{self.path}: label {wrong[0]}, but there are {self._classes} classes; {MAKE_AGAIN}")
        return label

    def _read(self, names: Sequence[str], ranges: Sequence[RowRange]) -> list[np.ndarray]:
        with open_file(self.path) as (file, identity):
            if identity != self._identity:
                if verify(self.path, identity) != (self._sha256, self._header):
                    raise UserError(f"{self.path}: has become another file while it was in use")
                self._identity = identity
            return [self._rows(file, name, ranges) for name in names]

    def _rows(self, file: BinaryIO, name: str, ranges: Sequence[RowRange]) -> np.ndarray:
        """Return rows of an array as one array."""
        begin, kind, (_, *rest) = self._header.layout(name)
        rows = np.empty((sum(stop - start for start, stop in ranges), *rest), kind)
        step, done = kind.itemsize * math.prod(rest), 0
        for start, stop in ranges:
            part = rows[done : done + stop - start]
            file.seek(begin + start * step)
            if file.readinto(part.data) != part.nbytes:  # type: ignore[attr-defined]
                raise UserError(f"{self.path}: ends early; {MAKE_AGAIN}")
            done += stop - start
        return rows


class MemoryRoom(SortedRoom):
    """A room in memory, whose points are sorted and read as those of a stored room.

    Args:
        xyz: (N, 3) metres. rgb: (N, 3) uint8.

    Attributes:
        order: (N,) each point's place among the given points.
    """

    def __init__(self, xyz: np.ndarray, rgb: np.ndarray):
        moved = (xyz - xyz.min(0)).astype(np.float32)
        self.order, self.cells = FloorCells.sort(moved, "the scan")
        self.size, self.count = moved.max(0).astype(np.float64), len(moved)
        self._arrays = moved[self.order], rgb[self.order], np.zeros(len(moved), np.uint8)

    def read(self, ranges: Sequence[RowRange]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the points of some ranges of rows, as :meth:`StoredRoom.read` does; labels are 0."""
        xyz, rgb, label = (np.concatenate([data[:0], *(data[i:j] for i, j in ranges)]) for data in self._arrays)
        return xyz, rgb, label

    def all(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return every point, in the order of the cells; labels are 0."""
        return self._arrays
