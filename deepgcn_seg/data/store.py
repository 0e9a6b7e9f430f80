"""The room store: a manifest and one file per room (:mod:`.room_file`).

    ROOT/store.json                 format, class names, palette, source, whether the points have colours, which
                                    numbers stand for the classes in the scans that the rooms were made from, and
                                    the checksum, size and number of points of each room
    ROOT/Area_1/office_1.h5         the points of a room, sorted so that a block of points is in a few slices

Files are written whole or not at all, and many processes may read them at the same time.
"""

import hashlib
import json
import logging
import os
from abc import ABC, abstractmethod
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import AfterValidator, Field, StringConstraints, model_validator

from ..errors import UserError
from ..files import Identity, identify, replacing
from ..schema import Schema, read_json
from .classes import ClassList
from .label_numbers import LabelNumbers
from .room import RoomEntry
from .room_file import FORMAT, MAKE_AGAIN, ByteCount, Checksum, PointCount, check_file_name, read_header
from .stored_room import StoredRoom

log = logging.getLogger(__name__)


def _check_key(key: str) -> str:
    area, slash, name = key.partition("/")
    if not (area and slash and name):
        raise ValueError("must be AREA/ROOM")
    return f"{check_file_name(area)}/{check_file_name(name)}"


RoomKey = Annotated[str, StringConstraints(max_length=501), AfterValidator(_check_key)]


class RoomRecord(Schema):
    """What the manifest says about a room."""

    sha256: Checksum
    bytes: ByteCount
    points: PointCount


class Manifest(Schema):
    """The content of ``store.json``."""

    format: Literal[2]
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    source: Annotated[str, StringConstraints(max_length=10_000)]
    colored: bool
    label_numbers: LabelNumbers | None = None
    rooms: Annotated[dict[RoomKey, RoomRecord], Field(min_length=1)]

    @model_validator(mode="after")
    def _classes_fit_palette(self) -> Self:
        ClassList.of(self.classes, self.palette)
        if self.label_numbers is not None:
            self.label_numbers.require(len(self.classes))
        return self


def write_manifest(
    root: str | Path, classes: ClassList, source: str, label_numbers: LabelNumbers | None = None
) -> None:
    """Write ``store.json``, which lists every room below ``root``; a store without it is unfinished.

    The points of a store have colours if those of all rooms have. A warning says if only some have.

    Args:
        label_numbers: which numbers stand for the classes in the scans that the rooms were made from, if it is known.

    Raises:
        UserError: a file is not a room, or there are no rooms.
    """
    root = Path(root)
    rooms: dict[str, dict[str, str | int]] = {}
    without: list[str] = []
    for key, path in find_rooms(root).items():
        sha256, header = read_header(path)
        rooms[key] = {"sha256": sha256, "bytes": path.stat().st_size, "points": header.points}
        without += [] if header.colored else [key]
    if 0 < len(without) < len(rooms):
        log.warning(
            "%s: %d of %d rooms have no colours, such as %s, so that networks are trained on this store without any; "
            "if they are to see those of the other rooms, remove these rooms from the source",
            root, len(without), len(rooms), without[0],
        )  # fmt: skip
    content = {
        "format": FORMAT,
        "classes": classes.names,
        "palette": classes.palette,
        "source": source,
        "colored": not without,
        "label_numbers": None if label_numbers is None else label_numbers.plain(),
        "rooms": rooms,
    }
    with replacing(root / "store.json") as temporary:
        temporary.write_text(json.dumps(Manifest.of(content, str(root)).plain(), indent=1), "utf-8")


def find_rooms(root: Path) -> dict[str, Path]:
    """Return the room files below ``root`` by key, in order of area and name."""
    paths = sorted(root.glob("[!.]*/[!.]*.h5"))
    return {f"{path.parent.name}/{path.stem}": path for path in paths}


@lru_cache(maxsize=512)
def _open(path: Path, identity: Identity, sha256: str, classes: int) -> StoredRoom:
    return StoredRoom(path, sha256, classes)


class Store(ABC):
    """Rooms of a data set to train and score on: those of a :class:`RoomStore`, or official HDF5 blocks.

    Attributes:
        root: its folder. classes: the :class:`ClassList` of the labels.
        source: a text that says where the rooms came from. colored: whether the points have colours.
        label_numbers: which numbers stand for the classes in the scans that the rooms were made from, if it is known.
        rooms: their entries.
    """

    root: Path
    classes: ClassList
    source: str
    colored: bool
    label_numbers: LabelNumbers | None
    rooms: list[RoomEntry]

    @property
    def areas(self) -> list[str]:
        """Names of the areas, sorted."""
        return sorted({room.area for room in self.rooms})

    @abstractmethod
    def fingerprint(self, room: RoomEntry) -> str:
        """Return a text that tells a room from another one of its name, read without reading its points."""

    @abstractmethod
    def labels(self, room: RoomEntry) -> np.ndarray:
        """Return the labels (N,) of a room's points.

        Raises:
            UserError: the points cannot be read, or there are labels of no class.
        """


class RoomStore(Store):
    """A folder of prepared rooms, in order of area and name.

    Its ``label_numbers`` are None if it was made before 2026-11-27.

    Raises:
        UserError: the folder is not a store, or a store of another format.
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
            raise UserError(f"{path}: store format {version}, but this version reads {FORMAT}; {MAKE_AGAIN}")
        manifest = Manifest.of(content, f"{path}: damaged")
        self.classes = ClassList.of(manifest.classes, manifest.palette)
        self.source, self.colored, self._records = manifest.source, manifest.colored, manifest.rooms
        self.label_numbers = manifest.label_numbers
        found = find_rooms(self.root)
        self._compare(found)
        self.rooms = [RoomEntry(path.parent.name, path.stem, path) for path in found.values()]

    def _compare(self, found: dict[str, Path]) -> None:
        """Compare names and sizes of the files with the manifest; :meth:`open` verifies their content."""
        for key, record in self._records.items():
            path = self.root / f"{key}.h5"
            if key not in found:
                raise UserError(f"{path}: missing, though store.json lists it; {MAKE_AGAIN}")
            if (size := os.stat(path).st_size) != record.bytes:
                raise UserError(f"{path}: {size} bytes, but store.json says {record.bytes}; {MAKE_AGAIN}")
        if foreign := [path for key, path in found.items() if key not in self._records]:
            raise UserError(f"{foreign[0]}: not a room of this store, store.json does not list it; remove it")

    def open(self, room: RoomEntry) -> StoredRoom:
        """Open a room for reading, or return it if it is open already.

        Raises:
            UserError: the file is missing, has changed or is that of another room.
        """
        if room.key not in self._records:
            raise UserError(f"{self.root}: no room {room.key}")
        return _open(room.path, identify(room.path), self._records[room.key].sha256, len(self.classes))

    def fingerprint(self, room: RoomEntry) -> str:
        """Return a text that is the same for rooms of the same number of points, place and extent.

        It is read from the header of the room's file, without its points. The checksum of the file would not do: it
        covers the times of the files that the room was made from, and differs if the room is prepared again.
        """
        _, header = read_header(room.path)
        return hashlib.sha256(repr((header.points, header.origin, header.size)).encode()).hexdigest()[:16]

    def labels(self, room: RoomEntry) -> np.ndarray:
        """Return the labels (N,) of a room's points, as :class:`Store` does."""
        return self.open(room).labels()
