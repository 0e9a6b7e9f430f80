"""What synthetic rooms are built of: walls, doors, windows, boards, columns, beams."""

import numpy as np

from .plan import Plan
from .scene import FLOOR, GLASS_TINT, NEUTRAL, UP, WHITE, WOOD, Scene, Thing, WallFrame

# Middle along the wall, width, lower and upper height of the doors and windows of each wall.
Openings = dict[int, list[tuple[float, float, float, float]]]


def add_walls(scene: Scene, openings: Openings, wall_color: np.ndarray, ceiling_color: np.ndarray) -> None:
    """Add floor, ceiling and walls, with the openings of doors and windows left out."""
    sx, sy, sz = scene.size
    scene.rectangle(scene.new_object("floor"), (0, 0, 0), (sx, 0, 0), (0, sy, 0), scene.color(FLOOR))
    scene.rectangle(scene.new_object("ceiling"), (0, 0, sz), (sx, 0, 0), (0, sy, 0), ceiling_color)
    for wall in range(4):
        thing = scene.new_object("wall")
        color = wall_color + scene.rng.normal(0, 3, 3)
        frame = scene.wall_frame(wall, 0.0)
        done = 0.0
        for middle, width, low, high in sorted(openings[wall]):
            left, right = middle - width / 2, middle + width / 2
            frame.panel(thing, done, 0, left - done, sz, color)
            frame.panel(thing, left, high, width, sz - high, color)
            if low > 0:
                frame.panel(thing, left, 0, width, low, color)
            done = right
        frame.panel(thing, done, 0, scene.size[wall % 2] - done, sz, color)


def _add_opening(
    frame: WallFrame,
    thing: Thing,
    extent: tuple[float, float, float, float],
    colors: tuple[np.ndarray, np.ndarray],
    returns: float = 1.0,
) -> None:
    """Add a panel set back into the wall, and the four sides of its opening, which have the same class.

    Args:
        frame: the place on the wall. extent: width, lower and upper height, and depth in the wall.
        colors: of the panel and of the sides. returns: share of scanner rays that the panel reflects.
    """
    width, low, high, depth = extent
    color, side_color = colors
    corner = frame.at(-width / 2, low)
    along, up = frame.direction * width, UP * (high - low)
    frame.scene.rectangle(thing, frame.at(-width / 2, low, -depth), along, up, color, returns)
    for origin, edge in ((corner, up), (corner + along, up), (corner + up, along), (corner, along)):
        frame.scene.rectangle(thing, origin, edge, -frame.inward * depth, side_color)


def add_door(scene: Scene, plan: Plan, openings: Openings, wall_color: np.ndarray) -> None:
    """Add a door with a handle, if a wall has room for it."""
    rng = scene.rng
    width, height = rng.uniform(0.85, 1.05), rng.uniform(2.0, 2.15)
    if spot := plan.wall_spot(width, 0.5, 0.0, height):
        color = scene.color(WOOD) if rng.random() < 0.6 else wall_color * 0.7
        thing, frame = scene.new_object("door"), scene.wall_frame(*spot)
        _add_opening(frame, thing, (width, 0.0, height, rng.uniform(0.1, 0.18)), (color, color - 15))
        scene.box(thing, frame.at(width * 0.38, 1.02), (0.12, 0.12, 0.04), color - 60)
        openings[spot[0]].append((spot[1], width, 0.0, height))


def add_window(scene: Scene, plan: Plan, openings: Openings, wall_color: np.ndarray) -> None:
    """Add a window with mullions, if a wall has room for it. Its glass reflects some of the rays."""
    rng = scene.rng
    width, low = rng.uniform(1.0, 1.8), rng.uniform(0.8, 1.0)
    high = low + rng.uniform(1.0, 1.3)
    if spot := plan.wall_spot(width, 0.0, low, high):
        thing, frame = scene.new_object("window"), scene.wall_frame(*spot)
        side_color = wall_color - 25
        glass = wall_color + GLASS_TINT + rng.normal(0, 8, 3)
        _add_opening(frame, thing, (width, low, high, rng.uniform(0.2, 0.3)), (glass, side_color), returns=0.6)
        # Mullions stand in the opening.
        for place in np.linspace(-width / 2, width / 2, 3):
            frame.box(thing, place * 0.94, (low + high) / 2, -0.1, (0.06, 0.05, high - low), side_color)
        openings[spot[0]].append((spot[1], width, low, high))


def add_board(scene: Scene, plan: Plan, wall_color: np.ndarray) -> None:
    """Add a board with tray and edges, brighter than its wall, if a wall has room for it."""
    rng = scene.rng
    width, low = rng.uniform(1.2, 1.9), rng.uniform(0.8, 1.0)
    high = low + rng.uniform(1.0, 1.2)
    if spot := plan.wall_spot(width, 0.0, low, high):
        thing, frame = scene.new_object("board"), scene.wall_frame(*spot)
        depth = rng.uniform(0.06, 0.1)
        color = 0.4 * wall_color + 0.6 * WHITE + rng.normal(0, 4, 3)
        frame.box(thing, 0, (low + high) / 2, depth / 2, (width, depth, high - low), color)
        frame.box(thing, 0, low, depth + 0.04, (width * 0.9, 0.08, 0.03), color - 40)
        edge_color = color - rng.uniform(20, 90)
        for height in (low, high):
            frame.box(thing, 0, height, depth + 0.005, (width, 0.02, 0.04), edge_color)
        for side in (-1, 1):
            frame.box(thing, side * width / 2, (low + high) / 2, depth + 0.005, (0.04, 0.02, high - low), edge_color)


def add_column(scene: Scene, plan: Plan, wall_color: np.ndarray) -> None:
    """Add a square or round column at a wall or in the room, if there is a free place."""
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


def add_beams(scene: Scene, count: int, color: np.ndarray) -> None:
    """Add parallel beams below the ceiling."""
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
