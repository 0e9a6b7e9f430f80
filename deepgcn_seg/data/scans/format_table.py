"""The formats that :mod:`.files` reads and writes, by suffix."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .formats.arrays import read_npy, read_npz, write_npy, write_npz
from .formats.bounds import Bounds
from .formats.las import read_las, write_las
from .formats.pcd import read_pcd, write_pcd
from .formats.ply import read_ply, write_ply
from .formats.scan import Scan
from .formats.text import read_text, write_text


@dataclass(frozen=True)
class Format:
    """How a format is read and written.

    Attributes:
        read: takes a file with its limits and names of columns, and returns the scan.
        write: takes a path, a scan and notes, and returns a line for each field that was changed.
    """

    read: Callable[[Bounds, Sequence[str] | None], Scan]
    write: Callable[[Path, Scan, list[str]], list[str]]


_TEXT = Format(read_text, write_text)
FORMATS = {
    ".ply": Format(read_ply, write_ply),
    ".las": Format(read_las, write_las),
    ".laz": Format(read_las, partial(write_las, compress=True)),
    ".pcd": Format(read_pcd, write_pcd),
    ".npy": Format(read_npy, write_npy),
    ".npz": Format(read_npz, write_npz),
    ".csv": Format(read_text, partial(write_text, delimiter=",", comments=False)),
    ".txt": _TEXT, ".xyz": _TEXT, ".asc": _TEXT, ".pts": _TEXT,
}  # fmt: skip
