"""The formats that :mod:`.files` reads and writes, by suffix."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...errors import UserError
from .formats.arrays import read_npy, read_npz, write_npy, write_npz
from .formats.bounds import Bounds
from .formats.e57 import read_e57
from .formats.e57_writer import write_e57
from .formats.las import read_las, write_las
from .formats.pcd import read_pcd, write_pcd
from .formats.ply import read_ply, write_ply
from .formats.ptx import read_ptx
from .formats.scan import Scan
from .formats.text import read_text, write_text


@dataclass(frozen=True)
class Format:
    """How a format is read and written.

    Attributes:
        read: takes a file with its limits and names of columns, and returns the scan.
        write: takes a path, a scan and notes, and returns a line for each field that was changed. None if the format
            is only read.
        module: a library that the format needs and that may be missing, as Python and pip call it.
    """

    read: Callable[[Bounds, Sequence[str] | None], Scan]
    write: Callable[[Path, Scan, list[str]], list[str]] | None
    module: str | None = None


_TEXT = Format(read_text, write_text)
FORMATS = {
    ".ply": Format(read_ply, write_ply),
    ".las": Format(read_las, write_las),
    ".laz": Format(read_las, partial(write_las, compress=True), "lazrs"),
    ".e57": Format(read_e57, write_e57, "pye57"),
    ".pcd": Format(read_pcd, write_pcd),
    ".npy": Format(read_npy, write_npy),
    ".npz": Format(read_npz, write_npz),
    ".csv": Format(read_text, partial(write_text, delimiter=",", comments=False)),
    ".txt": _TEXT, ".xyz": _TEXT, ".asc": _TEXT,
    ".pts": Format(read_text, partial(write_text, counted=True)),
    ".ptx": Format(read_ptx, None),
}  # fmt: skip
# The suffixes of the formats that are written.
WRITTEN = [suffix for suffix, form in FORMATS.items() if form.write is not None]


def require_library(path: Path) -> None:
    """Check that the library that a file's format needs is installed.

    Raises:
        UserError: it is missing. The message says how to install it.
    """
    found = FORMATS.get(path.suffix.lower())
    if found is not None and found.module is not None and importlib.util.find_spec(found.module) is None:
        raise UserError(
            f"{path}: {path.suffix[1:].upper()} needs the library {found.module}, which is not installed: "
            f"pip install {found.module}"
        )
