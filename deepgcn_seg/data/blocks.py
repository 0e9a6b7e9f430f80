"""Blocks of points: N points sampled from a column of 1 m x 1 m of a room, with nine channels.

A point has several features, of one or three channels each (:data:`CHANNELS`). A dataset may do without some of them:

======  ====================================================================================
block   position in the block, in one of two variants
        paper: metres, x and y from the middle of the block, z from the floor (official TensorFlow code)
        port: centred on the block's mean, divided by its largest coordinate (official PyTorch code)
color   red, green, blue in 0..1
room    position in the room, x, y, z each divided by the room's extent
height  metres above the lowest point of the room
======  ====================================================================================
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import PlainValidator

from ..settings import MAX_OVERLAP, Metres, SettingError, Validated, choice, integer, listed
from .cells import CELL
from .room import RoomEntry
from .stored_room import RoomSource, SortedRoom

# Number of channels of each feature.
CHANNELS = {"block": 3, "color": 3, "room": 3, "height": 1}
# The nine channels of PointNet and both official codes, in their order.
NINE: tuple[Literal["block", "color", "room", "height"], ...] = ("block", "color", "room")
VARIANTS = ("paper", "port")


def count_channels(features: Sequence[str]) -> int:
    """Return the number of channels of some features.

    Raises:
        ValueError: a feature is unknown, or named twice.
    """
    if unknown := [feature for feature in features if feature not in CHANNELS]:
        raise ValueError(f"unknown channels {unknown[0]!r}: choose from {', '.join(CHANNELS)}")
    if len(set(features)) != len(features) or not features:
        raise ValueError(f"channels must be named once each, got {list(features)}")
    return sum(CHANNELS[feature] for feature in features)


def channels(null: bool = False) -> PlainValidator:
    """Return the validator of a setting that lists features of points, each once."""
    features = listed(choice(*CHANNELS), 1, len(CHANNELS), null)

    def check(value: Any) -> Any:
        features.func(value)  # type: ignore[call-arg]
        if value is not None and len(set(value)) < len(value):
            raise ValueError("must name each feature once")
        return value

    return PlainValidator(check)


def place_of_channels(standard: Sequence[int], features: Sequence[str]) -> list[int]:
    """Return the positions of some of the nine channels in an input that is made of other features.

    Args:
        standard: numbers of channels among the nine (:data:`NINE`). features: those of the input.

    Raises:
        ValueError: the input lacks the feature that a channel is of.
    """
    names = [(feature, i) for feature in NINE for i in range(CHANNELS[feature])]
    found = {name: place for place, name in enumerate((f, i) for f in features for i in range(CHANNELS[f]))}
    if missing := [names[channel][0] for channel in standard if names[channel] not in found]:
        raise ValueError(f"channels {list(standard)} are of {missing[0]!r}, which is not among {', '.join(features)}")
    return [found[names[channel]] for channel in standard]


@dataclass(frozen=True)
class PointBlock:
    """A column of a room, from which the points of a block are sampled.

    Attributes:
        room: the room's entry.
        low, high: (x, y) of its lower and upper edges, metres from the room's minimum; the upper edge is infinite
            where the room ends.
        count: number of points in the column.
    """

    room: RoomEntry
    low: tuple[float, float]
    high: tuple[float, float]
    count: int

    def __str__(self) -> str:
        """Return where the block is: ``Area_1/office_1 at 0.5, 2``."""
        return f"{self.room.key} at {self.low[0]:g}, {self.low[1]:g}"


@dataclass(frozen=True)
class BlockGrid(Validated):
    """How rooms are cut into blocks of points.

    Attributes:
        side: side of a block in metres. stride: metres from a block to the next. If it is smaller than ``side``, blocks
            overlap; if it is larger, there are gaps.
        min_points: blocks with fewer points are left out (100 in the official code).

    Raises:
        SettingError: a setting is out of range.
    """

    side: Metres = 1.0
    stride: Metres = 0.5
    min_points: Annotated[int, integer(0)] = 100

    def __post_init__(self):
        super().__post_init__()
        if self.stride < self.side / MAX_OVERLAP:
            raise SettingError(f"stride={self.stride}: must be at least side / {MAX_OVERLAP}, with side={self.side}")

    def count(self, extent: float) -> int:
        """Return the number of blocks along an axis on which a room reaches from 0 to ``extent`` (PointNet's grid).

        If float32 rounding makes the extent larger by less than a millionth of the stride, no further block is counted.
        """
        return max(math.ceil((extent - self.side) / self.stride - 1e-6) + 1, 1)

    def edges(self, index: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the lower and upper edges of some of the ``count`` blocks along an axis.

        The blocks of a grid without gaps contain every coordinate from 0 on, however numbers are rounded. The first
        begins at 0, each ends where the next one begins or later, and the last has no end.
        """
        low, following = index * self.stride, (index + 1) * self.stride
        # low + side could be rounded to a number below the next block's lower edge.
        high = following + (self.side - self.stride)
        return low, np.where(index == count - 1, np.inf, high)

    def cut(self, store: RoomSource, room: RoomEntry) -> list[PointBlock]:
        """Return the room's blocks that have at least ``min_points`` points (and at least one), row by row."""
        low, high, counts = self._counted(store.open(room))
        return [PointBlock(room, (*a,), (*b,), n) for a, b, n in zip(low.tolist(), high.tolist(), counts.tolist())]

    def points_of_blocks(self, store: RoomSource, rooms: Sequence[RoomEntry]) -> np.ndarray:
        """Return the number of points (n,) of each block that :meth:`cut` returns of some rooms."""
        return np.concatenate([self._counted(store.open(room))[2] for room in rooms])

    def _counted(self, stored: SortedRoom) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the lower and upper edges (n, 2) of the blocks that are not left out, and their points (n,)."""
        counts = [self.count(float(extent)) for extent in stored.size[:2]]
        minimum = max(self.min_points, 1)
        places = self._places(stored, counts)
        dense = []
        for start in range(0, len(places), _PIECE):
            piece = places[start : start + _PIECE].T
            edges = np.stack([self.edges(piece[axis], counts[axis]) for axis in (0, 1)], 2)
            points = stored.cells.count_points(*edges)
            # In a sparse scan, nearly all blocks have too few points even if all points of their cells were in them.
            dense.append((edges[:, points >= minimum], points[points >= minimum]))
        edges, points = np.concatenate([of for of, _ in dense], 1), np.concatenate([n for _, n in dense])
        whole_cells = ((edges / CELL == np.floor(edges / CELL)) | np.isinf(edges)).all((0, 2))
        low, high = edges
        for i in np.flatnonzero(~whole_cells):
            points[i] = len(points_inside(stored, low[i], high[i])[0])
        kept = points >= minimum
        return low[kept], high[kept], points[kept]

    def _places(self, stored: SortedRoom, counts: Sequence[int]) -> np.ndarray:
        """Return the numbers along x and y (n, 2) of all blocks that may have points, row by row.

        Empty blocks are not listed, because with a stray point far away they would be more than memory holds.
        """
        if self.side < CELL:
            # Blocks are smaller than a cell of the store, so most blocks in an occupied cell are empty.
            low, width = stored.all()[0][:, :2].astype(np.float64), 0.0
        else:
            low, width = stored.cells.occupied() * CELL, CELL
        # One more block is taken on either side, because the division rounds.
        first = np.floor((low - self.side) / self.stride).astype(np.int64)
        last = np.floor((low + width) / self.stride).astype(np.int64) + 1
        highest = np.array(counts) - 1
        first, last = first.clip(0, highest), last.clip(0, highest)
        # Pairs are put into one number each, which sorts many times faster than rows of an array.
        lengths, width = last - first + 1, highest[1] + 1
        longest = lengths[:, 1].max()
        x, cell = _each_of(first[:, 0], lengths[:, 0])
        along_y = first[:, 1] * longest + lengths[:, 1] - 1
        x, along_y = np.divmod(_unique(x * (width * longest) + along_y[cell]), width * longest)
        y, row = _each_of(along_y // longest, along_y % longest + 1)
        return np.stack(np.divmod(_unique(x[row] * width + y), width), 1)


# Blocks to count the points of at a time.
_PIECE = 1 << 20
# The advice aims at blocks that hold this share of the points. The other points lie in blocks at the rooms' edges.
_ENOUGH_POINTS = 0.9
# Sides in metres that the advice tries: 0.1, 0.2, 0.5, 1, ... 5000.
_SIDES = tuple(digit * 10.0**power for power in range(-1, 4) for digit in (1, 2, 5))


def share_held(store: RoomSource, rooms: Sequence[RoomEntry], grid: BlockGrid) -> float:
    """Return the share of the rooms' points that lie in blocks of at least ``min_points``, laid side by side."""
    disjoint = replace(grid, stride=grid.side)
    return disjoint.points_of_blocks(store, rooms).sum() / sum(store.open(room).count for room in rooms)


def advise(store: RoomSource, rooms: Sequence[RoomEntry], grid: BlockGrid) -> str:
    """Return how many points blocks have, and which settings would put nearly all points into a block."""
    all_blocks = replace(grid, stride=grid.side, min_points=0)
    counts = np.sort(all_blocks.points_of_blocks(store, rooms))
    usual, enough = counts[np.searchsorted(counts.cumsum(), counts.sum() * np.array([0.5, 1 - _ENOUGH_POINTS]))]
    advice = f"a block of {grid.side:g} m has about {usual:,} points; give "
    for side in _SIDES:
        wider = replace(grid, side=side, stride=side / 2)
        if side > grid.side and share_held(store, rooms, wider) >= _ENOUGH_POINTS:
            return f"{advice}data.grid.side={side:g} data.grid.stride={side / 2:g}, or data.grid.min_points={enough}"
    return f"{advice}data.grid.min_points={enough}"


def _unique(values: np.ndarray) -> np.ndarray:
    """Return different integers (n,) in order: :func:`numpy.unique` hashes them, which takes ten times as long."""
    values = np.sort(values)
    return values[np.r_[True, values[1:] != values[:-1]]]


def _each_of(first: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return every number of some ranges, one range after the other, and which of the ranges it is of."""
    which = np.repeat(np.arange(len(first)), lengths)
    start = np.cumsum(lengths) - lengths
    return np.arange(len(which)) + (first - start)[which], which


def points_inside(
    room: SortedRoom, low: Sequence[float], high: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the points of the block from ``low`` to ``high``: xyz, rgb, label, and their rows in the store (n,) int64.

    Lower edges belong to the block, and upper edges do not.
    """
    ranges, exact = room.cells.ranges(low, high)
    xyz, rgb, label = room.read(ranges)
    rows = np.concatenate([np.arange(*limits) for limits in ranges]) if ranges else np.empty(0, np.int64)
    if not exact:
        inside = ((xyz[:, :2] >= np.array(low)) & (xyz[:, :2] < np.array(high))).all(1)
        xyz, rgb, label, rows = xyz[inside], rgb[inside], label[inside], rows[inside]
    return xyz, rgb, label, rows


def sample_indices(count: int, points: int, rng: np.random.Generator) -> np.ndarray:
    """Return random indices (points,) of a block that has ``count`` points.

    They are drawn without replacement if there are enough points. Otherwise each point is taken once, and the others
    are drawn at random among them.
    """
    if count >= points:
        return rng.choice(count, points, replace=False, shuffle=False)
    return np.concatenate([np.arange(count), rng.integers(count, size=points - count)])


def scaled_positions(xyz: np.ndarray) -> np.ndarray:
    """Return positions (n, 3) centred on their mean and divided by their largest coordinate, so that they lie in -1..1.

    This is torch_geometric's ``NormalizeScale``, which the official PyTorch code applies.
    """
    centred = (xyz - xyz.mean(0, dtype=np.float64)).astype(np.float32)
    return centred * np.float32(0.999999 / max(np.abs(centred).max(), np.finfo(np.float32).tiny))


def block_features(
    xyz: np.ndarray,
    rgb: np.ndarray,
    room_size: np.ndarray,
    variant: str = "paper",
    side: float = 1.0,
    features: Sequence[str] = NINE,
) -> np.ndarray:
    """Return the channels of a block's sampled points: (n, channels) float32, nine of them by default.

    Args:
        xyz: (n, 3) metres from the room's minimum. rgb: (n, 3) in 0..255.
        room_size: (3,) the room's extent in metres. variant: variant of the position in the block, paper or port.
        side: the block's side in metres. features: features of a point, in order.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    values = np.empty((len(xyz), count_channels(features)), np.float32)
    start = 0
    for feature in features:
        part = values[:, start : start + CHANNELS[feature]]
        start += CHANNELS[feature]
        if feature == "color":
            part[:] = rgb / np.float32(255)
        elif feature == "room":
            part[:] = xyz / np.maximum(room_size, np.finfo(np.float32).tiny)
        elif feature == "height":
            part[:] = xyz[:, 2:]
        elif variant == "port":
            part[:] = scaled_positions(xyz)
        else:
            part[:, :2] = xyz[:, :2] - (xyz[:, :2].min(0) + side / 2)
            part[:, 2] = xyz[:, 2]
    return values
