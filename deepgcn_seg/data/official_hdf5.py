"""The official HDF5 blocks of points, ``indoor3d_sem_seg_hdf5_data``, as training examples.

The folder has these files:

all_files.txt        one HDF5 file per line, with or without a path
room_filelist.txt    one line per block, in the order of the files: its room, as Area_1_conferenceRoom_1
ply_data_all_0.h5    data (1000, 4096, 9) float32, label (1000, 4096) uint8; and so on
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from ..errors import UserError
from ..settings import shown
from .augmentation import Augmentation, BlockPoints, augmented
from .blocks import NINE, BlockGrid, block_features, sample_indices, scaled_positions
from .classes import S3DIS, no_label
from .hdf5_arrays import StoredArray, find_arrays
from .room import RoomEntry
from .store import Store

# Most points of a block. The official files have 4096.
MAX_POINTS = 1 << 20
# Columns of each group of channels. Column 9, the height, is not in the files and is computed.
_COLUMNS = {"block": (0, 1, 2), "color": (3, 4, 5), "room": (6, 7, 8), "height": (9,)}


class OfficialBlocks(Store):
    """The folder ``indoor3d_sem_seg_hdf5_data``, which can be used for training instead of a room store.

    It has sampled blocks and no whole rooms, so that ``blocks`` is the only protocol for it.

    Raises:
        UserError: a file is missing or damaged, or the lists of files and rooms do not match the files.
    """

    # The blocks were not made from labelled scans.
    label_numbers = None

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

    def blocks(self, rooms: Sequence[RoomEntry], points: int, **settings: Any) -> "OfficialBlockDataset":
        """Return the blocks of some rooms as training examples, of ``points`` points each."""
        found = [(room, row) for room in rooms for row in self._rows_of(room)]
        return OfficialBlockDataset([row for _, row in found], [room for room, _ in found], points, **settings)

    def require_grid(self, grid: BlockGrid) -> None:
        """Refuse a grid that is not that of the official blocks.

        Raises:
            UserError: names the setting.
        """
        for name, value in asdict(BlockGrid()).items():
            if (asked := getattr(grid, name, value)) != value:
                where = f"{self.root} holds blocks that were cut with {shown(value)}"
                raise UserError(f"data.grid.{name}={shown(asked)}: {where}; leave it out")

    def fingerprint(self, room: RoomEntry) -> str:
        """Return the number of a room's blocks, the only thing known of it without reading all of the blocks."""
        return f"{len(self._blocks[f'{room.area}_{room.name}'])} blocks"

    def labels(self, room: RoomEntry) -> np.ndarray:
        """Return the labels of the points of all of a room's blocks, one block after the other.

        Raises:
            UserError: there are labels of no class.
        """
        return np.concatenate([row.labels() for row in self._rows_of(room)])

    def _rows_of(self, room: RoomEntry) -> list["BlockRow"]:
        places = [self._rows[i] for i in self._blocks[f"{room.area}_{room.name}"]]
        return [BlockRow(self._files[file], self._arrays[file], row) for file, row in places]

    def _inside(self, line: str) -> Path:
        """Return the file in this folder that a line of ``all_files.txt`` names; a folder in the line is ignored."""
        *folders, name = line.split("/")
        outside = ".." in folders or line.startswith("/") or "\\" in line
        if outside or name.startswith(".") or not name.endswith(".h5") or not name.isprintable():
            raise UserError(f"{self.root / 'all_files.txt'}: {line[:100]!r} must be the name of an .h5 file beside it")
        return self.root / name

    def _lines(self, name: str) -> list[str]:
        try:
            return (self.root / name).read_text("utf-8").split()
        except OSError:
            raise UserError(
                f"{self.root}: no {name}; looked for all_files.txt, room_filelist.txt and ply_data_all_*.h5"
            ) from None
        except UnicodeDecodeError:
            raise UserError(f"{self.root / name}: not text") from None


class BlockRow(NamedTuple):
    """Where a block is stored: a row of the arrays of a file."""

    path: Path
    arrays: dict[str, StoredArray]
    number: int

    def labels(self) -> np.ndarray:
        """Return the labels of the block's points.

        Raises:
            UserError: there are labels of no class.
        """
        labels = self.arrays["label"].row(self.path, self.number)
        if not (((labels >= 0) & (labels < len(S3DIS))) | (labels == no_label(S3DIS))).all():
            raise UserError(f"{self.path}: labels of no class in row {self.number}")
        return labels


class OfficialBlockDataset(Dataset):
    """Blocks of official HDF5 files.

    Args:
        rows: where each block is stored. room_of: the room of each block.
        points: points per block, at most as many as are stored (4096). If fewer, they are sampled anew in each epoch.
        variant: ``paper`` for positions as stored, ``port`` for positions scaled to -1..1
            (:func:`~deepgcn_seg.data.blocks.scaled_positions`).
        seed: seed of the sampling. features: of a point. augment: augmentations, applied in order to each block.

    Item: points (N, channels) float32, label (N,) int64.
    """

    def __init__(
        self,
        rows: Sequence[BlockRow],
        room_of: Sequence[RoomEntry],
        points: int,
        variant: str = "paper",
        seed: int = 0,
        features: Sequence[str] = NINE,
        augment: Sequence[Augmentation] = (),
    ):
        self.augment = tuple(augment)
        self.rows, self.room_of = list(rows), list(room_of)
        self.points, self.variant, self.seed = points, variant, seed
        self._columns = [column for feature in features for column in _COLUMNS[feature]]

    def __len__(self) -> int:
        return len(self.rows)

    def describe(self, i: int) -> str:
        """Return where a block is: ``ply_data_all_0.h5 row 7``."""
        return f"{self.rows[i].path.name} row {self.rows[i].number}"

    def __getitem__(self, item: tuple[int, int] | int) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, i = item if isinstance(item, tuple) else (0, item)
        path, arrays, row = self.rows[i]
        data, label = arrays["data"].row(path, row).astype(np.float32, copy=False), self.rows[i].labels()
        if not np.isfinite(data).all():
            raise UserError(f"{path}: NaN or infinite values in row {row}")
        if self.points > len(data):
            raise UserError(f"points={self.points}, but the blocks of {path.parent} have {len(data)}")
        rng = np.random.default_rng([self.seed, epoch, i])
        if self.points < len(data):
            sample = sample_indices(len(data), self.points, rng)
            data, label = data[sample], label[sample]
        if self.augment:
            points = augmented(room_points(data), self.augment, rng)
            data = block_features(points.xyz, points.rgb, points.room_size)
        position, height = data[:, :3], data[:, 2:3]
        if self.variant == "port":
            position = scaled_positions(position)
        data = np.concatenate([position, data[:, 3:], height], 1)
        return torch.from_numpy(data[:, self._columns]), torch.from_numpy(label.astype(np.int64))


def room_points(features: np.ndarray) -> BlockPoints:
    """Return the points of a block in metres of their room, computed from the nine channels (n, 9).

    The position in the room is stored as a share of the room's extent, and the position in the block in metres. So the
    extent is the spread of the latter, divided by the spread of the former.
    """
    block, share = features[:, :3], features[:, 6:]
    size = np.ptp(block, axis=0) / np.maximum(np.ptp(share, axis=0), 1e-6)
    return BlockPoints((share * size).astype(np.float32), features[:, 3:6] * np.float32(255), size)


def _check_shapes(path: Path, arrays: dict[str, StoredArray]) -> None:
    data, label = arrays["data"], arrays["label"]
    if len(data.shape) != 3 or data.shape[2] != 9 or label.shape != data.shape[:2]:
        raise UserError(f"{path}: data must be (blocks, points, 9) and label (blocks, points)")
    if label.shape[1] > MAX_POINTS:
        raise UserError(f"{path}: blocks of {label.shape[1]} points, at most {MAX_POINTS} are read")
    if "f" not in data.dtype or "f" in label.dtype:
        raise UserError(f"{path}: data must be real numbers and label whole ones")
