"""A scan cut into tiles, each of which is labelled as a room."""

import logging
from pathlib import Path

import numpy as np

from ..data.room import RoomEntry
from ..data.stored_room import MemoryRoom

log = logging.getLogger(__name__)

# Tiles to keep in memory: a batch may have samples of several.
KEPT = 3
# With fewer points in a tile, its height says nothing about strays.
MIN_POINTS_FOR_HEIGHT = 100


class Tiles:
    """A scan cut along the floor plan into tiles of one size, each of which is opened like a room of a store.

    Only tiles that have points exist, so that one stray point far away costs one tile.

    Args:
        xyz: (N, 3) float64 metres from their minimum. rgb: (N, 3) uint8. max_side: of a tile, metres.
    """

    def __init__(self, xyz: np.ndarray, rgb: np.ndarray, max_side: float):
        self._xyz, self._rgb = xyz, rgb
        size = np.maximum(np.ptp(xyz[:, :2], axis=0), 1e-6)
        count = np.ceil(size / max_side)
        # The numbers of tiles stay floats: there may be more tiles than an integer holds.
        column, row = np.minimum(np.floor(xyz[:, :2] / (size / count)), count - 1).T
        self._order = np.lexsort((row, column))
        column, row = column[self._order], row[self._order]
        first = np.flatnonzero(np.r_[True, (np.diff(column) != 0) | (np.diff(row) != 0)])
        self._ranges = {
            RoomEntry("scan", str(i), Path(str(i))): limits
            for i, limits in enumerate(zip(first.tolist(), [*first[1:].tolist(), len(xyz)]))
        }
        self._opened: dict[RoomEntry, MemoryRoom] = {}

    @property
    def entries(self) -> list[RoomEntry]:
        """The tiles as entries, which :meth:`open` takes."""
        return list(self._ranges)

    def warn_of_strays(self) -> None:
        """Log a warning if a tile's height is that of a few stray points.

        The network sees heights as shares of the tile's height, so that strays spoil the features of all other points.
        """
        found = []
        for first, last in self._ranges.values():
            count = last - first
            # A stray point is among the highest or lowest 0.05 % of the tile.
            tail = max(count // 2000, 1)
            if count < MIN_POINTS_FOR_HEIGHT:
                continue
            z = np.partition(self._xyz[self._order[first:last], 2], (0, tail, count - 1 - tail, count - 1))
            height, without = z[-1] - z[0], z[count - 1 - tail] - z[tail]
            if without < height / 10:
                found.append((height, without, 2 * tail))
        if found:
            height, without, strays = max(found)
            log.warning(
                "%s of %s tiles have stray points far above or below: one is %.3g m high, but all but %d of its points "
                "lie within %.3g m. The network sees each height as a share of the tile's whole height, so labels in "
                "this tile are wrong: remove the stray points first",
                f"{len(found):,}",
                f"{len(self._ranges):,}",
                height,
                strays,
                without,
            )

    def open(self, entry: RoomEntry) -> MemoryRoom:
        """Return a tile as a room. The :data:`KEPT` rooms that were opened last stay in memory."""
        if entry not in self._opened:
            if len(self._opened) == KEPT:
                self._opened.pop(next(iter(self._opened)))
            points = self._order[slice(*self._ranges[entry])]
            self._opened[entry] = MemoryRoom(self._xyz[points], self._rgb[points])
        return self._opened[entry]

    def points_of(self, entry: RoomEntry) -> np.ndarray:
        """Return the index in the scan of each point of a tile, in the order of the votes."""
        return self._order[slice(*self._ranges[entry])][self.open(entry).order]
