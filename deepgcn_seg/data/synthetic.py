"""Synthetic rooms in the raw Stanford layout: the embedded default data.

Six areas of offices, conference rooms, lounges and hallways with all 13 classes, seen by simulated
scanners: surfaces are sampled densely, then thinned with distance and occluded through a spherical
depth buffer, and get range noise, uneven light, an exposure of their own and colour noise. Colours and
heights overlap between classes on purpose (board against wall, beam against ceiling, column against
wall, sofa against chair): a board is brighter than the wall it hangs on, not brighter than walls. A
point alone does not tell its class, its neighbourhood does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv

from ..files import creating, replacing
from ..progress import track
from .classes import S3DIS, ClassList
from .room import Room

AREAS = (1, 2, 3, 4, 5, 6)
TYPES = ("office", "conferenceRoom", "lounge", "hallway")

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


@dataclass
class Scene:
    """Rectangles that make a room: each an origin, two edges, a class, an object, a colour and the
    share of scanner rays that return."""

    rng: np.random.Generator
    size: np.ndarray
    origins: list = field(default_factory=list)
    edges: list = field(default_factory=list)
    labels: list = field(default_factory=list)
    objects: list = field(default_factory=list)
    colors: list = field(default_factory=list)
    returns: list = field(default_factory=list)
    count: int = 0

    def new_object(self, name: str) -> tuple[int, int]:
        """A handle for the surfaces of one object of the named class."""
        self.count += 1
        return S3DIS.names.index(name), self.count - 1

    def color(self, palette: np.ndarray, spread: float = 8.0) -> np.ndarray:
        """A colour of the palette, varied a little."""
        return palette[self.rng.integers(len(palette))] + self.rng.normal(0, spread, 3)

    def rectangle(self, thing: tuple[int, int], origin, u, v, color, returns: float = 1.0) -> None:
        """Add a rectangle with edges u and v (3,)."""
        self.returns.append(returns)
        self.origins.append(origin)
        self.edges.append((u, v))
        self.labels.append(thing[0])
        self.objects.append(thing[1])
        self.colors.append(color)

    def box(self, thing, center, size, color, yaw: float = 0.0) -> None:
        """Add the six sides of a box, turned about the vertical through its centre."""
        c, s = np.cos(yaw), np.sin(yaw)
        axes = np.array([(c, s, 0.0), (-s, c, 0.0), (0.0, 0.0, 1.0)]) * np.asarray(size, float)[:, None]
        corner = np.asarray(center, float) - axes.sum(0) / 2
        for a, b, n in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
            self.rectangle(thing, corner, axes[a], axes[b], color)
            self.rectangle(thing, corner + axes[n], axes[a], axes[b], color)

    def cylinder(self, thing, base, radius: float, height: float, color, sides: int = 12) -> None:
        """Add a standing prism of many sides, closed on top by a square inside its rim."""
        angles = np.arange(sides + 1) * (2 * np.pi / sides)
        rim = np.stack([np.cos(angles), np.sin(angles), np.zeros(sides + 1)], 1) * radius + base
        for a, b in zip(rim[:-1], rim[1:]):
            self.rectangle(thing, a, b - a, (0.0, 0.0, height), color)
        half = radius * 0.8
        top = np.asarray(base, float) + (-half, -half, height)
        self.rectangle(thing, top, (2 * half, 0, 0), (0, 2 * half, 0), color)


class Plan:
    """What stands where: keeps objects on the floor, and along each wall, apart."""

    def __init__(self, scene: Scene):
        self.scene = scene
        self.taken: list[tuple[float, float, float, float]] = []
        self.walls: dict[int, list[tuple[float, float, float, float]]] = {0: [], 1: [], 2: [], 3: []}

    def floor_spot(self, width: float, depth: float, margin: float = 0.25) -> tuple[float, float] | None:
        """The centre of a free place for a width x depth object, or None."""
        rng, (sx, sy, _) = self.scene.rng, self.scene.size
        if sx < width + 2 * margin or sy < depth + 2 * margin:
            return None
        for _ in range(30):
            x = rng.uniform(margin + width / 2, sx - margin - width / 2)
            y = rng.uniform(margin + depth / 2, sy - margin - depth / 2)
            if self._free(x, y, width / 2, depth / 2):
                self.taken.append((x, y, width / 2, depth / 2))
                return x, y
        return None

    def _free(self, x, y, hx, hy, gap: float = 0.1) -> bool:
        return all(abs(x - a) > hx + c + gap or abs(y - b) > hy + d + gap for a, b, c, d in self.taken)

    def wall_spot(
        self, width: float, depth: float = 0.0, low: float = 0.0, high: float = 9.0
    ) -> tuple[int, float] | None:
        """A free stretch of wall: (wall, along), along being its middle, or None.

        Args:
            depth: how far the object reaches into the room at floor level, 0 for what hangs.
            low, high: heights it takes; stretches may overlap above or below one another.
        """
        rng = self.scene.rng
        for _ in range(30):
            wall = int(rng.integers(4))
            length = self.scene.size[wall % 2]
            if length < width + 0.4:
                continue
            along = rng.uniform(0.2 + width / 2, length - 0.2 - width / 2)
            overlaps = (
                abs(along - a) < (width + w) / 2 + 0.08 and low < h and high > b for a, w, b, h in self.walls[wall]
            )
            if any(overlaps):
                continue
            if depth:
                x, y, hx, hy = self.footprint(wall, along, width, depth)
                if not self._free(x, y, hx, hy, 0.02):
                    continue
                self.taken.append((x, y, hx, hy))
            self.walls[wall].append((along, width, low, high))
            return wall, along
        return None

    def footprint(self, wall: int, along: float, width: float, depth: float):
        """Centre and half extents on the floor of an object against a wall."""
        sx, sy, _ = self.scene.size
        if wall % 2 == 0:
            return along, depth / 2 if wall == 0 else sy - depth / 2, width / 2, depth / 2
        return depth / 2 if wall == 3 else sx - depth / 2, along, depth / 2, width / 2

    def frame(self, wall: int, along: float):
        """Point on the wall at floor level, direction along the wall, and into the room."""
        sx, sy, _ = self.scene.size
        return {
            0: (np.array((along, 0.0, 0.0)), np.array((1.0, 0, 0)), np.array((0, 1.0, 0))),
            1: (np.array((sx, along, 0.0)), np.array((0, 1.0, 0)), np.array((-1.0, 0, 0))),
            2: (np.array((along, sy, 0.0)), np.array((1.0, 0, 0)), np.array((0, -1.0, 0))),
            3: (np.array((0.0, along, 0.0)), np.array((0, 1.0, 0)), np.array((1.0, 0, 0))),
        }[wall]


UP = np.array((0.0, 0.0, 1.0))


def build_scene(kind: str, rng: np.random.Generator) -> Scene:
    """A furnished room of one of :data:`TYPES`."""
    spans = {
        "office": ((3.2, 4.6), (3.0, 4.2)),
        "conferenceRoom": ((4.4, 5.8), (3.4, 4.4)),
        "lounge": ((3.8, 5.2), (3.4, 4.6)),
        "hallway": ((5.5, 8.0), (2.0, 2.6)),
    }[kind]
    size = np.array([rng.uniform(*spans[0]), rng.uniform(*spans[1]), rng.uniform(2.5, 3.1)])
    if rng.random() < 0.5:
        size[:2] = size[1::-1].copy()
    scene = Scene(rng, size)
    plan = Plan(scene)
    wall_color, ceiling_color = scene.color(NEUTRAL), scene.color(NEUTRAL)
    furniture: dict[str, float] = {
        "office": dict(door=1, window=2, board=1, bookcase=2, column=1, beam=1, sofa=0.5, table=2, chair=4),
        "conferenceRoom": dict(door=1, window=1, board=2, bookcase=1, column=1, beam=1, sofa=0, table=1, chair=7),
        "lounge": dict(door=1, window=2, board=1, bookcase=1, column=1, beam=1, sofa=3, table=2, chair=2),
        "hallway": dict(door=4, window=1, board=1, bookcase=1, column=2, beam=2, sofa=0.5, table=0.5, chair=1),
    }[kind]
    # A fractional count is a chance.
    counts = {name: int(n) + int(rng.random() < n - int(n)) for name, n in furniture.items()}
    openings: dict[int, list] = {0: [], 1: [], 2: [], 3: []}
    for _ in range(counts["door"]):
        _door(scene, plan, openings, wall_color)
    for _ in range(counts["window"]):
        _window(scene, plan, openings, wall_color)
    for _ in range(counts["column"]):
        _column(scene, plan, wall_color)
    for _ in range(counts["bookcase"]):
        _bookcase(scene, plan)
    for _ in range(counts["sofa"]):
        _sofa(scene, plan)
    for _ in range(counts["board"]):
        _board(scene, plan, wall_color)
    _shell(scene, openings, wall_color, ceiling_color)
    _beams(scene, counts["beam"], ceiling_color if rng.random() < 0.5 else wall_color)
    _tables_and_chairs(scene, plan, counts["table"], counts["chair"], large=kind == "conferenceRoom")
    _clutter(scene, plan)
    return scene


def _shell(scene: Scene, openings: dict[int, list], wall_color, ceiling_color) -> None:
    sx, sy, sz = scene.size
    scene.rectangle(scene.new_object("floor"), (0, 0, 0), (sx, 0, 0), (0, sy, 0), scene.color(FLOOR))
    scene.rectangle(scene.new_object("ceiling"), (0, 0, sz), (sx, 0, 0), (0, sy, 0), ceiling_color)
    plan = Plan(scene)
    for wall in range(4):
        thing = scene.new_object("wall")
        color = wall_color + scene.rng.normal(0, 3, 3)
        base, along, _ = plan.frame(wall, 0.0)
        at = 0.0
        for middle, width, low, high in sorted(openings[wall]):
            left, right = middle - width / 2, middle + width / 2
            scene.rectangle(thing, base + along * at, along * (left - at), UP * sz, color)
            scene.rectangle(thing, base + along * left + UP * high, along * width, UP * (sz - high), color)
            if low > 0:
                scene.rectangle(thing, base + along * left, along * width, UP * low, color)
            at = right
        scene.rectangle(thing, base + along * at, along * (scene.size[wall % 2] - at), UP * sz, color)


def _opening(scene: Scene, thing, plan: Plan, spot, width, low, high, depth, color, frame_color, returns=1.0) -> None:
    """A panel set back into the wall, with a reveal all round of the same class."""
    base, direction, inward = plan.frame(*spot)
    corner = base - direction * width / 2 + UP * low
    back = corner - inward * depth
    scene.rectangle(thing, back, direction * width, UP * (high - low), color, returns)
    for origin, edge in (
        (corner, UP * (high - low)),
        (corner + direction * width, UP * (high - low)),
        (corner + UP * (high - low), direction * width),
        (corner, direction * width),
    ):
        scene.rectangle(thing, origin, edge, -inward * depth, frame_color)


def _door(scene: Scene, plan: Plan, openings, wall_color) -> None:
    rng = scene.rng
    width, height = rng.uniform(0.85, 1.05), rng.uniform(2.0, 2.15)
    if spot := plan.wall_spot(width, 0.5, 0.0, height):
        color = scene.color(WOOD) if rng.random() < 0.6 else wall_color * 0.7
        thing = scene.new_object("door")
        _opening(scene, thing, plan, spot, width, 0.0, height, rng.uniform(0.1, 0.18), color, color - 15)
        base, direction, inward = plan.frame(*spot)
        handle = base + direction * (width * 0.38) + UP * 1.02 + inward * 0.0
        scene.box(thing, handle, (0.12, 0.12, 0.04), color - 60)
        openings[spot[0]].append((spot[1], width, 0.0, height))


def _window(scene: Scene, plan: Plan, openings, wall_color) -> None:
    rng = scene.rng
    width, low = rng.uniform(1.0, 1.8), rng.uniform(0.8, 1.0)
    high = low + rng.uniform(1.0, 1.3)
    if spot := plan.wall_spot(width, 0.0, low, high):
        thing = scene.new_object("window")
        frame = wall_color - 25
        glass = wall_color + GLASS_TINT + rng.normal(0, 8, 3)
        _opening(scene, thing, plan, spot, width, low, high, rng.uniform(0.2, 0.3), glass, frame, returns=0.6)
        base, direction, inward = plan.frame(*spot)
        # Mullions stand in the opening.
        for place in np.linspace(-width / 2, width / 2, 3):
            at = base + direction * place * 0.94 - inward * 0.1 + UP * (low + high) / 2
            yaw = 0.0 if spot[0] % 2 == 0 else np.pi / 2
            scene.box(thing, at, (0.06, 0.05, high - low), frame, yaw)
        openings[spot[0]].append((spot[1], width, low, high))


def _board(scene: Scene, plan: Plan, wall_color) -> None:
    rng = scene.rng
    width, low = rng.uniform(1.2, 1.9), rng.uniform(0.8, 1.0)
    high = low + rng.uniform(1.0, 1.2)
    if spot := plan.wall_spot(width, 0.0, low, high):
        thing = scene.new_object("board")
        base, direction, inward = plan.frame(*spot)
        depth = rng.uniform(0.06, 0.1)
        yaw = 0.0 if spot[0] % 2 == 0 else np.pi / 2
        middle = base + inward * depth / 2 + UP * (low + high) / 2
        color = 0.4 * wall_color + 0.6 * WHITE + rng.normal(0, 4, 3)
        scene.box(thing, middle, (width, depth, high - low), color, yaw)
        tray = base + inward * (depth + 0.04) + UP * low
        scene.box(thing, tray, (width * 0.9, 0.08, 0.03), color - 40, yaw)
        frame = color - rng.uniform(20, 90)
        for height in (low, high):
            at = base + inward * (depth + 0.005) + UP * height
            scene.box(thing, at, (width, 0.02, 0.04), frame, yaw)
        for side in (-1, 1):
            at = base + direction * side * width / 2 + inward * (depth + 0.005) + UP * (low + high) / 2
            scene.box(thing, at, (0.04, 0.02, high - low), frame, yaw)


def _column(scene: Scene, plan: Plan, wall_color) -> None:
    rng = scene.rng
    side = rng.uniform(0.4, 0.6)
    color = wall_color + rng.normal(0, 5, 3) if rng.random() < 0.8 else scene.color(NEUTRAL)
    spot = plan.wall_spot(side, side) if rng.random() < 0.6 else None
    if spot:
        x, y, _, _ = plan.footprint(*spot, side, side)
    elif free := plan.floor_spot(side, side, 0.5):
        x, y = free
    else:
        return
    thing = scene.new_object("column")
    height = scene.size[2]
    if rng.random() < 0.3 and not spot:
        scene.cylinder(thing, np.array((x, y, 0.0)), side / 2, height, color, 16)
    else:
        scene.box(thing, (x, y, height / 2), (side, side, height), color)


def _beams(scene: Scene, count: int, color) -> None:
    sx, sy, sz = scene.size
    across = scene.rng.integers(2)
    for i in range(count):
        thing = scene.new_object("beam")
        width, height = scene.rng.uniform(0.25, 0.4), scene.rng.uniform(0.25, 0.4)
        at = (i + scene.rng.uniform(0.3, 0.7)) / count
        tint = color + scene.rng.normal(0, 4, 3)
        if across:
            scene.box(thing, (sx * at, sy / 2, sz - height / 2), (width, sy, height), tint)
        else:
            scene.box(thing, (sx / 2, sy * at, sz - height / 2), (sx, width, height), tint)


def _bookcase(scene: Scene, plan: Plan) -> None:
    rng = scene.rng
    width, depth, height = rng.uniform(0.8, 1.7), rng.uniform(0.28, 0.4), rng.uniform(1.5, 2.2)
    spot = plan.wall_spot(width, depth, 0.0, height)
    if not spot:
        return
    thing = scene.new_object("bookcase")
    color = scene.color(WOOD) if rng.random() < 0.6 else scene.color(NEUTRAL)
    base, direction, inward = plan.frame(*spot)
    yaw = 0.0 if spot[0] % 2 == 0 else np.pi / 2
    middle = base + inward * depth / 2
    for side in (-1, 1):
        at = middle + direction * side * (width / 2 - 0.015) + UP * height / 2
        scene.box(thing, at, (0.03, depth, height), color, yaw)
    shelves = int(height / 0.36)
    scene.box(thing, base + inward * 0.01 + UP * height / 2, (width, 0.02, height), color - 10, yaw)
    for shelf in range(shelves + 1):
        level = height * shelf / shelves
        scene.box(thing, middle + UP * max(level - 0.015, 0.015), (width, depth, 0.03), color, yaw)
        if shelf == shelves:
            break
        # Books: runs of boxes of uneven height and depth, with gaps.
        at = -width / 2 + 0.05
        while at < width / 2 - 0.1:
            run = rng.uniform(0.06, 0.3)
            if rng.random() < 0.8 and at + run < width / 2 - 0.03:
                tall, deep = rng.uniform(0.18, 0.3), rng.uniform(0.6, 0.85) * depth
                where = base + direction * (at + run / 2) + inward * deep / 2 + UP * (level + tall / 2)
                scene.box(thing, where, (run, deep, tall), scene.color(THINGS if rng.random() < 0.6 else WOOD, 15), yaw)
            at += run


def _sofa(scene: Scene, plan: Plan) -> None:
    rng = scene.rng
    width, depth = rng.uniform(1.3, 2.0), rng.uniform(0.8, 0.95)
    spot = plan.wall_spot(width, depth, 0.0, 0.85)
    if not spot:
        return
    thing = scene.new_object("sofa")
    color = scene.color(FABRIC)
    base, direction, inward = plan.frame(*spot)
    yaw = 0.0 if spot[0] % 2 == 0 else np.pi / 2
    seat = rng.uniform(0.4, 0.46)
    scene.box(thing, base + inward * depth / 2 + UP * seat / 2, (width, depth, seat), color, yaw)
    back = rng.uniform(0.75, 0.88)
    scene.box(thing, base + inward * 0.13 + UP * (seat + back) / 2, (width, 0.22, back - seat), color, yaw)
    for side in (-1, 1):
        at = base + direction * side * (width / 2 - 0.1) + inward * depth / 2 + UP * 0.52
        scene.box(thing, at, (0.2, depth, 0.2), color, yaw)
    for cushion in (-0.25, 0.25):
        at = base + direction * cushion * width + inward * (depth * 0.6) + UP * (seat + 0.05)
        scene.box(thing, at, (width * 0.42, depth * 0.65, 0.1), color + rng.normal(0, 5, 3), yaw)


def _tables_and_chairs(scene: Scene, plan: Plan, tables: int, chairs: int, large: bool) -> None:
    rng = scene.rng
    seats = []
    for _ in range(tables):
        width, depth = (
            (rng.uniform(2.0, 2.8), rng.uniform(1.0, 1.3))
            if large
            else (rng.uniform(1.1, 1.6), rng.uniform(0.65, 0.85))
        )
        if scene.size[1] > scene.size[0]:
            width, depth = depth, width
        spot = plan.floor_spot(width, depth, 0.6 if large else 0.15)
        if not spot:
            continue
        x, y = spot
        height = rng.uniform(0.7, 0.77)
        thing = scene.new_object("table")
        color = scene.color(WOOD) if rng.random() < 0.6 else scene.color(NEUTRAL)
        scene.box(thing, (x, y, height - 0.02), (width, depth, 0.04), color)
        for a in (-1, 1):
            for b in (-1, 1):
                at = (x + a * (width / 2 - 0.06), y + b * (depth / 2 - 0.06), height / 2)
                scene.box(thing, at, (0.06, 0.06, height), color - 20)
        for side in range(4):
            length = (width, depth)[side % 2]
            for place in np.arange(0.35, length - 0.3, 0.7):
                offset = place - length / 2
                away = (depth, width)[side % 2] / 2 + rng.uniform(0.12, 0.3)
                delta = {0: (offset, -away), 1: (away, offset), 2: (offset, away), 3: (-away, offset)}[side]
                seats.append((x + delta[0], y + delta[1], side * np.pi / 2))
        _things_on(scene, x, y, height, width, depth)
    rng.shuffle(seats)
    for x, y, yaw in seats[:chairs]:
        inside = 0.3 < x < scene.size[0] - 0.3 and 0.3 < y < scene.size[1] - 0.3
        others = [spot for spot in plan.taken if min(spot[2:]) < 0.3 or max(spot[2:]) < 0.5]
        if inside and all(abs(x - a) > 0.25 + c or abs(y - b) > 0.25 + d for a, b, c, d in others):
            plan.taken.append((x, y, 0.22, 0.22))
            _chair(scene, x, y, yaw + rng.normal(0, 0.25))
    for _ in range(max(chairs - len(seats), 0)):
        if spot := plan.floor_spot(0.5, 0.5):
            _chair(scene, *spot, rng.uniform(0, 2 * np.pi))


def _chair(scene: Scene, x: float, y: float, yaw: float) -> None:
    """A chair that faces +y when yaw is 0."""
    rng = scene.rng
    thing = scene.new_object("chair")
    color = scene.color(FABRIC) if rng.random() < 0.75 else scene.color(WOOD)
    seat, back = rng.uniform(0.42, 0.48), rng.uniform(0.82, 1.0)
    c, s = np.cos(yaw), np.sin(yaw)
    scene.box(thing, (x, y, seat), (0.45, 0.45, 0.06), color, yaw)
    behind = np.array((s * 0.2, -c * 0.2))
    scene.box(
        thing, (x + behind[0], y + behind[1], (seat + back) / 2 + 0.05), (0.43, 0.05, back - seat - 0.08), color, yaw
    )
    if rng.random() < 0.5:
        scene.cylinder(thing, np.array((x, y, 0.08)), 0.04, seat - 0.1, color * 0.4, 6)
        scene.box(thing, (x, y, 0.06), (0.5, 0.07, 0.05), color * 0.4, yaw + 0.6)
        scene.box(thing, (x, y, 0.06), (0.5, 0.07, 0.05), color * 0.4, yaw + 0.6 + np.pi / 2)
    else:
        for a in (-0.19, 0.19):
            for b in (-0.19, 0.19):
                scene.box(thing, (x + c * a - s * b, y + s * a + c * b, seat / 2), (0.04, 0.04, seat), color * 0.7, yaw)


def _things_on(scene: Scene, x, y, height, width, depth) -> None:
    """Clutter on a table: screens, boxes, cups."""
    rng = scene.rng
    for _ in range(rng.integers(1, 4)):
        thing = scene.new_object("clutter")
        px, py = x + rng.uniform(-0.38, 0.38) * width, y + rng.uniform(-0.38, 0.38) * depth
        kind, yaw = rng.integers(3), rng.uniform(0, 2 * np.pi)
        color = scene.color(THINGS, 15)
        if kind == 0:
            scene.box(thing, (px, py, height + 0.28), (0.5, 0.05, 0.32), scene.color(THINGS[:1]), yaw)
            scene.box(thing, (px, py, height + 0.06), (0.2, 0.15, 0.12), scene.color(THINGS[:1]), yaw)
        elif kind == 1:
            size = rng.uniform((0.15, 0.12, 0.05), (0.35, 0.3, 0.25))
            scene.box(thing, (px, py, height + size[2] / 2), size, color, yaw)
        else:
            scene.cylinder(thing, np.array((px, py, height)), rng.uniform(0.04, 0.08), rng.uniform(0.1, 0.25), color, 8)


def _clutter(scene: Scene, plan: Plan) -> None:
    """Lamps, bins, parcels, bags, and small things on walls."""
    rng, (sx, sy, sz) = scene.rng, scene.size
    for _ in range(rng.integers(1, 4)):
        thing = scene.new_object("clutter")
        at = (rng.uniform(0.6, sx - 0.6), rng.uniform(0.4, sy - 0.4), sz - 0.05)
        scene.box(thing, at, (1.1, 0.25, 0.1) if rng.random() < 0.5 else (0.4, 0.4, 0.1), WHITE + 15)
    for _ in range(rng.integers(2, 5)):
        if spot := plan.floor_spot(0.4, 0.4, 0.05):
            thing = scene.new_object("clutter")
            color = scene.color(THINGS if rng.random() < 0.5 else WOOD, 15)
            if rng.random() < 0.4:
                scene.cylinder(thing, np.array((*spot, 0.0)), rng.uniform(0.12, 0.18), rng.uniform(0.3, 0.5), color)
            else:
                size = rng.uniform((0.2, 0.2, 0.15), (0.4, 0.4, 0.5))
                scene.box(thing, (*spot, size[2] / 2), size, color, rng.uniform(0, np.pi))
    for _ in range(rng.integers(2, 5)):
        low = rng.uniform(0.9, 1.7)
        if spot := plan.wall_spot(0.35, 0.0, low, low + 0.5):
            thing = scene.new_object("clutter")
            base, _, inward = plan.frame(*spot)
            width, height, depth = rng.uniform((0.12, 0.12, 0.06), (0.35, 0.5, 0.16))
            at = base + inward * depth / 2 + UP * (low + height / 2)
            yaw = 0.0 if spot[0] % 2 == 0 else np.pi / 2
            scene.box(thing, at, (width, depth, height), scene.color(THINGS, 15), yaw)


def scan(scene: Scene, density: float, scanners: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points of a scene that scanners inside the room see.

    Args:
        density: points per square metre within 1.6 m of a scanner; falls with squared distance.

    Returns:
        xyz (N, 3) metres, rgb (N, 3) uint8, label (N,) uint8, object (N,) int64.
    """
    rng = scene.rng
    origins, edges = np.array(scene.origins, float), np.array(scene.edges, float)
    normals = np.cross(edges[:, 0], edges[:, 1])
    areas = np.linalg.norm(normals, axis=1)
    normals /= np.maximum(areas, 1e-12)[:, None]
    counts = np.floor(areas * density * np.array(scene.returns) + rng.random(len(areas))).astype(np.int64)
    patch = np.repeat(np.arange(len(counts)), counts)
    st = rng.random((len(patch), 2))
    xyz = origins[patch] + edges[patch, 0] * st[:, :1] + edges[patch, 1] * st[:, 1:]
    sx, sy, _ = scene.size
    seen = np.zeros(len(xyz), bool)
    luck = rng.random(len(xyz))
    for _ in range(scanners):
        eye = np.array([rng.uniform(0.25, 0.75) * sx, rng.uniform(0.25, 0.75) * sy, rng.uniform(1.3, 1.7)])
        ray = xyz - eye
        distance = np.linalg.norm(ray, axis=1)
        seen |= _visible(ray, distance) & (luck < (1.6 / distance) ** 2)
    xyz, patch = xyz[seen], patch[seen]
    xyz = xyz + rng.normal(0, 0.003, xyz.shape)
    # Light falls from above and from one side, with slow changes over the room.
    side = rng.normal(0, 1, 3)
    light = 0.82 + 0.1 * normals[patch, 2] + 0.06 * (normals[patch] @ (side / np.linalg.norm(side)))
    wave = rng.uniform(0.5, 1.5, 3)
    light = light + 0.05 * np.sin(xyz @ wave + rng.uniform(0, 6))
    light = light * rng.uniform(0.65, 1.1)
    color = np.array(scene.colors, float)[patch] * light[:, None] + rng.normal(0, 7, (len(patch), 3))
    labels, objects = np.array(scene.labels, np.uint8), np.array(scene.objects)
    return xyz, np.clip(np.round(color), 0, 255).astype(np.uint8), labels[patch], objects[patch]


def _visible(ray: np.ndarray, distance: np.ndarray, cells: int = 640) -> np.ndarray:
    """Points not behind others: no nearer point in the same cell of a spherical depth buffer."""
    azimuth = np.arctan2(ray[:, 1], ray[:, 0]) / (2 * np.pi) + 0.5
    elevation = np.arcsin(np.clip(ray[:, 2] / distance, -1, 1)) / np.pi + 0.5
    cell = (azimuth * cells).astype(np.int64) * cells + (elevation * cells / 2).astype(np.int64)
    order = np.lexsort((distance, cell))
    first = np.r_[True, np.diff(cell[order]) != 0]
    nearest = distance[order][first][np.cumsum(first) - 1]
    visible = np.empty(len(ray), bool)
    visible[order] = distance[order] < nearest * 1.03 + 0.03
    return visible


def room_name(number: int) -> str:
    """Name of an area's room by number: types take turns."""
    return f"{TYPES[number % len(TYPES)]}_{number // len(TYPES) + 1}"


def make_room(area: int, number: int, seed: int, density: float) -> tuple[Room, np.ndarray]:
    """One synthetic room and each point's object. The same arguments give the same room.

    Args:
        area: 1..6. number: of the room in its area, from 0; its type cycles through :data:`TYPES`.
    """
    rng = np.random.default_rng([seed, area, number])
    kind = TYPES[number % len(TYPES)]
    scene = build_scene(kind, rng)
    xyz, rgb, label, thing = scan(scene, density)
    # Rooms lie apart in their building, as surveyed: coordinates do not start at 0.
    xyz = np.round(xyz + [20.0 * (number % 4) - 10, 15.0 * (number // 4) + 30 * area, rng.uniform(-0.5, 0.5)], 3)
    return Room(f"Area_{area}", room_name(number), xyz, rgb, label), thing


def write_raw_room(root: str | Path, room: Room, thing: np.ndarray, classes: ClassList = S3DIS) -> Path:
    """Write a room in the raw Stanford layout: one annotation file per object, one for all.

    Returns:
        The room's folder, which appears complete or not at all.
    """
    folder = Path(root) / room.area / room.name
    order = np.argsort(thing, kind="stable")
    bounds = np.flatnonzero(np.diff(thing[order])) + 1
    numbers = dict.fromkeys(classes.names, 0)
    whole = []
    # Where another process wrote the same room first, its files are the same.
    with creating(folder) as temporary:
        (temporary / "Annotations").mkdir()
        for part in np.split(order, bounds):
            name = classes.names[room.label[part[0]]]
            numbers[name] += 1
            text = _text(room.xyz[part], room.rgb[part])
            (temporary / "Annotations" / f"{name}_{numbers[name]}.txt").write_bytes(text)
            whole.append(text)
        (temporary / f"{room.name}.txt").write_bytes(b"".join(whole))
    return folder


def _text(xyz: np.ndarray, rgb: np.ndarray) -> bytes:
    """Rows ``x y z r g b``."""
    columns = {**dict(zip("xyz", xyz.T)), **dict(zip("rgb", rgb.T))}
    sink = pa.BufferOutputStream()
    options = csv.WriteOptions(include_header=False, delimiter=" ", quoting_style="none")
    csv.write_csv(pa.table({name: np.ascontiguousarray(column) for name, column in columns.items()}), sink, options)
    return sink.getvalue().to_pybytes()


def generate(
    root: str | Path, rooms_per_area: int = 6, density: float = 1000.0, seed: int = 0, areas: Sequence[int] = AREAS
) -> Path:
    """Write the synthetic dataset in the raw Stanford layout, unless it is there already.

    Args:
        root: folder of this very dataset; what its settings do not say must not change it.

    Returns:
        ``root``.
    """
    root = Path(root)
    done = root / "complete"
    if done.is_file():
        return root
    jobs = [(area, number) for area in areas for number in range(rooms_per_area)]
    for area, number in track(jobs, len(jobs), "Generating rooms"):
        if not (root / f"Area_{area}" / room_name(number)).is_dir():
            write_raw_room(root, *make_room(area, number, seed, density))
    with replacing(done) as temporary:
        temporary.write_text(f"rooms_per_area={rooms_per_area} density={density} seed={seed}\n")
    return root
