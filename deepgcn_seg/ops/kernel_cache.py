"""Compiled kernels that numba keeps on disk between processes.

numba compiles a kernel again when its own file changes, but not when a file it takes code from does, as after an update
that touches only one of them: such a kernel computes what it used to, or crashes.
"""

import hashlib
import os
from pathlib import Path


def forget_outdated_kernels(folder: Path) -> None:
    """Forget kernels compiled in this folder of Python sources, unless it is as it was when they were.

    Where the folder cannot be written to, numba keeps kernels elsewhere, and an update is an installation: all files
    are new.
    """
    cache = folder / "__pycache__"
    stamp = cache / "kernels.sha256"
    digest = hashlib.sha256()
    for source in sorted(folder.glob("*.py")):
        digest.update(source.name.encode() + source.read_bytes())
    try:
        if stamp.exists() and stamp.read_text() == digest.hexdigest():
            return
        cache.mkdir(exist_ok=True)
        for index in cache.glob("*.nbi"):
            index.unlink(missing_ok=True)
        temporary = stamp.with_suffix(f".{os.getpid()}")
        temporary.write_text(digest.hexdigest())
        temporary.replace(stamp)
    except OSError:
        return
