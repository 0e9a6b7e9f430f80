"""A folder for compiled code that no other user can change: whoever writes there decides what its reader runs."""

import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# Days after which compiled code that no process asked for is removed.
UNUSED_DAYS = 30


def cache_folder(name: str) -> Path | None:
    """Return ``deepgcn_seg/NAME`` below the user's cache directory, else below the temporary one.

    Returns:
        None if neither can be used.
    """
    for root in _roots():
        if is_private(root / name):
            remove_unused(root / name)
            return root / name
    return None


def is_private(folder: Path) -> bool:
    """Return whether only this user and root can change what ``folder`` holds; it is made if it is missing.

    Nobody else may write to it or to its parent, nor exchange any directory that it lies in for another.
    """
    try:
        for place in (folder.parent, folder):
            place.mkdir(mode=0o700, exist_ok=True)
        # Directories of Windows' users are private, and have no such modes.
        return not hasattr(os, "geteuid") or _only_ours(folder)
    except OSError:
        return False


def remove_unused(used: Path) -> None:
    """Mark ``used`` as used now, and remove the folders beside it that were not used in :data:`UNUSED_DAYS`."""
    with suppress(OSError):
        os.utime(used)
        for folder in used.parent.iterdir():
            if time.time() - folder.lstat().st_mtime > UNUSED_DAYS * 86400:
                shutil.rmtree(folder, ignore_errors=True)


def _roots() -> Iterator[Path]:
    """Yield cache directories for this package, in order of preference; their parents exist."""
    if base := _user_cache():
        yield base / "deepgcn_seg"
    with suppress(OSError):
        temporary = Path(tempfile.gettempdir()).resolve()
        # Python's last resort is the working directory, which is for the user's own files.
        if temporary != Path.cwd():
            owner = f"-{os.geteuid()}" if hasattr(os, "geteuid") else ""
            yield temporary / f"deepgcn_seg{owner}"


def _user_cache() -> Path | None:
    """Return the user's cache directory, made if only its last part is missing; None if there is none."""
    named = Path(os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", ""))
    try:
        if not named.is_absolute():
            named = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
        if not named.is_absolute():
            return None
        named = named.resolve()
        named.mkdir(mode=0o700, exist_ok=True)
    # RuntimeError: a user without a home, or links in a circle.
    except (OSError, RuntimeError):
        return None
    return named


def _only_ours(folder: Path) -> bool:
    for place in (folder, folder.parent):
        about = os.lstat(place)
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o022:
            return False
    # In a namespace of its own, as containers have, root can be another number.
    trusted = {os.geteuid(), 0, os.stat("/").st_uid}
    for place in folder.parent.parents:
        about = os.lstat(place)
        # In a sticky directory, as /tmp, only owners can rename what they made.
        others = about.st_mode & (0o002 if about.st_gid == os.getegid() else 0o022)
        if about.st_uid not in trusted or (others and not about.st_mode & stat.S_ISVTX):
            return False
    return True
