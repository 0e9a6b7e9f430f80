"""How a number is measured: the protocols ``blocks``, ``recut`` and ``rooms``.

=======  ====================================================================================
blocks   blocks of points at half their side, 0.5 m, N sampled points each, as the official HDF5 files
         are cut: points in overlaps count several times, points that are not sampled do not count
recut    blocks side by side, 1 m, N sampled points each: the paper's
rooms    every point of every room gets one label, by voting (:mod:`deepgcn_seg.inference.voting`)
=======  ====================================================================================

A network that puts out NaN or infinity is an error, and so is a point without a vote: neither is a class.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Annotated, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.blocks import NINE, VARIANTS, BlockGrid, channels
from ..data.dataset import block_dataset, make_loader
from ..data.official_hdf5 import OfficialBlocks
from ..data.room import RoomEntry
from ..data.store import RoomStore
from ..distributed import World
from ..errors import UserError
from ..inference.voting import BadScoresError, Voting, finite_logits
from ..progress import track
from ..settings import Count, Flag, Metres, Seed, choice, integer, validate
from .metrics import confusion_matrix

PROTOCOLS = ("blocks", "recut", "rooms")
# Stride of the sampled protocols as a share of the block's side.
_STRIDES = {"blocks": 0.5, "recut": 1.0}


@dataclass
class Result:
    """What a protocol measured.

    Attributes:
        by_room: (R, C, C) int64, a confusion matrix for each room, rows truth.
        predictions: for each room's key the labels (N,) in the store's order (``rooms`` only).
        seconds: how long it took.
        loss: mean cross-entropy of the scored points, without label smoothing or weights. None for ``rooms``: a point's
            votes are averaged probabilities, whose loss would not be the network's.
    """

    by_room: Tensor
    predictions: dict[str, np.ndarray]
    seconds: float
    loss: float | None = None

    @property
    def confusion(self) -> Tensor:
        """The confusion matrix (C, C) int64, summed over all rooms."""
        return self.by_room.sum(0)

    @property
    def points(self) -> int:
        """Number of points scored."""
        return int(self.by_room.sum())


@dataclass(frozen=True)
class Protocol:
    """A rule for which points are scored, and its settings.

    Attributes:
        name: one of :data:`PROTOCOLS`. points: per block. variant: of the channels (paper, port).
        batch_size: blocks per forward pass. side: of a block, metres. seed: of the sampling.
        groups: of channels (:data:`deepgcn_seg.data.blocks.CHANNELS`).
        stride, votes, turn: for ``rooms`` only, as :class:`~deepgcn_seg.inference.voting.Voting` has them.

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
        self.grid()

    def grid(self) -> BlockGrid:
        """Return how rooms are cut: for ``rooms`` so that every point is in a block."""
        if self.name == "rooms":
            return self._voting().grid()
        return BlockGrid(self.side, _STRIDES[self.name] * self.side)

    def _voting(self) -> Voting:
        return Voting(**{field.name: getattr(self, field.name) for field in fields(Voting)})

    def describe(self) -> str:
        """Return the protocol in one line, for tables and files."""
        if self.name == "rooms":
            votes = f"votes {self.votes}" + (", turned" if self.turn else "")
            return f"rooms (every point once; stride {self.stride:g} m, {votes}, {self.points} points a pass)"
        return f"{self.name} (stride {self.grid().stride:g} m, {self.points} sampled points a block)"

    def require_rooms(self, store: RoomStore | OfficialBlocks) -> None:
        """Refuse a store that this protocol cannot measure on.

        Raises:
            UserError: official HDF5 blocks, under a protocol that cuts rooms.
        """
        if isinstance(store, OfficialBlocks) and self.name != "blocks":
            raise UserError(f"protocol={self.name}: {store.root} holds sampled blocks, not rooms; use protocol=blocks")

    def run(
        self,
        model: nn.Module,
        store: RoomStore | OfficialBlocks,
        rooms: Sequence[RoomEntry],
        device: torch.device,
        world: World = World(),
    ) -> Result:
        """Score a model on some rooms; the result depends on the seed alone.

        Args:
            model: (B, N, channels) -> logits (B, N, C). It is put into eval mode, and back afterwards.
            world: processes that share the work; each gets the matrices of all, and the predictions of its own rooms.

        Raises:
            BadScoresError: the network puts out NaN or infinity, or scores of other classes than the store's.
        """
        self.require_rooms(store)
        started = time.perf_counter()
        training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                predictions: dict[str, np.ndarray] = {}
                total = None
                if self.name == "rooms":
                    by_room, predictions = self._score_rooms(model, cast(RoomStore, store), rooms, device, world)
                else:
                    by_room, total = self._score_blocks(model, store, rooms, device, world)
                by_room = world.sum(by_room.to(device)).cpu()
                loss = None if total is None else float(world.sum(total) / by_room.sum())
        finally:
            model.train(training)
        return Result(by_room, predictions, time.perf_counter() - started, loss)

    def _score_blocks(
        self,
        model: nn.Module,
        store: RoomStore | OfficialBlocks,
        rooms: Sequence[RoomEntry],
        device: torch.device,
        world: World,
    ) -> tuple[Tensor, Tensor]:
        """Return a confusion matrix for each room (R, C, C) and the sum of the cross-entropy over all points.

        Both are of this process's blocks.
        """
        settings = {"variant": self.variant, "seed": self.seed, "groups": tuple(self.groups)}
        dataset = block_dataset(store, rooms, self.points, self.grid(), **settings)
        # Blocks that this process scores.
        numbers = range(world.rank, len(dataset), world.size)
        loader = make_loader(dataset, self.batch_size, numbers)
        by_room = _no_counts(rooms, store)
        row = {room: i for i, room in enumerate(rooms)}
        remaining = iter(numbers)
        total = torch.zeros((), dtype=torch.float64, device=device)
        for points, label in track(loader, len(loader), f"Scoring ({self.name})"):
            batch = list(islice(remaining, len(points)))
            logits = finite_logits(model, points.to(device), [dataset.describe(i) for i in batch])
            _require_classes(logits, store)
            total += F.cross_entropy(logits.float().flatten(0, 1), label.to(device).flatten(), reduction="sum")
            for i, truth, predicted in zip(batch, label, logits.argmax(-1).cpu()):
                by_room[row[dataset.room_of[i]]] += confusion_matrix(truth, predicted, len(store.classes))
        return by_room, total

    def _score_rooms(
        self, model: nn.Module, store: RoomStore, rooms: Sequence[RoomEntry], device: torch.device, world: World
    ) -> tuple[Tensor, dict[str, np.ndarray]]:
        """Return a confusion matrix for each room (R, C, C) and the labels of this process's rooms by their keys."""
        by_room = _no_counts(rooms, store)
        row = {room: i for i, room in enumerate(rooms)}
        predictions: dict[str, np.ndarray] = {}
        for room, votes in self._voting().vote(model, store, rooms[world.rank :: world.size], device):
            _require_classes(votes, store)
            predicted = votes.argmax(1)
            label = torch.from_numpy(store.open(room).labels().astype(np.int64))
            by_room[row[room]] = confusion_matrix(label, predicted, len(store.classes))
            predictions[room.key] = predicted.numpy().astype(store.classes.dtype)
        return by_room, predictions


def _no_counts(rooms: Sequence[RoomEntry], store: RoomStore | OfficialBlocks) -> Tensor:
    return torch.zeros(len(rooms), len(store.classes), len(store.classes), dtype=torch.int64)


def _require_classes(scores: Tensor, store: RoomStore | OfficialBlocks) -> None:
    if scores.shape[-1] != len(store.classes):
        raise BadScoresError(f"the network has {scores.shape[-1]} classes, but {store.root} has {len(store.classes)}")
