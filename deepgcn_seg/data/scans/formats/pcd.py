"""PCD: text, binary and compressed.

pypcd4 is not used, because it trusts the header: a COUNT of a billion makes as many names.
"""

import math
import re
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ....errors import UserError
from ....escaping import one_line
from .bounds import MAX_HEADER, Bounds, clean_names, decoded, line_number, pieces_of_lines, renamed
from .rows import read_rows
from .scan import COLORS, PACKED, Scan, unpacked
from .typed import as_declared, exactly, structured

_TYPES = {("F", 4): "<f4", ("F", 8): "<f8"} | {(t, size): f"<{t.lower()}{size}" for t in "IU" for size in (1, 2, 4, 8)}
_COLOR_NAMES = COLORS[0]
_VIEWPOINT = "0 0 0 1 0 0 0"
_SEVEN_NUMBERS = re.compile(r"([-+.0-9eE]{1,30} ){6}[-+.0-9eE]{1,30}")
# LZF packs at best 264 bytes into 3, its longest match.
_LZF_RATIO = 88


@dataclass(frozen=True)
class Layout:
    """How points are arranged.

    Attributes:
        width, height: of the image that the points make; otherwise ``height`` is 1.
        viewpoint: of the sensor, as seven numbers.
        parts: name of a field with a COUNT above 1 -> names of the fields of a scan that it becomes.
    """

    width: int
    height: int
    viewpoint: str
    parts: dict[str, list[str]]


@dataclass(frozen=True)
class Header:
    """The header of a file.

    Attributes:
        names: of the columns; a field with a COUNT has several, and padding has None. kinds: their NumPy types.
        counts: number of columns of each field. points: number of points. encoding: ascii, binary or binary_compressed.
        start: the first byte of the rows. layout: how the points are arranged.
    """

    names: list[str | None]
    kinds: list[str]
    counts: list[int]
    points: int
    encoding: str
    start: int
    layout: Layout

    @property
    def row(self) -> int:
        """Bytes of a point."""
        return sum(np.dtype(kind).itemsize for kind in self.kinds)


def read_pcd(bounds: Bounds, columns: Sequence[str] | None) -> Scan:
    """Read a PCD file of any encoding; a packed ``rgb`` becomes red, green and blue, unless these are there too."""
    with open(bounds.path, "rb") as file:
        header = _read_header(bounds, file)
        file.seek(header.start)
        values = _READERS[header.encoding](bounds, file, header)
    fields = {name: column for name, column in zip(header.names, values) if name is not None}
    packed = next((name for name in PACKED if name in fields), None)
    names = (*_COLOR_NAMES, "alpha") if packed == "rgba" else _COLOR_NAMES
    # A file may have colours in fields of their own besides: then all its fields stay as they are.
    if packed and not set(names) & fields.keys() and (bands := unpacked(bounds.path, packed, fields[packed])):
        del fields[packed]
        fields |= dict(zip(names, bands))
    return Scan(bounds.path, fields, header.layout)


def _read_header(bounds: Bounds, file: BinaryIO) -> Header:
    path = bounds.path
    head = file.read(MAX_HEADER)
    end = re.search(rb"(?mi)^DATA[ \t]+(ascii|binary|binary_compressed)[ \t]*\r?\n", head)
    try:
        if end is None:
            raise ValueError
        lines = [[decoded(word) for word in line.split()] for line in head[: end.start()].splitlines()]
        known = {line[0].upper(): line[1:] for line in lines if line and not line[0].startswith("#")}
        # Version 0.5 has COLUMNS for FIELDS, and its values are floats of 4 bytes by default.
        names = known["FIELDS" if "FIELDS" in known else "COLUMNS"]
        kinds = [kind.upper() for kind in known.get("TYPE", ["F"] * len(names))]
        sizes = _integers(known.get("SIZE", ["4"] * len(names)))
        counts = _integers(known.get("COUNT", ["1"] * len(names)))
        size = {name: _integer(known[name]) for name in ("HEIGHT", "WIDTH", "POINTS") if name in known}
        height = size.get("HEIGHT", 1)
        points = size["POINTS"] if "POINTS" in size else size["WIDTH"] * height
        width = size.get("WIDTH", points // max(height, 1))
        viewpoint = " ".join(known.get("VIEWPOINT", ()))
    except (KeyError, ValueError):
        raise UserError(f"{path}: not a PCD file (no readable header)") from None
    if not len(names) == len(kinds) == len(sizes) == len(counts):
        raise UserError(f"{path}: FIELDS, SIZE, TYPE and COUNT of its header do not fit each other")
    if width * height != points:
        raise UserError(f"{path}: its header claims {points:,} POINTS, but WIDTH x HEIGHT is {width} x {height}")
    bounds.check_points(points)
    bounds.check_fields(sum(counts) if min(counts, default=0) > 0 else 0)
    if unknown := [pair for pair in zip(kinds, sizes) if pair not in _TYPES]:
        raise UserError(f"{path}: no type {unknown[0][0][:20]} of {unknown[0][1]} bytes is known")
    types = [_TYPES[kind, size] for kind, size, count in zip(kinds, sizes, counts) for _ in range(count)]
    every, parts = _columns(names, counts)
    if twice := [name for name, times in Counter(every).items() if name is not None and times > 1]:
        raise UserError(f"{path}: two fields of the same name, {one_line(twice[0], 60)}")
    layout = Layout(width, height, viewpoint if _SEVEN_NUMBERS.fullmatch(viewpoint) else _VIEWPOINT, parts)
    header = Header(every, types, counts, points, end[1].decode().lower(), end.end(), layout)
    min_row = {"ascii": 2 * len(types), "binary": header.row, "binary_compressed": header.row / _LZF_RATIO}
    # The last line of text may end without a newline.
    bounds.check_size(
        f"{points:,} points", header.start + int(points * min_row[header.encoding]) - (header.encoding == "ascii")
    )
    return header


def _columns(names: Sequence[str], counts: Sequence[int]) -> tuple[list[str | None], dict[str, list[str]]]:
    """Return the names of the columns, None for padding, and of each field with a COUNT above 1 those of its own."""
    every: list[str | None] = []
    parts: dict[str, list[str]] = {}
    for name, count in zip(names, counts):
        # PCL names padding "_".
        if name == "_":
            every += [None] * count
        elif count == 1:
            every.append(name)
        else:
            parts[name] = [f"{name}__{number:04d}" for number in range(count)]
            every += parts[name]
    return every, parts


def _integer(words: Sequence[str]) -> int:
    (number,) = _integers(words)
    return number


def _integers(words: Sequence[str]) -> list[int]:
    if not all(word.isascii() and word.isdigit() for word in words):
        raise ValueError
    return [int(word) for word in words]


def _read_ascii(bounds: Bounds, file: BinaryIO, header: Header) -> list[np.ndarray]:
    pieces = pieces_of_lines(bounds.path, file, bounds.piece_bytes)
    values = read_rows(bounds, pieces, len(header.names), " ", line_number(file), header.names)
    if len(values[0]) != header.points:
        raise UserError(f"{bounds.path}: its header claims {header.points:,} points, it has {len(values[0]):,}")
    names = (name or "_" for name in header.names)
    return [as_declared(bounds.path, name, column, kind) for name, column, kind in zip(names, values, header.kinds)]


def _read_binary(bounds: Bounds, file: BinaryIO, header: Header) -> list[np.ndarray]:
    kinds = np.dtype([(f"f{number}", kind) for number, kind in enumerate(header.kinds)])
    rows = np.fromfile(file, kinds, header.points)
    return [rows[name] for name in kinds.names or ()]


def _read_compressed(bounds: Bounds, file: BinaryIO, header: Header) -> list[np.ndarray]:
    """Read points packed by LZF: the values of one field for all points, then those of the next field.

    The values of a field with a COUNT stand together for each point, as PCL writes them.
    """
    import lzf

    sizes = file.read(8)
    packed, size = struct.unpack("<II", sizes) if len(sizes) == 8 else (0, 0)
    if size != header.points * header.row:
        raise UserError(f"{bounds.path}: claims to inflate to {size:,} bytes, not {header.points * header.row:,}")
    bounds.check_size(f"{packed:,} compressed bytes", header.start + 8 + packed)
    content = lzf.decompress(file.read(packed), size) if size else b""
    if content is None or len(content) != size:
        raise UserError(f"{bounds.path}: its compressed points are damaged")
    found: list[np.ndarray] = []
    position = 0
    for count in header.counts:
        values = np.frombuffer(content, header.kinds[len(found)], header.points * count, position)
        found += list(values.reshape(header.points, count).T)
        position += values.nbytes
    return found


_READERS = {"ascii": _read_ascii, "binary": _read_binary, "binary_compressed": _read_compressed}


def write_pcd(path: Path, scan: Scan, notes: list[str]) -> list[str]:
    """Write binary PCD in the layout of the file that the scan came from; colours of 8 bits become a packed ``rgb``."""
    layout = scan.template or Layout(len(scan), 1, _VIEWPOINT, {})
    names = clean_names(scan.fields, forbidden=" ", ascii_only=True)
    fields = dict(zip(names, scan.fields.values()))
    if "rgb" not in fields and all(fields.get(name, np.empty(0, int)).dtype == np.uint8 for name in _COLOR_NAMES):
        red, green, blue = (fields.pop(name).astype(np.uint32) for name in _COLOR_NAMES)
        fields["rgb"] = (red << 16 | green << 8 | blue).view(np.float32)
    if "label" in fields and (label := exactly(fields["label"], np.uint32)) is not None:
        # PCL knows labels of this type alone.
        fields["label"] = label
    fields = _joined(fields, layout.parts)
    kinds = [values.dtype for values in fields.values()]
    lines = [
        "# .PCD v0.7 - Point Cloud Data file format",
        *(f"# {note}" for note in notes),
        "VERSION 0.7",
        f"FIELDS {' '.join(fields)}",
        f"SIZE {' '.join(str(kind.itemsize) for kind in kinds)}",
        f"TYPE {' '.join(kind.kind.upper() for kind in kinds)}",
        f"COUNT {' '.join(str(math.prod(values.shape[1:])) for values in fields.values())}",
        f"WIDTH {layout.width}",
        f"HEIGHT {layout.height}",
        f"VIEWPOINT {layout.viewpoint}",
        f"POINTS {len(scan)}",
        "DATA binary",
    ]
    with open(path, "wb") as file:
        file.write("".join(f"{line}\n" for line in lines).encode("ascii"))
        structured(fields).tofile(file)
    return renamed(scan.fields, names)


def _joined(fields: dict[str, np.ndarray], parts: dict[str, list[str]]) -> dict[str, np.ndarray]:
    """Return fields, among them those that a COUNT had made several again as one, (N, COUNT), in the same places.

    They stay apart if one of them is missing, or if another field has the name of the whole.
    """
    whole = {
        part: name
        for name, names in parts.items()
        if name not in fields and fields.keys() >= set(names)
        for part in names
    }
    found = dict.fromkeys(whole.get(name, name) for name in fields)
    return {
        name: fields[name] if name in fields else np.stack([fields[part] for part in parts[name]], 1) for name in found
    }
