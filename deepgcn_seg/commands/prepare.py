"""``tools/prepare.py``: raw rooms into a room store."""

import logging
import re
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from ..data import build_store
from ..data.classes import S3DIS
from ..data.export_hdf5 import export_blocks
from ..data.layouts import HDF5, SCANNET, SCANS, STANFORD, STORE, Layout, recognise
from ..data.official_hdf5 import OfficialBlocks
from ..data.rooms_of_s3dis import expected_rooms, missing_rooms, named, rooms_table
from ..data.scannet import missing_scenes
from ..data.stanford import missing_annotations
from ..data.store import RoomStore
from ..errors import Finding, UserError
from ..escaping import one_line
from ..progress import track
from ..settings import counted

log = logging.getLogger(__name__)

_NOT_COMPARED = "%s: not rooms of S3DIS, so that there is no list to compare them with"


def prepare(config: DictConfig) -> None:
    """Prepare raw rooms, check what is complete (``check``), or export blocks of a store (``export``).

    Raises:
        UserError: a folder is not given or not there.
        Finding: with ``check``, rooms of S3DIS, their annotations or scenes of ScanNet are missing.
    """
    shard = _shard(config.shard)
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
    settings = {key: config[key] for key in ("workers", "max_points", "scale")}
    store = build_store.prepare(config.source, config.data.root, shard=shard, **settings)
    if store is None:
        log.info("%s: the rooms of shard %s are ready; other shards are not yet", config.data.root, config.shard)
        return None
    log.info("%s: %d rooms in %d areas are ready", store.root, len(store.rooms), len(store.areas))
    return None


def _shard(text: str | None) -> tuple[int, int]:
    """Return number and count of a shard: (1, 8) for ``2/8``, the second of eight."""
    if text is None:
        return 0, 1
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", str(text))
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"shard={one_line(text, 60)}: must be I/N with I from 1 to N, as 2/8")
    return int(found[1]) - 1, int(found[2])


def _check(config: DictConfig) -> None:
    """Verify the files of a store, and compare rooms with the list of their data set, if it has one."""
    folder = config.source or config.data.root
    if folder is None:
        raise UserError("nothing to check: give source=RAW_FOLDER or data.root=STORE_FOLDER")
    layout = recognise(folder)
    log.info("%s", layout)
    if layout.kind == SCANNET:
        missing = missing_scenes(layout.root, layout.rooms)
        found = [f"{len(missing)} scenes of the official lists are missing: {named(missing)}"] if missing else []
    elif layout.kind == SCANS:
        log.info(_NOT_COMPARED, folder)
        found = []
    elif layout.kind == STORE:
        found = _check_store(RoomStore(layout.root))
    elif layout.kind == HDF5:
        found = _compare(folder, [room.key for room in OfficialBlocks(layout.root).rooms])
    else:
        found = _compare(folder, list(layout.rooms)) + _check_annotations(layout)
    if found:
        raise Finding(f"{folder}: {'; '.join(found)}")


def _compare(folder: str | Path, rooms: list[str]) -> list[str]:
    """Print a table of rooms beside those of S3DIS, and return how many are missing."""
    Console().print(rooms_table(rooms, f"Rooms of {folder}"))
    missing = missing_rooms(rooms)
    return [f"{len(missing)} of the 272 rooms of S3DIS are missing"] if missing else []


def _check_annotations(layout: Layout) -> list[str]:
    """Return which raw rooms lack annotations."""
    if layout.kind != STANFORD:
        return []
    rooms = track(layout.rooms.items(), len(layout.rooms), "Counting points")
    lacking = [f"{key} ({problem})" for key, path in rooms if (problem := missing_annotations(path))]
    return [f"annotations of {counted(len(lacking), 'room')} are missing: {named(lacking)}"] if lacking else []


def _check_store(store: RoomStore) -> list[str]:
    """Verify the checksum of every room, and return how many rooms of S3DIS are missing if it is a store of them."""
    for room in store.rooms:
        store.open(room)
    log.info("%s: the files of all %d rooms are as store.json lists them", store.root, len(store.rooms))
    rooms = [room.key for room in store.rooms]
    if store.classes.names == S3DIS.names and not set(rooms).isdisjoint(expected_rooms()):
        return _compare(store.root, rooms)
    log.info(_NOT_COMPARED, store.root)
    return []
