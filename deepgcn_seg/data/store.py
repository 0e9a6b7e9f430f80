"""The room store: one file per room, sorted so that a block is a few slices.

    ROOT/store.json                 format, class names, palette, source, colored or not, and the rooms: the checksum,
                                    size and number of points of each
    ROOT/Area_1/office_1.h5         a header, and behind it an HDF5 file with
                                    xyz    (N, 3) float32  metres from the room's minimum
                                    rgb    (N, 3) uint8    0 where there are no colours
                                    label  (N,)   uint8, or uint16 for over 256 classes
                                    order  (N,)   uint32   each point's place in the source
                                    cells  (nx * ny + 1,) int64  where each cell begins

Points are sorted by 0.5 m cell of the floor plan, row by row, so that the points of a 1 m block are
two runs, read without touching the rest of the room. Files are written whole or not at all, and
many processes may read them at once.

The header (HDF5 calls it a user block and skips it) begins with the SHA-256 checksum of everything behind that
checksum, and then says what the room is and where each array lies. Other programs read the file as HDF5. Here it is
read by the header alone, once the checksum is known to be right: HDF5 follows what a file says into other files, to
plugins and into memory that is not there.
"""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, Self

import h5py
import numpy as np
from pydantic import AfterValidator, Field, StringConstraints, model_validator

from ..errors import UserError, first_line
from ..files import Identity, identify, open_file, replacing
from ..schema import Schema, read_json
from .classes import ClassList
from .room import Room

FORMAT = 2
# Side of a cell in metres: the stride of the official blocks, half their side.
CELL = 0.5
# Cells of a room, 4 km2. A stray point far away makes more of them than there are points.
MAX_CELLS = 1 << 24

HEADER_BYTES = 4096
_MAGIC = b"deepgcn_seg room %d\n" % FORMAT
# The checksum is 64 hexadecimal digits and a line break, and covers what comes behind it.
_COVERED = len(_MAGIC) + 65
# What HDF5 allows a chunk.
_MOST_CHUNK = 1 << 32
_AGAIN = "run the tools/prepare.py command that made it again"
_ROWS: dict[str, tuple[int, ...]] = {"xyz": (3,), "rgb": (3,), "label": (), "order": (), "cells": ()}


def _one_name(name: str) -> str:
    if name.startswith(".") or "/" in name or not name.isprintable():
        raise ValueError("must be printable, without / and a dot in front")
    return name


def _two_names(key: str) -> str:
    area, slash, name = key.partition("/")
    if not (area and slash and name):
        raise ValueError("must be AREA/ROOM")
    return f"{_one_name(area)}/{_one_name(name)}"


FileName = Annotated[str, StringConstraints(min_length=1, max_length=250), AfterValidator(_one_name)]
RoomKey = Annotated[str, StringConstraints(max_length=501), AfterValidator(_two_names)]
Checksum = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Points = Annotated[int, Field(ge=1, lt=2**32)]
Bytes = Annotated[int, Field(ge=0, lt=2**63)]
Length = Annotated[float, Field(ge=0, le=MAX_CELLS * CELL)]
Cells = Annotated[int, Field(ge=1, le=MAX_CELLS)]


class MadeFrom(Schema):
    """What a room was made from, as checksums: the settings that apply to it; names, sizes and times of its files."""

    settings: Checksum
    files: Checksum


class Offsets(Schema):
    """Where each array begins in a room's file, in bytes."""

    xyz: Bytes
    rgb: Bytes
    label: Bytes
    order: Bytes
    cells: Bytes


class RoomHeader(Schema):
    """What a room's file says about itself."""

    area: FileName
    room: FileName
    points: Points
    colored: bool
    origin: tuple[float, float, float]
    size: tuple[Length, Length, Length]
    grid: tuple[Cells, Cells]
    label: Literal["uint8", "uint16"]
    offsets: Offsets
    made_from: MadeFrom | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not np.array_equal(self.grid, cells_of(np.array(self.size))):
            raise ValueError(f"grid {self.grid} does not fit the size {self.size}")
        return self

    def place(self, name: str) -> tuple[int, np.dtype, tuple[int, ...]]:
        """Where an array begins, its type and its shape."""
        types = {"xyz": "<f4", "rgb": "u1", "label": f"<{np.dtype(self.label).str[1:]}", "order": "<u4", "cells": "<i8"}
        count = self.grid[0] * self.grid[1] + 1 if name == "cells" else self.points
        return getattr(self.offsets, name), np.dtype(types[name]), (count, *_ROWS[name])


class RoomRecord(Schema):
    """What the manifest says about a room."""

    sha256: Checksum
    bytes: Bytes
    points: Points


class Manifest(Schema):
    """The content of ``store.json``."""

    format: Literal[2]
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    source: Annotated[str, StringConstraints(max_length=10_000)]
    colored: bool
    rooms: Annotated[dict[RoomKey, RoomRecord], Field(min_length=1)]

    @model_validator(mode="after")
    def _has_classes(self) -> Self:
        ClassList.of(self.classes, self.palette)
        return self


def write_manifest(root: str | Path, classes: ClassList, source: str) -> None:
    """Write ``store.json``, which lists every room below ``root``; a store without it is unfinished.

    Raises:
        UserError: a file that is no room, or there are no rooms.
    """
    root = Path(root)
    rooms, colored = {}, True
    for key, path in find_rooms(root).items():
        sha256, header = read_header(path)
        rooms[key] = {"sha256": sha256, "bytes": path.stat().st_size, "points": header.points}
        colored = colored and header.colored
    content = {
        "format": FORMAT,
        "classes": classes.names,
        "palette": classes.palette,
        "source": source,
        "colored": colored,
        "rooms": rooms,
    }
    with replacing(root / "store.json") as temporary:
        temporary.write_text(json.dumps(Manifest.of(content, str(root)).plain(), indent=1))


def find_rooms(root: Path) -> dict[str, Path]:
    """Return the room files below ``root`` by key, in order of area and name."""
    paths = sorted(root.glob("[!.]*/[!.]*.h5"))
    return {f"{path.parent.name}/{path.stem}": path for path in paths}


def write_room(root: str | Path, room: Room, made_from: MadeFrom | None = None) -> Path:
    """Write one room, sorted by cell.

    Raises:
        UserError: the room has no points, coordinates that are not finite, or an extent beyond sense.
    """
    if not len(room):
        raise UserError(f"room {room.key}: no points")
    if not np.isfinite(room.xyz).all():
        raise UserError(f"room {room.key}: NaN or infinite coordinates")
    origin = room.xyz.min(0)
    xyz = (room.xyz - origin).astype(np.float32)
    order, starts, grid = sort_by_cell(xyz, f"room {room.key}")
    header = {
        "area": room.area,
        "room": room.name,
        "points": len(room),
        "colored": room.rgb is not None,
        "origin": origin.tolist(),
        "size": xyz.max(0).tolist(),
        "grid": grid.tolist(),
        "label": room.label.dtype.name,
    }
    path = Path(root) / room.area / f"{room.name}.h5"
    with replacing(path) as temporary:
        # Not locked by HDF5: a temporary file is locked already.
        with h5py.File(temporary, "w", userblock_size=HEADER_BYTES, locking=False) as file:
            # For other programs, which do not read the header.
            file.attrs.update(format=FORMAT, cell=CELL, **header)
            rgb = np.zeros((len(room), 3), np.uint8) if room.rgb is None else room.rgb[order]
            arrays = [xyz[order], rgb, room.label[order], order.astype(np.uint32), starts.astype(np.int64)]
            offsets = {name: _write(file, name, data) for name, data in zip(_ROWS, arrays)}
        header |= {"offsets": offsets, "made_from": None if made_from is None else made_from.plain()}
        _write_header(temporary, RoomHeader.of(header, f"room {room.key}"))
    return path


def cells_of(size: np.ndarray) -> np.ndarray:
    """Number of cells along x and y (2,) that cover a room of the given extent (3,) in metres."""
    return np.maximum(np.ceil(size[:2] / CELL), 1).astype(np.int64)


def sort_by_cell(xyz: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Order points (N, 3), metres from their minimum, by cell of the floor plan, row by row.

    Args:
        where: what an error's message begins with.

    Returns:
        The order (N,), where each cell begins (cells + 1,), and the cells along x and y (2,).

    Raises:
        UserError: the points lie too far apart.
    """
    size = xyz.max(0)
    if np.prod(np.ceil(size[:2] / CELL), dtype=np.float64) > MAX_CELLS or size.max() > MAX_CELLS * CELL:
        raise UserError(
            f"{where}: the points extend over {size[0]:g} x {size[1]:g} x {size[2]:g} m; remove stray points, or "
            "set the scale"
        )
    grid = cells_of(size)
    order = np.argsort(cell := _cell_of(xyz, grid), kind="stable")
    return order, np.searchsorted(cell[order], np.arange(grid.prod() + 1)), grid


def _cell_of(xyz: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The cell (N,) of each point."""
    return np.minimum((xyz[:, :2] / CELL).astype(np.int64), grid - 1) @ np.array([grid[1], 1])


def _write(file: h5py.File, name: str, data: np.ndarray) -> int:
    """Write an array in one piece and return where it begins in the file."""
    chunked = data.nbytes < _MOST_CHUNK
    written = file.create_dataset(name, data=data, chunks=data.shape if chunked else None).id
    return written.get_chunk_info(0).byte_offset if chunked else written.get_offset()


def _write_header(path: Path, header: RoomHeader) -> None:
    """Put the header in front of a room's arrays, with the checksum of all."""
    text = json.dumps(header.plain()).encode()
    if _COVERED + len(text) > HEADER_BYTES:
        raise UserError(f"room {header.area}/{header.room}: the name is too long")
    with open(path, "rb+") as file:
        file.write(_MAGIC + b"0" * 64 + b"\n" + text.ljust(HEADER_BYTES - _COVERED - 1) + b"\n")
        sha256 = _checksum(file)
        file.seek(len(_MAGIC))
        file.write(sha256.encode())


def _checksum(file: BinaryIO) -> str:
    file.seek(_COVERED)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def read_header(path: Path) -> tuple[str, RoomHeader]:
    """Return the checksum that a room's file claims, and its header; the checksum is not compared.

    Raises:
        UserError: the file is not a room of this format.
    """
    with open_file(path) as (file, _):
        return _parse_header(path, file.read(HEADER_BYTES))


def _parse_header(path: Path, content: bytes) -> tuple[str, RoomHeader]:
    begins = content.startswith(_MAGIC) and content[_COVERED - 1 : _COVERED] == b"\n"
    if len(content) < HEADER_BYTES or not begins:
        raise UserError(f"{path}: not a room file of format {FORMAT}, or cut short; {_AGAIN}")
    try:
        checksum = content[len(_MAGIC) : _COVERED - 1].decode("ascii")
        about = json.loads(content[_COVERED:])
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged header ({first_line(error)}); {_AGAIN}") from None
    return checksum, RoomHeader.of(about, f"{path}: damaged header")


@lru_cache(maxsize=4096)
def _verified(path: Path, identity: Identity) -> tuple[str, RoomHeader]:
    """Compare a room's file with its checksum; once in a process as long as the file stays as it is.

    Processes that are forked afterwards, as those that load data, need not do so again.
    """
    with open_file(path) as (file, found):
        if found != identity:
            raise UserError(f"{path}: is being written; wait, then try again")
        sha256, header = _parse_header(path, file.read(HEADER_BYTES))
        if _checksum(file) != sha256:
            raise UserError(f"{path}: damaged, its content does not fit its checksum; {_AGAIN}")
    return sha256, header


class StoredRoom:
    """A room of a store. Its file is open only while it is read: stores have more rooms than processes may open files.

    Args:
        path: the room's file. sha256: the checksum that it must have. classes: how many classes its labels have.

    Attributes:
        area, name: names. count: points. size: (3,) extent in metres, the minimum being 0.
        origin: (3,) what was subtracted from the source's coordinates. colored: whether it has colours.

    Raises:
        UserError: the file is missing, damaged, of another format or another room's.
    """

    def __init__(self, path: str | Path, sha256: str | None = None, classes: int | None = None):
        self.path, self._classes = Path(path), classes
        with open_file(self.path) as (file, self._identity):
            self._sha256, self._header = _verified(self.path, self._identity)
            header = self._header
            if sha256 not in (None, self._sha256):
                raise UserError(f"{path}: not the file that store.json lists; {_AGAIN}")
            place = self.path.absolute()
            if (header.area, f"{header.room}.h5") != (place.parent.name, place.name):
                raise UserError(f"{path}: holds the room {header.area}/{header.room}; {_AGAIN}")
            for name in _ROWS:
                start, kind, shape = header.place(name)
                if start < HEADER_BYTES or start + kind.itemsize * math.prod(shape) > self._identity[2]:
                    raise UserError(f"{path}: {name} lies outside of the file; {_AGAIN}")
            self._cells = self._rows(file, "cells", [(0, header.place("cells")[2][0])])
        self.area, self.name, self.count, self.colored = header.area, header.room, header.points, header.colored
        self.size, self.origin = np.array(header.size, np.float32), np.array(header.origin)
        self._grid = np.array(header.grid)
        if self._cells[0] != 0 or self._cells[-1] != self.count or (np.diff(self._cells) < 0).any():
            raise UserError(f"{path}: cells without order; {_AGAIN}")

    @property
    def key(self) -> str:
        """``Area_5/office_1``."""
        return f"{self.area}/{self.name}"

    def occupied(self) -> np.ndarray:
        """Cells that have points, (n, 2) along x and y, row by row."""
        return np.stack(np.divmod(np.flatnonzero(np.diff(self._cells)), self._grid[1]), 1)

    def runs(self, low: Sequence[float], high: Sequence[float]) -> tuple[list[tuple[int, int]], bool]:
        """Where the points of a block lie: (start, stop) runs, and whether they hold nothing else.

        Args:
            low: x and y of the block's lower corner. high: of its upper corner; infinite where the room ends.
        """
        first, last = np.asarray(low, np.float64) / CELL, np.asarray(high, np.float64) / CELL
        aligned = (first == np.floor(first)).all() and ((last == np.floor(last)) | np.isinf(last)).all()
        begin = np.floor(first).clip(0, self._grid).astype(int)
        end = np.ceil(last).clip(0, self._grid).astype(int)
        runs = []
        for row in range(begin[0], end[0]):
            start, stop = self._cells[row * self._grid[1] + np.array([begin[1], end[1]])]
            if stop > start:
                runs.append((int(start), int(stop)))
        return runs, bool(aligned)

    def most(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """How many points some blocks can have (n,): those of the cells that they touch.

        Args:
            low, high: (n, 2) their corners, as :meth:`runs` takes them.
        """
        begin = np.floor(low / CELL).clip(0, self._grid).astype(int)
        end = np.ceil(high / CELL).clip(0, self._grid).astype(int)
        counts = np.zeros(len(low), np.int64)
        for step in range((end - begin)[:, 0].max(initial=0)):
            inside = begin[:, 0] + step < end[:, 0]
            row = (begin[inside, 0] + step) * self._grid[1]
            counts[inside] += self._cells[row + end[inside, 1]] - self._cells[row + begin[inside, 1]]
        return counts

    def read(self, runs: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points of some runs: xyz (n, 3) float32, rgb (n, 3) uint8, label (n,).

        Raises:
            UserError: the file has changed, or holds points outside of the room or labels of no class.
        """
        xyz, rgb, label = self._read(["xyz", "rgb", "label"], runs)
        # NaN fails both comparisons.
        if not ((xyz >= 0) & (xyz <= self.size)).all():
            raise UserError(f"{self.path}: points outside of the room's extent; {_AGAIN}")
        return xyz, rgb, self._of_classes(label)

    def all(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every point of the room, in the order of the store.

        Raises:
            UserError: as :meth:`read`, or the points do not fit the room's extent and cells.
        """
        xyz, rgb, label = self.read([(0, self.count)])
        cell = np.repeat(np.arange(len(self._cells) - 1), np.diff(self._cells))
        if not (np.array_equal(xyz.max(0), self.size) and np.array_equal(cell, _cell_of(xyz, self._grid))):
            raise UserError(f"{self.path}: points that do not fit the room's extent and cells; {_AGAIN}")
        return xyz, rgb, label

    def labels(self) -> np.ndarray:
        """(N,) labels alone, in the order of the store."""
        return self._of_classes(self._read(["label"], [(0, self.count)])[0])

    def order(self) -> np.ndarray:
        """(N,) each stored point's place in the source."""
        (order,) = self._read(["order"], [(0, self.count)])
        if order.max() >= self.count or not np.bincount(order, minlength=self.count).all():
            raise UserError(f"{self.path}: order is not a permutation; {_AGAIN}")
        return order

    def _of_classes(self, label: np.ndarray) -> np.ndarray:
        if self._classes is not None and len(label) and label.max() >= self._classes:
            raise UserError(f"{self.path}: label {label.max()}, but there are {self._classes} classes; {_AGAIN}")
        return label

    def _read(self, names: Sequence[str], runs: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        with open_file(self.path) as (file, identity):
            if identity != self._identity:
                if _verified(self.path, identity) != (self._sha256, self._header):
                    raise UserError(f"{self.path}: has become another file while it was in use")
                self._identity = identity
            return [self._rows(file, name, runs) for name in names]

    def _rows(self, file: BinaryIO, name: str, runs: Sequence[tuple[int, int]]) -> np.ndarray:
        """Rows of an array, in one piece."""
        begin, kind, (_, *rest) = self._header.place(name)
        rows = np.empty((sum(stop - start for start, stop in runs), *rest), kind)
        step, done = kind.itemsize * math.prod(rest), 0
        for start, stop in runs:
            part = rows[done : done + stop - start]
            file.seek(begin + start * step)
            if file.readinto(part.data) != part.nbytes:  # type: ignore[attr-defined]
                raise UserError(f"{self.path}: ends early; {_AGAIN}")
            done += stop - start
        return rows

    @cached_property
    def _file(self) -> h5py.File:
        """The file as other programs see it. Nothing here is read through it."""
        return h5py.File(self.path, "r", locking=False)


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
        self.place, self._cells, self._grid = sort_by_cell(moved, "the scan")
        self.size, self.count = moved.max(0).astype(np.float64), len(moved)
        self._arrays = moved[self.place], rgb[self.place], np.zeros(len(moved), np.uint8)

    def read(self, runs: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points of some runs, as :meth:`StoredRoom.read` returns them."""
        xyz, rgb, label = (np.concatenate([data[:0], *(data[i:j] for i, j in runs)]) for data in self._arrays)
        return xyz, rgb, label

    def all(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every point, in the order of the cells."""
        return self._arrays


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
def _open(path: Path, identity: Identity, sha256: str, classes: int) -> StoredRoom:
    return StoredRoom(path, sha256, classes)


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
        path = self.root / "store.json"
        if not path.is_file():
            raise UserError(
                f"{root}: not a room store (no store.json); make one with tools/prepare.py, or run the command that "
                "was stopped again"
            )
        content = read_json(path)
        version = content.get("format") if isinstance(content, dict) else None
        if isinstance(version, int) and version != FORMAT and abs(version) < 1000:
            raise UserError(f"{path}: store format {version}, but this version reads {FORMAT}; {_AGAIN}")
        manifest = Manifest.of(content, f"{path}: damaged")
        self.classes = ClassList.of(manifest.classes, manifest.palette)
        self.source, self.colored, self._records = manifest.source, manifest.colored, manifest.rooms
        found = find_rooms(self.root)
        self._compare(found)
        self.rooms = [RoomEntry(path.parent.name, path.stem, path) for path in found.values()]

    def _compare(self, found: dict[str, Path]) -> None:
        """Compare the files there are with those that the manifest lists; their content is compared when opened."""
        for key, record in self._records.items():
            path = self.root / f"{key}.h5"
            if key not in found:
                raise UserError(f"{path}: missing, though store.json lists it; {_AGAIN}")
            if (size := os.stat(path).st_size) != record.bytes:
                raise UserError(f"{path}: {size} bytes, but store.json says {record.bytes}; {_AGAIN}")
        if foreign := [path for key, path in found.items() if key not in self._records]:
            raise UserError(f"{foreign[0]}: not a room of this store, store.json does not list it; remove it")

    @property
    def areas(self) -> list[str]:
        """Names of the areas."""
        return sorted({room.area for room in self.rooms})

    def blocks(self, rooms: Sequence[RoomEntry], points: int, grid, **settings):
        """Blocks of some rooms as examples: a :class:`~deepgcn_seg.data.dataset.BlockDataset`."""
        from .dataset import BlockDataset

        return BlockDataset(self, rooms, points, grid, **settings)

    def open(self, room: RoomEntry) -> StoredRoom:
        """Open a room for reading; it is kept and reused.

        Raises:
            UserError: the file is missing, changed or another room's.
        """
        if room.key not in self._records:
            raise UserError(f"{self.root}: no room {room.key}")
        return _open(room.path, identify(room.path), self._records[room.key].sha256, len(self.classes))
