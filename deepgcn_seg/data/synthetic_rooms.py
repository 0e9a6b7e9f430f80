"""Synthetic rooms in the raw Stanford layout: the embedded default data.

Six areas of offices, conference rooms, lounges and hallways have objects of all 13 classes. Simulated scanners see
them: surfaces are sampled densely, thinned with distance, hidden by what stands before them, and given range noise,
uneven light, an exposure and colour noise. Colours and heights overlap between classes on purpose (board and wall,
beam and ceiling, column and wall, sofa and chair): a board is brighter than the wall it hangs on, but not brighter
than other walls. A point alone does not tell its class; its neighbourhood does.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from ..files import creating, replacing
from ..progress import track
from .classes import S3DIS, ClassList
from .room import Room
from .scans.formats.rows import write_rows
from .synthetic.building import Openings, add_beams, add_board, add_column, add_door, add_walls, add_window
from .synthetic.furniture import add_bookcase, add_clutter, add_sofa, add_tables_and_chairs
from .synthetic.plan import Plan
from .synthetic.scanner import scan
from .synthetic.scene import NEUTRAL, Scene

AREAS = (1, 2, 3, 4, 5, 6)
# Type of a room -> the least and the largest length and width, metres.
_SIZES = {
    "office": ((3.2, 4.6), (3.0, 4.2)),
    "conferenceRoom": ((4.4, 5.8), (3.4, 4.4)),
    "lounge": ((3.8, 5.2), (3.4, 4.6)),
    "hallway": ((5.5, 8.0), (2.0, 2.6)),
}
TYPES = tuple(_SIZES)
# Type of a room -> number of objects of each class. The fraction of a number is the chance of one more.
_OBJECTS: dict[str, dict[str, float]] = {
    "office": dict(door=1, window=2, board=1, bookcase=2, column=1, beam=1, sofa=0.5, table=2, chair=4),
    "conferenceRoom": dict(door=1, window=1, board=2, bookcase=1, column=1, beam=1, sofa=0, table=1, chair=7),
    "lounge": dict(door=1, window=2, board=1, bookcase=1, column=1, beam=1, sofa=3, table=2, chair=2),
    "hallway": dict(door=4, window=1, board=1, bookcase=1, column=2, beam=2, sofa=0.5, table=0.5, chair=1),
}


def build_scene(kind: str, rng: np.random.Generator) -> Scene:
    """Return a furnished room of one of :data:`TYPES`."""
    length, width = _SIZES[kind]
    size = np.array([rng.uniform(*length), rng.uniform(*width), rng.uniform(2.5, 3.1)])
    if rng.random() < 0.5:
        size[:2] = size[1::-1].copy()
    scene = Scene(rng, size)
    plan = Plan(scene)
    wall_color, ceiling_color = scene.color(NEUTRAL), scene.color(NEUTRAL)
    counts = {name: int(n) + int(rng.random() < n - int(n)) for name, n in _OBJECTS[kind].items()}
    openings: Openings = {0: [], 1: [], 2: [], 3: []}
    for _ in range(counts["door"]):
        add_door(scene, plan, openings, wall_color)
    for _ in range(counts["window"]):
        add_window(scene, plan, openings, wall_color)
    for _ in range(counts["column"]):
        add_column(scene, plan, wall_color)
    for _ in range(counts["bookcase"]):
        add_bookcase(scene, plan)
    for _ in range(counts["sofa"]):
        add_sofa(scene, plan)
    for _ in range(counts["board"]):
        add_board(scene, plan, wall_color)
    add_walls(scene, openings, wall_color, ceiling_color)
    add_beams(scene, counts["beam"], ceiling_color if rng.random() < 0.5 else wall_color)
    add_tables_and_chairs(scene, plan, counts["table"], counts["chair"], large=kind == "conferenceRoom")
    add_clutter(scene, plan)
    return scene


def room_name(number: int) -> str:
    """Return the name of an area's room by its number: types take turns."""
    return f"{TYPES[number % len(TYPES)]}_{number // len(TYPES) + 1}"


def make_room(area: int, number: int, seed: int, density: float) -> tuple[Room, np.ndarray]:
    """Return a synthetic room and the object of each point. The same arguments give the same room.

    Args:
        area: 1..6. number: of the room in its area, from 0. density: points per square metre near a scanner.
    """
    rng = np.random.default_rng([seed, area, number])
    kind = TYPES[number % len(TYPES)]
    scene = build_scene(kind, rng)
    xyz, rgb, rectangle = scan(scene, density)
    names, objects = zip(*(piece.thing for piece in scene.rectangles))
    label = np.array([S3DIS.names.index(name) for name in names], np.uint8)[rectangle]
    # As in a survey of a building, rooms lie apart and coordinates do not start at 0.
    xyz = np.round(xyz + [20.0 * (number % 4) - 10, 15.0 * (number // 4) + 30 * area, rng.uniform(-0.5, 0.5)], 3)
    return Room(f"Area_{area}", room_name(number), xyz, rgb, label), np.array(objects)[rectangle]


def write_raw_room(root: str | Path, room: Room, thing: np.ndarray, classes: ClassList = S3DIS) -> Path:
    """Write a room in the raw Stanford layout: a file of all points, and an annotation file for each object.

    Returns:
        The room's folder. It appears complete or not at all.
    """
    folder = Path(root) / room.area / room.name
    order = np.argsort(thing, kind="stable")
    bounds = np.flatnonzero(np.diff(thing[order])) + 1
    numbers = dict.fromkeys(classes.names, 0)
    rgb = np.zeros((len(room), 3), np.uint8) if room.rgb is None else room.rgb
    whole = []
    # If another process wrote the same room first, its files are the same.
    with creating(folder) as temporary:
        (temporary / "Annotations").mkdir()
        for part in np.split(order, bounds):
            name = classes.names[room.label[part[0]]]
            numbers[name] += 1
            text = BytesIO()
            write_rows(text, [*room.xyz[part].T, *rgb[part].T])
            (temporary / "Annotations" / f"{name}_{numbers[name]}.txt").write_bytes(text.getvalue())
            whole.append(text.getvalue())
        (temporary / f"{room.name}.txt").write_bytes(b"".join(whole))
    return folder


def generate(
    root: str | Path, rooms_per_area: int = 6, density: float = 1000.0, seed: int = 0, areas: Sequence[int] = AREAS
) -> Path:
    """Write the synthetic dataset in the raw Stanford layout, unless it is there already.

    Args:
        root: a folder for these settings alone. rooms_per_area, density, seed, areas: what is generated.

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
        temporary.write_text(f"rooms_per_area={rooms_per_area} density={density} seed={seed}\n", "utf-8")
    return root
