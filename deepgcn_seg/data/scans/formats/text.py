"""Text with a point in each line: TXT, XYZ, ASC, PTS, CSV."""

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ....errors import UserError
from ....escaping import one_line
from .bounds import Bounds, clean_names, pieces_of_lines, renamed
from .pts import read_counted_rows
from .rows import UnevenRows, not_a_number, read_rows, write_rows
from .scan import Scan
from .text_header import Columns, Top, find_columns, read_top, shown, with_newlines

log = logging.getLogger(__name__)

# Names of columns to show in messages, by the number of columns.
_EXAMPLES = {2: "x,y,z", 3: "x,y,z", 4: "x,y,z,intensity", 6: "x,y,z,r,g,b", 7: "x,y,z,intensity,r,g,b"}
_SEVERAL = "several scans, each below the number of its points, are read if the file's name ends in .pts"
# Two whole numbers and a comma, which in a file with decimal commas are one number.
_PAIR = re.compile(rb"([0-9]{1,40}),([0-9]{1,40})")


class _Style(NamedTuple):
    """How a file is written. delimiter: between words. mark: begins the line of names, if they are in a comment."""

    delimiter: str
    mark: str


def named_columns(
    path: Path,
    values: Sequence[np.ndarray] | np.ndarray,
    columns: Sequence[str] | None,
    first: str,
    leica: bool = False,
) -> dict[str, np.ndarray]:
    """Give names to the columns of text or an array that have none.

    A meaning is never guessed. Columns are colours only if they are whole numbers in 0..255, some of them above 1. The
    last three of six columns may be normals; of seven columns the fourth may be an intensity, or the last a label.

    Args:
        columns: names that the caller gives. first: the first row, for messages. leica: whether columns are in the
            order of PTS, where the intensity comes before the colours.

    Raises:
        UserError: ``columns`` does not fit, or the meaning of the columns is not certain.
    """
    count = len(values)
    if columns is not None:
        if len(columns) != count:
            raise UserError(f"{path}: {count} columns, but columns names {len(columns)}: {', '.join(columns)}")
        if len(set(columns)) < count:
            raise UserError(f"{path}: columns gives one name to two columns: {', '.join(columns)}")
        return dict(zip(columns, values))
    if count == 3 or count == 4:
        return dict(zip(("x", "y", "z", "intensity"), values))
    if count == 6 and _are_colors(values[3:]):
        return dict(zip(("x", "y", "z", "red", "green", "blue"), values))
    if count == 7 and leica and _are_colors(values[4:]):
        return dict(zip(("x", "y", "z", "intensity", "red", "green", "blue"), values))
    raise ambiguous(path, f"{count} columns without names", first, count)


def ambiguous(path: Path, what: str, first: str, count: int) -> UserError:
    """Return the error that shows the first row and asks for the names of the columns."""
    example = "x,y,z,r,g,b] or [x,y,z,nx,ny,nz" if count == 6 else _EXAMPLES.get(count, "x,y,z,...")
    return UserError(
        f"{path}: {what}, which may mean different things; its first line is: {one_line(first.strip(), 100)}; say "
        f"which columns these are, e.g. columns=[{example}]"
    )


def _are_colors(values: Sequence[np.ndarray] | np.ndarray) -> bool:
    """Return whether three columns are colours: whole numbers in 0..255, all 0 or some above 1."""
    largest = 0.0
    for column in values:
        known = column[np.isfinite(column)] if column.dtype.kind == "f" else column
        if not len(known) or known.min() < 0 or known.max() > 255 or not np.array_equal(known, np.rint(known)):
            return False
        largest = max(largest, float(known.max()))
    return largest != 1


def read_text(bounds: Bounds, columns: Sequence[str] | None) -> Scan:
    """Read rows of text, which may follow comments, titles, a line of names and a count of points.

    If ``columns`` names half as many columns as the first row has whole numbers between commas, the numbers have
    decimal commas.
    """
    path, leica = bounds.path, bounds.path.suffix.lower() == ".pts"
    with open(path, "rb") as opened:
        file = with_newlines(opened)
        top = read_top(path, file)
        found = find_columns(top, columns)
        names = found.names if columns is None else list(columns)
        if found.names is None and (empty := top.empty_cell) is not None:
            raise not_a_number(path, top.number, empty[0], "", empty[1])
        file.seek(-top.size, os.SEEK_CUR)
        pieces = pieces_of_lines(path, file, bounds.piece_bytes)
        if columns is not None and found.names is None and top.may_be_decimals and found.count == 2 * len(columns):
            found = Columns(None, len(columns))
            pieces = (_PAIR.sub(rb"\1.\2", piece) for piece in pieces)
        bounds.check_fields(found.count)
        settings = (found.count, top.delimiter, top.number, names or ())
        scan = None
        if leica and top.counts and found.count >= 3 and not found.more:
            values, scan = read_counted_rows(bounds, pieces, top.counts, *settings)
        else:
            try:
                values = read_rows(bounds, pieces, *settings, found.more)
            except UnevenRows as error:
                hint = f"; {_SEVERAL}" if top.counts and error.words == 1 and not leica else ""
                raise UserError(f"{error}{hint}") from None
    if scan is None:
        _check_count(path, top, len(values[0]))
    if top.recoded is not None:
        log.warning("%s: line %d is not UTF-8; it is read as cp1252, the encoding of Windows", path, top.recoded)
    if found.more:
        log.warning("%s: the lists of numbers behind column %d are left out", path, found.count)
    if columns is None and names is not None:
        fields = _without_row_numbers(path, top, names, values)
    else:
        if columns is None:
            _check_certain(path, top, values)
        fields = named_columns(path, values, columns, shown(top.first, 100), leica)
    mark = top.mark.decode() if found.names is not None and not top.titles else ""
    return Scan(path, fields if scan is None else {**fields, "scan": scan}, _Style(top.delimiter, mark))


def _without_row_numbers(
    path: Path, top: Top, names: Sequence[str], values: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the columns by name, without a first one that R wrote: no name, and 1, 2, 3, ... in quotes."""
    if top.names_rows and not names[0] and np.array_equal(values[0], np.arange(1, len(values[0]) + 1)):
        log.warning("%s: its first column, the numbers of the rows without a name, is left out", path)
        names, values = names[1:], values[1:]
    return dict(zip(clean_names(names), values))


def _check_count(path: Path, top: Top, count: int) -> None:
    """Compare the number of points with the number in the file, if there is one."""
    if len(top.counts) > 1:
        raise UserError(f"{path}: {len(top.counts)} numbers of points above the first row; {_SEVERAL}")
    if top.claimed is not None and top.claimed > count:
        raise UserError(
            f"{path}: says that it has {top.claimed:,} points, but has {count:,}: it is cut off, or its first "
            "line is no count of points and must go"
        )
    if top.claimed not in (None, count):
        log.warning("%s: says that it has %s points, but has %s", path, f"{top.claimed:,}", f"{count:,}")


def _check_certain(path: Path, top: Top, values: Sequence[np.ndarray]) -> None:
    """Check that a file without readable names of its columns has nothing that may mean something else.

    Raises:
        UserError: whole numbers between commas may be numbers with decimal commas; or there are lines above the rows,
            but none with as many names as there are columns.
    """
    count, first = len(values), shown(top.first, 100)
    decimals = top.may_be_decimals and all(column.dtype.kind == "i" for column in values)
    decimals = decimals and all(column.min() >= 0 for column in values[1::2])
    if decimals:
        numbers = top.first.decode().strip().split(",")
        pairs = [f"{whole}.{part}" for whole, part in zip(numbers[::2], numbers[1::2])]
        settings = " or ".join(
            f"columns=[{_EXAMPLES.get(len(read), 'x,y,z,...')}] ({len(read)} names) for {one_line(' '.join(read), 60)}"
            for read in (numbers, pairs)
        )
        raise UserError(
            f"{path}: its columns have no names that fit, and its commas may separate {count} whole numbers or be "
            f"decimal commas of {len(pairs)} numbers; its first line is: {first}; say which: {settings}"
        )
    if top.titles:
        raise ambiguous(
            path, f"its lines on top ({shown(top.titles[-1])}) do not name its {count} columns", first, count
        )
    if top.comment and count > 3:
        raise ambiguous(path, f"its comment ({shown(top.comment)}) does not name its {count} columns", first, count)


def write_text(
    path: Path, scan: Scan, notes: list[str], delimiter: str = " ", comments: bool = True, counted: bool = False
) -> list[str]:
    """Write notes as comment lines, a line of names, and a line for each point.

    If the names of the scan's file were in a comment, they are so again, above the notes: CloudCompare reads names from
    a comment in the first line alone, and other programs read rows of numbers alone.

    Args:
        counted: whether the first line has the number of points, as other programs expect of PTS.
        delimiter: unless the scan was read from text, which had its own. comments: whether to write the notes; without
            them the first line has the names, as spreadsheets and pandas expect.
    """
    delimiter, mark = scan.template or (delimiter, "")
    # A file without names gets them too, because nobody could tell what the new columns are.
    names = clean_names(scan.fields, forbidden=delimiter + ',;"#/%')
    with open(path, "wb") as file:
        if counted:
            file.write(f"{len(scan)}\n".encode())
        lines = [f"{mark.strip() or '#'} {note}\n" for note in notes] if comments else []
        lines.insert(0 if mark else len(lines), f"{mark}{delimiter.join(names)}\n")
        file.write("".join(lines).encode())
        write_rows(file, list(scan.fields.values()), delimiter)
    return renamed(scan.fields, names)
