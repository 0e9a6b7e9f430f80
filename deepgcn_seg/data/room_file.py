"""The file of a room: a header with a checksum, and arrays that other programs read as HDF5.

The file begins with a header of :data:`HEADER_BYTES`, which HDF5 calls a user block and skips. The rest is an HDF5 file
with the arrays

    xyz    (N, 3) float32  metres from the room's minimum
    rgb    (N, 3) uint8    0 where there are no colours
    label  (N,)   uint8, or uint16 for over 255 classes; the largest number of that type for unlabelled points
    order  (N,)   uint32   each point's place in the source
    cells  (nx * ny + 1,) int64  the first row of each cell (:mod:`.cells`)

and, if anything was repaired or skipped in the files that the room was made from, with the array

    repairs  (bytes,) uint8  a list in JSON: file, line, problem, action and number of points of each

The header begins with the SHA-256 checksum of all bytes after that checksum. It describes the room, and says where each
array begins. This package verifies the checksum and then reads the arrays by the header, without the HDF5 library. That
library might open other files or plugins that a file names, or read invalid memory.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, Self

import h5py
import numpy as np
from pydantic import AfterValidator, Field, StringConstraints, model_validator

from ..errors import UserError, first_line
from ..files import Identity, open_file, replacing
from ..schema import Schema
from .cells import CELL, MAX_CELLS, FloorCells, count_cells
from .hdf5_writing import new_hdf5
from .repairs import Repair
from .room import Room

FORMAT = 2
HEADER_BYTES = 4096
MAGIC = b"deepgcn_seg room %d\n" % FORMAT
# The checksum, 64 hexadecimal digits and a line break, covers every byte from here on.
CHECKSUM_END = len(MAGIC) + 65
# Messages about damaged files end with this advice.
MAKE_AGAIN = "run the tools/prepare.py command that made it again"

# The arrays and the shape of one row of each.
ROWS: dict[str, tuple[int, ...]] = {"xyz": (3,), "rgb": (3,), "label": (), "order": (), "cells": ()}


def check_file_name(name: str) -> str:
    """Return the name if it is safe as the name of a file.

    Raises:
        ValueError: it could name a hidden file or one in another folder, or it has characters that are not printable.
    """
    if name.startswith(".") or "/" in name or not name.isprintable():
        raise ValueError("must be printable, without / and a dot in front")
    return name


FileName = Annotated[str, StringConstraints(min_length=1, max_length=250), AfterValidator(check_file_name)]
Checksum = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
PointCount = Annotated[int, Field(ge=1, lt=2**32)]
ByteCount = Annotated[int, Field(ge=0, lt=2**63)]
Length = Annotated[float, Field(ge=0, le=MAX_CELLS * CELL)]
CellCount = Annotated[int, Field(ge=1, le=MAX_CELLS)]


class MadeFrom(Schema):
    """Checksums of what a room was made from: one of the settings, one of names, sizes and times of its files."""

    settings: Checksum
    files: Checksum


class Preparation(Schema):
    """What a room was made from, and what was repaired or skipped in its files."""

    made_from: MadeFrom
    repairs: tuple[Repair, ...] = ()


class Offsets(Schema):
    """Where each array begins in a room's file, in bytes."""

    xyz: ByteCount
    rgb: ByteCount
    label: ByteCount
    order: ByteCount
    cells: ByteCount


class RoomHeader(Schema):
    """What a room's file says about itself."""

    area: FileName
    room: FileName
    points: PointCount
    colored: bool
    origin: tuple[float, float, float]
    size: tuple[Length, Length, Length]
    grid: tuple[CellCount, CellCount]
    label: Literal["uint8", "uint16"]
    offsets: Offsets
    made_from: MadeFrom | None = None
    # Where the list of repairs begins, and its number of bytes.
    repairs: tuple[ByteCount, ByteCount] | None = None

    @model_validator(mode="after")
    def _grid_fits_size(self) -> Self:
        if not np.array_equal(self.grid, count_cells(np.array(self.size))):
            raise ValueError(f"grid {self.grid} does not fit the size {self.size}")
        return self

    def layout(self, name: str) -> tuple[int, np.dtype, tuple[int, ...]]:
        """Return where an array begins, its type and its shape."""
        types = {"xyz": "<f4", "rgb": "u1", "label": f"<{np.dtype(self.label).str[1:]}", "order": "<u4", "cells": "<i8"}
        count = self.grid[0] * self.grid[1] + 1 if name == "cells" else self.points
        return getattr(self.offsets, name), np.dtype(types[name]), (count, *ROWS[name])


def write_room(root: str | Path, room: Room, preparation: Preparation | None = None) -> Path:
    """Write one room, sorted by cell, as ``ROOT/AREA/NAME.h5``, and return that path.

    Args:
        preparation: what the room was made from, if it was.

    Raises:
        UserError: the room has no points, coordinates that are not finite, or too large an extent.
    """
    if not len(room):
        raise UserError(f"room {room.key}: no points")
    if not np.isfinite(room.xyz).all():
        raise UserError(f"room {room.key}: NaN or infinite coordinates")
    origin = room.xyz.min(0)
    xyz = (room.xyz - origin).astype(np.float32)
    order, cells = FloorCells.sort(xyz, f"room {room.key}")
    header = {
        "area": room.area,
        "room": room.name,
        "points": len(room),
        "colored": room.rgb is not None,
        "origin": origin.tolist(),
        "size": xyz.max(0).tolist(),
        "grid": cells.grid.tolist(),
        "label": room.label.dtype.name,
    }
    path = Path(root) / room.area / f"{room.name}.h5"
    with replacing(path) as temporary:
        with new_hdf5(temporary, userblock_size=HEADER_BYTES) as file:
            # The attributes are for other programs, which do not read the header.
            file.attrs.update(format=FORMAT, cell=CELL, **header)
            rgb = np.zeros((len(room), 3), np.uint8) if room.rgb is None else room.rgb[order]
            arrays = [xyz[order], rgb, room.label[order], order.astype(np.uint32), cells.starts.astype(np.int64)]
            offsets = {name: _write_array(file, name, data) for name, data in zip(ROWS, arrays)}
            if preparation is not None and preparation.repairs:
                text = np.frombuffer(json.dumps(preparation.repairs).encode(), np.uint8)
                header["repairs"] = (_write_array(file, "repairs", text), len(text))
        header |= {"offsets": offsets, "made_from": None if preparation is None else preparation.made_from.plain()}
        _write_header(temporary, RoomHeader.of(header, f"room {room.key}"))
    return path


def _write_array(file: h5py.File, name: str, data: np.ndarray) -> int:
    """Write an array in one piece and return where it begins in the file."""
    return file.create_dataset(name, data=data).id.get_offset()


def _write_header(path: Path, header: RoomHeader) -> None:
    """Write the header in front of a room's arrays, with the checksum of both."""
    text = json.dumps(header.plain()).encode()
    if CHECKSUM_END + len(text) > HEADER_BYTES:
        raise UserError(f"room {header.area}/{header.room}: the name is too long")
    with open(path, "rb+") as file:
        file.write(MAGIC + b"0" * 64 + b"\n" + text.ljust(HEADER_BYTES - CHECKSUM_END - 1) + b"\n")
        sha256 = _checksum(file)
        file.seek(len(MAGIC))
        file.write(sha256.encode())


def _checksum(file: BinaryIO) -> str:
    file.seek(CHECKSUM_END)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def read_header(path: Path) -> tuple[str, RoomHeader]:
    """Return the checksum in a room's file, without verifying it, and the header.

    Raises:
        UserError: the file is not a room of this format.
    """
    with open_file(path) as (file, _):
        return _parse_header(path, file.read(HEADER_BYTES))


def read_preparation(path: Path) -> Preparation | None:
    """Return what a room's file says of its preparation, without verifying the checksum, or None if it says nothing.

    Raises:
        UserError: the file is not a room of this format, or is damaged.
    """
    with open_file(path) as (file, identity):
        _, header = _parse_header(path, file.read(HEADER_BYTES))
        if header.made_from is None:
            return None
        start, length = header.repairs or (0, 0)
        if start + length > identity[2]:
            raise UserError(f"{path}: the repairs lie outside of the file; {MAKE_AGAIN}")
        file.seek(start)
        text = file.read(length) or b"[]"
    try:
        repairs = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged repairs ({first_line(error)}); {MAKE_AGAIN}") from None
    content = {"made_from": header.made_from.plain(), "repairs": repairs}
    return Preparation.of(content, f"{path}: damaged repairs")


def _parse_header(path: Path, content: bytes) -> tuple[str, RoomHeader]:
    complete = content.startswith(MAGIC) and content[CHECKSUM_END - 1 : CHECKSUM_END] == b"\n"
    if len(content) < HEADER_BYTES or not complete:
        raise UserError(f"{path}: not a room file of format {FORMAT}, or cut short; {MAKE_AGAIN}")
    try:
        checksum = content[len(MAGIC) : CHECKSUM_END - 1].decode("ascii")
        values = json.loads(content[CHECKSUM_END:])
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged header ({first_line(error)}); {MAKE_AGAIN}") from None
    return checksum, RoomHeader.of(values, f"{path}: damaged header")


@lru_cache(maxsize=4096)
def verify(path: Path, identity: Identity) -> tuple[str, RoomHeader]:
    """Compare a room's file with its checksum, and return the checksum and the header.

    A process reads each file once, as long as the file does not change. Processes that are forked afterwards, such as
    those that load data, do not read it again.

    Raises:
        UserError: the file is damaged, or is just being written.
    """
    with open_file(path) as (file, found):
        if found != identity:
            raise UserError(f"{path}: is being written; wait, then try again")
        sha256, header = _parse_header(path, file.read(HEADER_BYTES))
        if _checksum(file) != sha256:
            raise UserError(f"{path}: damaged, its content does not fit its checksum; {MAKE_AGAIN}")
    return sha256, header
