"""Build a room store from raw rooms, several at a time. If a build is stopped, the next one continues it.

Each room's file says what it was made from and what was repaired in its source files
(:class:`~deepgcn_seg.data.room_file.Preparation`), and so does the marker file of a room without points. After a change
of the source or its settings, only the affected rooms are built again. The report of all repairs is put together from
these files, so that a build that was stopped loses none.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from ..errors import UserError
from ..files import replacing
from ..processes import end_with_parent
from ..progress import track
from ..schema import read_json
from .classes import S3DIS, no_label
from .labelled_scans import Labelling, read_labelled_room, read_labelling
from .layouts import HDF5, SCANNET, SCANS, STANFORD, STORE, Layout, recognise
from .room import KEPT, ROOM_SKIPPED, Repair, Room
from .room_file import MadeFrom, Preparation, read_preparation, write_room
from .scannet import LABELLING, missing_scenes, read_scannet_room, scene_files
from .scans.formats.arrays import read_shape
from .scans.formats.bounds import MAX_POINTS, Bounds
from .stanford import read_room
from .store import RoomStore, find_rooms, write_manifest
from .stored_room import StoredRoom
from .units import UP, require_metres

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    """A room to prepare: it has this key in a layout, and is written into the store at ``root``."""

    layout: Layout
    key: str
    root: Path
    labelling: Labelling
    made_from: MadeFrom
    max_points: int


def prepare(
    source: str | Path,
    root: str | Path,
    workers: int = 1,
    described: str | None = None,
    shard: tuple[int, int] = (0, 1),
    max_points: int = MAX_POINTS,
    scale: float | None = None,
) -> RoomStore | None:
    """Read every room below ``source``, in any layout of :mod:`deepgcn_seg.data.layouts`, into a store at ``root``.

    A room that the store already has is kept if its source files, the settings of ``classes.yaml`` that apply to it,
    and its own file have not changed. Rooms whose source is gone are removed. ``ROOT/repairs.txt`` lists what was
    repaired in the files of the rooms that are ready, and the log counts it.

    Args:
        workers: number of processes. described: the source in words, as results name it; by default its path.
        shard: (i, n) prepares every n-th room, beginning with number i, for n machines that share a disk.
        max_points: a scan with more is refused.
        scale: metres per unit of the source, which replaces the scale in ``classes.yaml``. Without both, units are
            taken for metres, and a room that cannot be in metres is an error.

    Returns:
        The store, or None while rooms of other shards are missing.

    Raises:
        UserError: there are no rooms or none has points, or ``root`` is a store of other rooms. If rooms cannot be
            prepared, the error comes after the others are prepared and kept.
    """
    root = Path(root)
    layout = recognise(source)
    log.info("%s", layout)
    if layout.kind in (STORE, HDF5):
        raise UserError(f"source={source} is {layout.kind}, ready as it is: give it as data.root")
    labelling = _labelling_of(layout)
    if scale is not None:
        labelling = replace(labelling, scale=scale)
    wanted = {key: _describe_source(layout, key, labelling) for key in layout.rooms}
    if layout.kind == SCANNET and (missing := missing_scenes(layout.root, layout.rooms)):
        log.warning("%s: %d scenes of the official lists are missing, such as %s", root, len(missing), missing[0])
    of_shard = list(layout.rooms)[shard[0] :: shard[1]]
    _remove_others(root, wanted)
    todo = {key: reason for key in of_shard if (reason := _outdated(root, key, wanted[key]))}
    _log_reasons(root, todo)
    if todo:
        # A store without its manifest counts as unfinished. The manifest comes back when all rooms are prepared.
        (root / "store.json").unlink(missing_ok=True)
    jobs = [_Job(layout, key, root, labelling, wanted[key], max_points) for key in todo]
    problems = _prepare_rooms(jobs, workers)
    done = [found for key in wanted if (found := _recorded(root, key)) and found.made_from == wanted[key]]
    _report(root / "repairs.txt", [_repair_of(layout, row) for found in done for row in found.repairs])
    if problems:
        raise _not_prepared(problems, len(jobs))
    if len(done) < len(wanted):
        return None
    if not find_rooms(root):
        raise UserError(f"{source}: no room has points")
    write_manifest(root, labelling.classes, described or str(source), labelling.label_numbers)
    return RoomStore(root)


def _labelling_of(layout: Layout) -> Labelling:
    if layout.kind == SCANS:
        return read_labelling(layout.root / "classes.yaml")
    return LABELLING if layout.kind == SCANNET else Labelling.of(S3DIS)


def _prepare_rooms(jobs: list[_Job], workers: int) -> list[str]:
    """Prepare rooms, and return what is wrong with those that cannot be prepared."""
    problems: list[str] = []
    workers = min(workers, len(jobs))
    # Processes are spawned and not forked, because this process may have threads.
    with ProcessPoolExecutor(workers, get_context("spawn"), end_with_parent) if workers > 1 else nullcontext() as pool:
        results: Iterable[str | None] = pool.map(_prepare_room, jobs) if pool else map(_prepare_room, jobs)
        try:
            for problem in track(results, len(jobs), "Preparing rooms"):
                if problem is not None:
                    problems.append(problem)
                    log.error("%s; going on with the next", problem)
        except BrokenProcessPool:
            raise UserError(
                f"a process that prepared rooms was ended by the system, perhaps for want of memory: set workers=1 "
                f"(now {workers}); what is done is kept"
            ) from None
    return problems


def _not_prepared(problems: list[str], count: int) -> UserError:
    """Return the error that says which of ``count`` rooms could not be prepared."""
    if len(problems) == 1:
        return UserError(problems[0])
    log.error("Not prepared:\n  %s", "\n  ".join(problems))
    return UserError(f"{len(problems)} of {count} rooms could not be prepared (listed above), the first: {problems[0]}")


def _describe_source(layout: Layout, key: str, labelling: Labelling) -> MadeFrom:
    """Return what a room is made from: checksums of the settings that change its points or labels, and of its files."""
    settings = {
        "layout": layout.kind,
        "classes": labelling.classes.names,
        "numbers": labelling.numbers.plain(),
        "skip": labelling.skip,
        "columns": labelling.columns,
        "scale": labelling.scale,
        "axes": UP[labelling.up],
    }
    path = layout.rooms[key]
    if layout.kind == SCANNET:
        # A folder of the release also has videos, which are not read.
        beside = scene_files(path)
    elif path.suffix.lower() == ".bin":
        # The labels of a .bin file are in a file of the same name, in another folder.
        beside = [folder / path.name for folder in path.parent.parent.iterdir()]
    else:
        beside = list(path.rglob("[!.]*")) if path.is_dir() else [path]
    inside = [file for file in beside if file.is_file()]
    found = [(file.relative_to(layout.root).as_posix(), file.stat()) for file in sorted(inside)]
    files = [(name, about.st_size, about.st_mtime_ns) for name, about in found]
    return MadeFrom(settings=_checksum(settings), files=_checksum(files))


def _checksum(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _recorded(root: Path, key: str) -> Preparation | None:
    """Return how a room was prepared, as its file or the marker of a room without points says."""
    try:
        if (path := root / f"{key}.h5").is_file():
            return read_preparation(path)
        return Preparation.of(read_json(_marker(root, key)), str(path))
    except UserError:
        return None


def _outdated(root: Path, key: str, wanted: MadeFrom) -> str | None:
    """Return why a room must be prepared, or None if it is up to date."""
    path = root / f"{key}.h5"
    if not path.is_file() and not _marker(root, key).is_file():
        return "not there yet"
    found = _recorded(root, key)
    if found is None:
        return "of an earlier version or damaged"
    claimed = found.made_from
    if claimed.settings != wanted.settings:
        return "an earlier version prepared them, or the classes or other settings of the source changed"
    if claimed.files != wanted.files:
        return "source files changed"
    try:
        if path.is_file():
            StoredRoom(path)
    except UserError:
        return "damaged"
    return None


def _log_reasons(root: Path, todo: dict[str, str]) -> None:
    for reason, count in Counter(todo.values()).items():
        if reason != "not there yet":
            log.warning("%s: %d rooms are prepared again: %s", root, count, reason)


def _remove_others(root: Path, wanted: dict[str, MadeFrom]) -> None:
    """Remove rooms of the store that are no longer in its source.

    Raises:
        UserError: none of the store's rooms is in the source, so that it must be the store of another source; or a
            file to be removed was not made by a preparation.
    """
    found = find_rooms(root)
    others = [key for key in found if key not in wanted]
    if others and len(others) == len(found):
        raise UserError(f"{root}: a store of other rooms ({others[0]} and so on); give another data.root, or remove it")
    if foreign := [key for key in others if _recorded(root, key) is None]:
        raise UserError(f"{found[foreign[0]]}: not made from this source; remove it")
    others += [
        key
        for path in root.glob("[!.]*/[!.]*.empty")
        if (key := f"{path.parent.name}/{path.stem}") not in wanted and _recorded(root, key)
    ]
    if others:
        log.warning("%s: %d rooms are removed, their source is gone: %s", root, len(others), ", ".join(others[:5]))
        (root / "store.json").unlink(missing_ok=True)
    for key in others:
        (root / f"{key}.h5").unlink(missing_ok=True)
        _marker(root, key).unlink(missing_ok=True)


def _marker(root: Path, key: str) -> Path:
    """Return the path of the marker file of a room without points."""
    return root / f"{key}.empty"


def _repair_of(layout: Layout, row: tuple) -> Repair:
    """Return a recorded repair, whose file is named from the folder of the layout."""
    file, *rest = row
    return Repair(str(layout.root / file), *rest)


def _report(path: Path, repairs: list[Repair]) -> None:
    """Write what was repaired in a store, or remove the file if it was nothing, and count it in the log."""
    # Earlier versions wrote one for each shard.
    for earlier in path.parent.glob(f"{path.stem}-*-of-*{path.suffix}"):
        earlier.unlink()
    if not repairs:
        return path.unlink(missing_ok=True)
    with replacing(path) as temporary:
        # Names of files need not be UTF-8.
        lines = dict.fromkeys(f"{repair}\n" for repair in repairs)
        temporary.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
    if damaged := sum(repair.action != KEPT for repair in repairs):
        log.warning("%d places of the raw files were repaired or skipped: see %s", damaged, path)
    if left_out := [repair.file for repair in repairs if repair.action == ROOM_SKIPPED]:
        log.warning("%d rooms are not in the store, such as %s: see %s", len(left_out), left_out[0], path)
    counts: Counter[tuple[str, str]] = Counter()
    for repair in repairs:
        counts[repair.problem, repair.action] += repair.points or 0
    for (problem, action), count in (+counts).items():
        log.warning("%s points with %s were %s", f"{count:,}", problem, action)
    return None


def _prepare_room(job: _Job) -> str | None:
    """Read a room and write it, and return why that cannot be done with this room, or None.

    Raises:
        UserError: the store cannot be written.
    """
    root, key = job.root, job.key
    try:
        room, repairs = read_source(job.layout, key, job.labelling, job.max_points)
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{job.layout.rooms[key]}: cannot be read ({error})"
    # The names of the source's folder may be written in several ways.
    inside = [replace(repair, file=str(Path(repair.file).relative_to(job.layout.root))) for repair in repairs]
    preparation = Preparation.with_repairs(job.made_from, inside)
    try:
        if room is None:
            # The marker tells all shards that this room has been read.
            with replacing(_marker(root, key)) as temporary:
                # In the mode of JSON, pydantic refuses names of files that are not UTF-8.
                temporary.write_text(json.dumps(preparation.model_dump()))
            (root / f"{key}.h5").unlink(missing_ok=True)
        else:
            write_room(root, room, preparation)
            _marker(root, key).unlink(missing_ok=True)
    except UserError as error:
        return f"{job.layout.rooms[key]}: {error}"
    except OSError as error:
        raise UserError(f"{root}: cannot write room {key} ({error})") from None
    return None


def read_source(
    layout: Layout, key: str, labelling: Labelling, max_points: int = MAX_POINTS
) -> tuple[Room | None, list[Repair]]:
    """Return a room of a layout, or None if it has no points, and a list of what was repaired or skipped.

    Raises:
        UserError: the room cannot be read.
    """
    path = layout.rooms[key]
    room, repairs = _read_layout(layout, key, labelling, max_points)
    if room is not None and labelling.scale is None:
        require_metres(room.xyz, f"{path}: ")
    if room is not None and room.rgb is not None and not room.rgb.any():
        repairs = [*repairs, Repair(str(path), None, "every colour is 0", "taken as a room without colours")]
        room.rgb = None
    return room, repairs


def _read_layout(layout: Layout, key: str, labelling: Labelling, max_points: int) -> tuple[Room | None, list[Repair]]:
    path = layout.rooms[key]
    if layout.kind == STANFORD:
        room, repairs = read_room(path, labelling.classes)
        if room is not None:
            room.xyz *= labelling.scale or 1.0
        return room, repairs
    area, name = key.split("/")
    if layout.kind == SCANNET:
        room, repairs = read_scannet_room(path, area, labelling, max_points)
    else:
        if path.suffix == ".npy" and layout.kind != SCANS:
            labelling = replace(labelling, columns=_COLUMNS[: _width(path)])
        room, repairs = read_labelled_room(path, area, name, labelling, max_points)
    if not (room.label != no_label(labelling.classes)).any():
        return None, [*repairs, Repair(str(path), None, "no points of any class", ROOM_SKIPPED)]
    return room, repairs


# Columns of PointNet's arrays. Code for instance segmentation adds the last one.
_COLUMNS = ("x", "y", "z", "red", "green", "blue", "label", "instance")


def _width(path: Path) -> int:
    """Return the number of columns that an array's header claims: 7 or 8."""
    try:
        shape = read_shape(Bounds(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable array ({error})") from None
    if len(shape) != 2 or shape[1] not in (7, 8):
        raise UserError(f"{path}: must be (N, 7) rows of x y z r g b label, or (N, 8) with the instance, is {shape}")
    return shape[1]
