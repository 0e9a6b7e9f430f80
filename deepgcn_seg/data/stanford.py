"""Read raw S3DIS rooms: a folder ``Area_1/office_1`` with a file for each object, ``Annotations/chair_1.txt``."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import UserError
from .annotation_file import read_points
from .classes import S3DIS, ClassList
from .repairs import ROOM_SKIPPED, Repair
from .room import Room, natural
from .scans.formats.colors import BYTES, FRACTIONS, ONE, as_bytes
from .scans.formats.text_header import with_newlines

# A room is complete if its annotations have this share of the lines of its own file, of which some are damaged.
_COMPLETE = 0.999
# What systems put before and after the name of a copy: "Copy of X", "Kopie von X"; "X (1)", "X - Copy (2)",
# "X copy 2", "X (3rd copy)", "X_copy".
_COPY = r"(?:copy|kopie|copie|copia|c\u00f3pia|kopia)"
_BEFORE = re.compile(rf"{_COPY}(?: \(?\d+\)?)? (?:of|von|de|di|av|van) ", re.I)
_AFTER = re.compile(rf"(?:\s*\(\d+\)|[\s_-]+\(?(?:another |\d+\w\w )?{_COPY}(?:[\s_]*\(?\d+\)?)?\)?)+$", re.I)


class _Annotation(NamedTuple):
    """The points of an object: its file, the name of its class, and rows (N, 6) of coordinates and colours."""

    file: Path
    name: str
    rows: np.ndarray


def read_room(folder: str | Path, classes: ClassList = S3DIS) -> tuple[Room | None, list[Repair]]:
    """Read a room from its annotation files.

    The class is the file name up to its number. Unknown names (S3DIS has ``stairs`` and its misspelling) get
    ``classes.fallback``. A copy of an annotation (``wall_3 (1).txt``) is left out. The file of the whole room, if there
    is one, shows whether annotations are missing.

    Returns:
        The room, or None if it has no points, and a list of what was repaired or skipped. The points are in the order
        of file names and lines, with files that are named as copies last.

    Raises:
        UserError: a class is unknown and there is no fallback, a file is too damaged, or only some of the files have
            colours that are fractions.
    """
    folder = Path(folder)
    annotations = folder / "Annotations"
    if not annotations.is_dir():
        return None, [Repair(str(folder), None, "no Annotations folder", ROOM_SKIPPED)]
    repairs: list[Repair] = []
    kept: list[_Annotation] = []
    for file in _annotation_files(annotations):
        rows = read_points(file, repairs)
        if not len(rows):
            repairs.append(Repair(str(file), None, "no points", "skipped"))
            continue
        name, misnamed = _class_of(file, classes)
        annotation = _Annotation(file, name, rows)
        if not _is_copy(annotation, kept, repairs):
            repairs += misnamed
            kept.append(annotation)
    if not kept:
        return None, [*repairs, Repair(str(annotations), None, "no points in any annotation", ROOM_SKIPPED)]
    full = _full_color(folder, kept, repairs)
    xyz = np.concatenate([annotation.rows[:, :3] for annotation in kept])
    rgb = np.concatenate([as_bytes(annotation.rows[:, 3:], 0, full) for annotation in kept])
    labels = [np.full(len(annotation.rows), classes.names.index(annotation.name), np.uint8) for annotation in kept]
    _compare_with_whole(folder / f"{folder.name}.txt", len(xyz), repairs)
    return Room(folder.parent.name, folder.name, xyz, rgb, np.concatenate(labels)), repairs


def _annotation_files(annotations: Path) -> list[Path]:
    """Return the files of a folder of annotations in the order of their names, those named as copies last."""
    found = [path for path in annotations.iterdir() if path.suffix.lower() == ".txt" and not path.name.startswith(".")]
    files = [path for path in found if path.is_file()]
    return sorted(files, key=lambda path: (_original(path.stem) != path.stem, natural(path.name)))


def missing_annotations(folder: Path) -> str | None:
    """Return what is missing of the annotations of a room, as the lines of its files tell, or None.

    Raises:
        UserError: a file cannot be read.
    """
    annotations, whole = folder / "Annotations", folder / f"{folder.name}.txt"
    try:
        files = _annotation_files(annotations) if annotations.is_dir() else []
        if not files:
            return "none is there"
        count, lines = sum(map(_count_lines, files)), _count_lines(whole) if whole.is_file() else 0
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error})") from None
    return f"they have {count:,} lines, {whole.name} has {lines:,}" if count < _COMPLETE * lines else None


def _count_lines(path: Path) -> int:
    """Return the number of lines of a file."""
    lines, last = 0, b"\n"
    with open(path, "rb") as opened:
        file = with_newlines(opened)
        while chunk := file.read(1 << 24):
            lines += chunk.count(b"\n")
            last = chunk[-1:]
    return lines + (last != b"\n")


def _full_color(folder: Path, kept: list[_Annotation], repairs: list[Repair]) -> int:
    """Return the number that means full colour in a room: 255, or 1 if the colours are fractions.

    Raises:
        UserError: the colours of some annotations are fractions, and those of others are not.
    """
    small = [annotation for annotation in kept if annotation.rows[:, 3:].max() <= ONE]
    fractions = [annotation.file for annotation in small if (annotation.rows[:, 3:] % 1).any()]
    if not fractions:
        return BYTES
    if len(small) < len(kept):
        large = next(annotation.file for annotation in kept if annotation.rows[:, 3:].max() > ONE)
        raise UserError(f"{fractions[0]}: its colours are fractions of 1, but those of {large.name} are in 0..255")
    repairs.append(Repair(str(folder), None, "colours are fractions of 1", "multiplied by 255"))
    return FRACTIONS


def _original(stem: str) -> str:
    """Return the name without what marks it as a copy: ``wall_3`` for ``wall_3 (1)``, ``wall_3 copy`` and so on."""
    return _AFTER.sub("", _BEFORE.sub("", stem.strip())) or stem


def _is_copy(annotation: _Annotation, kept: list[_Annotation], repairs: list[Repair]) -> bool:
    """Return whether an annotation has the points of an earlier one of the same class, which would count twice.

    A file that is named like a copy but has other points, or another class, is reported and kept.
    """
    file, name, rows = annotation
    for other in kept:
        if np.array_equal(rows, other.rows):
            problem = f"the {len(rows):,} points of {other.file.name}"
            if name == other.name:
                repairs.append(Repair(str(file), None, f"a copy, {problem}", "left out"))
                return True
            repairs.append(Repair(str(file), None, f"{problem}, labelled {other.name} there", "both kept"))
    for other in kept:
        if other.file.stem.lower() == _original(file.stem).lower() != file.stem.lower():
            problem = f"named as a copy of {other.file.name}, but has other points"
            repairs.append(Repair(str(file), None, problem, "kept"))
    return False


def _class_of(file: Path, classes: ClassList) -> tuple[str, list[Repair]]:
    """Return the class that a file is named after, and what is wrong with the name.

    The name is ``chair_1.txt``, but may be ``Chair 1.txt`` or ``chair1.TXT``.
    """
    stem = _original(file.stem)
    name = stem.rsplit("_", 1)[0]
    if name in classes.names:
        return name, []
    word = re.match(r"\s*([A-Za-z]*)", stem)[1].lower()  # type: ignore[index]
    if word in classes.names:
        return word, [Repair(str(file), None, "file name is not CLASS_NUMBER.txt", f"labelled {word}")]
    if classes.fallback is None:
        raise UserError(f"{file}: unknown class {name!r}; known are {', '.join(classes.names)}")
    return classes.fallback, [Repair(str(file), None, f"unknown class {name!r}", f"labelled {classes.fallback}")]


def _compare_with_whole(whole: Path, count: int, repairs: list[Repair]) -> None:
    """Report annotations whose number of points differs by a thousandth from that of the whole room's file."""
    if not whole.is_file():
        return
    lines = _count_lines(whole)
    if count < _COMPLETE * lines:
        problem = f"annotations have {count:,} points, {whole.name} has {lines:,}: an annotation is missing"
        repairs.append(Repair(str(whole.parent), None, problem, "room kept without those points"))
    if lines and count > 1.001 * lines:
        problem = f"annotations have {count:,} points, {whole.name} has {lines:,}: some may be there twice"
        repairs.append(Repair(str(whole.parent), None, problem, "all kept"))
