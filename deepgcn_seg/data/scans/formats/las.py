"""LAS and LAZ: laspy reads headers, NumPy reads points, and lazrs decodes LAZ in a process of its own."""

import struct
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ....errors import UserError
from . import laz_decoder
from .bounds import Bounds, clean_names, renamed
from .colors import Colors
from .decoding import decoding
from .scan import AXES, COLORS, Scan
from .typed import LazyFields, exactly

# Most records of a header. Files have a handful, and each takes more memory than it has bytes.
_MAX_RECORDS = 1000
# The first version of LAS that has extra bytes and a list of records behind the points is 1.4.
_MINOR = 4
# The record of waveforms, and where a header has the byte at which it begins.
_WAVEFORMS, _WAVEFORMS_AT = (b"LASF_Spec", 65535), 227
# Records of COPC: LAZ whose chunks are the nodes of an octree.
_COPC = "copc"
# Bytes to take from the decoding process at a time.
_PIECE = 1 << 24
# Point formats without colours -> those with the same dimensions and colours.
_COLORED = {0: 2, 1: 3, 4: 5, 6: 7, 9: 10}
# What laspy calls coordinates, and the integers that they are stored as.
_COORDINATES, _INTEGERS = ("x", "y", "z"), ("X", "Y", "Z")
# The largest rounding of coordinates that is not worth a warning: half a millimetre, if their unit is the metre.
_ROUNDING = 0.0005


class _Original(NamedTuple):
    """A LAS file's header and points, as laspy has them."""

    header: Any
    record: Any

    @property
    def others(self) -> list[str]:
        """What other formats have no place for."""
        records = [*self.header.vlrs, *(self.header.evlrs or ())]
        return ["the coordinate reference system"] if any(r.user_id == "LASF_Projection" for r in records) else []


def _fields(record: Any) -> LazyFields:
    """Return the fields of laspy's points, unpacked when they are asked for: as arrays they take twice the memory."""
    makers = {axis: partial(_dimension, record, axis, None) for axis in _COORDINATES}
    for dimension, names in _field_names(record.point_format).items():
        numbers = range(len(names)) if len(names) > 1 else [None]
        makers |= {name: partial(_dimension, record, dimension, number) for name, number in zip(names, numbers)}
    return LazyFields(len(record), makers)


def _field_names(point_format: Any) -> dict[str, list[str]]:
    """Return the fields that each dimension becomes: one of its own name, or ``NAME_0``, ... for several values."""
    counts = {
        dimension.name: dimension.num_elements
        for dimension in point_format.dimensions
        if dimension.name not in _INTEGERS
    }
    every = [f"{name}_{n}" if count > 1 else name for name, count in counts.items() for n in range(count)]
    unique = iter(clean_names(every))
    return {name: [next(unique) for _ in range(count)] for name, count in counts.items()}


def _dimension(record: Any, name: str, number: int | None) -> np.ndarray:
    values = np.asarray(record[name], np.float64 if name in _COORDINATES else None)
    return values if number is None else values[:, number]


def _read_header(bounds: Bounds, file: BinaryIO) -> Any:
    """Read the header after comparing its sizes with the file.

    Raises:
        UserError: more records or points than the file holds or ``max_points``, or scales that give no coordinates.
    """
    import laspy

    head = file.read(375)
    if not head.startswith(b"LASF") or len(head) < 227:
        raise UserError(f"{bounds.path}: not a LAS file (no header)")
    size, points_at, records = struct.unpack_from("<HII", head, 94)
    bounds.check_size(f"points at byte {points_at:,}", points_at)
    _check_records(bounds, file, size, records, 54, "<H")
    if head[25] >= 4:
        if len(head) < 375:
            raise UserError(f"{bounds.path}: not a LAS file (no header)")
        at, count = struct.unpack_from("<QI", head, 235)
        _check_records(bounds, file, at, count, 60, "<Q")
    file.seek(0)
    header = laspy.LasHeader.read_from(file, read_evlrs=True)
    bounds.check_points(header.point_count)
    bounds.check_fields(sum(dimension.num_elements for dimension in header.point_format.dimensions))
    if not header.are_points_compressed:
        needed = header.offset_to_point_data + header.point_count * header.point_format.size
        bounds.check_size(f"{header.point_count:,} points", needed)
    scales, offsets = np.asarray(header.scales), np.asarray(header.offsets)
    if not (np.isfinite(scales).all() and np.isfinite(offsets).all() and scales.all()):
        raise UserError(f"{bounds.path}: its header has the scales {scales.tolist()}, offsets {offsets.tolist()}")
    waveforms_at = header.start_of_waveform_data_packet_record
    if header.version.minor == 3 and header.global_encoding.waveform_data_packets_internal and waveforms_at:
        # Version 1.3 has no list of records behind the points, but may have this one.
        _check_records(bounds, file, waveforms_at, 1, 60, "<Q")
        file.seek(waveforms_at)
        header.evlrs = laspy.vlrs.vlrlist.VLRList.read_from(file, 1, extended=True)
    return header


def _check_records(bounds: Bounds, file: BinaryIO, at: int, count: int, header: int, length: str) -> None:
    """Follow the records from one to the next, by the length that each has at byte 20, up to the last one's end."""
    if count > _MAX_RECORDS:
        raise UserError(f"{bounds.path}: its header claims {count:,} records; at most {_MAX_RECORDS:,} are read")
    for number in range(count):
        bounds.check_size(f"{count:,} records", at + header)
        file.seek(at + 20)
        at += header + struct.unpack(length, file.read(struct.calcsize(length)))[0]
        bounds.check_size(f"record {number + 1} of {count:,} to byte {at:,}", at)


def read_las(bounds: Bounds, columns: Sequence[str] | None) -> Scan:
    """Read a LAS file; compressed points are decoded."""
    import laspy

    with open(bounds.path, "rb") as file:
        header = _read_header(bounds, file)
        kinds, count = header.point_format.dtype(), header.point_count
        if header.are_points_compressed:
            rows = np.frombuffer(_decode(bounds, file, header), kinds) if count else np.empty(0, kinds)
            header.vlrs.extract("LasZipVlr")
            header.set_compressed(False)
        else:
            file.seek(header.offset_to_point_data)
            rows = np.fromfile(file, kinds, count)
    if len(rows) != count:
        raise UserError(f"{bounds.path}: its header claims {count:,} points, it has {len(rows):,}")
    empty, record = (
        laspy.ScaleAwarePointRecord(part, header.point_format, header.scales, header.offsets)
        for part in (rows[:0], rows)
    )
    # The index of COPC is of the places of points in this file, and laspy does not write it.
    header.vlrs[:] = [one for one in header.vlrs if one.user_id != _COPC]
    if header.evlrs:
        header.evlrs[:] = [one for one in header.evlrs if one.user_id != _COPC]
    # A name or type that laspy refuses must be an error here, not when the field is asked for.
    for make in _fields(empty).makers.values():
        make()
    return Scan(bounds.path, _fields(record), _Original(header, record))


def _decode(bounds: Bounds, file: BinaryIO, header: Any) -> bytearray:
    """Return the points of a LAZ file as in LAS. Memory grows with what is decoded, not with what the header claims."""
    width, count = header.point_format.size, header.point_count
    bounds.check_inflated(width * count)
    start = header.offset_to_point_data
    file.seek(start)
    table = int.from_bytes(file.read(8), "little")
    if 0 < table < bounds.size:
        file.seek(table + 4)
        chunks = int.from_bytes(file.read(4), "little")
        # Every chunk begins with a point that is not compressed.
        bounds.check_size(f"{chunks:,} chunks", start + chunks * width)
    described = header.vlrs.get("LasZipVlr")
    if not described:
        raise UserError(f"{bounds.path}: compressed points without the record that says how")
    description = described[0].record_data
    settings = [str(bounds.path.resolve()), *map(str, (start, width, count, _PIECE)), description.hex()]
    points = bytearray()
    with decoding(bounds.path, laz_decoder.__file__, settings) as decoded:
        while piece := decoded.read(_PIECE):
            points += piece
    return points


def write_las(path: Path, scan: Scan, notes: list[str], compress: bool = False) -> list[str]:
    """Write LAS with the header and dimensions of the file that the scan came from, and other fields as extra bytes.

    Raises:
        UserError: points without coordinates, which LAS cannot hold, or a classification beyond its bits.
    """
    import laspy

    new = scan.template is None
    colors = scan.colors if new else None
    las = _new_las(scan, colors) if new else _original_las(scan)
    done = {scan.field(*names) for names in AXES} | set(colors.fields if colors else ())
    changes = _rounded(las, scan.xyz) if new else []
    if las.header.version.minor < _MINOR:
        changes.append(f"version {las.header.version} of LAS becomes 1.{_MINOR}, the first that has extra bytes")
        las.header.version = laspy.header.Version(1, _MINOR)
    fields = {name: scan.fields[name] for name in scan.fields if name not in done}
    if not new and (widened := _bytes_of_16_bits(scan)):
        fields |= widened
        las, change = _with_colors(las)
        changes += change
    changes += _write_own(las, fields)
    standard = set(las.point_format.standard_dimension_names)
    added: list[str] = []
    for name in list(fields):
        if name in standard and name not in _INTEGERS and _write_exactly(las, name, fields[name]):
            del fields[name]
        elif name in standard:
            # These values must not be changed to fit a dimension of the format, so the field gets another name.
            added.append(f"{name}_input")
            changes.append(f"field {name} is written as {added[-1]}, because LAS has no room for its values")
        else:
            added.append(name)
    # LAS has 32 bytes for a name, and no two dimensions of one name.
    there = list(las.point_format.dimension_names)
    names = clean_names([*there, *added], most=32, ascii_only=True)[len(there) :]
    changes += renamed(added, names)
    las.add_extra_dims([laspy.ExtraBytesParams(name, values.dtype) for name, values in zip(names, fields.values())])
    for name, values in zip(names, fields.values()):
        las[name] = values
    with open(path, "w+b") as file:
        # Texts of the header that are not ASCII stay as they are.
        with laspy.LasWriter(file, las.header, compress, closefd=False, encoding_errors="ignore") as writer:
            writer.write_points(las.points)
            if las.evlrs:
                writer.write_evlrs(las.evlrs)
        _point_to_waveforms(file)
    return changes


def _point_to_waveforms(file: BinaryIO) -> None:
    """Write into the header of a LAS file where its record of waveforms begins, or 0 if it has none."""
    file.seek(235)
    at, count = struct.unpack("<QI", file.read(12))
    found = 0
    for _ in range(count):
        file.seek(at)
        user, number, length = struct.unpack("<2x16sHQ", file.read(28))
        if (user.split(b"\0")[0], number) == _WAVEFORMS:
            found = at
        at += 60 + length
    file.seek(_WAVEFORMS_AT)
    file.write(struct.pack("<Q", found))


def _original_las(scan: Scan) -> Any:
    """Return the points and header that the scan came with, as a copy: the scan may be written again."""
    import laspy

    header, record = scan.template
    points = laspy.ScaleAwarePointRecord(record.array.copy(), record.point_format, record.scales, record.offsets)
    return laspy.LasData(deepcopy(header), points)


def _bytes_of_16_bits(scan: Scan) -> dict[str, np.ndarray]:
    """Return the fields of colours (N,) uint16 if they are bytes, such as the colours of classes, else nothing."""
    colors = {name: scan.fields[name] for name in COLORS[0] if name in scan.fields}
    if len(colors) < len(COLORS[0]) or any(values.dtype != np.uint8 for values in colors.values()):
        return {}
    return {name: values.astype(np.uint16) * 257 for name, values in colors.items()}


def _with_colors(las: Any) -> tuple[Any, list[str]]:
    """Return the file in a point format that has colours, and a line if it had none. Extra bytes of their names go."""
    import laspy

    before = las.point_format.id
    if before not in _COLORED:
        return las, []
    las.remove_extra_dims([name for name in COLORS[0] if name in las.point_format.extra_dimension_names])
    found = laspy.convert(las, point_format_id=_COLORED[before])
    return found, [f"point format {before} becomes {_COLORED[before]}, which has colours"]


def _new_las(scan: Scan, colors: Colors | None) -> Any:
    """Return points and a header for a scan of another format, with its coordinates and colours alone.

    Args:
        colors: in three fields, which keep up to 16 bits. Without them, packed ones are written.
    """
    import laspy

    xyz, packed = scan.xyz, None if colors else scan.rgb
    words = colors.words if colors else None if packed is None else packed.astype(np.uint16) * 257
    if not np.isfinite(xyz).all():
        raise UserError("LAS cannot hold points without coordinates; write another format")
    header = laspy.LasHeader(point_format=6 if words is None else 7, version="1.4")
    header.offsets = np.floor(xyz.min(0))
    # The scale is the finest power of ten whose multiples fit 32 bits.
    extent = max(float((xyz - header.offsets).max()), 1e-3)
    header.scales = np.full(3, 10.0 ** np.ceil(np.log10(extent / (2**31 - 1))))
    las = laspy.LasData(header)
    las.x, las.y, las.z = xyz.T
    if words is not None:
        las.red, las.green, las.blue = words.T
    return las


def _rounded(las: Any, xyz: np.ndarray) -> list[str]:
    """Return a line if LAS rounds coordinates by more than ``_ROUNDING``, or to fewer decimals than they have."""
    step = float(las.header.scales[0])
    error = max(float(np.abs(np.asarray(las[axis]) - values).max()) for axis, values in zip("xyz", xyz.T))
    if round(error, 6) <= _ROUNDING and not (error > step / 2000 and _has_finer_step(xyz, step)):
        return []
    extent = float(np.ptp(xyz, axis=0).max())
    return [
        f"coordinates are rounded by up to {error:.1g}, because LAS has integers of 32 bits and the points extend over "
        f"{extent:,.0f}; leave out stray points far away, or write another format"
    ]


def _has_finer_step(xyz: np.ndarray, step: float) -> bool:
    """Return whether all coordinates are decimal numbers with up to three digits more than ``step``, a power of ten."""
    for more in (10, 100, 1000):
        scaled = xyz * round(more / step) if step < more else xyz / (step / more)
        noise = 4 * np.finfo(np.float64).eps * float(np.abs(scaled).max())
        # Beyond this, float64 cannot tell whole numbers from others.
        if noise > 0.01:
            return False
        if (np.abs(scaled - np.rint(scaled)) <= noise).all():
            return True
    return False


def _write_own(las: Any, fields: dict[str, np.ndarray]) -> list[str]:
    """Write fields into the extra bytes that they come from, and take them out of ``fields``.

    Extra bytes that do not hold what a field has now, or of which no field is left, are removed.

    Returns:
        A line for each dimension of several values that is removed: its values are written as single fields.
    """
    removed, changes = [], []
    names = _field_names(las.point_format)
    for dimension in las.point_format.extra_dimension_names:
        parts = names[dimension]
        found = [fields[part] for part in parts if part in fields]
        # A field of the name of several others, such as a new label, takes their place.
        whole = len(found) == len(parts) and not (len(parts) > 1 and dimension in fields)
        if whole and _write_exactly(las, dimension, np.stack(found, 1) if len(parts) > 1 else found[0]):
            for part in parts:
                del fields[part]
            continue
        removed.append(dimension)
        if len(parts) > 1 and found:
            changes.append(f"field {dimension} is written as {', '.join(part for part in parts if part in fields)}")
    las.remove_extra_dims(removed)
    return changes


def _write_exactly(las: Any, name: str, values: np.ndarray) -> bool:
    """Write values into a dimension and return whether it holds them exactly; if not, it is as before."""
    before = np.array(las[name])
    cast = exactly(values, before.dtype)
    if cast is None:
        return False
    # The dimension may have fewer bits than its type.
    with suppress(OverflowError, ValueError):
        las[name] = cast
    if np.array_equal(np.asarray(las[name]), cast, equal_nan=True):
        return True
    las[name] = before
    return False
