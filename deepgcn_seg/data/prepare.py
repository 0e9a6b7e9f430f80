"""From raw rooms to a room store: resumable, atomic per room, rooms in parallel."""

import logging
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from rich.console import Console

from ..errors import UserError
from ..progress import track
from .classes import S3DIS
from .files import replacing
from .labelled_scans import Labelling, read_labelled_room, read_labelling
from .layouts import HDF5, SCANS, STANFORD, STORE, Layout, recognise
from .official_hdf5 import OfficialBlocks, export_blocks
from .room import Room
from .rooms_of_s3dis import missing_rooms, rooms_table
from .stanford import Repair, read_room
from .store import RoomStore, StoredRoom, write_manifest, write_room

log = logging.getLogger(__name__)


def prepare(
    source: str | Path,
    root: str | Path,
    workers: int = 1,
    described: str | None = None,
    shard: tuple[int, int] = (0, 1),
) -> RoomStore | None:
    """Read every room below ``source``, in any layout of :mod:`deepgcn_seg.data.layouts`, into a store at ``root``.

    Rooms that the store already has are kept, so that a stopped preparation goes on where it was.
    Repairs of raw files are listed in ``ROOT/repairs.txt`` and counted in the log.

    Args:
        workers: processes. described: the source in words, for results to name; default its path.
        shard: (i, n) prepares every n-th room from the i-th on, for n machines that share a disk.

    Returns:
        The store, or None while rooms of other shards are missing.

    Raises:
        UserError: no rooms, a room that cannot be read, or none with points.
    """
    root = Path(root)
    layout = recognise(source)
    log.info("%s", layout)
    if layout.kind in (STORE, HDF5):
        raise UserError(f"source={source} is {layout.kind}, ready as it is: give it as data.root")
    labelling = read_labelling(layout.root / "classes.yaml") if layout.kind == SCANS else Labelling.of(S3DIS)
    mine = list(layout.rooms)[shard[0] :: shard[1]]
    todo = [key for key in mine if not _done(root, key)]
    jobs = [(layout, key, root, labelling) for key in todo]
    repairs: list[Repair] = []
    workers = min(workers, len(jobs))
    # Not forked: the parent may hold threads and HDF5 handles.
    with ProcessPoolExecutor(workers, get_context("spawn")) if workers > 1 else nullcontext() as pool:
        results: Iterable[list[Repair]] = pool.map(_prepare_room, jobs) if pool else map(_prepare_room, jobs)
        for found in track(results, len(jobs), "Preparing rooms"):
            repairs += found
    _report(root / ("repairs.txt" if shard == (0, 1) else f"repairs-{shard[0] + 1}-of-{shard[1]}.txt"), repairs)
    if not all(_done(root, key) for key in layout.rooms):
        return None
    prepared = [path for path in (root / f"{key}.h5" for key in layout.rooms) if path.is_file()]
    if not prepared:
        raise UserError(f"{source}: no room has points")
    colored = all(StoredRoom(path).colored for path in prepared)
    write_manifest(root, labelling.classes, described or str(source), colored)
    return RoomStore(root)


def _done(root: Path, key: str) -> bool:
    return (root / f"{key}.h5").is_file() or _empty(root, key).is_file()


def _empty(root: Path, key: str) -> Path:
    """Marks a room without points."""
    return root / f"{key}.empty"


def _report(path: Path, repairs: list[Repair]) -> None:
    """Add repairs to a file; those of rooms done before a stop are there already."""
    if not repairs:
        return
    known = path.read_text().splitlines() if path.is_file() else []
    lines = dict.fromkeys([*known, *map(str, repairs)])
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines))
    log.warning("%d places of the raw files were repaired or skipped: see %s", len(repairs), path)


def _prepare_room(job: tuple[Layout, str, Path, Labelling]) -> list[Repair]:
    layout, key, root, labelling = job
    room, repairs = read_source(layout, key, labelling)
    if room is None:
        # Remembered, so that all shards know that the room is done.
        with replacing(_empty(root, key)) as temporary:
            temporary.write_text("")
        return repairs
    try:
        write_room(root, room)
    except OSError as error:
        raise UserError(f"{root}: cannot write room {room.key} ({error})") from None
    return repairs


def read_source(layout: Layout, key: str, labelling: Labelling) -> tuple[Room | None, list[Repair]]:
    """Read one room of a layout; None if it has no points, and what was repaired or skipped.

    Raises:
        UserError: it cannot be read.
    """
    path = layout.rooms[key]
    if layout.kind == STANFORD:
        return read_room(path, labelling.classes)
    area, name = key.split("/")
    if path.suffix == ".npy" and layout.kind != SCANS:
        # PointNet's rows; read as a scan they would be seven unnamed columns, which mean the same.
        _check_rows(path)
    room = read_labelled_room(path, area, name, labelling)
    return (room, []) if len(room) else (None, [Repair(str(path), None, "no points of any class", "room skipped")])


def _check_rows(path: Path) -> None:
    try:
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable array ({error})") from None
    if len(shape) != 2 or shape[1] != 7:
        raise UserError(f"{path}: must be (N, 7) rows of x y z r g b label, is {shape}")


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
        count = export_blocks(RoomStore(config.data.root), config.export)
        log.info("%s: %d blocks in the official HDF5 layout", config.export, count)
        return None
    if config.source is None:
        raise UserError("source is not set: give source=RAW_FOLDER")
    if not Path(config.source).is_dir():
        raise UserError(f"source={config.source}: no such folder")
    shard = _shard(config.shard)
    store = prepare(config.source, config.data.root, workers=config.workers, shard=shard)
    if store is None:
        log.info("%s: the rooms of shard %s are ready; other shards are not yet", config.data.root, config.shard)
        return None
    log.info("%s: %d rooms in %d areas are ready", store.root, len(store.rooms), len(store.areas))
    return None


def _shard(text: str | None) -> tuple[int, int]:
    """``2/8`` -> (1, 8): the second of eight."""
    if text is None:
        return 0, 1
    number, _, count = str(text).partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise UserError(f"shard={text}: must be I/N with I from 1 to N, as 2/8")
    return int(number) - 1, int(count)


def _check(config: DictConfig) -> None:
    """Compare a raw folder or a store with the rooms of S3DIS."""
    folder = config.source or config.data.root
    if folder is None:
        raise UserError("nothing to check: give source=RAW_FOLDER or data.root=STORE_FOLDER")
    layout = recognise(folder)
    log.info("%s", layout)
    found = list(layout.rooms)
    if layout.kind == STORE:
        store = RoomStore(layout.root)
        for room in store.rooms:
            store.open(room)
        found = [room.key for room in store.rooms]
    elif layout.kind == HDF5:
        found = [room.key for room in OfficialBlocks(layout.root).rooms]
    Console().print(rooms_table(found, f"Rooms of {folder}"))
    missing = missing_rooms(found)
    if missing:
        raise UserError(f"{folder}: {len(missing)} of the 272 rooms of S3DIS are missing")
