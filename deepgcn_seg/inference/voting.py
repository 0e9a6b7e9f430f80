"""Voting over blocks of points: every point of a room gets class probabilities, added over all samples that hold it.

A room is cut into blocks that together hold every point. The points of each block are dealt into samples of the size
that the network takes, so that each point is in at least one of them, and this is done anew for each vote. It is an
error if the network's output is NaN or infinite, or if a point gets no vote, because neither gives a class.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from ..data.augmentation import BlockPoints
from ..data.blocks import BlockGrid, PointBlock, block_features, points_inside
from ..data.room import RoomEntry
from ..data.stored_room import RoomSource
from ..errors import UserError, first_line
from ..memory import is_out_of_memory
from ..model.evaluating import evaluating
from ..progress import Meter
from ..settings import SettingError
from .sampling import Sampling


class BadScoresError(UserError):
    """The network's scores are NaN or infinite, or of other classes than the data's."""


@dataclass(frozen=True)
class _Sample:
    """Points of a block.

    Attributes:
        block: its name, for messages. features: (N, channels).
        rows: (n,) the points in the room, each once. The features after the first n repeat points, and are no votes.
    """

    room: RoomEntry
    block: str
    features: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Voting(Sampling):
    """A way to cover every point of a room by samples, and to add up their class probabilities.

    Raises:
        SettingError: a setting out of range, or blocks that leave gaps (``stride`` above ``side``).
    """

    def __post_init__(self):
        super().__post_init__()
        if self.stride > self.side:
            raise SettingError(f"stride={self.stride}: must be at most side={self.side}, or points lie in no block")
        self.grid()

    def grid(self) -> BlockGrid:
        """Return how rooms are cut, so that every point is in a block."""
        return BlockGrid(self.side, self.stride, min_points=1)

    def vote(
        self, model: nn.Module, source: RoomSource, rooms: Sequence[RoomEntry], device: torch.device
    ) -> Iterator[tuple[RoomEntry, Tensor]]:
        """Yield each room with the class probabilities (N, C) of its points, added over all votes.

        Samples of several rooms share a batch. Votes are held in memory only for the rooms of that batch.

        Args:
            model: maps points (B, N, channels) to logits (B, N, C), in whatever mode (:func:`finite_logits`).

        Raises:
            BadScoresError: the network puts out NaN or infinity.
            UserError: a point got no vote.
        """
        votes: dict[RoomEntry, Tensor] = {}
        blocks = [block for room in rooms for block in self.grid().cut(source, room)]
        if unseen := set(rooms) - {block.room for block in blocks}:
            raise UserError(f"{min(room.key for room in unseen)}: no block has any of its points")
        total = sum(-(-block.count // self.points) for block in blocks) * self.votes
        with Meter("Labelling, samples", total) as meter:
            for samples in _batched(self._samples(source, blocks), self.batch_size):
                features = torch.from_numpy(np.stack([sample.features for sample in samples]))
                logits = finite_logits(model, features.to(device), [sample.block for sample in samples])
                probabilities = logits.float().softmax(-1).cpu()
                for sample, each in zip(samples, probabilities):
                    if sample.room not in votes:
                        shape = source.open(sample.room).count, probabilities.shape[-1]
                        votes[sample.room] = torch.zeros(shape, dtype=torch.float32, device="cpu")
                    votes[sample.room].index_add_(0, torch.from_numpy(sample.rows), each[: len(sample.rows)])
                for room in [room for room in votes if room != samples[-1].room]:
                    yield room, _check_complete(room, votes.pop(room))
                meter.advance(steps=len(samples))
            for room, last in votes.items():
                yield room, _check_complete(room, last)

    def _samples(self, source: RoomSource, blocks: Sequence[PointBlock]) -> Iterator[_Sample]:
        """Yield the samples that cover the blocks, in order."""
        number, last = 0, None
        for block in blocks:
            # Blocks are numbered within their room, so that a room's samples do not depend on the other rooms.
            number, last = (number + 1 if block.room == last else 0), block.room
            room = source.open(block.room)
            xyz, rgb, _, rows = points_inside(room, block.low, block.high)
            rng = np.random.default_rng([self.seed, number])
            for vote in range(self.votes):
                for sample in cover(len(rows), self.points, rng):
                    points = self.copy(BlockPoints(xyz[sample], rgb[sample], room.size), vote)
                    features = block_features(
                        points.xyz, points.rgb, points.room_size, self.variant, self.side, self.features
                    )
                    yield _Sample(block.room, str(block), features, rows[sample[: len(rows)]])


def finite_logits(model: nn.Module, points: Tensor, blocks: Sequence[str]) -> Tensor:
    """Return the logits (B, N, C) of some blocks of points (B, N, channels), without gradients.

    Args:
        model: in whatever mode; it is in eval mode while it runs, and has its own mode back afterwards.
        blocks: a name for each, for messages.

    Raises:
        BadScoresError: a logit is NaN or infinite; names the first such block.
        UserError: there is not enough memory.
    """
    try:
        with evaluating(model):
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


def cover(count: int, points: int, rng: np.random.Generator) -> np.ndarray:
    """Return samples of ``points`` out of ``count`` that together hold every one: (samples, points) indices.

    A random order is cut into samples. The last sample is filled up with the order from its start: with other points,
    or in a block of fewer points than a sample, with the same ones after each point stood there once.
    """
    order = rng.permutation(count)
    return np.resize(order, (-(-count // points), points))


def _batched(samples: Iterator[_Sample], size: int) -> Iterator[list[_Sample]]:
    while batch := list(islice(samples, size)):
        yield batch


def _check_complete(room: RoomEntry, votes: Tensor) -> Tensor:
    """Return the votes (N, C) of a room if every point has some.

    Raises:
        UserError: a point has none.
    """
    missing = int((votes.sum(1) <= 0).sum())
    if missing:
        raise UserError(f"{room.key}: {missing} of {len(votes)} points are in no block, so that they have no label")
    return votes
