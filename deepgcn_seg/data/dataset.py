"""Blocks of points as training examples: splits by area, a dataset, and a sampler that can resume an epoch."""

import atexit
import errno
import multiprocessing
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast
from unicodedata import normalize
from weakref import WeakSet

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ..errors import UserError, first_line
from ..settings import counted, some_of
from .augmentation import Augmentation, BlockPoints, augmented
from .blocks import NINE, BlockGrid, advise, block_features, points_inside, sample_indices
from .official_hdf5 import OfficialBlockDataset, OfficialBlocks
from .room import RoomEntry
from .store import RoomStore, Store


@dataclass(frozen=True)
class Split:
    """Rooms to train on, to select the best checkpoint with, and to test on."""

    train: list[RoomEntry]
    validation: list[RoomEntry]
    test: list[RoomEntry]


def split_by_area(store: Store, fold: int | str | None, validation: float = 0.1, seed: int = 0) -> Split:
    """Hold out area ``fold`` for testing, and a share of the other areas' rooms for validation.

    All scans of one place (:attr:`~.room.RoomEntry.place`) are on the same side.

    Args:
        fold: the number of the test area, as in ``Area_5``, or its name.
        validation: share of the training areas' places; at least one place, unless the share is 0.
        seed: seed of the random choice of these places.

    Raises:
        UserError: there is no such area, or no other one.
    """
    name = area_name(store, fold)
    test = [room for room in store.rooms if room.area == name]
    rest = [room for room in store.rooms if room.area != name]
    places = list(dict.fromkeys(room.place for room in rest))
    held = min(max(round(validation * len(places)), 1), len(places) - 1) if validation > 0 else 0
    order = np.random.default_rng([seed, store.areas.index(name) + 1]).permutation(len(places))
    held_out = {places[i] for i in order[:held]}
    train, kept = ([room for room in rest if (room.place in held_out) == side] for side in (False, True))
    return Split(train, kept, test)


def area_name(store: Store, fold: int | str | None) -> str:
    """Return the name of the area that a fold holds out.

    Raises:
        UserError: there is no such area, or no other one to train on.
    """
    names = [f"Area_{fold}", str(fold)]
    # A name of a folder may be stored with its accents apart, as macOS does, and be typed with them composed.
    composed = lambda name: normalize("NFC", name)
    areas = {composed(area): area for area in store.areas} | {area: area for area in store.areas}
    found = next((areas[name] for name in (*names, *map(composed, names)) if name in areas), None)
    if found is None:
        given = " is not set" if fold is None else f"={fold}: no {' or '.join(names)}"
        raise UserError(f"data.fold{given} in {store.root}; its areas are {', '.join(store.areas)}")
    if len(store.areas) == 1:
        raise UserError(
            f"{store.root} has one area, {found}; a second one is needed, to test on what was not trained on"
        )
    return found


class BlockDataset(Dataset):
    """Sampled blocks of points of some rooms.

    The index of an item is ``(epoch, i)``. The item depends on these two numbers and the seed alone, and not on worker
    processes or order, so that a resumed run sees the same as an uninterrupted one. A number ``i`` alone is that of
    epoch 0: with a sampler of PyTorch's, every epoch would have the same points and augmentation. :class:`EpochSampler`
    gives both numbers.

    Args:
        store, rooms: where the points are. grid: how rooms are cut.
        points: points per block. variant: variant of the channels, paper or port (:mod:`deepgcn_seg.data.blocks`).
        seed: seed of the sampling. features: of a point. augment: augmentations, applied in order to each block.

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
        features: Sequence[str] = NINE,
        augment: Sequence[Augmentation] = (),
    ):
        self.store, self.grid, self.points, self.variant, self.seed = store, grid, points, variant, seed
        self.features, self.augment = tuple(features), tuple(augment)
        self.blocks = [block for room in rooms for block in grid.cut(store, room)]
        self.room_of = [block.room for block in self.blocks]
        if not self.blocks:
            raise UserError(
                f"no block of {grid.min_points} points or more in {counted(len(rooms), 'room')} of {store.root} "
                f"({some_of([room.key for room in rooms], 3)}): {advise(store, rooms, grid)}"
            )

    def __len__(self) -> int:
        return len(self.blocks)

    def describe(self, i: int) -> str:
        """Return where a block is: ``Area_1/office_1 at 0.5, 2``."""
        return str(self.blocks[i])

    def __getitem__(self, item: tuple[int, int] | int) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, i = item if isinstance(item, tuple) else (0, item)
        block = self.blocks[i]
        stored = self.store.open(block.room)
        xyz, rgb, label, _ = points_inside(stored, block.low, block.high)
        rng = np.random.default_rng([self.seed, epoch, i])
        sample = sample_indices(len(label), self.points, rng)
        block_points = BlockPoints(xyz[sample], rgb[sample].astype(np.float32), stored.size)
        block_points = augmented(block_points, self.augment, rng)
        features = block_features(
            block_points.xyz, block_points.rgb, block_points.room_size, self.variant, self.grid.side, self.features
        )
        return torch.from_numpy(features), torch.from_numpy(label[sample].astype(np.int64))


def block_dataset(
    store: Store, rooms: Sequence[RoomEntry], points: int, grid: BlockGrid, **settings: Any
) -> BlockDataset | OfficialBlockDataset:
    """Return the blocks of some rooms as training examples: cut from rooms, or as official HDF5 files hold them.

    Args:
        grid: how rooms are cut. Official files hold blocks already, of one grid.
        settings: further arguments of the datasets: variant, seed, features, augment.

    Raises:
        UserError: there are no such blocks.
    """
    if isinstance(store, OfficialBlocks):
        store.require_grid(grid)
        return store.blocks(rooms, points, **settings)
    return BlockDataset(cast(RoomStore, store), rooms, points, grid, **settings)


def blocks_per_pass(batch_size: int, processes: int, accumulate: int) -> int:
    """Return the number of blocks of each forward pass of a step.

    Args:
        batch_size: blocks per step. processes: that share them. accumulate: passes per step of each process.

    Raises:
        UserError: the processes and passes cannot share the blocks equally.
    """
    parts = processes * accumulate
    if batch_size % parts:
        raise UserError(
            f"batch_size={batch_size}: must be a multiple of {parts} "
            f"({counted(processes, 'process')} x accumulate={accumulate})"
        )
    return batch_size // parts


class EpochSampler(Sampler):
    """A sampler of every block once per epoch, in an order that depends on the seed and the epoch alone.

    A step takes the next ``batch_size`` blocks and splits them into parts, one for each forward pass. Several
    processes, and several passes of one process, divide the parts among themselves. So the number of processes and the
    size of a part do not change which blocks a step sees.

    Args:
        size: number of blocks. batch_size: blocks per step of all processes together; an incomplete last batch of an
            epoch is left out. part: blocks per forward pass.
        first, stride: this process takes the parts first, first + stride, ... of every step.

    Attributes:
        epoch: the epoch, to be set before it begins, as :meth:`set_epoch` does it.
        start: number of steps that a resumed epoch skips.
    """

    def __init__(
        self, size: int, seed: int = 0, batch_size: int = 1, part: int | None = None, first: int = 0, stride: int = 1
    ):
        self.size, self.seed, self.batch_size = size, seed, batch_size
        self.part, self.first, self.stride = part or batch_size, first, stride
        self.epoch, self.start = 0, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that begins; Lightning and Accelerate call this method of a sampler by its name."""
        self.epoch = epoch

    def __len__(self) -> int:
        steps = self.size // self.batch_size - self.start
        return steps * len(range(self.first, self.batch_size // self.part, self.stride)) * self.part

    def steps(self) -> np.ndarray:
        """Return the numbers of the epoch's blocks, (steps, batch_size)."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        whole = self.size // self.batch_size * self.batch_size
        return order[:whole].reshape(-1, self.batch_size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        parts = self.steps()[self.start :].reshape(-1, self.batch_size // self.part, self.part)
        return ((self.epoch, int(i)) for i in parts[:, self.first :: self.stride].ravel())


# What a script must have where processes are not forked: on macOS, on Windows, and from Python 3.14 on.
GUARD = "in a script, {call} must stand below if __name__ == '__main__':"


class Loader(DataLoader):
    """A loader that reports in one line what its worker processes refuse, and that they lacked memory or open files."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except UserError as error:
            if not self.num_workers:
                raise
            # PyTorch gives it the text of the worker's traceback, which ends with class and message.
            kind = f"{type(error).__module__}.{type(error).__qualname__}: "
            raise UserError(str(error).rpartition(kind)[2].strip()) from None
        except (RuntimeError, OSError) as error:
            if not self.num_workers or (reason := _explain_lack(error)) is None:
                raise
            raise UserError(f"workers={self.num_workers}: {reason}; or set workers=0") from None

    def close(self) -> None:
        """End the worker processes. They ignore the signal by which PyTorch would end them with this process."""
        iterator: Any = self._iterator
        self._iterator = None
        if iterator is not None:
            iterator._shutdown_workers()
            for worker in iterator._workers:
                worker.kill()


_loaders: WeakSet[Loader] = WeakSet()


@atexit.register
def _close_loaders() -> None:
    """End the worker processes of loaders that nobody closed; multiprocessing would wait for them for ever."""
    for loader in list(_loaders):
        loader.close()


def _explain_lack(error: RuntimeError | OSError) -> str | None:
    """Return what worker processes lacked and what to do, or None if the error is another one."""
    text = str(error)
    if "Too many open files" in text or "ancdata" in text:
        return "too many open files for processes that load data; raise the limit (ulimit -n)"
    # Locks also need shared memory. They are created before the first process starts.
    if "shared memory" in text or "Bus error" in text or getattr(error, "errno", None) == errno.ENOSPC:
        free = ""
        with suppress(OSError):
            free = f" (/dev/shm has {shutil.disk_usage('/dev/shm').free >> 10} KiB free)"
        return (
            f"too little shared memory for processes that load data{free}; give the container more, as with "
            "docker run --shm-size=2g"
        )
    if "exited unexpectedly" in text and multiprocessing.get_start_method() != "fork":
        return f"a process that loads data ended by itself, as printed above; {GUARD.format(call='the training')}"
    if "exited unexpectedly" in text or "killed by signal" in text:
        return f"a process that loads data was ended by the system, perhaps for want of memory ({first_line(error)})"
    return None


def _leave_signals(worker: int) -> None:
    """Ignore, in a process that loads data, the signals that stop a training: until it has stopped, it needs the data.

    A terminal, ``timeout`` and SLURM send them to all processes of a group. The loader ends these processes.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def make_loader(
    dataset: Dataset,
    batch_size: int,
    sampler: Sampler | Sequence[int] | None = None,
    workers: int = 0,
    pin_memory: bool = False,
) -> Loader:
    """Return a loader of batches: points (B, N, channels) and labels (B, N)."""
    loader = Loader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=_leave_signals,
        # Without a generator of its own, a loader draws from the global one, and a resumed run would draw once more.
        generator=torch.Generator(),
    )
    _loaders.add(loader)
    return loader
