"""Write E57 with pye57. Fields that the standard does not name become an extension, which the standard allows."""

import hashlib
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .bounds import clean_names, renamed
from .colors import ONE
from .e57 import CARTESIAN, PIECE, buffer_type
from .e57_header import COLOR_ELEMENTS, Header, Setup
from .scan import AXES, COLORS, Scan
from .setups import MAX_SCANS
from .typed import exactly, in_first_that_holds

# Names of the standard for fields of the same name, and the kinds of numbers that they may have.
_STANDARD = dict.fromkeys(("intensity", "timeStamp"), "iuf")
_STANDARD |= dict.fromkeys(("rowIndex", "columnIndex", "returnIndex", "returnCount"), "iu")
_STANDARD |= dict.fromkeys(("isColorInvalid", "isIntensityInvalid", "isTimeStampInvalid"), "iu")
# The extension of all other fields.
_PREFIX, _SPACE = "deepgcn_seg", "urn:x-deepgcn-seg:fields"
_INVALID = "cartesianInvalidState"
# The state of a point without coordinates. 1 would mean that its direction is known.
_NO_POINT = 2
# ASCII characters that a name may not have in XML, and those that it may not begin with.
_FORBIDDEN = "".join(c for c in map(chr, range(128)) if not (c.isalnum() or c in "_-."))
_NO_FIRST = "0123456789-."


def write_e57(path: Path, scan: Scan, notes: list[str]) -> list[str]:
    """Write E57: a scan for each value of the field ``scan`` if the points are in its order, else a single one.

    The poses are those of the E57 file that the scan came from. Points without coordinates are marked as invalid, with
    0 for coordinates. Notes become the description of each scan.
    """
    original = scan.template or Header()
    ends = _ends(scan, len(original.setups))
    columns, changes = _columns(scan, besides={"scan"} if ends else set())
    if original.images:
        changes.append(f"{original.images:,} images of {scan.path} are not kept")
    _write(path, scan.xyz, columns, ends or [len(scan)], original, "\n".join(notes))
    return changes


def _ends(scan: Scan, setups: int) -> list[int] | None:
    """Return where the points of each scan end, or None if the points are not in the order of a field ``scan``.

    Args:
        setups: number of scans of the file that the scan came from; the last ones may have no points.
    """
    values = scan.fields.get("scan")
    if values is None or values.dtype.kind not in "iu" or not len(values):
        return None
    if values[0] < 0 or values[-1] >= MAX_SCANS or (values[1:] < values[:-1]).any():
        return None
    count = max(int(values[-1]) + 1, setups)
    return np.searchsorted(values, np.arange(count), side="right").tolist() if count > 1 else None


def _columns(scan: Scan, besides: set[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return element -> (N,) values of all fields but the coordinates, and a line for each field that changes."""
    colors = _colors(scan)
    columns = dict(zip(COLOR_ELEMENTS, colors.values()))
    besides = besides | {*colors, *(str(scan.field(*names)) for names in AXES)}
    fields = {name: _storable(values) for name, values in scan.fields.items() if name not in besides}
    standard = [name for name, values in fields.items() if values.dtype.kind in _STANDARD.get(name, "")]
    extra = [name for name in fields if name not in standard]
    written = clean_names((f"_{n}" if n[:1] in _NO_FIRST else n for n in extra), _FORBIDDEN, ascii_only=True)
    columns |= {name: fields[name] for name in standard}
    columns |= {f"{_PREFIX}:{element}": fields[name] for name, element in zip(extra, written)}
    changes = renamed(colors, COLORS[0]) + renamed(extra, written)
    for name, values in fields.items():
        if values.dtype.kind == "f" != scan.fields[name].dtype.kind and exactly(scan.fields[name], np.float64) is None:
            changes.append(f"field {name} loses digits, because E57 has no unsigned integers of 64 bits")
    return columns, changes


def _colors(scan: Scan) -> dict[str, np.ndarray]:
    """Return the three fields of colours, as numbers of 8 or 16 bits or as floats in 0..1, or nothing."""
    for group in COLORS:
        names = [name for one in group if (name := scan.field(one)) is not None]
        columns = [scan.fields[name] for name in names]
        if len(names) < len(group) or not len(scan):
            continue
        # NaN is neither.
        least, most = min(column.min() for column in columns), max(column.max() for column in columns)
        # In text, a column of fractions may happen to have whole numbers only.
        if any(column.dtype.kind == "f" for column in columns) and 0 <= least <= most <= ONE:
            return dict(zip(names, (column.astype(np.result_type(*columns), copy=False) for column in columns)))
        if all(column.dtype.kind in "iu" for column in columns) and 0 <= least <= most < 2**16:
            kind = np.uint8 if most < 2**8 else np.uint16
            return dict(zip(names, (column.astype(kind) for column in columns)))
    return {}


def _storable(values: np.ndarray) -> np.ndarray:
    """Return values in a type that E57 has: it has no integers beyond int64."""
    return in_first_that_holds(values, np.int64, np.float64) if values.dtype == np.uint64 else values


def _write(
    path: Path, xyz: np.ndarray, columns: Mapping[str, np.ndarray], ends: list[int], original: Header, notes: str
) -> None:
    """Write a file.

    Args:
        xyz: (N, 3) in shared coordinates. columns: element -> (N,) values. ends: where the points of each scan end.
        original: of the file that the points come from: its scans have names and poses, if they are as many as here.
        notes: description of each scan.
    """
    from pye57 import libe57

    image = libe57.ImageFile(bytes(path), "w")
    image.extensionsAdd("", libe57.E57_V1_0_URI)
    if any(name.startswith(f"{_PREFIX}:") for name in columns):
        image.extensionsAdd(_PREFIX, _SPACE)
    identity = _identity(xyz, columns)
    root, scans = image.root(), libe57.VectorNode(image, True)
    head = {"formatName": "ASTM E57 3D Imaging Data File", "guid": f"{{{identity}}}"}
    head |= {"versionMajor": libe57.E57_FORMAT_MAJOR, "versionMinor": libe57.E57_FORMAT_MINOR}
    head |= {"coordinateMetadata": original.reference} if original.reference else {}
    for name, value in head.items():
        root.set(name, _node(libe57, image, value))
    root.set("data3D", scans)
    root.set("images2D", libe57.VectorNode(image, True))
    for number, (start, end) in enumerate(zip([0, *ends], ends)):
        setup = original.setups[number] if len(original.setups) == len(ends) else None
        content: dict[str, Any] = {"guid": f"{{{uuid.uuid5(identity, str(number))}}}"}
        content |= {"name": setup.name if setup and setup.name else f"Scan {number}", "description": notes}
        own = xyz[start:end]
        if setup is not None:
            content["pose"] = _pose(setup)
            own = setup.pose.undo(own)
        part = {name: values[start:end] for name, values in columns.items()}
        content |= _limits(own, part)
        scan = _node(libe57, image, content)
        scans.append(scan)
        _write_points(libe57, image, scan, own, part)
    image.close()


def _identity(xyz: np.ndarray, columns: Mapping[str, np.ndarray]) -> uuid.UUID:
    """Return an identifier that depends on the points alone, so that equal scans give equal files."""
    digest = hashlib.sha256(np.ascontiguousarray(xyz).data)
    for name, values in columns.items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(values).data)
    return uuid.UUID(bytes=digest.digest()[:16])


def _node(library: Any, image: Any, value: Any) -> Any:
    """Return a node of the XML: a structure for a dictionary, else text or a number."""
    if isinstance(value, Mapping):
        node = library.StructureNode(image)
        for name, child in value.items():
            node.set(name, _node(library, image, child))
        return node
    kinds = {str: library.StringNode, int: library.IntegerNode, float: library.FloatNode}
    return kinds[type(value)](image, value)


def _pose(setup: Setup) -> dict[str, dict[str, float]]:
    return {"rotation": dict(zip("wxyz", setup.quaternion)), "translation": dict(zip("xyz", setup.translation))}


def _limits(xyz: np.ndarray, columns: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Return the limits of coordinates, intensities and colours, by which other programs scale what they show."""
    found: dict[str, dict[str, Any]] = {}
    there = xyz[np.isfinite(xyz).all(1)]
    if len(there):
        bounds = zip("xyz", there.min(0), there.max(0))
        ends = {
            f"{axis}{end}": float(value) for axis, *both in bounds for end, value in zip(("Minimum", "Maximum"), both)
        }
        found["cartesianBounds"] = ends
    known = columns.get("intensity", np.empty(0))
    known = known[np.isfinite(known)]
    if len(known):
        found["intensityLimits"] = {
            "intensityMinimum": known.min().item(),
            "intensityMaximum": known.max().item(),
        }
    for name in COLOR_ELEMENTS if COLOR_ELEMENTS[0] in columns else ():
        kind = columns[name].dtype
        most = 1.0 if kind.kind == "f" else int(np.iinfo(kind).max)
        found.setdefault("colorLimits", {}).update({f"{name}Minimum": type(most)(0), f"{name}Maximum": most})
    return found


def _write_points(library: Any, image: Any, scan: Any, xyz: np.ndarray, columns: dict[str, np.ndarray]) -> None:
    """Write the points of a scan, whose coordinates are in the scanner's own system."""
    there = np.isfinite(xyz).all(1)
    columns = dict(zip(CARTESIAN, np.where(there[:, None], xyz, 0.0).T)) | columns
    if not there.all():
        columns[_INVALID] = np.where(there, 0, _NO_POINT).astype(np.uint8)
    prototype, buffers = library.StructureNode(image), library.VectorSourceDestBuffer()
    # A buffer of the library has one place at least.
    pieces, room = {}, max(min(PIECE, len(xyz)), 1)
    for name, values in columns.items():
        prototype.set(name, _element(library, image, name, values.dtype))
        pieces[name] = np.empty(room, buffer_type(values.dtype.str[1:]))
        buffers.append(library.SourceDestBuffer(image, name, pieces[name], room, True, True))
    points = library.CompressedVectorNode(image, prototype, library.VectorNode(image, True))
    scan.set("points", points)
    writer = points.writer(buffers)
    for start in range(0, len(xyz), PIECE):
        size = min(PIECE, len(xyz) - start)
        for name, values in columns.items():
            pieces[name][:size] = values[start : start + size]
        writer.write(size)
    writer.close()


def _element(library: Any, image: Any, name: str, kind: np.dtype) -> Any:
    """Return the node that says which numbers a field has."""
    if kind.kind == "f":
        return library.FloatNode(image, 0.0, library.E57_SINGLE if kind.itemsize == 4 else library.E57_DOUBLE)
    limits = np.iinfo(kind)
    return library.IntegerNode(image, 0, int(limits.min), _NO_POINT if name == _INVALID else int(limits.max))
