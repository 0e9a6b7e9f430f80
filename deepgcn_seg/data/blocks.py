"""Blocks: 1 m x 1 m columns of a room, sampled to N points of nine channels.

Channels come in groups, of which a dataset may lack some (:data:`CHANNELS`):

======  ====================================================================================
block   position in the block, in one of two variants
        paper: metres, x and y from the middle of the block, z from the floor (TensorFlow code)
        port: centred on the block's mean, divided by its largest coordinate (PyTorch code)
color   red, green, blue in 0..1
room    position in the room, x, y, z each divided by the room's extent
height  metres above the lowest point of the room
======  ====================================================================================
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from pydantic import PlainValidator

from ..settings import MAX_OVERLAP, Metres, SettingError, choice, integer, listed, validate
from .store import CELL, RoomEntry, RoomStore, StoredRoom

CHANNELS = {"block": 3, "color": 3, "room": 3, "height": 1}
# The nine channels of PointNet and both official codes, in their order.
NINE = ("block", "color", "room")
VARIANTS = ("paper", "port")


def count_channels(groups: Sequence[str]) -> int:
    """Width of some groups side by side.

    Raises:
        ValueError: an unknown group, or one named twice.
    """
    if unknown := [group for group in groups if group not in CHANNELS]:
        raise ValueError(f"unknown channels {unknown[0]!r}: choose from {', '.join(CHANNELS)}")
    if len(set(groups)) != len(groups) or not groups:
        raise ValueError(f"channels must be named once each, got {list(groups)}")
    return sum(CHANNELS[group] for group in groups)


def channels(null: bool = False) -> PlainValidator:
    """Validator of a setting that lists groups of channels, each once."""
    groups = listed(choice(*CHANNELS), 1, len(CHANNELS), null)

    def check(value: Any) -> Any:
        groups.func(value)  # type: ignore[call-arg]
        if value is not None and len(set(value)) < len(value):
            raise ValueError("must name each group once")
        return value

    return PlainValidator(check)


def place_of_channels(standard: Sequence[int], groups: Sequence[str]) -> list[int]:
    """Where channels, numbered as among the nine, are among other groups.

    Raises:
        ValueError: their group is not there.
    """
    names = [(group, i) for group in NINE for i in range(CHANNELS[group])]
    found = {name: place for place, name in enumerate((g, i) for g in groups for i in range(CHANNELS[g]))}
    if missing := [names[channel][0] for channel in standard if names[channel] not in found]:
        raise ValueError(f"channels {list(standard)} are of {missing[0]!r}, which is not among {', '.join(groups)}")
    return [found[names[channel]] for channel in standard]


@dataclass(frozen=True)
class Block:
    """A block of a room: where it lies in the floor plan, metres from the room's minimum, and its points.

    Attributes:
        room: its entry. low, high: (x, y) of its edges; the upper one is infinite where the room ends.
        count: points in it.
    """

    room: RoomEntry
    low: tuple[float, float]
    high: tuple[float, float]
    count: int

    def __str__(self) -> str:
        """``Area_1/office_1 at 0.5, 2``."""
        return f"{self.room.key} at {self.low[0]:g}, {self.low[1]:g}"


@dataclass(frozen=True)
class BlockGrid:
    """How rooms are cut.

    Attributes:
        side: metres. stride: metres between blocks; below ``side`` they overlap, above it they leave gaps.
        min_points: blocks of fewer are left out (official: 100).

    Raises:
        SettingError: a setting out of range.
    """

    side: Metres = 1.0
    stride: Metres = 0.5
    min_points: Annotated[int, integer(0)] = 100

    def __post_init__(self):
        validate(self)
        if self.stride < self.side / MAX_OVERLAP:
            raise SettingError(f"stride={self.stride}: must be at least side / {MAX_OVERLAP}, with side={self.side}")

    def count(self, extent: float) -> int:
        """Number of blocks along an axis on which a room reaches from 0 to ``extent`` (PointNet's grid).

        What sticks out by less than a millionth of the stride, as float32 rounds, takes no block more.
        """
        return max(math.ceil((extent - self.side) / self.stride - 1e-6) + 1, 1)

    def edges(self, index: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper edges of some of the ``count`` blocks along an axis.

        Together the blocks of a grid without gaps hold every coordinate from 0 on, whatever the rounding: the first
        begins at 0, each ends where the next one begins or later, and the last has no end.
        """
        low, following = index * self.stride, (index + 1) * self.stride
        # Not low + side, which may round to below the next block's lower edge.
        high = following + (self.side - self.stride)
        return low, np.where(index == count - 1, np.inf, high)

    def cut(self, store: RoomStore, room: RoomEntry) -> list[Block]:
        """The room's blocks of at least ``min_points`` points, one at least, row by row."""
        stored = store.open(room)
        counts = [self.count(float(extent)) for extent in stored.size[:2]]
        places = self._places(stored, counts)
        edges = np.stack([self.edges(places[:, axis], counts[axis]) for axis in (0, 1)], 2)
        held, least = stored.most(*edges), max(self.min_points, 1)
        # Of a sparse scan, the cells tell of nearly all blocks that they have too few points.
        edges, held = edges[:, held >= least], held[held >= least]
        whole_cells = ((edges / CELL == np.floor(edges / CELL)) | np.isinf(edges)).all((0, 2))
        blocks = []
        for (low_x, low_y, high_x, high_y), count, exact in zip(
            np.concatenate(edges, 1).tolist(), held.tolist(), whole_cells.tolist()
        ):
            low, high = (low_x, low_y), (high_x, high_y)
            if not exact:
                count = len(points_inside(stored, low, high)[0])
            if count >= least:
                blocks.append(Block(room, low, high, count))
        return blocks

    def _places(self, stored: StoredRoom, counts: Sequence[int]) -> np.ndarray:
        """Numbers along x and y (n, 2) of all blocks that may have points, row by row.

        Only where there are points: a room with a stray point far away would have more blocks than memory holds.
        """
        if self.side < CELL:
            # Smaller than a cell of the store, most blocks of an occupied cell are empty.
            low, width = stored.all()[0][:, :2].astype(np.float64), 0.0
        else:
            low, width = stored.occupied() * CELL, CELL
        # One more on either side than the division says, which rounds.
        first = np.floor((low - self.side) / self.stride).astype(np.int64)
        last = np.floor((low + width) / self.stride).astype(np.int64) + 1
        most = np.array(counts) - 1
        places = np.concatenate([first.clip(0, most), last.clip(0, most)], 1)
        for axis in (0, 1):
            places = _unrolled(np.unique(places, axis=0), axis)
        return np.unique(places[:, :2], axis=0)


# Of the points of some rooms, the share that good blocks hold.
_MOST_POINTS = 0.9
_SIDES = tuple(digit * 10.0**power for power in range(-1, 4) for digit in (1, 2, 5))


def share_held(store: RoomStore, rooms: Sequence[RoomEntry], grid: BlockGrid) -> float:
    """Share of the rooms' points that lie in blocks of at least ``min_points``, the blocks laid side by side."""
    beside = replace(grid, stride=grid.side)
    held = sum(block.count for room in rooms for block in beside.cut(store, room))
    return held / sum(store.open(room).count for room in rooms)


def advise(store: RoomStore, rooms: Sequence[RoomEntry], grid: BlockGrid) -> str:
    """Say how many points blocks have, and which settings would give nearly all points to a block."""
    every = replace(grid, stride=grid.side, min_points=0)
    counts = np.sort([block.count for room in rooms for block in every.cut(store, room)])
    usual, enough = counts[np.searchsorted(counts.cumsum(), counts.sum() * np.array([0.5, 1 - _MOST_POINTS]))]
    said = f"a block of {grid.side:g} m has about {usual:,} points; give "
    for side in _SIDES:
        wider = replace(grid, side=side, stride=side / 2)
        if side > grid.side and share_held(store, rooms, wider) >= _MOST_POINTS:
            return f"{said}data.grid.side={side:g} data.grid.stride={side / 2:g}, or data.grid.min_points={enough}"
    return f"{said}data.grid.min_points={enough}"


def _unrolled(ranges: np.ndarray, axis: int) -> np.ndarray:
    """Rows of ranges (first_x, first_y, last_x, last_y), repeated with each number of the range along an axis."""
    lengths = ranges[:, 2 + axis] - ranges[:, axis] + 1
    rows = np.repeat(ranges, lengths, axis=0)
    rows[:, axis] += np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    rows[:, 2 + axis] = rows[:, axis]
    return rows


def points_inside(
    stored: StoredRoom, low: Sequence[float], high: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points of the block from ``low`` to ``high``: xyz, rgb, label, and their places in the store (n,) int64.

    A block holds its lower edges and not its upper ones.
    """
    runs, exact = stored.runs(low, high)
    xyz, rgb, label = stored.read(runs)
    place = np.concatenate([np.arange(*run) for run in runs]) if runs else np.empty(0, np.int64)
    if not exact:
        inside = ((xyz[:, :2] >= np.array(low)) & (xyz[:, :2] < np.array(high))).all(1)
        xyz, rgb, label, place = xyz[inside], rgb[inside], label[inside], place[inside]
    return xyz, rgb, label, place


def choose(count: int, points: int, rng: np.random.Generator) -> np.ndarray:
    """Which of ``count`` points make a block of ``points``.

    Without replacement when there are enough; else all of them and random repeats.
    """
    if count >= points:
        return rng.choice(count, points, replace=False, shuffle=False)
    return np.concatenate([np.arange(count), rng.integers(count, size=points - count)])


def scaled_positions(xyz: np.ndarray) -> np.ndarray:
    """Positions (n, 3) centred on their mean and divided by the largest coordinate: just inside
    -1..1, as torch_geometric's ``NormalizeScale``, which the official PyTorch code applies."""
    centred = (xyz - xyz.mean(0, dtype=np.float64)).astype(np.float32)
    return centred * np.float32(0.999999 / max(np.abs(centred).max(), np.finfo(np.float32).tiny))


def block_features(
    xyz: np.ndarray,
    rgb: np.ndarray,
    room_size: np.ndarray,
    variant: str = "paper",
    side: float = 1.0,
    groups: Sequence[str] = NINE,
) -> np.ndarray:
    """The channels of a block's sampled points: (n, channels) float32, nine of them by default.

    Args:
        xyz: (n, 3) metres from the room's minimum. rgb: (n, 3) in 0..255.
        room_size: (3,) the room's extent in metres. variant: paper or port.
        side: the block's side, metres. groups: which channels, in order.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    features = np.empty((len(xyz), count_channels(groups)), np.float32)
    start = 0
    for group in groups:
        part = features[:, start : start + CHANNELS[group]]
        start += CHANNELS[group]
        if group == "color":
            part[:] = rgb / np.float32(255)
        elif group == "room":
            part[:] = xyz / np.maximum(room_size, np.finfo(np.float32).tiny)
        elif group == "height":
            part[:] = xyz[:, 2:]
        elif variant == "port":
            part[:] = scaled_positions(xyz)
        else:
            part[:, :2] = xyz[:, :2] - (xyz[:, :2].min(0) + side / 2)
            part[:, 2] = xyz[:, 2]
    return features
