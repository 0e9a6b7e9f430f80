"""The functions that a config's ``data.store`` names. Each returns an open store of rooms or blocks."""

import logging
from pathlib import Path

from ..errors import UserError
from ..settings import counted
from .build_store import prepare
from .classes import S3DIS, ClassList
from .layouts import HDF5, STORE, recognise
from .official_hdf5 import OfficialBlocks
from .scannet import SCANNET
from .store import RoomStore, Store
from .synthetic_rooms import generate

log = logging.getLogger(__name__)

# Raise this number when the generator's rooms change, so that rooms of earlier versions are not reused.
SYNTHETIC_VERSION = 1


def synthetic(root: str | Path, rooms_per_area: int = 6, density: float = 1000.0, seed: int = 0) -> RoomStore:
    """Return the synthetic rooms, which are generated and prepared below ``root`` on first use."""
    described = f"synthetic rooms (6 areas x {rooms_per_area}, density {density:g}, seed {seed})"
    folder = Path(root) / f"v{SYNTHETIC_VERSION}-rooms{rooms_per_area}-density{density:g}-seed{seed}"
    log.info(
        "Data: %s in %s. This is not S3DIS; for S3DIS: python tools/prepare.py source=STANFORD_FOLDER "
        "data.root=STORE, then data=s3dis data.root=STORE",
        described,
        folder,
    )
    if (folder / "store" / "store.json").is_file():
        try:
            return RoomStore(folder / "store")
        except UserError as error:
            log.warning("The synthetic rooms are prepared again: %s", error)
    try:
        generate(folder / "raw", rooms_per_area, density, seed)
        prepare(folder / "raw", folder / "store", described=described)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot write the synthetic rooms ({error}); set data.root to another folder"
        ) from None
    return RoomStore(folder / "store")


def s3dis(root: str | Path) -> Store:
    """Return S3DIS: a room store made by ``tools/prepare.py``, or the official HDF5 blocks.

    Raises:
        UserError: ``root`` is neither. The message says what it is, and what to do.
    """
    return _open(root, S3DIS, "S3DIS")


def scannet(root: str | Path) -> Store:
    """Return ScanNet: a room store that ``tools/prepare.py`` made of its release (:mod:`.scannet`).

    Raises:
        UserError: ``root`` is something else; says what it is, and what to do.
    """
    return _open(root, SCANNET, "ScanNet")


def folder(root: str | Path) -> Store:
    """Return a store that ``tools/prepare.py`` made of labelled scans (:mod:`deepgcn_seg.data.labelled_scans`).

    Raises:
        UserError: ``root`` is something else. The message says what it is, and what to do.
    """
    return _open(root)


def s3dis_hdf5(root: str | Path) -> OfficialBlocks:
    """Return S3DIS as the official HDF5 blocks (``indoor3d_sem_seg_hdf5_data``)."""
    store = OfficialBlocks(root)
    log.info("Data: %s, blocks of %s", store.source, _size(store))
    return store


def _open(root: str | Path, classes: ClassList | None = None, dataset: str = "") -> Store:
    """Open a folder that holds a room store or the official HDF5 blocks.

    Args:
        classes: those that it must have, if they are known, and the name of their data set.
    """
    if not Path(root).is_dir():
        raise UserError(f"data.root={root}: no such folder; make a room store with tools/prepare.py")
    layout = recognise(root)
    store: Store
    if layout.kind == HDF5:
        store = s3dis_hdf5(layout.root)
    elif layout.kind == STORE:
        store = RoomStore(layout.root)
        log.info("Data: %s, %s (%s)", root, _size(store), store.source)
    else:
        raise UserError(
            f"data.root={layout}; first python tools/prepare.py source={layout.root} data.root=STORE, "
            "then data.root=STORE"
        )
    if classes is not None and store.classes.names != classes.names:
        raise UserError(f"data.root={root}: a store of other classes than {dataset}; use data=folder")
    return store


def _size(store: Store) -> str:
    return f"{counted(len(store.rooms), 'room')} in {counted(len(store.areas), 'area')}"
