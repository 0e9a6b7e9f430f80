"""How a number is measured: the protocols ``blocks``, ``recut`` and ``rooms``.

=======  ====================================================================================
blocks   N sampled points of each block, at a stride of half a block (0.5 m), as in the official HDF5 files.
         Points in overlaps can count several times, and points that are not sampled do not count.
recut    N sampled points of each block, blocks side by side (stride 1 m): the paper's protocol.
rooms    Every point of every room gets one label, by voting (:mod:`deepgcn_seg.inference.voting`).
=======  ====================================================================================

A protocol scores one network. The six-fold score of S3DIS is made of six networks, each scored on the area that was
held out for it: :func:`deepgcn_seg.reporting.six_folds.six_folds`.

Points whose true label is :func:`~deepgcn_seg.data.classes.no_label` are context: the network sees them, and they are
not scored. A network that puts out NaN or infinity is an error, and so is a point without a vote.
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

from ..data.blocks import BlockGrid
from ..data.classes import no_label
from ..data.dataset import block_dataset, make_loader
from ..data.official_hdf5 import OfficialBlocks
from ..data.room import RoomEntry
from ..data.store import RoomStore, Store
from ..distributed import World
from ..errors import UserError
from ..inference.sampling import Sampling
from ..inference.voting import BadScoresError, Voting, finite_logits
from ..progress import track
from ..settings import SettingError, choice, integer, shown
from .metrics import confusion_matrix, miou_interval, points_by_class

PROTOCOLS = ("blocks", "recut", "rooms")
# Stride of the protocols that sample points, as a share of the block's side.
_STRIDES = {"blocks": 0.5, "recut": 1.0}


@dataclass
class Result:
    """The result of a protocol.

    Attributes:
        by_room: (R, C, C) int64, a confusion matrix for each room, rows truth.
        predictions: the labels (N,) of each room by its key, in the store's order; empty except for ``rooms``.
        seconds: time that scoring took. unlabelled: number of points that are not scored, as they have no true label.
        loss: mean cross-entropy of the scored points, without label smoothing or weights. None for ``rooms``: a point's
            votes are averaged probabilities, whose loss would not be the network's.
    """

    by_room: Tensor
    predictions: dict[str, np.ndarray]
    seconds: float
    unlabelled: int = 0
    loss: float | None = None

    @property
    def confusion(self) -> Tensor:
        """The confusion matrix (C, C) int64, summed over all rooms."""
        return self.by_room.sum(0)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mIoU over rooms (:func:`.metrics.miou_interval`); None if there is only one room."""
        return miou_interval(points_by_class(self.by_room))

    @property
    def points(self) -> int:
        """Number of scored points."""
        return int(self.by_room.sum())


@dataclass(frozen=True)
class Protocol(Sampling):
    """A rule for which points are scored, and its settings: ``Protocol("recut", points=4096)``.

    Attributes:
        name: one of :data:`PROTOCOLS`. min_points: blocks with fewer points are left out; ``rooms`` leaves out none.
            The others are those of :class:`~deepgcn_seg.inference.sampling.Sampling`, of which the stride, and votes
            with their copies, are for ``rooms`` only.

    Raises:
        SettingError: a setting is out of range, or is for ``rooms`` only.
    """

    name: Annotated[str, choice(*PROTOCOLS)] = "rooms"
    min_points: Annotated[int, integer(0)] = BlockGrid.min_points

    def __post_init__(self):
        super().__post_init__()
        if self.name != "rooms":
            self._require_no_votes()
        self.grid()

    def _require_no_votes(self) -> None:
        """Refuse settings that only ``rooms`` reads, unless they change nothing."""
        neutral = {"stride": (1.0, self.side), "votes": (1,), "turn": (False,), "mirror": (False,), "scales": ([1.0],)}
        for setting, values in neutral.items():
            value = getattr(self, setting)
            if (list(value) if isinstance(value, Sequence) else value) not in values:
                raise SettingError(f"{setting}={shown(value)}: only with protocol=rooms or protocol=tta")

    def grid(self) -> BlockGrid:
        """Return how rooms are cut into blocks; with ``rooms``, every point is in a block."""
        if self.name == "rooms":
            return self.voting().grid()
        return BlockGrid(self.side, _STRIDES[self.name] * self.side, self.min_points)

    def voting(self) -> Voting:
        """Return how ``rooms`` labels every point."""
        return Voting(**{field.name: getattr(self, field.name) for field in fields(Sampling)})

    def describe(self) -> str:
        """Return the protocol in one line, for tables and files."""
        if self.name == "rooms":
            votes = self.describe_votes()
            return f"rooms (every point once; stride {self.stride:g} m, {votes}, {self.points} points a pass)"
        others = f", blocks of {self.min_points} points or more" * (self.min_points != BlockGrid.min_points)
        return f"{self.name} (stride {self.grid().stride:g} m, {self.points} sampled points a block{others})"

    def require_rooms(self, store: Store) -> None:
        """Raise an error if this protocol cannot be used with a store.

        Raises:
            UserError: the store has the official HDF5 blocks, and the protocol needs whole rooms or other blocks.
        """
        if not isinstance(store, OfficialBlocks):
            return
        if self.name != "blocks":
            raise UserError(f"protocol={self.name}: {store.root} holds sampled blocks, not rooms; use protocol=blocks")
        store.require_grid(self.grid())

    def run(
        self,
        model: nn.Module,
        store: Store,
        rooms: Sequence[RoomEntry],
        device: torch.device,
        world: World = World(),
    ) -> Result:
        """Score a model on some rooms; the result depends on the seed alone.

        Args:
            model: maps points (B, N, channels) to logits (B, N, C). It is in eval mode while it is scored.
            world: processes that share the work. Each gets all matrices, but only the predictions of its own rooms.

        Raises:
            BadScoresError: the network puts out NaN or infinity, or scores of other classes than the store's.
        """
        self.require_rooms(store)
        started = time.perf_counter()
        predictions: dict[str, np.ndarray] = {}
        total = None
        if self.name == "rooms":
            by_room, unlabelled, predictions = self._score_rooms(model, cast(RoomStore, store), rooms, device, world)
        else:
            by_room, unlabelled, total = self._score_blocks(model, store, rooms, device, world)
        by_room, unlabelled = (world.sum(counts.to(device)).cpu() for counts in (by_room, unlabelled))
        loss = None if total is None else float(world.sum(total) / by_room.sum())
        return Result(by_room, predictions, time.perf_counter() - started, int(unlabelled), loss)

    def _score_blocks(
        self,
        model: nn.Module,
        store: Store,
        rooms: Sequence[RoomEntry],
        device: torch.device,
        world: World,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return a confusion matrix for each room, the unlabelled points, and the sum of the cross-entropy.

        All are of this process's blocks: (R, C, C), () and ().
        """
        settings = {"variant": self.variant, "seed": self.seed, "features": tuple(self.features)}
        dataset = block_dataset(store, rooms, self.points, self.grid(), **settings)
        # Blocks that this process scores.
        numbers = range(world.rank, len(dataset), world.size)
        loader = make_loader(dataset, self.batch_size, numbers)
        by_room, unlabelled = _no_counts(rooms, store)
        ignore = int(no_label(store.classes))
        row = {room: i for i, room in enumerate(rooms)}
        remaining = iter(numbers)
        total = torch.zeros((), dtype=torch.float64, device=device)
        for points, label in track(loader, len(loader), f"Scoring ({self.name})"):
            batch = list(islice(remaining, len(points)))
            logits = finite_logits(model, points.to(device), [dataset.describe(i) for i in batch])
            _require_classes(logits, store)
            unlabelled += (label == ignore).sum()
            flat = label.to(device).flatten()
            total += F.cross_entropy(logits.float().flatten(0, 1), flat, ignore_index=ignore, reduction="sum")
            for i, truth, predicted in zip(batch, label, logits.argmax(-1).cpu()):
                by_room[row[dataset.room_of[i]]] += confusion_matrix(truth, predicted, len(store.classes), ignore)
        return by_room, unlabelled, total

    def _score_rooms(
        self, model: nn.Module, store: RoomStore, rooms: Sequence[RoomEntry], device: torch.device, world: World
    ) -> tuple[Tensor, Tensor, dict[str, np.ndarray]]:
        """Return a confusion matrix for each room, the unlabelled points, and the labels of this process's rooms."""
        by_room, unlabelled = _no_counts(rooms, store)
        ignore = int(no_label(store.classes))
        row = {room: i for i, room in enumerate(rooms)}
        predictions: dict[str, np.ndarray] = {}
        for room, votes in self.voting().vote(model, store, rooms[world.rank :: world.size], device):
            _require_classes(votes, store)
            predicted = votes.argmax(1)
            label = torch.from_numpy(store.open(room).labels().astype(np.int64))
            unlabelled += (label == ignore).sum()
            by_room[row[room]] = confusion_matrix(label, predicted, len(store.classes), ignore)
            predictions[room.key] = predicted.numpy().astype(store.classes.dtype)
        return by_room, unlabelled, predictions


def _no_counts(rooms: Sequence[RoomEntry], store: Store) -> tuple[Tensor, Tensor]:
    """Return a confusion matrix for each room and the number of unlabelled points, all zero."""
    matrices = torch.zeros(len(rooms), len(store.classes), len(store.classes), dtype=torch.int64)
    return matrices, torch.zeros((), dtype=torch.int64)


def _require_classes(scores: Tensor, store: Store) -> None:
    if scores.shape[-1] != len(store.classes):
        raise BadScoresError(f"the network has {scores.shape[-1]} classes, but {store.root} has {len(store.classes)}")
