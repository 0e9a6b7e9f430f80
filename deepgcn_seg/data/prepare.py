"""From raw rooms to a room store: resumable, atomic per room, rooms in parallel."""

import logging
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ..errors import UserError
from ..progress import track
from .classes import S3DIS, ClassList
from .files import replacing
from .stanford import Repair, find_rooms, read_room
from .store import RoomStore, write_manifest, write_room

log = logging.getLogger(__name__)


def prepare(
    source: str | Path, root: str | Path, classes: ClassList = S3DIS, workers: int = 1, described: str | None = None
) -> RoomStore:
    """Read every raw room below ``source`` into a store at ``root``.

    Rooms that the store already has are kept, so that a stopped preparation goes on where it was.
    Repairs of raw files are listed in ``ROOT/repairs.txt`` and counted in the log.

    Args:
        workers: processes. described: the source in words, for results to name; default its path.

    Raises:
        UserError: no rooms, or a room that cannot be read.
    """
    root = Path(root)
    folders = find_rooms(source)
    todo = [folder for folder in folders if not (root / folder.parent.name / f"{folder.name}.h5").is_file()]
    repairs: list[Repair] = []
    jobs = [(folder, root, classes) for folder in todo]
    if workers > 1 and len(jobs) > 1:
        # Not forked: the parent may hold threads and HDF5 handles.
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            for found in track(pool.map(_prepare_room, jobs), len(jobs), "Preparing rooms"):
                repairs += found
    else:
        for found in track(map(_prepare_room, jobs), len(jobs), "Preparing rooms"):
            repairs += found
    if repairs:
        with replacing(root / "repairs.txt") as temporary:
            temporary.write_text("".join(f"{repair}\n" for repair in repairs))
        log.warning("%d places of the raw files were repaired or skipped: see %s", len(repairs), root / "repairs.txt")
    write_manifest(root, classes, described or str(source))
    return RoomStore(root)


def _prepare_room(job: tuple[Path, Path, ClassList]) -> list[Repair]:
    folder, root, classes = job
    room, repairs = read_room(folder, classes)
    try:
        write_room(root, room)
    except OSError as error:
        raise UserError(f"{root}: cannot write room {room.key} ({error})") from None
    return repairs


def prepare_configured(config: DictConfig) -> None:
    """What ``tools/prepare.py`` does with its config.

    Raises:
        UserError: a folder is not given or not there.
    """
    for key, folder in (("source", OmegaConf.select(config, "source")), ("data.root", config.data.root)):
        if folder is None:
            raise UserError(f"{key} is not set: give source=RAW_FOLDER and data.root=STORE_FOLDER")
    if not Path(config.source).is_dir():
        raise UserError(f"source={config.source}: no such folder")
    store = prepare(config.source, config.data.root, workers=config.workers)
    log.info("%s: %d rooms in %d areas are ready", store.root, len(store.rooms), len(store.areas))
