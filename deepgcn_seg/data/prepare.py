"""From raw rooms to a room store: resumable, atomic per room, rooms in parallel."""

import logging
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from rich.console import Console

from ..errors import UserError
from ..progress import track
from .classes import S3DIS, ClassList
from .files import replacing
from .room import Room
from .rooms_of_s3dis import missing_rooms, rooms_table
from .stanford import Repair, find_rooms, read_room
from .store import RoomStore, write_manifest, write_room

log = logging.getLogger(__name__)


def prepare(
    source: str | Path, root: str | Path, classes: ClassList = S3DIS, workers: int = 1, described: str | None = None
) -> RoomStore:
    """Read every raw room below ``source`` into a store at ``root``.

    Rooms that the store already has are kept, so that a stopped preparation goes on where it was.
    Repairs of raw files are listed in ``ROOT/repairs.txt`` and counted in the log.

    Args:
        workers: processes. described: the source in words, for results to name; default its path.

    Raises:
        UserError: no rooms, or a room that cannot be read.
    """
    root = Path(root)
    rooms = find_sources(source)
    todo = [path for key, path in rooms.items() if not (root / f"{key}.h5").is_file()]
    repairs: list[Repair] = []
    jobs = [(path, root, classes) for path in todo]
    if workers > 1 and len(jobs) > 1:
        # Not forked: the parent may hold threads and HDF5 handles.
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            for found in track(pool.map(_prepare_room, jobs), len(jobs), "Preparing rooms"):
                repairs += found
    else:
        for found in track(map(_prepare_room, jobs), len(jobs), "Preparing rooms"):
            repairs += found
    if repairs:
        with replacing(root / "repairs.txt") as temporary:
            temporary.write_text("".join(f"{repair}\n" for repair in repairs))
        log.warning("%d places of the raw files were repaired or skipped: see %s", len(repairs), root / "repairs.txt")
    write_manifest(root, classes, described or str(source))
    return RoomStore(root)


def find_sources(source: str | Path) -> dict[str, Path]:
    """What rooms a folder holds: ``Area_1/office_1`` -> where, in a layout that is recognised.

    Raw Stanford folders (``Area_1/office_1/Annotations``), or arrays per room as PointNet's scripts
    write them (``Area_1_office_1.npy``).

    Raises:
        UserError: neither; says what was looked for.
    """
    source = Path(source)
    folders = find_rooms(source)
    if folders:
        return {f"{folder.parent.name}/{folder.name}": folder for folder in folders}
    arrays = sorted(path for path in source.glob("Area_*_*.npy") if path.stem.count("_") >= 2)
    if arrays:
        parts = [path.stem.split("_", 2) for path in arrays]
        return {f"Area_{area}/{name}": path for path, (_, area, name) in zip(arrays, parts)}
    raise UserError(
        f"{source}: no rooms here; looked for {source}/Area_*/ROOM/Annotations/*.txt (raw Stanford) and "
        f"{source}/Area_*_ROOM.npy (PointNet's arrays)"
    )


def read_array_room(path: str | Path, classes: ClassList = S3DIS) -> Room:
    """A room from an (N, 7) array of x y z r g b label.

    Raises:
        UserError: not such an array, or labels or colours out of range.
    """
    path = Path(path)
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable array ({error})") from None
    if rows.ndim != 2 or rows.shape[1] != 7 or not len(rows):
        raise UserError(f"{path}: must be (N, 7) rows of x y z r g b label, is {rows.shape}")
    colors, label = rows[:, 3:6], rows[:, 6]
    if not (np.isfinite(rows).all() and colors.min() >= 0 and colors.max() <= 255):
        raise UserError(f"{path}: NaN, infinite values, or colours outside 0..255")
    if label.min() < 0 or label.max() >= len(classes):
        raise UserError(f"{path}: labels {label.min():g}..{label.max():g}, but there are {len(classes)} classes")
    _, area, name = path.stem.split("_", 2)
    return Room(f"Area_{area}", name, rows[:, :3].astype(np.float64), colors.astype(np.uint8), label.astype(np.uint8))


def _prepare_room(job: tuple[Path, Path, ClassList]) -> list[Repair]:
    path, root, classes = job
    room, repairs = (read_array_room(path, classes), []) if path.suffix == ".npy" else read_room(path, classes)
    try:
        write_room(root, room)
    except OSError as error:
        raise UserError(f"{root}: cannot write room {room.key} ({error})") from None
    return repairs


def prepare_configured(config: DictConfig) -> None:
    """What ``tools/prepare.py`` does with its config: prepare, check, or export.

    Raises:
        UserError: a folder is not given or not there; with ``check``, rooms of S3DIS are missing.
    """
    if config.check:
        return _check(config)
    if config.data.root is None:
        raise UserError("data.root is not set: give data.root=STORE_FOLDER")
    if config.export is not None:
        from .official_hdf5 import export_blocks

        count = export_blocks(RoomStore(config.data.root), config.export)
        log.info("%s: %d blocks in the official HDF5 layout", config.export, count)
        return None
    if config.source is None:
        raise UserError("source is not set: give source=RAW_FOLDER")
    if not Path(config.source).is_dir():
        raise UserError(f"source={config.source}: no such folder")
    store = prepare(config.source, config.data.root, workers=config.workers)
    log.info("%s: %d rooms in %d areas are ready", store.root, len(store.rooms), len(store.areas))
    return None


def _check(config: DictConfig) -> None:
    """Compare a raw folder or a store with the rooms of S3DIS."""
    folder = config.source or config.data.root
    if folder is None:
        raise UserError("nothing to check: give source=RAW_FOLDER or data.root=STORE_FOLDER")
    if config.source:
        found = list(find_sources(folder))
    else:
        store = RoomStore(folder)
        for room in store.rooms:
            store.open(room)
        found = [room.key for room in store.rooms]
    Console().print(rooms_table(found, f"Rooms of {folder}"))
    missing = missing_rooms(found)
    if missing:
        raise UserError(f"{folder}: {len(missing)} of the 272 rooms of S3DIS are missing")
