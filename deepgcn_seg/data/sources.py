"""Where rooms come from: what a config's ``data.store`` names. Each returns an open room store."""

import logging
from pathlib import Path

from ..errors import UserError
from .official_hdf5 import OfficialBlocks
from .prepare import prepare
from .store import RoomStore
from .synthetic import generate

log = logging.getLogger(__name__)

# Raise when the generator's rooms change, so that cached ones are not mistaken for them.
SYNTHETIC_VERSION = 1


def synthetic(root: str | Path, rooms_per_area: int = 6, density: float = 1000.0, seed: int = 0) -> RoomStore:
    """The embedded synthetic rooms, generated and prepared below ``root`` on first use."""
    described = f"synthetic rooms (6 areas x {rooms_per_area}, density {density:g}, seed {seed})"
    folder = Path(root) / f"v{SYNTHETIC_VERSION}-rooms{rooms_per_area}-density{density:g}-seed{seed}"
    log.info(
        "Data: %s in %s. This is not S3DIS; for S3DIS: python tools/prepare.py source=STANFORD_FOLDER "
        "data.root=STORE, then data=s3dis data.root=STORE",
        described,
        folder,
    )
    if (folder / "store" / "store.json").is_file():
        return RoomStore(folder / "store")
    try:
        generate(folder / "raw", rooms_per_area, density, seed)
        return prepare(folder / "raw", folder / "store", described=described)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot write the synthetic rooms ({error}); set data.root to another folder"
        ) from None


def s3dis(root: str | Path) -> RoomStore:
    """S3DIS from a room store made by ``tools/prepare.py``.

    Raises:
        UserError: ``root`` is missing or something else; says what was looked for.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"data.root={root}: no such folder; make a room store with tools/prepare.py")
    if not (root / "store.json").is_file():
        if (root / "room_filelist.txt").is_file():
            raise UserError(f"data.root={root} holds official HDF5 blocks: use data=s3dis_hdf5 protocol=blocks")
        if any(root.glob("Area_*/*/Annotations")):
            raise UserError(
                f"data.root={root} holds raw S3DIS rooms: first python tools/prepare.py source={root} data.root=STORE"
            )
        raise UserError(
            f"data.root={root}: no room store (store.json) and no raw S3DIS rooms (Area_*/ROOM/Annotations)"
        )
    store = RoomStore(root)
    log.info("Data: %s, %d rooms in %d areas (%s)", root, len(store.rooms), len(store.areas), store.source)
    return store


def s3dis_hdf5(root: str | Path) -> OfficialBlocks:
    """S3DIS as the official HDF5 blocks (``indoor3d_sem_seg_hdf5_data``)."""
    store = OfficialBlocks(root)
    log.info("Data: %s, blocks of %d rooms in %d areas", store.source, len(store.rooms), len(store.areas))
    return store
