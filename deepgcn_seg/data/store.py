"""The room store: one HDF5 file per room, sorted so that a block is a few slices.

    ROOT/store.json                 format version, class names, palette, source, colored or not
    ROOT/Area_1/office_1.h5         datasets  xyz    (N, 3) float32  metres from the room's minimum
                                              rgb    (N, 3) uint8    0 where there are no colours
                                              label  (N,)   uint8, or uint16 for over 256 classes
                                              order  (N,)   uint32   each point's place in the source
                                              cells  (nx * ny + 1,) int64  where each cell begins
                                    attributes  format, area, room, origin (3,) float64, size (3,),
                                                cell, grid (2,), colored

Points are sorted by 0.5 m cell of the floor plan, row by row, so that the points of a 1 m block are
two runs, read without touching the rest of the room. Files are written whole or not at all, and
many processes may read them at once.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np

from ..errors import UserError
from .classes import ClassList
from .files import replacing
from .room import Room

FORMAT = 1
# Side of a cell in metres: the stride of the official blocks, half their side.
CELL = 0.5
# Rows that share a checksum: about a block's.
_CHUNK = 4096


def write_manifest(root: str | Path, classes: ClassList, source: str, colored: bool = True) -> None:
    """Write ``store.json``; a store without it is unfinished."""
    manifest = {
        "format": FORMAT,
        "classes": classes.names,
        "palette": classes.palette,
        "source": source,
        "colored": colored,
    }
    with replacing(Path(root) / "store.json") as temporary:
        temporary.write_text(json.dumps(manifest, indent=1))


def write_room(root: str | Path, room: Room) -> Path:
    """Write one room, sorted by cell.

    Raises:
        UserError: the room has no points, or coordinates that are not finite.
    """
    if not len(room):
        raise UserError(f"room {room.key}: no points")
    if not np.isfinite(room.xyz).all():
        raise UserError(f"room {room.key}: NaN or infinite coordinates")
    origin = room.xyz.min(0)
    xyz = (room.xyz - origin).astype(np.float32)
    size = xyz.max(0)
    order, starts, grid = sort_by_cell(xyz)
    path = Path(root) / room.area / f"{room.name}.h5"
    # Checksums, of the structure (HDF5 1.8's layout) and of the data: damage is an error and not other points.
    with replacing(path) as temporary, h5py.File(temporary, "w", libver=("v108", "v108")) as file:
        _write(file, "xyz", xyz[order])
        rgb = np.zeros((len(room), 3), np.uint8) if room.rgb is None else room.rgb[order]
        _write(file, "rgb", rgb)
        _write(file, "label", room.label[order])
        _write(file, "order", order.astype(np.uint32))
        _write(file, "cells", starts.astype(np.int64))
        file.attrs.update(format=FORMAT, area=room.area, room=room.name, origin=origin, size=size, cell=CELL, grid=grid)
        file.attrs["colored"] = room.rgb is not None
    return path


def sort_by_cell(xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Order points (N, 3), metres from their minimum, by cell of the floor plan, row by row.

    Returns:
        The order (N,), where each cell begins (cells + 1,), and the cells along x and y (2,).
    """
    grid = np.maximum(np.ceil(xyz[:, :2].max(0) / CELL).astype(np.int64), 1)
    cell = np.minimum((xyz[:, :2] / CELL).astype(np.int64), grid - 1) @ np.array([grid[1], 1])
    order = np.argsort(cell, kind="stable")
    return order, np.searchsorted(cell[order], np.arange(grid.prod() + 1)), grid


def _write(file: h5py.File, name: str, data: np.ndarray) -> None:
    chunk = (min(_CHUNK, len(data)), *data.shape[1:])
    file.create_dataset(name, data=data, chunks=chunk, fletcher32=True)


class StoredRoom:
    """A room of a store, open for reading.

    Attributes:
        area, name: names. count: points. size: (3,) extent in metres, the minimum being 0.
        origin: (3,) what was subtracted from the source's coordinates. colored: whether it has colours.

    Raises:
        UserError: the file is missing, damaged or of another format.
    """

    def __init__(self, path: str | Path):
        try:
            # Not locked: several nodes may read a store on a shared disk that has no locks.
            self._file = h5py.File(path, "r", locking=False)
            if self._file.attrs["format"] != FORMAT:
                raise UserError(f"{path}: room format {self._file.attrs['format']}, but this version reads {FORMAT}")
            self.area, self.name = str(self._file.attrs["area"]), str(self._file.attrs["room"])
            self.size, self.origin = self._file.attrs["size"], self._file.attrs["origin"]
            self.colored = bool(self._file.attrs.get("colored", True))
            self._grid, self._cells = self._file.attrs["grid"], self._file["cells"][:]
            self._xyz, self._rgb, self._label = (self._file[name] for name in ("xyz", "rgb", "label"))
        except (OSError, KeyError) as error:
            raise UserError(f"{path}: not a readable room file ({error}); prepare this room again") from None
        self.path = Path(path)
        self.count = len(self._label)

    @property
    def key(self) -> str:
        """``Area_5/office_1``."""
        return f"{self.area}/{self.name}"

    def runs(self, corner: Sequence[float], side: float) -> tuple[list[tuple[int, int]], bool]:
        """Where the points of a block lie: (start, stop) runs, and whether they hold nothing else.

        Args:
            corner: x and y of the block's lower corner. side: its side, metres.
        """
        low = np.asarray(corner, np.float64) / CELL
        high = (np.asarray(corner, np.float64) + side) / CELL
        # A block that ends where the room ends takes in the last cell's closed edge.
        first = np.clip(np.floor(low).astype(int), 0, self._grid - 1)
        last = np.clip(np.ceil(high).astype(int), 1, self._grid)
        runs = []
        for row in range(first[0], last[0]):
            start, stop = self._cells[row * self._grid[1] + np.array([first[1], last[1]])]
            if stop > start:
                runs.append((int(start), int(stop)))
        aligned = np.allclose(low, np.round(low)) and np.allclose(high, np.round(high))
        return runs, bool(aligned)

    def read(self, runs: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points of some runs: xyz (n, 3) float32, rgb (n, 3) uint8, label (n,)."""
        try:
            xyz, rgb, label = (
                [np.asarray(data[start:stop]) for start, stop in runs] for data in (self._xyz, self._rgb, self._label)
            )
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error}); prepare this room again") from None
        if not runs:
            return np.empty((0, 3), np.float32), np.empty((0, 3), np.uint8), np.empty(0, np.uint8)
        return np.concatenate(xyz), np.concatenate(rgb), np.concatenate(label)

    def all(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every point of the room, in the order of the store."""
        return self.read([(0, self.count)])

    def labels(self) -> np.ndarray:
        """(N,) labels alone, in the order of the store."""
        return self._label[:]

    def order(self) -> np.ndarray:
        """(N,) each stored point's place in the source."""
        return self._file["order"][:]


class MemoryRoom(StoredRoom):
    """Points that were never stored, read in the same way.

    Args:
        xyz: (N, 3) metres. rgb: (N, 3) uint8.

    Attributes:
        place: (N,) each point's place in what was given.
    """

    def __init__(self, xyz: np.ndarray, rgb: np.ndarray):
        self.area, self.name, self.path = "memory", "room", Path("memory")
        self.origin = xyz.min(0)
        moved = (xyz - self.origin).astype(np.float32)
        self.place, self._cells, self._grid = sort_by_cell(moved)
        self.size, self.count = moved.max(0).astype(np.float64), len(moved)
        self._xyz, self._rgb, self._label = moved[self.place], rgb[self.place], np.zeros(len(moved), np.uint8)


@dataclass(frozen=True)
class RoomEntry:
    """Where a room of a store is."""

    area: str
    name: str
    path: Path

    @property
    def key(self) -> str:
        """``Area_5/office_1``."""
        return f"{self.area}/{self.name}"


@lru_cache(maxsize=512)
def _open(path: Path, pid: int) -> StoredRoom:
    # Keyed by process: HDF5 handles must not be shared across a fork.
    return StoredRoom(path)


class RoomStore:
    """A folder of prepared rooms.

    Attributes:
        classes: the labels' :class:`ClassList`. source: where the rooms came from, in words.
        colored: whether the points have colours.
        rooms: entries in order of area and name.

    Raises:
        UserError: not a store, or of another format.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        manifest = self.root / "store.json"
        if not manifest.is_file():
            raise UserError(f"{root}: not a room store (no store.json); make one with tools/prepare.py")
        try:
            content = json.loads(manifest.read_text())
            version = content["format"]
            self.classes = ClassList.of(content["classes"], content["palette"])
            self.source, self.colored = content["source"], content.get("colored", True)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{manifest}: damaged ({error!r}); prepare the store again") from None
        if version != FORMAT:
            raise UserError(f"{manifest}: store format {version}, but this version reads {FORMAT}; prepare it again")
        self.rooms = [RoomEntry(path.parent.name, path.stem, path) for path in sorted(self.root.glob("*/*.h5"))]
        if not self.rooms:
            raise UserError(f"{root}: the store has no rooms")

    @property
    def areas(self) -> list[str]:
        """Names of the areas."""
        return sorted({room.area for room in self.rooms})

    def blocks(self, rooms: Sequence[RoomEntry], points: int, grid, **settings):
        """Blocks of some rooms as examples: a :class:`~deepgcn_seg.data.dataset.BlockDataset`."""
        from .dataset import BlockDataset

        return BlockDataset(self, rooms, points, grid, **settings)

    def open(self, room: RoomEntry) -> StoredRoom:
        """Open a room for reading; handles are kept and reused."""
        return _open(room.path, os.getpid())
