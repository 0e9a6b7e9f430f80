"""How a number is measured: the protocols ``blocks``, ``recut`` and ``rooms``.

=======  ====================================================================================
blocks   blocks at half their side, 0.5 m, N sampled points each, as the official HDF5 files are cut:
         points in overlaps count several times, unsampled ones not at all
recut    blocks side by side, 1 m, N sampled points each: the paper's
rooms    every point of every room gets one label: each block is covered by as many samples as it
         takes, class probabilities of all votes are averaged
=======  ====================================================================================

A network that puts out NaN or infinity is an error, and so is a point that nobody voted for: neither is a class.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from ..data.augmentation import BlockPoints, turned
from ..data.blocks import NINE, VARIANTS, Block, BlockGrid, block_features, channels, points_inside
from ..data.dataset import make_loader
from ..data.official_hdf5 import OfficialBlocks
from ..data.store import RoomEntry, RoomStore
from ..distributed import World
from ..errors import UserError, first_line
from ..memory import is_out_of_memory
from ..progress import Meter, track
from ..settings import Count, Flag, Metres, Seed, SettingError, choice, integer, validate
from .metrics import confusion_matrix

PROTOCOLS = ("blocks", "recut", "rooms")
# Stride of the sampled protocols as a share of the block's side.
_STRIDES = {"blocks": 0.5, "recut": 1.0}


class BadScoresError(UserError):
    """What a network puts out cannot be scored."""


@dataclass
class Result:
    """What a protocol measured.

    Attributes:
        by_room: (R, C, C) int64, a confusion matrix for each room, rows truth. predictions: per room
            key the labels (N,) uint8 in the store's order (``rooms`` only). seconds: it took.
    """

    by_room: Tensor
    predictions: dict[str, np.ndarray]
    seconds: float

    @property
    def confusion(self) -> Tensor:
        """(C, C) int64, summed over all rooms."""
        return self.by_room.sum(0)

    @property
    def points(self) -> int:
        """Number of points scored."""
        return int(self.by_room.sum())


@dataclass(frozen=True)
class Protocol:
    """A way to measure, with its settings.

    Attributes:
        name: one of :data:`PROTOCOLS`. points: per block. variant: of the channels (paper, port).
        batch_size: blocks per forward pass. side: of a block, metres. seed: of the sampling.
        groups: of channels (:data:`deepgcn_seg.data.blocks.CHANNELS`).
        stride, votes, turn: ``rooms`` only: metres between blocks, at most ``side``, passes over each, and whether
            the room is turned by a further quarter for each pass (for models trained with turns).

    Raises:
        SettingError: a setting out of range.
    """

    name: Annotated[str, choice(*PROTOCOLS)] = "rooms"
    points: Count = 4096
    variant: Annotated[str, choice(*VARIANTS)] = "paper"
    batch_size: Count = 16
    side: Metres = 1.0
    seed: Seed = 0
    stride: Metres = 1.0
    votes: Annotated[int, integer(1, 1000)] = 1
    turn: Flag = False
    groups: Annotated[Sequence[str], channels()] = NINE

    def __post_init__(self):
        validate(self)
        if self.name == "rooms" and self.stride > self.side:
            raise SettingError(f"stride={self.stride}: must be at most side={self.side}, or points lie in no block")
        self.grid()

    def grid(self) -> BlockGrid:
        """How rooms are cut: for ``rooms`` so that every point is in a block."""
        if self.name == "rooms":
            return BlockGrid(self.side, self.stride, min_points=1)
        return BlockGrid(self.side, _STRIDES[self.name] * self.side)

    def describe(self) -> str:
        """One line for tables and files."""
        if self.name == "rooms":
            votes = f"votes {self.votes}" + (", turned" if self.turn else "")
            return f"rooms (every point once; stride {self.stride:g} m, {votes}, {self.points} points a pass)"
        return f"{self.name} (stride {self.grid().stride:g} m, {self.points} sampled points a block)"

    def require_rooms(self, store: RoomStore) -> None:
        """Refuse a store that this protocol cannot measure on.

        Raises:
            UserError: official HDF5 blocks under a protocol that cuts rooms.
        """
        if isinstance(store, OfficialBlocks) and self.name != "blocks":
            raise UserError(f"protocol={self.name}: {store.root} holds sampled blocks, not rooms; use protocol=blocks")

    def run(
        self,
        model: nn.Module,
        store: RoomStore,
        rooms: Sequence[RoomEntry],
        device: torch.device,
        world: World = World(),
    ) -> Result:
        """Score a model on some rooms; deterministic given the seed.

        Args:
            model: (B, N, 9) -> logits (B, N, C); put in eval mode and back.
            world: processes that share the work; all get the summed matrices, each its own rooms' predictions.

        Raises:
            BadScoresError: the network puts out NaN or infinity, or scores of other classes than the store's.
        """
        self.require_rooms(store)
        started = time.perf_counter()
        training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                measure = self._rooms if self.name == "rooms" else self._blocks
                by_room, predictions = measure(model, store, rooms, device, world)
                by_room = world.sum(by_room.to(device)).cpu()
        finally:
            model.train(training)
        return Result(by_room, predictions, time.perf_counter() - started)

    def _blocks(self, model, store, rooms, device, world):
        dataset = store.blocks(
            rooms, self.points, self.grid(), variant=self.variant, seed=self.seed, groups=tuple(self.groups)
        )
        mine = range(world.rank, len(dataset), world.size)
        loader = make_loader(dataset, self.batch_size, mine)
        by_room = _no_counts(rooms, store)
        number = {room: i for i, room in enumerate(rooms)}
        place = iter(mine)
        for points, label in track(loader, len(loader), f"Scoring ({self.name})"):
            blocks = list(islice(place, len(points)))
            logits = _scores(model, points.to(device), [dataset.describe(i) for i in blocks])
            _require_classes(logits, store)
            for i, *part in zip(blocks, label, logits.argmax(-1).cpu()):
                by_room[number[dataset.room_of[i]]] += confusion_matrix(*part, len(store.classes))
        return by_room, {}

    def _rooms(self, model, store, rooms, device, world):
        by_room = _no_counts(rooms, store)
        number = {room: i for i, room in enumerate(rooms)}
        predictions: dict[str, np.ndarray] = {}
        for room, votes in self.vote(model, store, rooms[world.rank :: world.size], device):
            _require_classes(votes, store)
            predicted = votes.argmax(1)
            label = torch.from_numpy(store.open(room).labels().astype(np.int64))
            by_room[number[room]] = confusion_matrix(label, predicted, len(store.classes))
            predictions[room.key] = predicted.numpy().astype(store.classes.dtype)
        return by_room, predictions

    def vote(
        self, model: nn.Module, store: RoomStore, rooms: Sequence[RoomEntry], device: torch.device
    ) -> Iterator[tuple[RoomEntry, Tensor]]:
        """Class probabilities of every point of some rooms, added over all votes: (N, C), room by room.

        Samples of several rooms share a batch; votes are held only for the rooms of that batch.

        Args:
            model: in eval mode.

        Raises:
            BadScoresError: the network puts out NaN or infinity.
            UserError: a point got no vote.
        """
        held: dict[RoomEntry, Tensor] = {}
        blocks = [block for room in rooms for block in self.grid().cut(store, room)]
        if unseen := set(rooms) - {block.room for block in blocks}:
            raise UserError(f"{min(room.key for room in unseen)}: no block has any of its points")
        total = sum(-(-block.count // self.points) for block in blocks) * self.votes
        with Meter("Labelling, samples", total) as meter:
            for samples in _batched(self._samples(store, blocks), self.batch_size):
                features = torch.from_numpy(np.stack([sample.features for sample in samples]))
                logits = _scores(model, features.to(device), [sample.block for sample in samples])
                shares = logits.float().softmax(-1).cpu()
                for sample, share in zip(samples, shares):
                    if sample.room not in held:
                        held[sample.room] = torch.zeros(store.open(sample.room).count, shares.shape[-1])
                    held[sample.room].index_add_(0, torch.from_numpy(sample.places), share)
                for room in [room for room in held if room != samples[-1].room]:
                    yield room, _complete(room, held.pop(room))
                meter.advance(steps=len(samples))
            for room, votes in held.items():
                yield room, _complete(room, votes)

    def _samples(self, store: RoomStore, blocks: Sequence[Block]) -> Iterator["_Sample"]:
        """Samples that cover the blocks, in order."""
        number, last = 0, None
        for block in blocks:
            # Numbered within the room, so that a room's samples do not depend on the others.
            number, last = (number + 1 if block.room == last else 0), block.room
            stored = store.open(block.room)
            xyz, rgb, _, place = points_inside(stored, block.low, block.high)
            rng = np.random.default_rng([self.seed, number])
            for vote in range(self.votes):
                for chosen in cover(len(place), self.points, rng):
                    points = BlockPoints(xyz[chosen], rgb[chosen], stored.size)
                    if self.turn and vote % 4:
                        points = turned(points, vote % 4 * np.pi / 2)
                    features = block_features(
                        points.xyz, points.rgb, points.room_size, self.variant, self.side, self.groups
                    )
                    yield _Sample(block.room, str(block), features, place[chosen])


def _no_counts(rooms: Sequence[RoomEntry], store: RoomStore) -> Tensor:
    return torch.zeros(len(rooms), len(store.classes), len(store.classes), dtype=torch.int64)


def _scores(model: nn.Module, points: Tensor, blocks: Sequence[str]) -> Tensor:
    """Logits (B, N, C) of some blocks, all of them finite.

    Raises:
        BadScoresError: they are not; names the first block.
        UserError: there is not enough memory.
    """
    try:
        logits = model(points)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"out of memory for {len(points)} blocks of {points.shape[1]} points ({first_line(error)}): set a smaller "
            "batch_size, or another device"
        ) from None
    finite = torch.isfinite(logits).flatten(1).all(1)
    if not finite.all():
        first = blocks[int(finite.logical_not().nonzero()[0, 0])]
        raise BadScoresError(f"the network's scores are NaN or infinite in the block {first}")
    return logits


def _require_classes(scores: Tensor, store: RoomStore) -> None:
    if scores.shape[-1] != len(store.classes):
        raise BadScoresError(f"the network has {scores.shape[-1]} classes, but {store.root} has {len(store.classes)}")


def _complete(room: RoomEntry, votes: Tensor) -> Tensor:
    """The votes (N, C) of a room, of which every point has some.

    Raises:
        UserError: a point has none.
    """
    missing = int((votes.sum(1) <= 0).sum())
    if missing:
        raise UserError(f"{room.key}: {missing} of {len(votes)} points are in no block, so that they have no label")
    return votes


@dataclass(frozen=True)
class _Sample:
    """Points of a block: (N, channels) features and (N,) places in the store; the block in words."""

    room: RoomEntry
    block: str
    features: np.ndarray
    places: np.ndarray


def _batched(samples: Iterator[_Sample], size: int) -> Iterator[list[_Sample]]:
    while batch := list(islice(samples, size)):
        yield batch


def cover(count: int, points: int, rng: np.random.Generator) -> np.ndarray:
    """Samples of ``points`` out of ``count`` that hold every one: (samples, points) indices.

    A random order cut into samples, the last filled up with other points of the block.
    """
    order = rng.permutation(count)
    # np.resize repeats from the start; the last sample of a large block so has no duplicates.
    return np.resize(order, (-(-count // points), points))
