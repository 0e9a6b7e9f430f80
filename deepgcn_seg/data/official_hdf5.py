"""The official HDF5 blocks, ``indoor3d_sem_seg_hdf5_data``: read to train on, written for other code.

all_files.txt        one HDF5 file a line, with or without a path in front
room_filelist.txt    one line a block, its room as Area_1_conferenceRoom_1, in the files' order
ply_data_all_0.h5    data (1000, 4096, 9) float32, label (1000, 4096) uint8; and so on
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch
from torch.utils.data import Dataset

from ..errors import UserError
from ..files import replacing
from ..progress import track
from .augmentation import Augmentation, BlockPoints
from .blocks import NINE, BlockGrid, block_features, choose, scaled_positions
from .classes import S3DIS
from .dataset import BlockDataset
from .hdf5_arrays import StoredArray, find_arrays
from .store import RoomEntry, RoomStore

BLOCKS_PER_FILE = 1000
POINTS = 4096
# Of a block, in files from elsewhere.
MOST_POINTS = 1 << 20
_COLUMNS = {"block": (0, 1, 2), "color": (3, 4, 5), "room": (6, 7, 8), "height": (9,)}


class OfficialBlocks:
    """An ``indoor3d_sem_seg_hdf5_data`` folder. Has what training asks of a room store.

    Only sampled blocks are in it, not rooms: of the protocols, ``blocks`` alone can be measured.

    Attributes:
        classes, source, colored, rooms, areas: as :class:`~deepgcn_seg.data.store.RoomStore`.

    Raises:
        UserError: a file is missing or damaged, or the lists do not fit the files.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.classes, self.source, self.colored = S3DIS, f"official HDF5 blocks in {root}", True
        self._files = [self._inside(line) for line in self._lines("all_files.txt")]
        if len(set(self._files)) < len(self._files):
            raise UserError(f"{self.root / 'all_files.txt'}: names a file twice")
        names = self._lines("room_filelist.txt")
        self._arrays = find_arrays(self._files, ["data", "label"])
        for path, arrays in zip(self._files, self._arrays):
            _check_shapes(path, arrays)
        self._rows = [
            (number, row) for number, arrays in enumerate(self._arrays) for row in range(arrays["label"].shape[0])
        ]
        if len(self._rows) != len(names):
            raise UserError(
                f"{self.root}: room_filelist.txt names {len(names)} blocks, but the {len(self._files)} HDF5 files of "
                f"all_files.txt hold {len(self._rows)}"
            )
        self._blocks: dict[str, list[int]] = {}
        for i, name in enumerate(names):
            self._blocks.setdefault(name, []).append(i)
        parts = [name.split("_", 2) for name in self._blocks]
        if any(len(part) != 3 or part[0] != "Area" for part in parts):
            raise UserError(f"{self.root / 'room_filelist.txt'}: lines must look like Area_1_conferenceRoom_1")
        self.rooms = [RoomEntry(f"Area_{area}", name, self.root) for _, area, name in parts]

    @property
    def areas(self) -> list[str]:
        """Names of the areas."""
        return sorted({room.area for room in self.rooms})

    def blocks(self, rooms: Sequence[RoomEntry], points: int, grid: BlockGrid, **settings) -> "OfficialBlockDataset":
        """The blocks of some rooms as training examples; ``grid`` is fixed by the files."""
        found = [(room, self._rows[i]) for room in rooms for i in self._blocks[f"{room.area}_{room.name}"]]
        rows = [BlockRow(self._files[file], self._arrays[file], row) for _, (file, row) in found]
        return OfficialBlockDataset(rows, [room for room, _ in found], points, **settings)

    def _inside(self, line: str) -> Path:
        """The file that a line of ``all_files.txt`` names, which lies in this folder whatever folder it names."""
        *folders, name = line.split("/")
        outside = ".." in folders or line.startswith("/") or "\\" in line
        if outside or name.startswith(".") or not name.endswith(".h5") or not name.isprintable():
            raise UserError(f"{self.root / 'all_files.txt'}: {line[:100]!r} must be the name of an .h5 file beside it")
        return self.root / name

    def _lines(self, name: str) -> list[str]:
        try:
            return (self.root / name).read_text().split()
        except OSError:
            raise UserError(
                f"{self.root}: no {name}; looked for all_files.txt, room_filelist.txt and ply_data_all_*.h5"
            ) from None
        except UnicodeDecodeError:
            raise UserError(f"{self.root / name}: not text") from None


class BlockRow(NamedTuple):
    """Where a block is: the row of some arrays of a file."""

    path: Path
    arrays: dict[str, StoredArray]
    number: int


class OfficialBlockDataset(Dataset):
    """Blocks of official HDF5 files. Item: points (N, 9) float32, label (N,) int64.

    Args:
        rows: of each block. room_of: the room of each.
        points: at most 4096; fewer are drawn anew each epoch.
        variant: ``paper`` as stored, ``port`` with channels 0-2 scaled to -1..1 as torch_geometric's
            ``NormalizeScale``. seed: of the drawing. groups: of channels. augment: applied to each block.
    """

    def __init__(
        self,
        rows: Sequence[BlockRow],
        room_of: Sequence[RoomEntry],
        points: int,
        variant: str = "paper",
        seed: int = 0,
        groups: Sequence[str] = NINE,
        augment: Sequence[Augmentation] = (),
    ):
        self.augment = tuple(augment)
        self.rows, self.room_of = list(rows), list(room_of)
        self.points, self.variant, self.seed = points, variant, seed
        self._columns = [column for group in groups for column in _COLUMNS[group]]

    def __len__(self) -> int:
        return len(self.rows)

    def describe(self, i: int) -> str:
        """Which block: ``ply_data_all_0.h5 row 7``."""
        return f"{self.rows[i].path.name} row {self.rows[i].number}"

    def __getitem__(self, item: tuple[int, int] | int) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, i = item if isinstance(item, tuple) else (0, item)
        path, arrays, row = self.rows[i]
        data, label = arrays["data"].row(path, row).astype(np.float32, copy=False), arrays["label"].row(path, row)
        if not np.isfinite(data).all():
            raise UserError(f"{path}: NaN or infinite values in row {row}")
        if label.min() < 0 or label.max() >= len(S3DIS):
            raise UserError(f"{path}: labels of no class in row {row}")
        if self.points > len(data):
            raise UserError(f"points={self.points}, but the blocks of {path.parent} have {len(data)}")
        rng = np.random.default_rng([self.seed, epoch, i])
        if self.points < len(data):
            chosen = choose(len(data), self.points, rng)
            data, label = data[chosen], label[chosen]
        if self.augment:
            points = metres(data)
            for augment in self.augment:
                points = augment(points, rng)
            data = block_features(points.xyz, points.rgb, points.room_size)
        position, height = data[:, :3], data[:, 2:3]
        if self.variant == "port":
            position = scaled_positions(position)
        data = np.concatenate([position, data[:, 3:], height], 1)
        return torch.from_numpy(data[:, self._columns]), torch.from_numpy(label.astype(np.int64))


def metres(features: np.ndarray) -> BlockPoints:
    """Points in their room, from the nine channels: position in the block and in the room differ by
    the room's extent, which their spreads give."""
    block, share = features[:, :3], features[:, 6:]
    size = np.ptp(block, axis=0) / np.maximum(np.ptp(share, axis=0), 1e-6)
    return BlockPoints((share * size).astype(np.float32), features[:, 3:6] * np.float32(255), size)


def _check_shapes(path: Path, arrays: dict[str, StoredArray]) -> None:
    data, label = arrays["data"], arrays["label"]
    if len(data.shape) != 3 or data.shape[2] != 9 or label.shape != data.shape[:2]:
        raise UserError(f"{path}: data must be (blocks, points, 9) and label (blocks, points)")
    if label.shape[1] > MOST_POINTS:
        raise UserError(f"{path}: blocks of {label.shape[1]} points, at most {MOST_POINTS} are read")
    if "f" not in data.dtype or "f" in label.dtype:
        raise UserError(f"{path}: data must be real numbers and label whole ones")


def export_blocks(store: RoomStore, folder: str | Path, grid: BlockGrid = BlockGrid(), seed: int = 0) -> int:
    """Write a store as official HDF5 blocks, for other code to train on.

    Returns:
        Number of blocks.
    """
    folder = Path(folder)
    dataset = BlockDataset(store, store.rooms, POINTS, grid, "paper", seed)
    starts = range(0, len(dataset), BLOCKS_PER_FILE)
    names = [f"ply_data_all_{number}.h5" for number in range(len(starts))]
    for name, start in track(zip(names, starts), len(starts), "Writing blocks"):
        items = [dataset[i] for i in range(start, min(start + BLOCKS_PER_FILE, len(dataset)))]
        with replacing(folder / name) as temporary, h5py.File(temporary, "w", locking=False) as file:
            data = np.stack([points.numpy() for points, _ in items])
            label = np.stack([label.numpy() for _, label in items]).astype(np.uint8)
            # A chunk a block: HDF5's own choice spans many, which are all unpacked to read one.
            file.create_dataset("data", data=data, chunks=(1, *data.shape[1:]), compression="gzip", compression_opts=4)
            file.create_dataset("label", data=label, chunks=(1, POINTS), compression="gzip", compression_opts=1)
    rooms = [f"{block.room.area}_{block.room.name}" for block in dataset.blocks]
    for name, lines in (("room_filelist.txt", rooms), ("all_files.txt", [f"{folder.name}/{n}" for n in names])):
        with replacing(folder / name) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines))
    return len(dataset)
