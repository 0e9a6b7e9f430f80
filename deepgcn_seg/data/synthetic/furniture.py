"""What stands in synthetic rooms: bookcases, sofas, tables, chairs, clutter."""

import numpy as np

from .plan import Plan
from .scene import FABRIC, NEUTRAL, THINGS, WHITE, WOOD, Scene


def add_bookcase(scene: Scene, plan: Plan) -> None:
    """Add a bookcase with shelves and books, if a wall has room for it."""
    rng = scene.rng
    width, depth, height = rng.uniform(0.8, 1.7), rng.uniform(0.28, 0.4), rng.uniform(1.5, 2.2)
    spot = plan.wall_spot(width, depth, 0.0, height)
    if not spot:
        return
    thing, frame = scene.new_object("bookcase"), scene.wall_frame(*spot)
    color = scene.color(WOOD) if rng.random() < 0.6 else scene.color(NEUTRAL)
    for side in (-1, 1):
        frame.box(thing, side * (width / 2 - 0.015), height / 2, depth / 2, (0.03, depth, height), color)
    frame.box(thing, 0, height / 2, 0.01, (width, 0.02, height), color - 10)
    shelves = int(height / 0.36)
    for shelf in range(shelves + 1):
        level = height * shelf / shelves
        frame.box(thing, 0, max(level - 0.015, 0.015), depth / 2, (width, depth, 0.03), color)
        if shelf == shelves:
            break
        # Books: boxes of uneven height and depth, with gaps.
        left = -width / 2 + 0.05
        while left < width / 2 - 0.1:
            books = rng.uniform(0.06, 0.3)
            if rng.random() < 0.8 and left + books < width / 2 - 0.03:
                tall, deep = rng.uniform(0.18, 0.3), rng.uniform(0.6, 0.85) * depth
                tint = scene.color(THINGS if rng.random() < 0.6 else WOOD, 15)
                frame.box(thing, left + books / 2, level + tall / 2, deep / 2, (books, deep, tall), tint)
            left += books


def add_sofa(scene: Scene, plan: Plan) -> None:
    """Add a sofa with two cushions, if a wall has room for it."""
    rng = scene.rng
    width, depth = rng.uniform(1.3, 2.0), rng.uniform(0.8, 0.95)
    spot = plan.wall_spot(width, depth, 0.0, 0.85)
    if not spot:
        return
    thing, frame = scene.new_object("sofa"), scene.wall_frame(*spot)
    color = scene.color(FABRIC)
    seat = rng.uniform(0.4, 0.46)
    frame.box(thing, 0, seat / 2, depth / 2, (width, depth, seat), color)
    back = rng.uniform(0.75, 0.88)
    frame.box(thing, 0, (seat + back) / 2, 0.13, (width, 0.22, back - seat), color)
    for side in (-1, 1):
        frame.box(thing, side * (width / 2 - 0.1), 0.52, depth / 2, (0.2, depth, 0.2), color)
    for cushion in (-0.25, 0.25):
        tint = color + rng.normal(0, 5, 3)
        frame.box(thing, cushion * width, seat + 0.05, depth * 0.6, (width * 0.42, depth * 0.65, 0.1), tint)


# Place of a chair: x, y, metres, and yaw, radians.
Seat = tuple[float, float, float]


def add_tables_and_chairs(scene: Scene, plan: Plan, tables: int, chairs: int, large: bool) -> None:
    """Add tables with things on them, chairs around them, and further chairs at free places."""
    rng = scene.rng
    seats = [seat for _ in range(tables) for seat in _add_table(scene, plan, large)]
    rng.shuffle(seats)
    for x, y, yaw in seats[:chairs]:
        inside = 0.3 < x < scene.size[0] - 0.3 and 0.3 < y < scene.size[1] - 0.3
        others = [spot for spot in plan.taken if min(spot[2:]) < 0.3 or max(spot[2:]) < 0.5]
        if inside and all(abs(x - a) > 0.25 + c or abs(y - b) > 0.25 + d for a, b, c, d in others):
            plan.taken.append((x, y, 0.22, 0.22))
            _add_chair(scene, x, y, yaw + rng.normal(0, 0.25))
    for _ in range(max(chairs - len(seats), 0)):
        if spot := plan.floor_spot(0.5, 0.5):
            _add_chair(scene, *spot, rng.uniform(0, 2 * np.pi))


def _add_table(scene: Scene, plan: Plan, large: bool) -> list[Seat]:
    """Add a table with things on it, if there is a free place, and return the seats around it."""
    rng = scene.rng
    lengths, widths = ((2.0, 2.8), (1.0, 1.3)) if large else ((1.1, 1.6), (0.65, 0.85))
    width, depth = rng.uniform(*lengths), rng.uniform(*widths)
    if scene.size[1] > scene.size[0]:
        width, depth = depth, width
    spot = plan.floor_spot(width, depth, 0.6 if large else 0.15)
    if not spot:
        return []
    x, y = spot
    height = rng.uniform(0.7, 0.77)
    thing = scene.new_object("table")
    color = scene.color(WOOD) if rng.random() < 0.6 else scene.color(NEUTRAL)
    scene.box(thing, (x, y, height - 0.02), (width, depth, 0.04), color)
    for a in (-1, 1):
        for b in (-1, 1):
            at = (x + a * (width / 2 - 0.06), y + b * (depth / 2 - 0.06), height / 2)
            scene.box(thing, at, (0.06, 0.06, height), color - 20)
    seats = []
    for side in range(4):
        length = (width, depth)[side % 2]
        for place in np.arange(0.35, length - 0.3, 0.7):
            offset = place - length / 2
            away = (depth, width)[side % 2] / 2 + rng.uniform(0.12, 0.3)
            delta = {0: (offset, -away), 1: (away, offset), 2: (offset, away), 3: (-away, offset)}[side]
            seats.append((x + delta[0], y + delta[1], side * np.pi / 2))
    _add_things_on(scene, x, y, height, width, depth)
    return seats


def _add_chair(scene: Scene, x: float, y: float, yaw: float) -> None:
    """Add a chair that faces +y when yaw is 0."""
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


def _add_things_on(scene: Scene, x: float, y: float, height: float, width: float, depth: float) -> None:
    """Add clutter on a table: screens, boxes, cups."""
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


def add_clutter(scene: Scene, plan: Plan) -> None:
    """Add lamps, bins, parcels, bags, and small things on walls."""
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
            width, height, depth = rng.uniform((0.12, 0.12, 0.06), (0.35, 0.5, 0.16))
            color = scene.color(THINGS, 15)
            scene.wall_frame(*spot).box(thing, 0, low + height / 2, depth / 2, (width, depth, height), color)
