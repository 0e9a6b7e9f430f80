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
from collections.abc import Iterable, Sequence
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
from .labelled_scans import Labelling
from .layouts import HDF5, SCANNET, STORE, Layout, recognise
from .raw_rooms import labelling_of, read_raw_room, source_files
from .repairs import log_repairs, write_repairs
from .room_file import MadeFrom, Preparation, read_preparation, write_room
from .scannet import missing_scenes
from .scans.formats.bounds import MAX_POINTS
from .store import RoomStore, find_rooms, write_manifest
from .stored_room import StoredRoom
from .units import UP

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
            prepared, or have one file, the error comes after the others are prepared and kept.
    """
    root = Path(root)
    layout = recognise(source)
    log.info("%s", layout)
    if layout.kind in (STORE, HDF5):
        raise UserError(f"source={source} is {layout.kind}, ready as it is: give it as data.root")
    labelling = labelling_of(layout)
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
    done = _report(root, layout, wanted)
    if problems:
        raise _not_prepared(problems, len(jobs))
    if len(done) < len(wanted):
        _require_own_files(root, wanted, of_shard)
        return None
    if not find_rooms(root):
        raise UserError(f"{source}: no room has points")
    write_manifest(root, labelling.classes, described or str(source), labelling.label_numbers)
    return RoomStore(root)


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
        "layout": layout.kind.name,
        "classes": labelling.classes.names,
        "numbers": labelling.numbers.plain(),
        "skip": labelling.skip,
        "columns": labelling.columns,
        "scale": labelling.scale,
        "axes": UP[labelling.up],
    }
    found = [(file.relative_to(layout.root).as_posix(), file.stat()) for file in source_files(layout, key)]
    files = [(name, about.st_size, about.st_mtime_ns) for name, about in found]
    return MadeFrom(settings=_checksum(settings), files=_checksum(files))


def _checksum(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _recorded(root: Path, key: str) -> Preparation | None:
    """Return how a room was prepared, as its file or the marker of a room without points says."""
    path = _file(root, key)
    try:
        return read_preparation(path) if path.suffix == ".h5" else Preparation.of(read_json(path), str(path))
    except UserError:
        return None


def _outdated(root: Path, key: str, wanted: MadeFrom) -> str | None:
    """Return why a room must be prepared, or None if it is up to date."""
    path = _file(root, key)
    if not path.is_file():
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
        if path.suffix == ".h5":
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


def _file(root: Path, key: str) -> Path:
    """Return the path of a room's file, or of its marker if it has none."""
    return path if (path := root / f"{key}.h5").is_file() else _marker(root, key)


def _require_own_files(root: Path, wanted: dict[str, MadeFrom], of_shard: Sequence[str]) -> None:
    """Refuse a store in which a room that was prepared, by this or another shard, has been overwritten.

    Raises:
        UserError: two rooms have the same file, or a room of this shard is no longer there.
    """
    files = {key: file for key in wanted if (file := _file(root, key)).is_file()}
    for key, made_from in wanted.items():
        found = _recorded(root, key)
        if found is not None and found.made_from == made_from:
            continue
        if other := next((o for o in files if o != key and key in files and files[o].samefile(files[key])), None):
            raise UserError(
                f"{root}: rooms {key} and {other} have the same file, because this file system takes their names for "
                "one (upper and lower case, accents); rename one of them"
            )
        if key in of_shard:
            raise UserError(f"{root}: room {key} was overwritten; another command prepares other rooms here")


def _report(root: Path, layout: Layout, wanted: dict[str, MadeFrom]) -> list[Preparation]:
    """List what was repaired in the rooms that are ready, count it in the log, and return how these were prepared."""
    path = root / "repairs.txt"
    ready = lambda: [found for key in wanted if (found := _recorded(root, key)) and found.made_from == wanted[key]]
    done, listed = ready(), None
    while done != listed:
        repairs = [repair._replace(file=str(layout.root / repair.file)) for found in done for repair in found.repairs]
        write_repairs(path, repairs)
        # Another shard may have listed more rooms between, which this list has replaced.
        listed, done = done, ready()
    log_repairs(path, repairs)
    return done


def _prepare_room(job: _Job) -> str | None:
    """Read a room and write it, and return why that cannot be done with this room, or None.

    Raises:
        UserError: the store cannot be written.
    """
    root, key = job.root, job.key
    try:
        room, repairs = read_raw_room(job.layout, key, job.labelling, job.max_points)
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{job.layout.rooms[key]}: cannot be read ({error})"
    # The names of the source's folder may be written in several ways.
    inside = [repair._replace(file=str(Path(repair.file).relative_to(job.layout.root))) for repair in repairs]
    preparation = Preparation(made_from=job.made_from, repairs=tuple(inside))
    try:
        if room is None:
            # The marker tells all shards that this room has been read.
            with replacing(_marker(root, key)) as temporary:
                # In the mode of JSON, pydantic refuses names of files that are not UTF-8.
                temporary.write_text(json.dumps(preparation.model_dump()), "utf-8")
            (root / f"{key}.h5").unlink(missing_ok=True)
        else:
            write_room(root, room, preparation)
            _marker(root, key).unlink(missing_ok=True)
    except UserError as error:
        return f"{job.layout.rooms[key]}: {error}"
    except OSError as error:
        raise UserError(f"{root}: cannot write room {key} ({error})") from None
    return None
