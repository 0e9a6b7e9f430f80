"""How a number is measured: the protocols ``blocks``, ``recut`` and ``rooms``.

=======  ====================================================================================
blocks   blocks at stride 0.5 m, N sampled points each, as the official HDF5 files are cut:
         points in overlaps count several times, unsampled ones not at all
recut    blocks at stride 1 m, N sampled points each: the paper's
rooms    every point of every room gets one label: each block is covered by as many samples as it
         takes, class probabilities of all votes are averaged
=======  ====================================================================================
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..data.blocks import BlockGrid, block_features, points_inside
from ..data.dataset import make_loader
from ..data.official_hdf5 import OfficialBlocks
from ..data.store import RoomEntry, RoomStore
from ..errors import UserError
from ..progress import track
from .metrics import confusion_matrix

PROTOCOLS = ("blocks", "recut", "rooms")
_STRIDES = {"blocks": 0.5, "recut": 1.0}


@dataclass
class Result:
    """What a protocol measured.

    Attributes:
        confusion: (C, C) int64, rows truth. predictions: per room key the labels (N,) uint8 in the
            store's order (``rooms`` only). points: scored. seconds: it took.
    """

    confusion: Tensor
    predictions: dict[str, np.ndarray]
    points: int
    seconds: float


@dataclass(frozen=True)
class Protocol:
    """A way to measure, with its settings.

    Attributes:
        name: one of :data:`PROTOCOLS`. points: per block. variant: of the channels (paper, port).
        batch_size: blocks per forward pass. side: of a block, metres. seed: of the sampling.
        stride, votes: ``rooms`` only: metres between blocks, and passes over each.
    """

    name: str = "rooms"
    points: int = 4096
    variant: str = "paper"
    batch_size: int = 16
    side: float = 1.0
    seed: int = 0
    stride: float = 1.0
    votes: int = 1

    def __post_init__(self):
        if self.name not in PROTOCOLS:
            raise ValueError(f"unknown protocol {self.name!r}: choose one of {', '.join(PROTOCOLS)}")

    def describe(self) -> str:
        """One line for tables and files."""
        if self.name == "rooms":
            return (
                f"rooms (every point once; stride {self.stride:g} m, votes {self.votes}, {self.points} points a pass)"
            )
        return f"{self.name} (stride {_STRIDES[self.name]:g} m, {self.points} sampled points a block)"

    def require_rooms(self, store: RoomStore) -> None:
        """Refuse a store that this protocol cannot measure on.

        Raises:
            UserError: official HDF5 blocks under a protocol that cuts rooms.
        """
        if isinstance(store, OfficialBlocks) and self.name != "blocks":
            raise UserError(f"protocol={self.name}: {store.root} holds sampled blocks, not rooms; use protocol=blocks")

    def run(self, model: nn.Module, store: RoomStore, rooms: Sequence[RoomEntry], device: torch.device) -> Result:
        """Score a model on some rooms; deterministic given the seed.

        Args:
            model: (B, N, 9) -> logits (B, N, C); put in eval mode and back.
        """
        self.require_rooms(store)
        started = time.perf_counter()
        training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                measure = self._rooms if self.name == "rooms" else self._blocks
                confusion, predictions = measure(model, store, rooms, device)
        finally:
            model.train(training)
        return Result(confusion, predictions, int(confusion.sum()), time.perf_counter() - started)

    def _blocks(self, model, store, rooms, device):
        grid = BlockGrid(self.side, _STRIDES[self.name])
        dataset = store.blocks(rooms, self.points, grid, self.variant, self.seed)
        loader = make_loader(dataset, self.batch_size)
        confusion = torch.zeros(len(store.classes), len(store.classes), dtype=torch.int64)
        for points, label in track(loader, len(loader), f"Scoring ({self.name})"):
            predicted = model(points.to(device)).argmax(-1).cpu()
            confusion += confusion_matrix(label, predicted, len(store.classes))
        return confusion, {}

    def _rooms(self, model, store, rooms, device):
        confusion = torch.zeros(len(store.classes), len(store.classes), dtype=torch.int64)
        predictions = {}
        grid = BlockGrid(self.side, self.stride, min_points=1)
        for room in track(rooms, len(rooms), "Scoring (rooms)"):
            stored = store.open(room)
            votes = torch.zeros(stored.count, len(store.classes))
            for features, places in self._batches(store, room, grid):
                shares = model(features.to(device)).float().softmax(-1).cpu()
                votes.index_add_(0, places.view(-1), shares.view(-1, shares.shape[-1]))
            predicted = votes.argmax(1)
            label = torch.from_numpy(stored.labels().astype(np.int64))
            confusion += confusion_matrix(label, predicted, len(store.classes))
            predictions[room.key] = predicted.numpy().astype(np.uint8)
        return confusion, predictions

    def _batches(self, store: RoomStore, room: RoomEntry, grid: BlockGrid) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of (features (B, N, 9), places in the store (B, N)) that cover the room."""
        stored = store.open(room)
        features, places = [], []
        for number, block in enumerate(grid.cut(store, room)):
            xyz, rgb, _, place = points_inside(stored, block.x, block.y, self.side)
            rng = np.random.default_rng([self.seed, number])
            for chosen in cover(len(place), self.points, self.votes, rng):
                features.append(block_features(xyz[chosen], rgb[chosen], stored.size, self.variant, self.side))
                places.append(place[chosen])
                if len(places) == self.batch_size:
                    yield torch.from_numpy(np.stack(features)), torch.from_numpy(np.stack(places))
                    features, places = [], []
        if places:
            yield torch.from_numpy(np.stack(features)), torch.from_numpy(np.stack(places))


def cover(count: int, points: int, votes: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Samples of ``points`` out of ``count`` that hold every one at least ``votes`` times.

    Each pass is a random order cut into samples, the last filled up with other points of the block.
    """
    for _ in range(votes):
        order = rng.permutation(count)
        # np.resize repeats from the start; the last sample of a large block so has no duplicates.
        yield from np.resize(order, -(-count // points) * points).reshape(-1, points)
