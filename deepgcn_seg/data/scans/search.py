"""The scans that an ``input`` stands for: a file, a folder or a pattern."""

import glob
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ...errors import UserError
from ...files import why_no_file
from .format_table import FORMATS
from .formats.rows import is_number
from .formats.scan import AXES
from .formats.scene import is_scene

log = logging.getLogger(__name__)

# Suffixes of text files, which may also hold something else than points.
TEXTS = (".txt", ".xyz", ".asc", ".pts", ".csv")
# A text with more bytes is taken for a scan, whatever its lines are.
_MAX_PROSE = 1 << 16


def find_scans(pattern: str | Path, besides: Path | None = None) -> list[Path]:
    """Return the point-cloud files and scenes that a file name, folder or glob pattern stands for, in order.

    In folders, hidden files, files of other formats and texts without a row of three numbers are skipped, unless these
    name coordinates: then their rows are wrong, which reading them will say.

    Args:
        besides: a folder whose files are skipped too: the output, which may lie in the input.

    Raises:
        UserError: there are none, or it is a pipe or device.
    """
    if os.path.isfile(pattern) or is_scene(Path(pattern)):
        return [Path(pattern)]
    if os.path.exists(pattern) and not os.path.isdir(pattern):
        raise UserError(f"{pattern}: {why_no_file(Path(pattern))}")
    root = scans_root(pattern)
    found: list[Path] = []
    prose: list[Path] = []
    # The arrays of a scene are one scan, which stands for all of them.
    matches = {path.parent if is_scene(path.parent) else path for path in _matches(Path(pattern), root)}
    for path in sorted(matches):
        scan = is_scene(path) or (path.suffix.lower() in FORMATS and not os.path.isdir(path))
        if not scan or _is_hidden(path, root):
            continue
        if besides is not None and _lies_in(path, besides) and not _lies_in(root, besides):
            continue
        (prose if _is_prose(path) else found).append(path)
    if prose:
        log.info("Left alone, for they have no row of three numbers, nor names: %s", ", ".join(map(str, prose)))
    if not found:
        if not os.path.lexists(pattern) and not glob.has_magic(str(pattern)):
            raise UserError(f"{pattern}: no such file or folder")
        raise UserError(f"{pattern}: no point-cloud files here; known formats are {', '.join(FORMATS)}")
    return found


def scans_root(pattern: str | Path) -> Path:
    """Return the folder that paths of the scans of a folder or pattern are relative to."""
    path = Path(pattern)
    # A folder with brackets in its name is a folder and not a pattern.
    return path if os.path.isdir(path) else next(folder for folder in path.parents if os.path.isdir(folder))


def _matches(path: Path, root: Path) -> Iterator[Path]:
    if path == root:
        return path.rglob("*")
    # pathlib's ** does not go into links to folders, unlike glob's. It must be a whole part, and matches folders only.
    parts = [part if part == "**" else re.sub(r"\*\*+", "*", part) for part in path.relative_to(root).parts]
    found = root.glob(os.path.join(*parts, *(["*"] if parts[-1] == "**" else [])))
    return (match for match in found if not any(_leads_back(root / place) for place in _folders(match, root)))


def _folders(path: Path, root: Path) -> list[Path]:
    """Return the folders between ``root`` and a path, relative to ``root``."""
    return list(path.relative_to(root).parents)[:-1]


def _leads_back(folder: Path) -> bool:
    """Return whether a folder is a link to one that it lies in, below which the same files are found without end."""
    return folder.is_symlink() and _lies_in(folder.parent, folder)


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _lies_in(path: Path, folder: Path) -> bool:
    real = Path(os.path.realpath(path))
    return Path(os.path.realpath(folder)) in (real, *real.parents)


def _is_prose(path: Path) -> bool:
    """Return whether a text file is not empty, and no line begins with three numbers or the names of coordinates."""
    if path.suffix.lower() not in TEXTS or not os.path.isfile(path):
        return False
    try:
        if not 0 < path.stat().st_size <= _MAX_PROSE:
            return False
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        # Reading it as a scan will say what is wrong.
        return False
    return not any(_is_row_or_names(line) for line in lines)


def _is_row_or_names(line: str) -> bool:
    words = re.split(r"[\s,;|]+", line.replace('"', "").strip())[:3]
    # The names may stand in a comment.
    names = re.split(r"[\s,;|]+", line.replace('"', "").lower().strip("#/% \t"))[:3]
    row = len(words) == 3 and all(map(is_number, words))
    return row or (len(names) == 3 and all(name in known for name, known in zip(names, AXES)))
