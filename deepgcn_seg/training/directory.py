"""A run's directory: one training at a time, and its config."""

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ..distributed import World
from ..errors import OccupiedError
from ..files import replacing

LOCK = ".lock"

log = logging.getLogger(__name__)


@contextmanager
def sole_training(folder: Path, world: World = World()) -> Iterator[None]:
    """Hold a run's directory while inside; of several processes that train together the first holds it for all.

    The lock is the kernel's: it ends with the process that took it, however that ends, and processes that load data
    do not inherit it. It holds across machines where their file system (NFS) has locks; without, a warning says so.

    Raises:
        OccupiedError: another training holds it.
    """
    handle, problem = _lock(folder / LOCK) if world.first else (None, None)
    problem = world.share(problem)
    if problem is not None:
        raise OccupiedError(f"{folder}: {problem}")
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _lock(path: Path) -> tuple[int | None, str | None]:
    """Return an open handle that holds the lock, or why there is none."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        holder = os.read(handle, 200).decode(errors="replace").strip()
        os.close(handle)
        return (
            None,
            f"another training writes here ({holder or 'just started'}); wait for it, or choose another directory",
        )
    except OSError as error:
        log.warning(
            "%s: this file system has no locks (%s); start no second training here", path.parent, error.strerror
        )
        return handle, None
    # For the message above only.
    with suppress(OSError):
        os.truncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    return handle, None


def keep_config(config: DictConfig, folder: Path) -> None:
    """Write the composed config into ``.hydra`` of a directory that is this run's.

    Hydra itself would write it before the first line of ours runs, over that of a run that is there already.
    """
    hydra = HydraConfig.instance().cfg
    for name, part in (("config", config), ("hydra", hydra), ("overrides", HydraConfig.get().overrides.task)):
        with replacing(folder / ".hydra" / f"{name}.yaml") as temporary:
            temporary.write_text(OmegaConf.to_yaml(part))
