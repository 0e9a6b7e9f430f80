"""Blocks as training examples: splits by area, a dataset, and a sampler that can resume."""

import errno
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ..errors import UserError, first_line
from .augmentation import Augmentation, BlockPoints
from .blocks import NINE, BlockGrid, advise, block_features, choose, points_inside
from .store import RoomEntry, RoomStore


@dataclass(frozen=True)
class Split:
    """Rooms to train on, to choose the best checkpoint on, and to test on."""

    train: list[RoomEntry]
    validation: list[RoomEntry]
    test: list[RoomEntry]


def split_by_area(store: RoomStore, fold: int | str, validation: float = 0.1, seed: int = 0) -> Split:
    """Hold out area ``fold`` for testing, and a share of the other areas' rooms for validation.

    Args:
        fold: the test area: its number, as in ``Area_5``, or its name.
        validation: share of the training areas' rooms, at least one room unless 0.
        seed: which rooms those are.

    Raises:
        UserError: no such area.
    """
    name = area_name(store, fold)
    test = [room for room in store.rooms if room.area == name]
    rest = [room for room in store.rooms if room.area != name]
    held = min(max(round(validation * len(rest)), 1), len(rest) - 1) if validation > 0 else 0
    chosen = set(np.random.default_rng([seed, store.areas.index(name) + 1]).permutation(len(rest))[:held].tolist())
    train = [room for i, room in enumerate(rest) if i not in chosen]
    return Split(train, [rest[i] for i in sorted(chosen)], test)


def area_name(store: RoomStore, fold: int | str | None) -> str:
    """Name of the area that a fold holds out.

    Raises:
        UserError: no such area, or no other to train on.
    """
    names = [f"Area_{fold}", str(fold)]
    found = next((name for name in names if name in store.areas), None)
    if found is None:
        given = " is not set" if fold is None else f"={fold}: no {' or '.join(names)}"
        raise UserError(f"data.fold{given} in {store.root}; its areas are {', '.join(store.areas)}")
    if len(store.areas) == 1:
        raise UserError(
            f"{store.root} has one area, {found}; a second one is needed, to test on what was not trained on"
        )
    return found


class BlockDataset(Dataset):
    """Sampled blocks of some rooms.

    Items are asked for as ``(epoch, i)`` and depend on nothing but that and the seed, not on
    workers or order, so that a resumed run sees what an uninterrupted one would.

    Args:
        store, rooms: where the points are. grid: how rooms are cut.
        points: points per block. variant: paper or port (:mod:`deepgcn_seg.data.blocks`).
        seed: of the sampling. groups: of channels. augment: applied in order to each block.

    Item: points (N, channels) float32, label (N,) int64.

    Attributes:
        room_of: the room of each block.
    """

    def __init__(
        self,
        store: RoomStore,
        rooms: Sequence[RoomEntry],
        points: int,
        grid: BlockGrid = BlockGrid(),
        variant: str = "paper",
        seed: int = 0,
        groups: Sequence[str] = NINE,
        augment: Sequence[Augmentation] = (),
    ):
        self.store, self.grid, self.points, self.variant, self.seed = store, grid, points, variant, seed
        self.groups, self.augment = tuple(groups), tuple(augment)
        self.blocks = [block for room in rooms for block in grid.cut(store, room)]
        self.room_of = [block.room for block in self.blocks]
        if not self.blocks:
            raise UserError(
                f"no block of {grid.min_points} points or more in {len(rooms)} rooms of {store.root}: "
                f"{advise(store, rooms, grid)}"
            )

    def __len__(self) -> int:
        return len(self.blocks)

    def describe(self, i: int) -> str:
        """Which block: ``Area_1/office_1 at 0.5, 2``."""
        return str(self.blocks[i])

    def __getitem__(self, item: tuple[int, int] | int) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, i = item if isinstance(item, tuple) else (0, item)
        block = self.blocks[i]
        stored = self.store.open(block.room)
        xyz, rgb, label, _ = points_inside(stored, block.low, block.high)
        rng = np.random.default_rng([self.seed, epoch, i])
        chosen = choose(len(label), self.points, rng)
        block_points = BlockPoints(xyz[chosen], rgb[chosen].astype(np.float32), stored.size)
        for augment in self.augment:
            block_points = augment(block_points, rng)
        features = block_features(
            block_points.xyz, block_points.rgb, block_points.room_size, self.variant, self.grid.side, self.groups
        )
        return torch.from_numpy(features), torch.from_numpy(label[chosen].astype(np.int64))


class EpochSampler(Sampler):
    """Every block once per epoch, in an order that depends on the seed and the epoch alone.

    A step takes the next ``batch_size`` blocks, in parts of one forward pass each; several processes
    and several passes share a step's parts out, so that neither changes which blocks a step sees.

    Args:
        size: blocks. batch_size: blocks a step, of all processes together; what is left over at the
            end of an epoch is left out. part: blocks of one forward pass.
        first, stride: this process takes the parts first, first + stride, ... of every step.

    Set ``epoch`` before an epoch, and ``start`` to skip the steps a resumed epoch has done.
    """

    def __init__(
        self, size: int, seed: int = 0, batch_size: int = 1, part: int | None = None, first: int = 0, stride: int = 1
    ):
        self.size, self.seed, self.batch_size = size, seed, batch_size
        self.part, self.first, self.stride = part or batch_size, first, stride
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        steps = self.size // self.batch_size - self.start
        return steps * len(range(self.first, self.batch_size // self.part, self.stride)) * self.part

    def steps(self) -> np.ndarray:
        """The epoch's blocks, (steps, batch_size)."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        whole = self.size // self.batch_size * self.batch_size
        return order[:whole].reshape(-1, self.batch_size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        parts = self.steps()[self.start :].reshape(-1, self.batch_size // self.part, self.part)
        return ((self.epoch, int(i)) for i in parts[:, self.first :: self.stride].ravel())


class Loader(DataLoader):
    """A loader whose processes end in one clear line where the system gives them too little."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except (RuntimeError, OSError) as error:
            if not self.num_workers or (reason := _lack(error)) is None:
                raise
            raise UserError(f"workers={self.num_workers}: {reason}; or set workers=0") from None


def _lack(error: RuntimeError | OSError) -> str | None:
    """Say what loader processes lacked, and what to do; None if it is something else."""
    text = str(error)
    if "Too many open files" in text or "ancdata" in text:
        return "too many open files for processes that load data; raise the limit (ulimit -n)"
    # Locks lie in shared memory too, and are made before the first process starts.
    if "shared memory" in text or "Bus error" in text or getattr(error, "errno", None) == errno.ENOSPC:
        free = ""
        with suppress(OSError):
            free = f" (/dev/shm has {shutil.disk_usage('/dev/shm').free >> 10} KiB free)"
        return (
            f"too little shared memory for processes that load data{free}; give the container more, as with "
            "docker run --shm-size=2g"
        )
    if "exited unexpectedly" in text or "killed by signal" in text:
        return f"a process that loads data was ended by the system, perhaps for want of memory ({first_line(error)})"
    return None


def make_loader(
    dataset: Dataset,
    batch_size: int,
    sampler: Sampler | None = None,
    workers: int = 0,
    pin_memory: bool = False,
) -> Loader:
    """A loader of (points (B, N, 9), labels (B, N)) batches."""
    return Loader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        # The loader must not draw from the global generator: a resumed run starts it once more.
        generator=torch.Generator(),
    )
