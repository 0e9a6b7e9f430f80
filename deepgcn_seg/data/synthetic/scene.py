"""A synthetic room as coloured rectangles."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

UP = np.array((0.0, 0.0, 1.0))

# Colours that several classes share.
NEUTRAL = np.array(
    [(205, 202, 194), (185, 183, 178), (165, 163, 157), (215, 212, 206), (190, 180, 160), (170, 176, 182)]
)
WOOD = np.array([(150, 111, 73), (176, 138, 98), (120, 84, 56), (199, 170, 130), (92, 66, 48)])
FABRIC = np.array([(60, 62, 70), (40, 70, 120), (130, 48, 44), (95, 92, 88), (120, 98, 72), (52, 92, 78)])
FLOOR = np.array([(120, 116, 108), (150, 140, 124), (96, 100, 110), (168, 132, 96), (190, 184, 172)])
WHITE, GLASS_TINT = np.array((250, 250, 250)), np.array((-95, -60, 0))
THINGS = np.array(
    [(40, 40, 44), (205, 55, 45), (50, 115, 190), (235, 200, 60), (240, 240, 236), (225, 120, 40), (70, 150, 75)]
)

# Name of the class, and number, of an object.
Thing = tuple[str, int]
Vector = Sequence[float] | np.ndarray


class Rectangle(NamedTuple):
    """A piece of an object's surface.

    Attributes:
        thing: the object. origin: (3,) its corner. edges: its two edges, (3,) each. color: (3,) in 0..255.
        returns: the share of scanner rays that it reflects to the scanner.
    """

    thing: Thing
    origin: Vector
    edges: tuple[Vector, Vector]
    color: np.ndarray
    returns: float


@dataclass
class Scene:
    """Rectangles that make a room.

    Attributes:
        rng: of all random choices. size: (3,) of the room, metres. objects: number of objects.
    """

    rng: np.random.Generator
    size: np.ndarray
    rectangles: list[Rectangle] = field(default_factory=list)
    objects: int = 0

    def new_object(self, name: str) -> Thing:
        """Return a new object of the named class."""
        self.objects += 1
        return name, self.objects - 1

    def color(self, palette: np.ndarray, spread: float = 8.0) -> np.ndarray:
        """Return a random colour of the palette (n, 3), varied a little."""
        return palette[self.rng.integers(len(palette))] + self.rng.normal(0, spread, 3)

    def rectangle(
        self, thing: Thing, origin: Vector, u: Vector, v: Vector, color: np.ndarray, returns: float = 1.0
    ) -> None:
        """Add a rectangle at ``origin`` with edges u and v (3,)."""
        self.rectangles.append(Rectangle(thing, origin, (u, v), color, returns))

    def box(self, thing: Thing, center: Vector, size: Vector, color: np.ndarray, yaw: float = 0.0) -> None:
        """Add the six sides of a box, turned about the vertical through its centre."""
        c, s = np.cos(yaw), np.sin(yaw)
        axes = np.array([(c, s, 0.0), (-s, c, 0.0), (0.0, 0.0, 1.0)]) * np.asarray(size, float)[:, None]
        corner = np.asarray(center, float) - axes.sum(0) / 2
        for a, b, n in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
            self.rectangle(thing, corner, axes[a], axes[b], color)
            self.rectangle(thing, corner + axes[n], axes[a], axes[b], color)

    def cylinder(
        self, thing: Thing, base: Vector, radius: float, height: float, color: np.ndarray, sides: int = 12
    ) -> None:
        """Add a standing prism of many sides, closed on top by a square inside its rim."""
        angles = np.arange(sides + 1) * (2 * np.pi / sides)
        rim = np.stack([np.cos(angles), np.sin(angles), np.zeros(sides + 1)], 1) * radius + base
        for a, b in zip(rim[:-1], rim[1:]):
            self.rectangle(thing, a, b - a, (0.0, 0.0, height), color)
        half = radius * 0.8
        top = np.asarray(base, float) + (-half, -half, height)
        self.rectangle(thing, top, (2 * half, 0, 0), (0, 2 * half, 0), color)

    def wall_frame(self, wall: int, along: float) -> "WallFrame":
        """Return a place on a wall, ``along`` metres from the wall's begin."""
        sx, sy, _ = self.size
        base, direction, inward = {
            0: ((along, 0, 0), (1, 0, 0), (0, 1, 0)),
            1: ((sx, along, 0), (0, 1, 0), (-1, 0, 0)),
            2: ((along, sy, 0), (1, 0, 0), (0, -1, 0)),
            3: ((0, along, 0), (0, 1, 0), (1, 0, 0)),
        }[wall]
        yaw = 0.0 if wall % 2 == 0 else np.pi / 2
        return WallFrame(self, np.array(base, float), np.array(direction, float), np.array(inward, float), yaw)


@dataclass(frozen=True)
class WallFrame:
    """A place on a wall, from which distances are measured along the wall, up, and into the room.

    Attributes:
        base: (3,) the place, at floor level. direction, inward: (3,) unit vectors along the wall and into the room.
        yaw: angle in radians about the vertical that turns the x axis along the wall.
    """

    scene: Scene
    base: np.ndarray
    direction: np.ndarray
    inward: np.ndarray
    yaw: float

    def at(self, along: float, height: float, into: float = 0.0) -> np.ndarray:
        """Return a point (3,) of the room."""
        return self.base + self.direction * along + UP * height + self.inward * into

    def panel(self, thing: Thing, left: float, low: float, width: float, height: float, color: np.ndarray) -> None:
        """Add a rectangle of the wall, whose lower corner is at ``left`` and ``low``."""
        self.scene.rectangle(thing, self.at(left, low), self.direction * width, UP * height, color)

    def box(self, thing: Thing, along: float, height: float, into: float, size: Vector, color: np.ndarray) -> None:
        """Add a box with this centre, parallel to the wall. Its size is that along the wall, into the room, and up."""
        self.scene.box(thing, self.at(along, height, into), size, color, self.yaw)
