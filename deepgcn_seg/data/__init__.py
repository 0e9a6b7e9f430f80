"""Point clouds as training examples: scans, rooms, blocks of points, batches.

Data goes this way; each step is a function or class of this package:

    read_scan, write_scan, find_scans    point-cloud files of any supported format, as a Scan
    prepare                              a folder of raw rooms or labelled scans -> a RoomStore
    generate                             synthetic rooms in the layout of raw S3DIS, for a first try without data
    RoomStore, OfficialBlocks            prepared rooms; or the official HDF5 blocks, which are cut already
    split_by_area                        rooms to train, validate and test on
    BlockGrid, block_dataset             rooms cut into blocks of points, as a dataset: BlockDataset
    EpochSampler, make_loader            batches of blocks

``S3DIS`` is the ClassList of the dataset S3DIS. ``write_room`` and ``write_manifest`` make a store of Room objects
without source files. Augmentations are in :mod:`deepgcn_seg.data.augmentation`.

A module is imported when one of its names is first used: reading files needs Numba and PyArrow, which take a quarter of
a second to import, and networks do not need them.
"""

# ruff: noqa: F401

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .blocks import BlockGrid
    from .build_store import prepare
    from .classes import S3DIS, ClassList
    from .dataset import BlockDataset, EpochSampler, Split, block_dataset, make_loader, split_by_area
    from .export_hdf5 import export_blocks
    from .official_hdf5 import OfficialBlocks
    from .room import Room, RoomEntry
    from .room_file import write_room
    from .scans.files import read_scan, write_scan
    from .scans.formats.scan import Scan
    from .scans.search import find_scans
    from .store import RoomStore, write_manifest
    from .stored_room import StoredRoom
    from .synthetic_rooms import generate

_MODULES = {
    "blocks": ("BlockGrid",),
    "build_store": ("prepare",),
    "classes": ("S3DIS", "ClassList"),
    "dataset": ("BlockDataset", "EpochSampler", "Split", "block_dataset", "make_loader", "split_by_area"),
    "export_hdf5": ("export_blocks",),
    "official_hdf5": ("OfficialBlocks",),
    "room": ("Room", "RoomEntry"),
    "room_file": ("write_room",),
    "scans.files": ("read_scan", "write_scan"),
    "scans.formats.scan": ("Scan",),
    "scans.search": ("find_scans",),
    "store": ("RoomStore", "write_manifest"),
    "stored_room": ("StoredRoom",),
    "synthetic_rooms": ("generate",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
