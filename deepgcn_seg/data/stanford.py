"""Read raw S3DIS rooms: ``Area_1/office_1/Annotations/chair_1.txt``, rows ``x y z r g b``.

A compiled loop parses the rows as fast as disks read. Lines that it cannot parse are parsed one by one: known kinds of
damage are repaired or skipped, and each is reported. More than :data:`MAX_BAD_LINES` bad lines in a file are an error,
and so are numbers of which no line is a row: points must not be lost as if they were a note.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import UserError
from ..files import why_no_file
from .classes import S3DIS, ClassList
from .repairs import NO_COORDINATES, ROOM_SKIPPED, Repair
from .room import Room, natural
from .row_kernel import read_rows
from .scans.formats.bounds import MAX_HEADER, PIECE_BYTES, pieces_of_lines
from .scans.formats.colors import BYTES, FRACTIONS, ONE, as_bytes
from .scans.formats.text_header import with_newlines

# A file with more bad lines is probably not a damaged annotation, but something else.
MAX_BAD_LINES = 10
# A room is complete if its annotations have this share of the lines of its own file, of which some are damaged.
_COMPLETE = 0.999
# Most bytes of a line that may be a row.
_MAX_ROW = 1000

_NUMBER = re.compile(rb"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")
# Other bytes than ASCII before a number may be its minus, as a dash or as U+2212.
_MAYBE_MINUS = re.compile(rb"(?:^|\s)[\x80-\xff]+[0-9.]")
_NOT_FINITE = re.compile(rb"[-+]?(?:nan|inf|infinity)", re.I)

# What systems put before and after the name of a copy: "Copy of X", "Kopie von X"; "X (1)", "X - Copy (2)",
# "X copy 2", "X (3rd copy)", "X_copy".
_COPY = r"(?:copy|kopie|copie|copia|c\u00f3pia|kopia)"
_BEFORE = re.compile(rf"{_COPY}(?: \(?\d+\)?)? (?:of|von|de|di|av|van) ", re.I)
_AFTER = re.compile(rf"(?:\s*\(\d+\)|[\s_-]+\(?(?:another |\d+\w\w )?{_COPY}(?:[\s_]*\(?\d+\)?)?\)?)+$", re.I)


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
    kept: list[tuple[Path, str, np.ndarray]] = []
    for file in _annotation_files(annotations):
        rows = read_points(file, repairs)
        if not len(rows):
            repairs.append(Repair(str(file), None, "no points", "skipped"))
            continue
        name, misnamed = _class_of(file, classes)
        if not _is_copy(file, name, rows, kept, repairs):
            repairs += misnamed
            kept.append((file, name, rows))
    if not kept:
        return None, [*repairs, Repair(str(annotations), None, "no points in any annotation", ROOM_SKIPPED)]
    full = _full_color(folder, kept, repairs)
    xyz = np.concatenate([rows[:, :3] for _, _, rows in kept])
    rgb = np.concatenate([as_bytes(rows[:, 3:], 0, full) for _, _, rows in kept])
    labels = [np.full(len(rows), classes.names.index(name), np.uint8) for _, name, rows in kept]
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


def _full_color(folder: Path, kept: list[tuple[Path, str, np.ndarray]], repairs: list[Repair]) -> int:
    """Return the number that means full colour in a room: 255, or 1 if the colours are fractions.

    Raises:
        UserError: the colours of some annotations are fractions, and those of others are not.
    """
    small = [(file, rows) for file, _, rows in kept if rows[:, 3:].max() <= ONE]
    fractions = [file for file, rows in small if (rows[:, 3:] % 1).any()]
    if not fractions:
        return BYTES
    if len(small) < len(kept):
        large = next(file for file, _, rows in kept if rows[:, 3:].max() > ONE)
        raise UserError(f"{fractions[0]}: its colours are fractions of 1, but those of {large.name} are in 0..255")
    repairs.append(Repair(str(folder), None, "colours are fractions of 1", "multiplied by 255"))
    return FRACTIONS


def _original(stem: str) -> str:
    """Return the name without what marks it as a copy: ``wall_3`` for ``wall_3 (1)``, ``wall_3 copy`` and so on."""
    return _AFTER.sub("", _BEFORE.sub("", stem.strip())) or stem


def _is_copy(
    file: Path, name: str, rows: np.ndarray, kept: list[tuple[Path, str, np.ndarray]], repairs: list[Repair]
) -> bool:
    """Return whether an annotation has the points of an earlier one of the same class, which would count twice.

    A file that is named like a copy but has other points, or another class, is reported and kept.
    """
    for other, other_name, others in kept:
        if len(rows) == len(others) and np.array_equal(rows, others):
            problem = f"the {len(rows):,} points of {other.name}"
            if name == other_name:
                repairs.append(Repair(str(file), None, f"a copy, {problem}", "left out"))
                return True
            repairs.append(Repair(str(file), None, f"{problem}, labelled {other_name} there", "both kept"))
    for other, _, _ in kept:
        if other.stem.lower() == _original(file.stem).lower() != file.stem.lower():
            repairs.append(Repair(str(file), None, f"named as a copy of {other.name}, but has other points", "kept"))
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


def read_points(file: str | Path, repairs: list[Repair], piece_bytes: int = PIECE_BYTES) -> np.ndarray:
    """Return the rows of an annotation file, (N, 6) float64: metres, and colours in 0..255 or fractions of 1.

    Args:
        repairs: a list to which lines that were repaired or skipped are appended.
        piece_bytes: number of bytes to read at a time.

    Raises:
        UserError: the file cannot be read, or more than :data:`MAX_BAD_LINES` lines are not such rows, or many
            numbers are on no such row.
    """
    file = Path(file)
    bad: list[Repair] = []
    lost: list[int] = []
    parts, lines = [np.empty((0, 6))], 0
    try:
        # A pipe or device may never end.
        if not file.is_file():
            raise UserError(f"{file}: {why_no_file(file)}")
        with open(file, "rb") as opened:
            content = with_newlines(opened)
            commas = _has_decimal_commas(content)
            for text in pieces_of_lines(file, content, piece_bytes):
                piece = text.replace(b",", b".") if commas else text
                parts.append(_points_of(file, piece, lines, bad, lost))
                lines += piece.count(b"\n")
            if bad and not any(map(len, parts)):
                content.seek(0)
                if _holds_numbers(content.read(MAX_HEADER)):
                    raise UserError(f"{bad[0]}; and no other line of the file is a row 'x y z r g b'")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error})") from None
    repairs.extend(bad)
    if lost:
        repairs.append(Repair(str(file), None, NO_COORDINATES, "left out", len(lost)))
    return np.concatenate(parts) if len(parts) > 2 else parts[-1]


def _has_decimal_commas(content: BinaryIO) -> bool:
    """Return whether a file begins with rows whose numbers have decimal commas. Its position is at the begin again."""
    head = content.read(MAX_HEADER)
    content.seek(0)
    return b"." not in head and any(map(_with_decimal_points, head.splitlines()[: MAX_BAD_LINES + 1]))


def _holds_numbers(text: bytes) -> bool:
    """Return whether a text has as many numbers as a row, which a note about a room seldom has."""
    words = re.split(rb"[\s,;|]+", text)
    return sum(bool(_NUMBER.fullmatch(word)) for word in words) >= 6


def _points_of(file: Path, piece: bytes, before: int, bad: list[Repair], lost: list[int]) -> np.ndarray:
    """Return the rows of some whole lines. ``before`` lines come earlier in the file.

    Appends damaged lines to ``bad``, and the numbers of lines without coordinates to ``lost``.
    """
    rows, odd = read_rows(piece)
    keep = np.ones(len(rows), bool)
    for row, start, stop, line in odd.tolist():
        values, problem, action = _parse_line(piece[start:stop])
        if problem == NO_COORDINATES:
            lost.append(before + line)
        elif problem:
            bad.append(Repair(str(file), before + line, problem, action))
        if stop - start > _MAX_ROW and _holds_numbers(piece[start:stop][:MAX_HEADER]):
            raise UserError(f"{bad[-1]}; it has the numbers of many rows, and {stop - start:,} bytes")
        if len(bad) > MAX_BAD_LINES:
            raise UserError(f"{bad[0]}; and more than {MAX_BAD_LINES} such lines: not a file of 'x y z r g b' rows")
        if values is None:
            keep[row] = False
        else:
            rows[row] = values
    return rows if keep.all() else rows[keep]


def _plausible(row: list[float]) -> bool:
    """Return whether a row has finite coordinates and colours in 0..255."""
    return bool(np.isfinite(row).all()) and all(0 <= color <= 255 for color in row[3:])


def _parse_line(line: bytes) -> tuple[list[float] | None, str, str]:
    """Return the row or None, what is wrong with the line ('' if nothing), and what is done about it."""
    if len(line) > _MAX_ROW:
        return None, f"not six numbers: {line[:40]!r}...", "line skipped"
    tokens = line.split()
    if not tokens:
        return None, "", ""
    if len(tokens) == 6 and all(_NUMBER.fullmatch(token) for token in tokens):
        row = [float(token) for token in tokens]
        if _plausible(row):
            return row, "", ""
        return None, "value out of range", "line skipped"
    if len(tokens) == 6 and all(_NUMBER.fullmatch(t) or _NOT_FINITE.fullmatch(t) for t in tokens):
        coordinates = any(_NOT_FINITE.fullmatch(token) for token in tokens[:3])
        return None, NO_COORDINATES if coordinates else "colours that are not numbers", "line skipped"
    for tokens, problem in _repaired(line):
        if len(tokens) == 6 and all(_NUMBER.fullmatch(token) for token in tokens):
            row = [float(token) for token in tokens]
            if _plausible(row):
                return row, problem, f"read as '{b' '.join(tokens).decode()}'"
    return None, f"not six numbers: {line[:40]!r}", "line skipped"


def _repaired(line: bytes) -> Iterator[tuple[list[bytes], str]]:
    """Yield the words that a damaged line may have had, and what is wrong with it.

    A byte that may be part of a number is not removed: the number would become another one.
    """
    if with_points := _with_decimal_points(line):
        yield with_points.split(), "decimal commas"
    line = re.sub(rb"\xef\xbb\xbf|\xc2?\xa0", b" ", line)
    if _MAYBE_MINUS.search(line):
        return
    # A stray byte may replace the space between two numbers (S3DIS: 185<byte>187).
    spaced = re.sub(rb"[^0-9eE.+\-,]", b" ", line)
    yield spaced.split(), "stray characters"
    yield [word.strip() for word in spaced.split(b",")], "commas between the numbers"
    # Or it stands inside a number, of which no control character is a part.
    yield re.sub(rb"[\x00-\x1f\x7f]", b"", line).split(), "stray characters"


def _with_decimal_points(line: bytes) -> bytes | None:
    """Return a row whose numbers have decimal commas as one with decimal points, or None if it is no such row."""
    words = line.split()
    if b"," not in line or b"." in line or len(words) != 6 or max(word.count(b",") for word in words) > 1:
        return None
    changed = line.replace(b",", b".")
    return changed if all(_NUMBER.fullmatch(word) for word in changed.split()) else None
