"""Files and folders that are written whole or not at all, and the temporary files that killed processes leave."""

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from .errors import UserError

try:
    import fcntl
except ImportError:
    # Without locks it is unknown whether a temporary file is still being written, so none is removed.
    fcntl = None  # type: ignore[assignment]

# Ends the name of every temporary file, so that no file of another program is taken for one.
_SUFFIX = ".deepgcn.tmp"

# Device, inode, size and times: they change when another file is put in a file's place.
Identity = tuple[int, int, int, int, int]


def _identity_of(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def why_no_file(path: Path) -> str:
    """Return why there is no file to read at ``path``: a folder is there, a pipe or device, or nothing."""
    if path.is_dir():
        return "is a folder, not a file"
    return "not a regular file but a pipe or device; save it as a file first" if path.exists() else "no such file"


@contextmanager
def open_file(path: Path) -> Iterator[tuple[BinaryIO, Identity]]:
    """Open a file for reading, and yield it with its identity.

    Raises:
        UserError: it cannot be read, or is a pipe or device.
    """
    identify(path)
    try:
        with open(path, "rb") as file:
            yield file, _identity_of(os.fstat(file.fileno()))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def identify(path: Path) -> Identity:
    """Return the identity of the file at ``path``.

    Raises:
        UserError: there is none, or it is a pipe or device, which may never end.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path}: not a file")
    return _identity_of(found)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; after success flush the file to disk and rename it, else remove it.

    Temporary files that killed processes left in the same folder are removed first.

    Example:
        ``with replacing("a.json") as temporary: temporary.write_text("{}")``
    """
    path = Path(path)
    temporary, handle = _temporary(path, tempfile.mkstemp)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        # The error of a full disk does not name the file.
        named = error.filename or error.errno is None
        raise error if named else type(error)(error.errno, error.strerror, str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def write_json(path: str | Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


@contextmanager
def creating(folder: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``folder``; after success rename it, else remove it.

    If another process created the folder in the meantime, that one stays.
    """
    folder = Path(folder)
    with temporary_folder(folder) as temporary:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise


@contextmanager
def temporary_folder(path: str | Path) -> Iterator[Path]:
    """Yield a new hidden folder beside ``path``, whose name begins like it, and remove it afterwards."""
    temporary, handle = _temporary(Path(path), _make_folder)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders in ``folder`` whose process is gone.

    A process holds a lock on the file that it writes, and the system releases the lock when the process ends.
    """
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if entry.name.startswith(".") and entry.name.endswith(_SUFFIX)]
    except PermissionError:
        return
    for entry in found:
        # Another process may remove the same one.
        with suppress(OSError):
            is_folder = entry.is_dir(follow_symlinks=False)
            handle = os.open(entry.path, os.O_RDONLY if is_folder else os.O_RDWR)
            try:
                if _lock(handle, wait=False):
                    shutil.rmtree(entry.path) if is_folder else os.unlink(entry.path)
            finally:
                os.close(handle)


def _temporary(path: Path, make: Callable[..., tuple[int, str]]) -> tuple[Path, int]:
    """Create a locked temporary file or folder beside ``path``, and return its path and the open handle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    while True:
        # Only the beginning of the name, because file systems limit the length.
        handle, name = make(prefix=f".{path.name[:40]}.", suffix=_SUFFIX, dir=path.parent)
        _lock(handle, wait=True)
        # Another process may have removed it as a leftover before it was locked.
        if os.fstat(handle).st_nlink:
            return Path(name), handle
        os.close(handle)


def _make_folder(**place: Any) -> tuple[int, str]:
    name = tempfile.mkdtemp(**place)
    return os.open(name, os.O_RDONLY), name


def _lock(handle: int, wait: bool) -> bool:
    """Lock an open file and return whether that worked; some file systems have no locks.

    The lock is ``flock``'s, which belongs to the open handle. ``lockf``'s belongs to the process, and would end as soon
    as whoever writes the temporary file closes it.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def require_writable(key: str, path: Path) -> None:
    """Refuse, before any work, a file that cannot be written; make its folder if there is none.

    Args:
        key: the setting that names the file, for messages.

    Raises:
        UserError: it is a folder, or its folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise UserError(f"{key}={path} is a folder: give a file")
        if not os.access(path.parent, os.W_OK):
            raise UserError(f"{key}={path}: the folder {path.parent} cannot be written to")
    except OSError as error:
        raise UserError(f"{key}={path}: cannot be written ({error.strerror})") from None
