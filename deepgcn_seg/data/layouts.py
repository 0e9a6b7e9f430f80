"""Recognise the layout of a folder of rooms."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UserError
from .room_file import read_header
from .scannet import find_scenes
from .scans.format_table import FORMATS
from .scans.formats.scene import is_scene
from .store import find_rooms

STORE, HDF5 = "a room store", "official HDF5 blocks"
STANFORD, ARRAYS, PLY = "raw Stanford rooms", "PointNet's arrays", "S3DIS rooms as PLY"
SCENES = "S3DIS rooms of several arrays"
SCANNET = "scenes of ScanNet"
SCANS = "labelled scans"

# The files by which each layout is recognised, for messages.
LOOKED_FOR = {
    STORE: "store.json",
    HDF5: "all_files.txt and room_filelist.txt",
    SCANS: "classes.yaml and AREA/ROOM.ply, .las, .laz, .pcd, .npy, .npz, .txt",
    STANFORD: "Area_*/ROOM/Annotations/*.txt",
    ARRAYS: "Area_*_ROOM.npy",
    PLY: "Area_*/ROOM.ply or Area_*_ROOM.ply",
    SCENES: "Area_*/ROOM/coord.npy or points/Area_*_ROOM.bin",
    SCANNET: "scans/scene*_*/scene*_*_vh_clean_2.ply",
}


@dataclass(frozen=True)
class Layout:
    """A folder that was recognised as data of some kind.

    Attributes:
        kind: one of the constants above. root: the folder, or the only folder in it.
        rooms: ``Area_1/office_1`` -> file or folder, for layouts that can be prepared.
    """

    kind: str
    root: Path
    rooms: dict[str, Path] = field(default_factory=dict)

    def __str__(self) -> str:
        areas = len({room.split("/")[0] for room in self.rooms})
        return f"{self.root}: {self.kind}" + (f", {len(self.rooms)} in {areas} areas" if self.rooms else "")


def recognise(folder: str | Path) -> Layout:
    """Return the layout of a folder, or of the only folder in it.

    Raises:
        UserError: the folder has none of the layouts; the message says what was looked for, or that it is a store
            whose preparation was stopped.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    inside = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    roots = (folder, *(inside if len(inside) == 1 else ()))
    for root in roots:
        for kind, find in _FINDERS.items():
            rooms = find(root)
            if rooms is not None:
                return Layout(kind, root, rooms)
    if unfinished := [root for root in roots if _is_unfinished_store(root)]:
        raise UserError(
            f"{unfinished[0]}: a room store that is not finished (no store.json): give the tools/prepare.py command "
            "that began it again"
        )
    looked = "; ".join(f"{what} ({kind})" for kind, what in LOOKED_FOR.items())
    raise UserError(f"{folder}: no rooms here; looked for {looked}")


def natural(name: str) -> list:
    """Return a sorting key that puts ``office_2`` before ``office_10``."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _rooms(found: list[tuple[str, str, Path]]) -> dict[str, Path] | None:
    ordered = sorted(found, key=lambda room: (natural(room[0]), natural(room[1])))
    return {f"{area}/{name}": path for area, name, path in ordered} or None


def _store(root: Path) -> dict[str, Path] | None:
    return {} if (root / "store.json").is_file() else None


def _is_unfinished_store(root: Path) -> bool:
    """Return whether a folder without ``store.json`` has a room of a store."""
    try:
        return any(read_header(path) for path in list(find_rooms(root).values())[:1])
    except UserError:
        return False


def _hdf5(root: Path) -> dict[str, Path] | None:
    return {} if (root / "all_files.txt").is_file() and (root / "room_filelist.txt").is_file() else None


def _stanford(root: Path) -> dict[str, Path] | None:
    """Return room folders. If any has annotations, those without are also listed, so that they are reported."""
    folders = [path for path in root.glob("Area_*/[!.]*") if path.is_dir()]
    if not any((path / "Annotations").is_dir() for path in folders):
        return None
    return _rooms([(path.parent.name, path.name, path) for path in folders])


def _flat(suffix: str) -> Callable[[Path], list[tuple[str, str, Path]]]:
    """Return a function that finds files such as ``Area_1_office_1.npy``."""
    shape = re.compile(r"(Area_\d+)_(.+)")

    def find(root: Path) -> list[tuple[str, str, Path]]:
        matches = [(shape.fullmatch(path.stem), path) for path in root.glob(f"Area_*{suffix}")]
        return [(match[1], match[2], path) for match, path in matches if match]

    return find


def _arrays(root: Path) -> dict[str, Path] | None:
    return _rooms(_flat(".npy")(root))


def _ply(root: Path) -> dict[str, Path] | None:
    nested = [(path.parent.name, path.stem, path) for path in root.glob("Area_*/*.ply")]
    return _rooms(nested + _flat(".ply")(root))


def _scenes(root: Path) -> dict[str, Path] | None:
    """Return folders of arrays in Pointcept's layout, or binary files of mmdetection3d."""
    folders = [(path.parent.parent.name, path.parent.name, path.parent) for path in root.glob("Area_*/*/coord.npy")]
    return _rooms(folders + _flat(".bin")(root / "points"))


def _scannet(root: Path) -> dict[str, Path] | None:
    found = find_scenes(root)
    return None if found is None else _rooms(found)


def _scans(root: Path) -> dict[str, Path] | None:
    if not (root / "classes.yaml").is_file():
        return None
    files = [path for path in root.glob("[!.]*/[!.]*") if path.suffix.lower() in FORMATS or is_scene(path)]
    rooms = _rooms([(path.parent.name, path.name if path.is_dir() else path.stem, path) for path in files])
    if rooms is None:
        raise UserError(f"{root}: classes.yaml is there, but no scans; looked for {LOOKED_FOR[SCANS]}")
    if len(rooms) < len(files):
        raise UserError(f"{root}: two scans of one area have the same name but for the suffix")
    return rooms


_FINDERS: dict[str, Callable[[Path], dict[str, Path] | None]] = {
    STORE: _store,
    HDF5: _hdf5,
    SCANS: _scans,
    STANFORD: _stanford,
    ARRAYS: _arrays,
    PLY: _ply,
    SCENES: _scenes,
    SCANNET: _scannet,
}
