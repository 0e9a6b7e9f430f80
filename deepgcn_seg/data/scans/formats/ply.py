"""PLY: points are read, and all other elements are copied as they are.

plyfile is not used, because it makes an object of every list: 300 bytes and 5 microseconds for each face that a header
of a few bytes may claim. The tests compare with plyfile.
"""

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from ....errors import UserError
from ....escaping import ascii_escaped, one_line
from ....files import Identity, identify, open_file
from .bounds import MAX_HEADER, MAX_LINE, Bounds, clean_names, clean_word, decoded, first_lines, line_number, renamed
from .ply_kernel import end_of_rows
from .rows import read_rows, write_rows
from .scan import Scan
from .typed import as_declared, exactly, in_first_that_holds, structured

log = logging.getLogger(__name__)

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_WRITTEN = {
    "i1": "char", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint", "f4": "float",
    "f8": "double",
}  # fmt: skip
Order = Literal["", "<", ">"]
_ORDERS: dict[str, Order] = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
# Bytes to copy at a time.
_PIECE = 1 << 20
# A comment of a numbered list, and what is listed.
_LISTED = re.compile(r"comment[ \t]+(\S+)[ \t]+[0-9]+[ \t]")
_FORMATS = {order: name for name, order in _ORDERS.items()}


@dataclass
class Element:
    """An element of the header: rows of one kind.

    Attributes:
        lines: of the header. types: name -> NumPy type of each property; of a list property, the type of its length.
        lists: name of each list property -> NumPy type of its items.
    """

    name: str
    count: int
    lines: list[str]
    types: dict[str, str] = field(default_factory=dict)
    lists: dict[str, str] = field(default_factory=dict)

    def min_bytes(self, order: str) -> int:
        """Return the fewest bytes that the rows take in the file: lists may be empty."""
        if not order:
            return self.count * max(2 * len(self.types), 1)
        return self.count * sum(np.dtype(kind).itemsize for kind in self.types.values())


@dataclass
class Header:
    """The header of a file. order: "<" or ">" of binary rows, "" of text. start: the first byte of the rows."""

    order: Order
    comments: list[str]
    elements: list[Element]
    start: int


@dataclass
class Rest:
    """The elements besides the points, which are copied when the scan is written.

    Attributes:
        path, identity: the file they are in. order: of binary rows, or "" of text. lines: of the header.
        parts: ranges of bytes in the file, before and after the points.
    """

    path: Path
    order: Order
    comments: list[str]
    lines: list[str] = field(default_factory=list)
    parts: tuple[tuple[int, int], ...] = ()
    identity: Identity | None = None

    @property
    def others(self) -> list[str]:
        """What only this format keeps: the elements besides the points."""
        return [" ".join(line.split()[:2]) for line in self.lines if line.startswith("element ")]


def read_ply(bounds: Bounds, columns: Sequence[str] | None) -> Scan:
    """Read the element ``vertex`` of a PLY file."""
    path = bounds.path
    with open(path, "rb") as file:
        header = _read_header(path, file)
        names = [element.name for element in header.elements]
        if "vertex" not in names:
            raise UserError(f"{path}: no element vertex")
        vertex = header.elements[names.index("vertex")]
        before = header.elements[: names.index("vertex")]
        bounds.check_points(vertex.count)
        bounds.check_fields(len(vertex.types))
        # The last line of text may end without a newline.
        minimum = sum(element.min_bytes(header.order) for element in header.elements) - (not header.order)
        bounds.check_size(f"{vertex.count:,} points and at least {minimum:,} bytes", header.start + max(minimum, 0))
        _refuse_lists(path, header, vertex, before)
        file.seek(header.start)
        if header.order:
            file.seek(sum(element.min_bytes(header.order) for element in before), os.SEEK_CUR)
            first = file.tell()
            fields = _binary_rows(file, vertex, header.order)
        else:
            # The rows of an element without properties are blank lines, which do not count.
            for _ in first_lines(path, file, sum(element.count for element in before if element.types)):
                pass
            first = file.tell()
            fields = _text_rows(bounds, file, vertex)
        after = header.elements[len(before) + 1 :]
        others = [*before, *after]
        lines = [line for element in others for line in element.lines]
        parts = ((header.start, first), (file.tell(), bounds.size))
        _check_end(bounds, file, header, vertex, after)
        rest = Rest(path, header.order, header.comments, lines, parts, identify(path))
    return Scan(path, fields, rest)


def _refuse_lists(path: Path, header: Header, vertex: Element, before: list[Element]) -> None:
    """Refuse lists in the points, and lists before them in binary files, whose length is not known.

    Raises:
        UserError: names the property and its element.
    """
    for name in vertex.lists:
        raise UserError(
            f"{path}: property {one_line(name, 60)} of element vertex is a list, which is not read; write "
            "the file without it"
        )
    for element in before if header.order else ():
        for name in element.lists:
            raise UserError(
                f"{path}: property {one_line(name, 60)} of element {one_line(element.name, 60)} is a list; "
                "lists before the element vertex are not read from binary files: put vertex first"
            )


def _read_header(path: Path, file: BinaryIO) -> Header:
    head = file.read(MAX_HEADER)
    first = re.match(rb"ply[ \t]*(\r\n|\n|\r)", head)
    last = first and re.compile(rb"%b[ \t]*end_header[ \t]*%b" % (first[1], first[1])).search(head)
    if not first or not last:
        raise UserError(f"{path}: not a PLY file (no header in its first {MAX_HEADER:,} bytes)")
    newline, end, start = first[1], last.start(), last.end()
    header = Header("", [], [], start)
    form = None
    for number, line in enumerate(head[:end].split(newline)[1:], 2):
        words = [decoded(word) for word in line.split()]
        match words:
            case []:
                pass
            case ["comment" | "obj_info", *_]:
                header.comments.append(clean_word(decoded(line.strip())))
            case ["format", name, "1.0"] if form is None and name in _ORDERS:
                form = header.order = _ORDERS[name]
            case ["element", name, count] if form is not None and count.isascii() and count.isdigit():
                header.elements.append(Element(name, int(count), [f"element {name} {count}"]))
            case ["property", "list", size, kind, name] if header.elements and {size, kind} <= set(_TYPES):
                _add_property(path, header.elements[-1], name, _TYPES[size], words)
                header.elements[-1].lists[name] = _TYPES[kind]
            case ["property", kind, name] if header.elements and kind in _TYPES:
                _add_property(path, header.elements[-1], name, _TYPES[kind], words)
            case _:
                raise UserError(f"{path}: line {number} of its header is not understood: {one_line(decoded(line), 60)}")
    if form is None:
        raise UserError(f"{path}: not a PLY file (no format)")
    if len({element.name for element in header.elements}) < len(header.elements):
        raise UserError(f"{path}: two elements of the same name")
    return header


def _add_property(path: Path, element: Element, name: str, kind: str, words: list[str]) -> None:
    if name in element.types:
        raise UserError(f"{path}: element {element.name} has two properties {one_line(name, 60)}")
    element.types[name] = kind
    element.lines.append(" ".join(map(clean_word, words)))


def _binary_rows(file: BinaryIO, vertex: Element, order: str) -> dict[str, np.ndarray]:
    kinds = np.dtype([(name, order + kind) for name, kind in vertex.types.items()])
    rows = np.fromfile(file, kinds, vertex.count)
    return {name: rows[name] for name in vertex.types}


def _text_rows(bounds: Bounds, file: BinaryIO, vertex: Element) -> dict[str, np.ndarray]:
    pieces = first_lines(bounds.path, file, vertex.count)
    values = read_rows(bounds, pieces, len(vertex.types), " ", line_number(file), list(vertex.types))
    if len(values[0]) != vertex.count:
        raise UserError(f"{bounds.path}: its header claims {vertex.count:,} points, it has {len(values[0]):,}")
    return {
        name: as_declared(bounds.path, name, column, kind) for (name, kind), column in zip(vertex.types.items(), values)
    }


def _check_end(bounds: Bounds, file: BinaryIO, header: Header, vertex: Element, after: list[Element]) -> None:
    """Compare the end of the file with what the header claims; its position is behind the points.

    Raises:
        UserError: binary rows behind the points do not end with the file, or the points have more bytes than the header
            says. Some programs write such files: of colours, PCL (``pcl_pcd2ply``) declares three bytes and writes a
            packed integer, and Assimp declares four bytes and writes four floats.
    """
    if not header.order:
        claimed = sum(element.count for element in after)
        more = sum(1 for line in iter(lambda: file.readline(MAX_LINE), b"") if line.strip()) - claimed
    else:
        more = bounds.size - _end_of_elements(bounds, file, header, after)
        size = vertex.min_bytes(header.order)
        if more > 0 and vertex.count > 1 and more % vertex.count == 0:
            raise UserError(
                f"{bounds.path}: its points have {(size + more) // vertex.count} bytes each, but "
                f"{size // vertex.count} in its header, so that their numbers would be wrong; write the file again, in "
                "another format or with another program"
            )
    if more > 0:
        what = f"{more:,} {'bytes' if header.order else 'lines'}"
        log.warning("%s: %s more than its header claims are left out", bounds.path, what)


def _end_of_elements(bounds: Bounds, file: BinaryIO, header: Header, after: list[Element]) -> int:
    """Return the byte at which the binary elements behind the points end; the file's position is behind the points.

    Raises:
        UserError: they need more bytes than there are, or elements with lists need fewer.
    """
    end, content = file.tell(), np.memmap(bounds.path, np.uint8, "r")
    for element in after:
        # Rows without properties take no bytes, however many the header claims.
        count = element.count if element.types else 0
        sizes, items = (
            np.array([np.dtype(kinds[name]).itemsize if name in kinds else 0 for name in element.types], np.int64)
            for kinds in (element.types, element.lists)
        )
        end = end_of_rows(content, end, count, sizes, items, header.order == ">") if end >= 0 else end
    # Wrong lengths of lists may add up to fewer bytes than there are. Some writers end a file with a newline.
    lists = any(element.count and element.lists for element in after)
    if end < 0 or (lists and bounds.size - end > 2):
        names = one_line(", ".join(element.name for element in after), 100)
        raise UserError(
            f"{bounds.path}: the rows behind the points ({names}) do not end with the file: it is cut off, or its "
            "points have other bytes than its header says; write it again, in another format or with another program"
        )
    return end


def write_ply(path: Path, scan: Scan, notes: list[str]) -> list[str]:
    """Write points, and the other elements of the file they came from. Rows are binary unless that file was text.

    Comments of that file are kept, except lists of the same kind as the notes, such as the names of an earlier
    labelling (``label 0 wall``, ``label 1 floor``), which would contradict them.

    Raises:
        UserError: that file has changed since.
    """
    rest = scan.template or Rest(path, "<", [])
    names = clean_names(scan.fields, forbidden=" ", ascii_only=True)
    changes = renamed(scan.fields, names)
    fields = {}
    for name, values in zip(names, scan.fields.values()):
        fields[name] = _ply_type(values)
        if fields[name].dtype.kind == "f" != values.dtype.kind and exactly(values, np.float64) is None:
            changes.append(f"field {name} loses digits, because PLY has no integers of 64 bits")
    kinds = {note.partition(" ")[0] for note in notes}
    comments = [line for line in rest.comments if not ((found := _LISTED.match(line)) and found[1] in kinds)]
    lines = ["ply", f"format {_FORMATS[rest.order]} 1.0", *comments, *(f"comment {note}" for note in notes)]
    lines.append(f"element vertex {len(scan)}")
    lines += [f"property {_WRITTEN[values.dtype.str[1:]]} {name}" for name, values in fields.items()]
    lines += [*rest.lines, "end_header"]
    with open(path, "wb") as file:
        # plyfile and other readers refuse a header that is not ASCII.
        file.write("".join(f"{ascii_escaped(line)}\n" for line in lines).encode("ascii"))
        if rest.order:
            rows = structured(fields)
            rows.astype(rows.dtype.newbyteorder(rest.order), copy=False).tofile(file)
        else:
            write_rows(file, list(fields.values()))
        if rest.lines:
            _copy_parts(rest, file)
    return changes


def _copy_parts(rest: Rest, file: BinaryIO) -> None:
    with open_file(rest.path) as (source, identity):
        if identity != rest.identity:
            raise UserError(f"the faces of {rest.path} cannot be written, because it has changed since it was read")
        for start, end in rest.parts:
            source.seek(start)
            while piece := source.read(min(_PIECE, end - source.tell())):
                file.write(piece)


def _ply_type(values: np.ndarray) -> np.ndarray:
    """Return values in a type that PLY has: it has no 64-bit integers."""
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        return in_first_that_holds(values, np.int32, np.float64)
    return values
