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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .store import RoomEntry, RoomStore, StoredRoom

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
    """A block of a room: its lower corner in the floor plan, metres from the room's minimum, and its points."""

    room: RoomEntry
    x: float
    y: float
    count: int


@dataclass(frozen=True)
class BlockGrid:
    """How rooms are cut.

    Attributes:
        side: metres. stride: metres between blocks; below ``side`` they overlap.
        min_points: blocks of fewer are left out (official: 100).
    """

    side: float = 1.0
    stride: float = 0.5
    min_points: int = 100

    def corners(self, size: np.ndarray) -> Iterator[tuple[float, float]]:
        """Lower corners of the blocks that cover a room of the given extent (PointNet's grid)."""
        counts = [max(int(np.ceil((extent - self.side) / self.stride - 1e-6)) + 1, 1) for extent in size[:2]]
        for i in range(counts[0]):
            for j in range(counts[1]):
                yield i * self.stride, j * self.stride

    def cut(self, store: RoomStore, room: RoomEntry) -> list[Block]:
        """The room's blocks of at least ``min_points`` points."""
        stored = store.open(room)
        blocks = []
        for x, y in self.corners(stored.size):
            runs, exact = stored.runs((x, y), self.side)
            count = sum(stop - start for start, stop in runs)
            if count >= max(self.min_points, 1) and not exact:
                count = len(points_inside(stored, x, y, self.side)[0])
            if count >= max(self.min_points, 1):
                blocks.append(Block(room, x, y, count))
        return blocks


def points_inside(
    stored: StoredRoom, x: float, y: float, side: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points of the block at (x, y): xyz, rgb, label, and their places in the store (n,) int64.

    A block holds its lower edges; its upper ones only where the room ends.
    """
    runs, exact = stored.runs((x, y), side)
    xyz, rgb, label = stored.read(runs)
    place = np.concatenate([np.arange(*run) for run in runs]) if runs else np.empty(0, np.int64)
    if not exact:
        low, high = np.array([x, y]), np.array([x, y]) + side
        inside = ((xyz[:, :2] >= low) & ((xyz[:, :2] < high) | (high >= stored.size[:2]))).all(1)
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
