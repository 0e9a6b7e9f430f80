"""Recognise the layout of a folder of rooms."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .room import natural
from .room_file import read_header
from .scannet import find_scenes
from .scans.format_table import FORMATS
from .scans.formats.scene import is_scene
from .store import find_rooms


@dataclass(frozen=True)
class Kind:
    """A kind of layout.

    Attributes:
        name, files: what it is and the files by which it is recognised, for messages.
        find: returns the rooms of a folder by their keys, or None if the folder is of another kind. Kinds that need no
            preparation have no rooms.
    """

    name: str
    files: str
    find: Callable[[Path], dict[str, Path] | None]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Layout:
    """A folder that was recognised as data of some kind.

    Attributes:
        kind: one of :data:`KINDS`. root: the folder, or the only folder in it.
        rooms: ``Area_1/office_1`` -> file or folder.
    """

    kind: Kind
    root: Path
    rooms: dict[str, Path]

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
    # Archives that were made on macOS have a folder __MACOSX of hidden files beside the packed one.
    inside = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__MACOSX"))]
    roots = (folder, *(inside if len(inside) == 1 else ()))
    for root in roots:
        for kind in KINDS:
            rooms = kind.find(root)
            if rooms is not None:
                return Layout(kind, root, rooms)
    if unfinished := [root for root in roots if _is_unfinished_store(root)]:
        raise UserError(
            f"{unfinished[0]}: a room store that is not finished (no store.json): give the tools/prepare.py command "
            "that began it again"
        )
    looked = "; ".join(f"{kind.files} ({kind})" for kind in KINDS)
    raise UserError(f"{folder}: no rooms here; looked for {looked}")


def _rooms(found: list[tuple[str, str, Path]]) -> dict[str, Path] | None:
    """Return rooms by their key in natural order, or None if there are none.

    Raises:
        UserError: two files or folders are the same room.
    """
    ordered = sorted(found, key=lambda room: (natural(room[0]), natural(room[1]), room[2]))
    rooms: dict[str, Path] = {}
    for area, name, path in ordered:
        if (other := rooms.setdefault(f"{area}/{name}", path)) != path:
            raise UserError(f"{path}: is the same room as {other}; rename or remove one of them")
    return rooms or None


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
    nested = [(path.parent.name, path.stem, path) for path in root.glob("Area_*/[!.]*.ply")]
    return _rooms(nested + _flat(".ply")(root))


def _scenes(root: Path) -> dict[str, Path] | None:
    """Return folders of arrays in Pointcept's layout, or binary files of mmdetection3d."""
    folders = [(path.parent.parent.name, path.parent.name, path.parent) for path in root.glob("Area_*/[!.]*/coord.npy")]
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
        raise UserError(f"{root}: classes.yaml is there, but no scans; looked for {SCANS.files}")
    return rooms


STORE = Kind("a room store", "store.json", _store)
HDF5 = Kind("official HDF5 blocks", "all_files.txt and room_filelist.txt", _hdf5)
SCANS = Kind("labelled scans", "classes.yaml and AREA/ROOM.ply, .las, .laz, .pcd, .npy, .npz, .txt", _scans)
STANFORD = Kind("raw Stanford rooms", "Area_*/ROOM/Annotations/*.txt", _stanford)
ARRAYS = Kind("PointNet's arrays", "Area_*_ROOM.npy", _arrays)
PLY = Kind("S3DIS rooms as PLY", "Area_*/ROOM.ply or Area_*_ROOM.ply", _ply)
SCENES = Kind("S3DIS rooms of several arrays", "Area_*/ROOM/coord.npy or points/Area_*_ROOM.bin", _scenes)
SCANNET = Kind("scenes of ScanNet", "scans/scene*_*/scene*_*_vh_clean_2.ply", _scannet)
# In the order in which they are looked for.
KINDS = (STORE, HDF5, SCANS, STANFORD, ARRAYS, PLY, SCENES, SCANNET)
