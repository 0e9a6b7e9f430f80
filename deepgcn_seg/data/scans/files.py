"""Reading and writing scans: one function each, for every format of :mod:`.format_table`."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np

from ...errors import UserError, first_line
from ...escaping import ascii_escaped, one_line
from ...files import replacing, why_no_file
from .format_table import FORMATS, WRITTEN, require_library
from .formats.bounds import MAX_HEADER, MAX_POINTS, Bounds, clean_names
from .formats.scan import Scan
from .formats.scene import is_scene, read_scene
from .formats.typed import LazyFields, number_column

log = logging.getLogger(__name__)


def read_scan(path: str | Path, columns: Sequence[str] | None = None, max_points: int = MAX_POINTS) -> Scan:
    """Read a point-cloud file, or a scene of several files: a folder with ``coord.npy``, or ``points/NAME.bin``.

    Memory: a point takes as many bytes as in a binary file (twice as many for compressed PCD), or 8 bytes for each
    column of text. :attr:`Scan.xyz` takes 24 bytes more, and :attr:`Scan.rgb` 3.

    Args:
        columns: names of the columns of a text file, instead of those in the file, or of an array without names. If no
            names are given, 3 columns are x y z; 4 are x y z intensity; 6 are x y z r g b if the colours are whole
            numbers in 0..255; and 7 are x y z intensity r g b in PTS. Other columns are refused. A warning says if a
            file of another format has other names.
        max_points: a file with more points is refused before they are read.

    Raises:
        UserError: missing, of an unknown format, too large, or damaged.
    """
    path = Path(path)
    try:
        scene = is_scene(path)
        # A pipe or device may never end.
        found = scene or path.is_file()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)})") from None
    if not found:
        raise UserError(f"{path}: {why_no_file(path)}")
    if not scene and path.suffix.lower() not in FORMATS:
        raise UserError(f"{path}: unknown format; known are {', '.join(FORMATS)}")
    if not scene:
        require_library(path)
    try:
        read = read_scene if scene else FORMATS[path.suffix.lower()].read
        scan = read(Bounds(path, max_points), columns)
    except (UserError, KeyboardInterrupt, SystemExit):
        raise
    except MemoryError:
        raise UserError(f"{path}: does not fit into memory") from None
    except ImportError as error:
        raise UserError(f"{path}: reading it needs {error.name} (pip install {error.name})") from None
    # Libraries raise errors of many types at damaged files; a panic in compiled code is not even an Exception.
    except BaseException as error:
        raise UserError(f"{path}: not a readable {path.suffix[1:].upper()} file ({first_line(error)})") from None
    if columns is not None and not set(columns) <= set(scan.fields):
        there = one_line(", ".join(scan.fields), 500)
        log.warning(
            "%s: columns=[%s] is not used, because the file names its fields: %s", path, ",".join(columns), there
        )
    return _checked(scan)


def _checked(scan: Scan) -> Scan:
    """Return the scan with clean names, after a check that each field has one number for each point."""
    names = clean_names(scan.fields)
    if isinstance(scan.fields, LazyFields):
        return replace(scan, fields=LazyFields(len(scan), dict(zip(names, scan.fields.makers.values()))))
    fields: dict[str, np.ndarray] = {}
    count = None
    for name, values in zip(names, scan.fields.values()):
        fields[name] = number_column(scan.path, name, values, count)
        count = len(fields[name])
    return replace(scan, fields=fields)


def write_scan(path: str | Path, scan: Scan, more: Mapping[str, np.ndarray], notes: Sequence[str] = ()) -> None:
    """Write a scan with further fields, in the format of ``path``'s suffix. The file is written whole or not at all.

    A warning lists the fields that get another name or lose digits because of the format, and what else of the scan's
    file another format cannot hold (elements of PLY besides the points, further arrays of NPZ, the coordinate
    reference system of LAS).

    Args:
        more: name -> (N,) values, which replace fields of that name. notes: comment lines, if the format has them;
            they are written in ASCII (:func:`~deepgcn_seg.escaping.ascii_escaped`). Notes that begin with a word and
            a number replace those of an earlier list of the same word.

    Raises:
        UserError: an unknown format, or the file cannot be written.
    """
    path = Path(path)
    write = require_writer(path)
    kept = {name: values for name, values in scan.fields.items() if name not in more}
    family = {".laz": ".las"}
    formats = [family.get(name.suffix.lower(), name.suffix.lower()) for name in (path, scan.path)]
    template = scan.template if formats[0] == formats[1] else None
    full = _checked(Scan(scan.path, {**kept, **more}, template))
    try:
        with replacing(path) as temporary:
            changes = write(temporary, full, _ascii_notes(notes))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    # Libraries raise errors of many types when they cannot write.
    except Exception as error:
        raise UserError(f"{path}: cannot be written ({first_line(error)})") from None
    others = () if scan.template is None or template is not None else getattr(scan.template, "others", ())
    changes += [f"{other} of {scan.path} is not kept" for other in others]
    if changes:
        log.warning("%s: %s", path, "; ".join(changes))


def require_writer(path: Path) -> Callable[[Path, Scan, list[str]], list[str]]:
    """Return the function that writes the format of ``path``'s suffix.

    Raises:
        UserError: an unknown format, one that is only read, or one whose library is not installed.
    """
    found = FORMATS.get(path.suffix.lower())
    if found is None or found.write is None:
        known = "unknown format" if found is None else f"{path.suffix[1:].upper()} is only read"
        raise UserError(f"{path}: {known}; write one of {', '.join(WRITTEN)}")
    require_library(path)
    return found.write


def _ascii_notes(notes: Sequence[str]) -> list[str]:
    """Return notes as lines of ASCII, as many as fit into half of the longest header that is read."""
    lines = [ascii_escaped(one_line(note, 1000)) for note in notes]
    ends = accumulate(len(f"comment {line}\n") for line in lines)
    return [line for line, end in zip(lines, ends) if end <= MAX_HEADER // 2]
