"""Write a room store as official HDF5 blocks of points, which other code can train on."""

import logging
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..files import replacing
from ..progress import track
from .classes import no_label
from .dataset import BlockDataset
from .hdf5_writing import new_hdf5
from .store import RoomStore

log = logging.getLogger(__name__)

# The official files have these numbers.
BLOCKS_PER_FILE, POINTS = 1000, 4096
# The list of the files.
_LIST = "all_files.txt"


def export_blocks(store: RoomStore, folder: str | Path) -> int:
    """Write a room store in the format of :mod:`deepgcn_seg.data.official_hdf5`.

    Unlabelled points are among those of the blocks, with :func:`~.classes.no_label`; a warning says how many.

    Returns:
        Number of blocks.

    Raises:
        UserError: more classes than the labels of 8 bits can tell apart, or the folder holds such blocks already.
    """
    ignore = no_label(store.classes)
    if ignore.nbytes > 1:
        raise UserError(f"{store.root}: {len(store.classes)} classes, but labels of the HDF5 blocks have 8 bits")
    folder = Path(folder)
    # It is written last, so that an export that was stopped can be done again.
    if (folder / _LIST).exists():
        raise UserError(f"{folder}: holds HDF5 blocks already, which are kept; choose another folder")
    dataset = BlockDataset(store, store.rooms, POINTS)
    starts = range(0, len(dataset), BLOCKS_PER_FILE)
    names = [f"ply_data_all_{number}.h5" for number in range(len(starts))]
    unlabelled = 0
    for name, start in track(zip(names, starts), len(starts), "Writing blocks"):
        items = [dataset[i] for i in range(start, min(start + BLOCKS_PER_FILE, len(dataset)))]
        with replacing(folder / name) as temporary, new_hdf5(temporary) as file:
            data = np.stack([points.numpy() for points, _ in items])
            label = np.stack([label.numpy() for _, label in items]).astype(np.uint8)
            unlabelled += int((label == ignore).sum())
            # Each block is a chunk. HDF5's own chunks would hold several blocks, all of which a reader must unpack.
            file.create_dataset("data", data=data, chunks=(1, *data.shape[1:]), compression="gzip", compression_opts=4)
            file.create_dataset("label", data=label, chunks=(1, POINTS), compression="gzip", compression_opts=1)
    rooms = [f"{block.room.area}_{block.room.name}" for block in dataset.blocks]
    for name, lines in (("room_filelist.txt", rooms), (_LIST, [f"{folder.name}/{n}" for n in names])):
        with replacing(folder / name) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    if unlabelled:
        log.warning(
            "%s: %s points are unlabelled and have the label %d: make the other code ignore it",
            folder,
            f"{unlabelled:,}",
            ignore,
        )
    return len(dataset)
