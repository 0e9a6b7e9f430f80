"""What an E57 file says of its scans: the XML in it, read without the library that decodes the points.

An E57 file consists of pages of 1024 bytes, each with a checksum in the last four. Its first 48 bytes say where its XML
is. The XML is checked before any library sees it: it must not name other files, nor define entities.
"""

import io
import re
import struct
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite, nan
from pathlib import Path

import numpy as np

from ....errors import UserError
from ....escaping import one_line
from .bounds import Bounds
from .colors import BYTES, FRACTIONS, ONE, WORDS
from .setups import MAX_SCANS, Pose

_PAGE, _CHECKSUM = 1024, 4
# Most bytes of the XML: some hundreds of scans have a few kilobytes each.
_MAX_XML = 8 << 20
_SPACE = "{http://www.astm.org/COMMIT/E57/2010-e57-v1.0}"
_SCHEMA = "{http://www.w3.org/2001/XMLSchema-instance}"
COLOR_ELEMENTS = ("colorRed", "colorGreen", "colorBlue")
_INT64 = np.iinfo(np.int64)
# The smallest range of colours that is believed, so that scaling by it stays within floating-point numbers.
_LEAST_RANGE = 1e-3
# Integers that pye57 has buffers for, and those that need a larger buffer.
_INTEGERS = ("i1", "u1", "i2", "u2", "i4", "u4", "i8")
# The numbers of a colour that mean 0 and full colour.
Range = tuple[float, float]


@dataclass(frozen=True)
class Field:
    """A field of the points of a scan.

    Attributes:
        path: its name in the file, with the prefix of an extension. kind: NumPy type. bits: of a value in the file.
        color_limits: of a colour, its range in ``colorLimits``. depth: of a colour, its range by the limits of fields.
    """

    path: str
    kind: str
    bits: int
    color_limits: Range | None = None
    depth: Range | None = None


@dataclass(frozen=True)
class Setup:
    """A scan in an E57 file.

    Attributes:
        name: of the scan. index: its place among the scans. count: number of points. fields: that have numbers.
        others: names of the fields that have none. quaternion: w, x, y, z, and translation: x, y, z of its pose.
    """

    name: str
    index: int
    count: int
    fields: list[Field]
    others: list[str]
    quaternion: tuple[float, ...]
    translation: tuple[float, ...]
    pose: Pose


@dataclass(frozen=True)
class Header:
    """What a file says of itself. Besides the fields, this is needed to write the file again.

    Attributes:
        setups: its scans. reference: its coordinate reference system, or "". images: the number of its images.
    """

    setups: list[Setup] = field(default_factory=list)
    reference: str = ""
    images: int = 0

    @property
    def others(self) -> list[str]:
        """What other formats have no place for."""
        posed = any(not setup.pose.is_identity for setup in self.setups)
        lost = {"the pose of each scanner": posed, "the coordinate reference system": bool(self.reference)}
        return [what for what, there in lost.items() if there] + [f"{self.images:,} images"] * bool(self.images)


def read_header(bounds: Bounds) -> Header:
    """Read what an E57 file says of its scans, after comparing sizes with the file.

    Raises:
        UserError: not an E57 file, cut off, or with XML that is not sound.
    """
    root, prefixes = _parse(bounds)
    scans, images = root.find(f"{_SPACE}data3D"), root.find(f"{_SPACE}images2D")
    found = [] if scans is None else list(scans)
    if len(found) > MAX_SCANS:
        raise UserError(f"{bounds.path}: {len(found):,} scans, more than {MAX_SCANS:,}")
    setups = [_setup(bounds, number, scan, prefixes) for number, scan in enumerate(found)]
    points = bounds.check_points(sum(setup.count for setup in setups))
    bounds.check_size(
        f"{points:,} points", sum(setup.count * sum(field.bits for field in setup.fields) // 8 for setup in setups)
    )
    bounds.check_inflated(
        sum(setup.count * sum(np.dtype(field.kind).itemsize for field in setup.fields) for setup in setups)
    )
    if not points:
        raise UserError(f"{bounds.path}: no points")
    return Header(setups, root.findtext(f"{_SPACE}coordinateMetadata", ""), 0 if images is None else len(images))


def _parse(bounds: Bounds) -> tuple[ET.Element, dict[str, str]]:
    """Return the root of the XML, and the prefix of each extension's name space."""
    prefixes: dict[str, str] = {}
    elements: list[ET.Element] = []
    for event, value in ET.iterparse(io.BytesIO(_xml(bounds)), events=("start", "start-ns")):
        if event == "start-ns":
            prefix, uri = value
            prefixes[f"{{{uri}}}"] = prefix
            continue
        elements = elements or [value]
        if any(name.startswith(_SCHEMA) for name in value.attrib):
            raise UserError(f"{bounds.path}: its XML names a schema, which may be another file")
    return elements[0], prefixes


def _xml(bounds: Bounds) -> bytes:
    """Return the XML without the checksums between its pages.

    Raises:
        UserError: it is too long, in another encoding than UTF-8, or defines entities, which may be other files.
    """
    path = bounds.path
    with open(path, "rb") as file:
        head = file.read(48)
        if not head.startswith(b"ASTM-E57") or len(head) < 48:
            raise UserError(f"{path}: not an E57 file (no header)")
        length, start, size, page = struct.unpack_from("<4Q", head, 16)
        if page != _PAGE:
            raise UserError(f"{path}: its pages have {page:,} bytes; {_PAGE:,} are read")
        bounds.check_size(f"{length:,} bytes", length)
        if size > _MAX_XML:
            raise UserError(f"{path}: its XML has {size:,} bytes; at most {_MAX_XML:,} are read")
        bounds.check_size(f"XML of {size:,} bytes from byte {start:,} on", start + size)
        file.seek(start)
        first = min(size, max(_PAGE - _CHECKSUM - start % _PAGE, 0))
        pages = -(-(size - first) // (_PAGE - _CHECKSUM))
        raw = file.read(first + _CHECKSUM + pages * _PAGE)
    parts = [raw[:first]]
    parts += [raw[at : at + _PAGE - _CHECKSUM] for at in range(first + _CHECKSUM, len(raw), _PAGE)]
    text = b"".join(parts)[:size]
    encoding = re.match(rb"(?:\xef\xbb\xbf)?\s*<(?:\?xml[^>]*?encoding\s*=\s*[\"']([^\"']*)[\"'])?", text)
    if encoding is None or (encoding[1] or b"utf-8").lower() != b"utf-8":
        raise UserError(f"{path}: its XML is not in UTF-8")
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise UserError(f"{path}: its XML defines a document type, which may name other files")
    return text


def _setup(bounds: Bounds, index: int, scan: ET.Element, prefixes: dict[str, str]) -> Setup:
    points = scan.find(f"{_SPACE}points")
    prototype = None if points is None else points.find(f"{_SPACE}prototype")
    if points is None or prototype is None:
        raise UserError(f"{bounds.path}: scan {index} has no points")
    count = bounds.check_points(_integer(bounds.path, points.get("recordCount", "0")))
    bounds.check_fields(len(prototype))
    nodes = [(_path(node.tag, prefixes), node) for node in prototype]
    depths = _color_depths({path: node for path, node in nodes if path in COLOR_ELEMENTS})
    fields, others = [], []
    for path, node in nodes:
        layout = _layout(bounds.path, node)
        if layout is None:
            others.append(path)
        else:
            limits = _color_limits(scan, path) if path in COLOR_ELEMENTS else None
            fields.append(Field(path, *layout, limits, depths.get(path)))
    pose = scan.find(f"{_SPACE}pose")
    quaternion = tuple(_vector(bounds.path, pose, "rotation", "wxyz")) or (1.0, 0.0, 0.0, 0.0)
    translation = tuple(_vector(bounds.path, pose, "translation", "xyz")) or (0.0, 0.0, 0.0)
    name = one_line(scan.findtext(f"{_SPACE}name", ""), 200)
    moved = Pose.of_quaternion(bounds.path, quaternion, translation)
    return Setup(name, index, count, fields, others, quaternion, translation, moved)


def _path(tag: str, prefixes: dict[str, str]) -> str:
    """Return the name that the library has for an element: that in the file, with the prefix of an extension."""
    space, _, local = tag.rpartition("}")
    prefix = prefixes.get(space + "}", "") if space else ""
    return f"{prefix}:{local}" if prefix else local


def _layout(path: Path, node: ET.Element) -> tuple[str, int] | None:
    """Return the NumPy type of an element's values and the bits of each in the file, or None if it has no numbers."""
    match node.get("type"):
        case "Float":
            return ("f4", 32) if node.get("precision") == "single" else ("f8", 64)
        case "Integer" | "ScaledInteger" as kind:
            least = _integer(path, node.get("minimum", str(_INT64.min)))
            most = _integer(path, node.get("maximum", str(_INT64.max)))
            if not _INT64.min <= least <= most <= _INT64.max:
                raise UserError(f"{path}: a field of the numbers {least} to {most}")
            limits = ((name, np.iinfo(name)) for name in _INTEGERS)
            whole = next(name for name, limit in limits if limit.min <= least and most <= limit.max)
            return whole if kind == "Integer" else "f8", (most - least).bit_length()
    return None


def _color_limits(scan: ET.Element, name: str) -> Range | None:
    """Return the range of a colour in ``colorLimits`` of a scan, or None if it has none that can be believed."""
    limits = [scan.find(f"{_SPACE}colorLimits/{_SPACE}{name}{end}") for end in ("Minimum", "Maximum")]
    low, high = (nan if one is None else _value(one, one.text or "0") for one in limits)
    return (low, high) if _LEAST_RANGE <= high - low <= WORDS else None


def _color_depths(colors: dict[str, ET.Element]) -> dict[str, Range]:
    """Return the range of each colour of a scan by the limits of its fields; colours without usable limits have none.

    Writers may cut the limits of each field to the colours that it has. So the largest limit counts, of all colours of
    the scan that are integers, and likewise of all others (floats and scaled integers). The colours have as many bits
    as this number needs, at least 8. If it is at most 1, integers still have 8 bits and are almost black; others are
    fractions.
    """
    largest: dict[bool, dict[str, float]] = {True: {}, False: {}}
    for name, node in colors.items():
        low, high = (_value(node, node.get(end, "nan")) for end in ("minimum", "maximum"))
        if 0 <= low <= high <= WORDS:
            largest[node.get("type") == "Integer"][name] = high
    depths: dict[str, Range] = {}
    for whole, limits in largest.items():
        high = max(limits.values(), default=0)
        if high > 0:
            full = FRACTIONS if high <= ONE and not whole else max(BYTES, 2 ** int(high).bit_length() - 1)
            depths |= dict.fromkeys(limits, (0, full))
    return depths


def _value(node: ET.Element, text: str) -> float:
    """Return a number of a node, with the scale and offset that scaled integers have, or NaN if it is none."""
    scaled = node.get("type") == "ScaledInteger"
    try:
        scale, offset = (
            float(node.get(name, default)) if scaled else default for name, default in (("scale", 1.0), ("offset", 0.0))
        )
        return float(text) * scale + offset
    except ValueError:
        return nan


def _integer(path: Path, text: str) -> int:
    if not re.fullmatch(r"\s*[+-]?[0-9]{1,20}\s*", text):
        raise UserError(f"{path}: its XML has no whole number but {one_line(text, 40)}")
    return int(text)


def _vector(path: Path, pose: ET.Element | None, name: str, axes: str) -> Iterator[float]:
    """Yield the numbers of a rotation or translation, or nothing if the scan has none. An empty number is 0."""
    node = None if pose is None else pose.find(f"{_SPACE}{name}")
    if node is None:
        return
    for axis in axes:
        text = node.findtext(f"{_SPACE}{axis}", "nan").strip() or "0"
        try:
            value = float(text)
        except ValueError:
            value = np.nan
        if not isfinite(value):
            raise UserError(f"{path}: the {name} of a pose has no number {axis}")
        yield value
