"""``tools/prepare.py``: raw rooms into a room store."""

import logging
import re
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from ..data import build_store
from ..data.export_hdf5 import export_blocks
from ..data.layouts import HDF5, SCANNET, STORE, Layout, recognise
from ..data.official_hdf5 import OfficialBlocks
from ..data.rooms_of_s3dis import missing_rooms, rooms_table
from ..data.scannet import missing_scenes
from ..data.store import RoomStore
from ..errors import Finding, UserError
from ..escaping import one_line

log = logging.getLogger(__name__)


def prepare(config: DictConfig) -> None:
    """Prepare raw rooms, compare them with the rooms of S3DIS (``check``), or export blocks of a store (``export``).

    Raises:
        UserError: a folder is not given or not there.
        Finding: with ``check``, rooms of S3DIS or scenes of ScanNet are missing.
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


def _check_scenes(layout: Layout) -> None:
    if missing := missing_scenes(layout.root, layout.rooms):
        raise Finding(
            f"{layout.root}: {len(missing)} scenes of the official lists are missing: {', '.join(missing[:12])}"
            + (f", and {len(missing) - 12} more" if len(missing) > 12 else "")
        )


def _check(config: DictConfig) -> None:
    """Compare a raw folder or a store with the rooms of S3DIS, or scenes of ScanNet with its official lists."""
    folder = config.source or config.data.root
    if folder is None:
        raise UserError("nothing to check: give source=RAW_FOLDER or data.root=STORE_FOLDER")
    layout = recognise(folder)
    log.info("%s", layout)
    if layout.kind == SCANNET:
        return _check_scenes(layout)
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
        raise Finding(f"{folder}: {len(missing)} of the 272 rooms of S3DIS are missing")
