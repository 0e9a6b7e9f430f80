"""Augmentations of blocks of points for training. The official recipes use none.

An augmentation is a callable on a block's sampled points, ``augment(points, rng) -> points``. It is applied before the
channels are computed. Rotations turn the whole room together with the block, so that the position in the room stays
valid. Default ranges follow PointNeXt (Qian et al., 2022, section 3.1). A value out of range is a ``SettingError``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from ..errors import PartError
from ..settings import SettingError, Share, Validated, number

# The type of distances by which points are moved, in metres, and of factors by which rooms are scaled.
Small = Annotated[float, number(0, 10)]
Factor = Annotated[float, number(0, 100, above=True)]


@dataclass(frozen=True)
class BlockPoints:
    """Sampled points of a block.

    Attributes:
        xyz: (n, 3) float32, metres from the room's minimum. rgb: (n, 3) float32, 0..255.
        room_size: (3,) the room's extent, metres.
    """

    xyz: np.ndarray
    rgb: np.ndarray
    room_size: np.ndarray


Augmentation = Callable[[BlockPoints, np.random.Generator], BlockPoints]


def augmented(points: BlockPoints, augment: Sequence[Augmentation], rng: np.random.Generator) -> BlockPoints:
    """Return the points of a block with augmentations applied in order.

    Raises:
        PartError: one of a user's own returned something else than points of a block.
    """
    for each in augment:
        points = each(points, rng)
        if not isinstance(points, BlockPoints):
            raise PartError.of("recipe.augmentation", each, type(points).__name__, "BlockPoints")
    return points


def turned(points: BlockPoints, angle: float) -> BlockPoints:
    """Return points of the room turned by ``angle`` radians about the vertical and moved so that its minimum is 0."""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]], np.float32)
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * points.room_size[:2] @ turn.T
    xyz = points.xyz.copy()
    xyz[:, :2] = xyz[:, :2] @ turn.T - corners.min(0).astype(np.float32)
    size = np.array([*np.ptp(corners, axis=0), points.room_size[2]], points.room_size.dtype)
    return replace(points, xyz=xyz, room_size=size)


def mirrored(points: BlockPoints) -> BlockPoints:
    """Return points of the room mirrored along x."""
    xyz = points.xyz.copy()
    xyz[:, 0] = points.room_size[0] - xyz[:, 0]
    return replace(points, xyz=xyz)


def scaled(points: BlockPoints, factor: float) -> BlockPoints:
    """Return points of the room scaled by ``factor``; the position in the room stays the same."""
    single = np.float32(factor)
    return replace(points, xyz=points.xyz * single, room_size=points.room_size * single)


@dataclass(frozen=True)
class Turn(Validated):
    """Rotation about the vertical by a random multiple of ``step`` degrees, or by any angle if ``step`` is 0.

    With steps of 90 degrees the sides of a block stay parallel to the axes, as in the blocks that are scored.
    """

    step: Annotated[float, number(0, 180)] = 90.0

    def __call__(self, points: BlockPoints, rng: np.random.Generator) -> BlockPoints:
        """Return the turned points."""
        turns = rng.integers(round(360 / self.step)) * self.step if self.step else rng.uniform(0, 360)
        return turned(points, np.radians(turns))


@dataclass(frozen=True)
class Mirror(Validated):
    """The room mirrored along x with probability ``chance``."""

    chance: Share = 0.5

    def __call__(self, points: BlockPoints, rng: np.random.Generator) -> BlockPoints:
        """Return the points, mirrored or not."""
        return points if rng.random() >= self.chance else mirrored(points)


@dataclass(frozen=True)
class Scale(Validated):
    """The room scaled by a random factor; the position in the room stays the same."""

    low: Factor = 0.9
    high: Factor = 1.1

    def __post_init__(self):
        super().__post_init__()
        if self.low > self.high:
            raise SettingError(f"low={self.low}: must be at most high={self.high}")

    def __call__(self, points: BlockPoints, rng: np.random.Generator) -> BlockPoints:
        """Return the scaled points."""
        return scaled(points, rng.uniform(self.low, self.high))


@dataclass(frozen=True)
class Jitter(Validated):
    """Gaussian noise of ``sigma`` metres on every coordinate, clipped at ``clip``."""

    sigma: Small = 0.005
    clip: Small = 0.02

    def __call__(self, points: BlockPoints, rng: np.random.Generator) -> BlockPoints:
        """Return the points, moved a little."""
        noise = rng.standard_normal(points.xyz.shape, np.float32) * np.float32(self.sigma)
        return replace(points, xyz=points.xyz + noise.clip(-self.clip, self.clip))


@dataclass(frozen=True)
class ColorDrop(Validated):
    """Colours of the whole block set to 0 with probability ``chance``."""

    chance: Share = 0.2

    def __call__(self, points: BlockPoints, rng: np.random.Generator) -> BlockPoints:
        """Return the points, with colours or without."""
        return replace(points, rgb=np.zeros_like(points.rgb)) if rng.random() < self.chance else points


@dataclass(frozen=True)
class ColorContrast(Validated):
    """Colours moved a random part of the way to full contrast, with probability ``chance``.

    At full contrast, each of red, green and blue takes the range 0..255 in the block.
    """

    chance: Share = 0.2

    def __call__(self, points: BlockPoints, rng: np.random.Generator) -> BlockPoints:
        """Return the points, with stretched colours or unchanged."""
        if rng.random() >= self.chance:
            return points
        low, high = points.rgb.min(0), points.rgb.max(0)
        stretched = (points.rgb - low) * (255 / np.maximum(high - low, 1))
        part = np.float32(rng.random())
        return replace(points, rgb=(1 - part) * points.rgb + part * stretched.astype(np.float32))
