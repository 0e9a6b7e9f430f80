"""Read a room of any layout from its source files."""

from dataclasses import replace
from pathlib import Path

from ..errors import UserError
from .classes import S3DIS, no_label
from .labelled_scans import Labelling, read_labelled_room, read_labelling, rounded
from .layouts import SCANNET, SCANS, STANFORD, Layout
from .repairs import ROOM_SKIPPED, Repair
from .room import Room
from .scannet import LABELLING, read_scannet_room, scene_files
from .scans.formats.arrays import read_shape
from .scans.formats.bounds import MAX_POINTS, Bounds
from .stanford import read_room
from .units import require_metres


def labelling_of(layout: Layout) -> Labelling:
    """Return how the files of a layout become rooms."""
    if layout.kind == SCANS:
        return read_labelling(layout.root / "classes.yaml")
    return LABELLING if layout.kind == SCANNET else Labelling.of(S3DIS)


def source_files(layout: Layout, key: str) -> list[Path]:
    """Return the files that a room is read from, sorted."""
    path = layout.rooms[key]
    if layout.kind == SCANNET:
        # A folder of the release also has videos, which are not read.
        found = scene_files(path)
    elif path.suffix.lower() == ".bin":
        # The labels of a .bin file are in a file of the same name, in another folder.
        found = [folder / path.name for folder in path.parent.parent.iterdir()]
    else:
        found = list(path.rglob("[!.]*")) if path.is_dir() else [path]
    return sorted(file for file in found if file.is_file())


def read_raw_room(
    layout: Layout, key: str, labelling: Labelling, max_points: int = MAX_POINTS
) -> tuple[Room | None, list[Repair]]:
    """Return a room of a layout, or None if it has no points, and a list of what was repaired or skipped.

    Raises:
        UserError: the room cannot be read.
    """
    path = layout.rooms[key]
    room, repairs = _read_layout(layout, key, labelling, max_points)
    if room is not None and labelling.scale is None:
        require_metres(room.xyz, f"{path}: ")
    if room is not None and room.rgb is not None and not room.rgb.any():
        repairs = [*repairs, Repair(str(path), None, "every colour is 0", "taken as a room without colours")]
        room.rgb = None
    return room, repairs


def _read_layout(layout: Layout, key: str, labelling: Labelling, max_points: int) -> tuple[Room | None, list[Repair]]:
    path = layout.rooms[key]
    if layout.kind == STANFORD:
        room, repairs = read_room(path, labelling.classes)
        if room is not None:
            repairs = [*repairs, *rounded(path, room.xyz, labelling.scale)]
            room.xyz *= labelling.scale or 1.0
        return room, repairs
    area, name = key.split("/")
    if layout.kind == SCANNET:
        room, repairs = read_scannet_room(path, area, labelling, max_points)
    else:
        if path.suffix == ".npy" and layout.kind != SCANS:
            labelling = replace(labelling, columns=_COLUMNS[: _width(path)])
        room, repairs = read_labelled_room(path, area, name, labelling, max_points)
    if not (room.label != no_label(labelling.classes)).any():
        return None, [*repairs, Repair(str(path), None, "no points of any class", ROOM_SKIPPED)]
    return room, repairs


# Columns of PointNet's arrays. Code for instance segmentation adds the last one.
_COLUMNS = ("x", "y", "z", "red", "green", "blue", "label", "instance")


def _width(path: Path) -> int:
    """Return the number of columns that an array's header claims: 7 or 8."""
    try:
        shape = read_shape(Bounds(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable array ({error})") from None
    if len(shape) != 2 or shape[1] not in (7, 8):
        raise UserError(f"{path}: must be (N, 7) rows of x y z r g b label, or (N, 8) with the instance, is {shape}")
    return shape[1]
