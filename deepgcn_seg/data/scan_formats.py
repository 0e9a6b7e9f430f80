"""How each format of :mod:`deepgcn_seg.data.scan` is read and written."""

import io
import re
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv

from ..errors import UserError
from .scan import COLORS, Scan

COLOR_NAMES = COLORS[0]

Columns = Sequence[str] | None

# What LAS and LAZ readers decode at a time.
CHUNK_BYTES = 1 << 26


@dataclass(frozen=True)
class Format:
    """read(path, columns) -> Scan; write(path, scan, notes)."""

    read: Callable[[Path, Columns], Scan]
    write: Callable[[Path, Scan, list[str]], None]


def column_names(path: Path, count: int, columns: Columns) -> list[str]:
    """Names of ``count`` unnamed columns.

    Raises:
        UserError: as many as that have no usual meaning, or other than ``columns``.
    """
    if columns is not None:
        if len(columns) != count:
            raise UserError(f"{path}: {count} columns, but columns names {len(columns)}: {', '.join(columns)}")
        return list(columns)
    usual = {
        3: ["x", "y", "z"],
        4: ["x", "y", "z", "intensity"],
        6: ["x", "y", "z", "red", "green", "blue"],
        7: ["x", "y", "z", "red", "green", "blue", "label"],
    }
    if count not in usual:
        raise UserError(f"{path}: {count} columns without names; say which they are (columns=[x,y,z,...])")
    return usual[count]


def _structured(fields: dict[str, np.ndarray]) -> np.ndarray:
    rows = np.empty(len(next(iter(fields.values()))), [(name, values.dtype) for name, values in fields.items()])
    for name, values in fields.items():
        rows[name] = values
    return rows


# -- PLY ----------------------------------------------------------------------------------------

_PLY_SIZES = {
    "char": 1, "int8": 1, "uchar": 1, "uint8": 1, "short": 2, "int16": 2, "ushort": 2, "uint16": 2,
    "int": 4, "int32": 4, "uint": 4, "uint32": 4, "float": 4, "float32": 4, "double": 8, "float64": 8,
}  # fmt: skip


def _check_ply_header(path: Path) -> None:
    """Refuse elements that the file is too small for."""
    with open(path, "rb") as file:
        head = file.read(1 << 16)
    end = head.find(b"end_header")
    if not head.startswith(b"ply") or end < 0:
        raise UserError(f"{path}: not a PLY file (no header)")
    ascii_rows = b"format ascii" in head[:end]
    # Count and smallest size of each element's rows.
    elements: list[list[int]] = []
    for line in head[:end].decode("latin-1").splitlines():
        words = line.split()
        if words[:1] == ["element"] and len(words) == 3:
            elements.append([int(words[2]), 0])
        elif words[:1] == ["property"] and len(words) >= 3 and elements:
            kind = words[2] if words[1] == "list" else words[1]
            elements[-1][1] += 2 if ascii_rows else _PLY_SIZES.get(kind, 1)
    needed = sum(count * max(size, 1) for count, size in elements)
    if needed > path.stat().st_size:
        raise UserError(f"{path}: its header claims at least {needed:,} bytes, the file has {path.stat().st_size:,}")


def _read_ply(path: Path, columns: Columns) -> Scan:
    from plyfile import PlyData

    _check_ply_header(path)
    content = PlyData.read(str(path))
    if "vertex" not in content:
        raise UserError(f"{path}: no element vertex")
    rows = content["vertex"].data
    fields = {name: rows[name] for name in rows.dtype.names or () if rows[name].dtype != object}
    return Scan(path, fields, content)


def _write_ply(path: Path, scan: Scan, notes: list[str]) -> None:
    from plyfile import PlyData, PlyElement

    rows = _structured({name: _ply_type(values) for name, values in scan.fields.items()})
    elements, comments = [PlyElement.describe(rows, "vertex")], list(notes)
    if scan.template is not None:
        elements += [element for element in scan.template.elements if element.name != "vertex"]
        comments = [*scan.template.comments, *notes]
    PlyData(elements, comments=comments, byte_order="<").write(str(path))


def _ply_type(values: np.ndarray) -> np.ndarray:
    """PLY has no 64-bit integers and no booleans."""
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        fits = len(values) == 0 or (values.min() >= -(2**31) and values.max() < 2**31)
        return values.astype(np.int32 if fits else np.float64)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


# -- LAS, LAZ -----------------------------------------------------------------------------------


def _check_las_header(path: Path) -> None:
    """Refuse more records, points or chunks than the file is large enough for."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(375)
        if not head.startswith(b"LASF") or len(head) < 227:
            raise UserError(f"{path}: not a LAS file (no header)")
        start, points_at, records = struct.unpack_from("<HII", head, 94)
        form, width, points = struct.unpack_from("<BHI", head, 104)
        extended_at, extended = 0, 0
        if head[25] >= 4 and len(head) == 375:
            extended_at, extended, points = struct.unpack_from("<QIQ", head, 235)
        compressed, chunks = bool(form & 0xC0), 0
        if compressed:
            file.seek(points_at)
            table = int.from_bytes(file.read(8), "little")
            if 0 < table < size:
                file.seek(table + 4)
                chunks = int.from_bytes(file.read(4), "little")
    claims = {
        f"{records:,} records": start + 54 * records,
        f"{extended:,} extended records": extended_at + 60 * extended if extended else 0,
        # Every chunk begins with a point as it is.
        f"{chunks:,} chunks": points_at + chunks * width,
        f"{points:,} points": 0 if compressed else points_at + points * width,
    }
    for what, needed in claims.items():
        if needed > size:
            raise UserError(f"{path}: its header claims {what}, more than the file holds")


def _read_las(path: Path, columns: Columns) -> Scan:
    import laspy

    _check_las_header(path)
    with laspy.open(str(path)) as reader:
        header = reader.header
        # In chunks: a header's count alone must not decide how much memory is taken.
        chunk = max(CHUNK_BYTES // max(header.point_format.size, 1), 1)
        records = [part.array for part in reader.chunk_iterator(chunk)]
    if sum(map(len, records)) != header.point_count:
        raise UserError(f"{path}: its header claims {header.point_count:,} points, it has {sum(map(len, records)):,}")
    rows = np.concatenate(records) if records else np.empty(0, header.point_format.dtype())
    record = laspy.ScaleAwarePointRecord(rows, header.point_format, header.scales, header.offsets)
    fields = {axis: np.asarray(record[axis], np.float64) for axis in "xyz"}
    for name in header.point_format.dimension_names:
        if name not in "XYZ":
            values = np.asarray(record[name])
            fields |= {name: values} if values.ndim == 1 else {f"{name}_{i}": part for i, part in enumerate(values.T)}
    return Scan(path, fields, (header, record))


# The LAZ decoder believes the sizes in a file, and a wrong one ends the process that decodes.
_DECODE = f"""
import resource, sys, laspy
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
with laspy.open(sys.argv[1]) as source:
    with laspy.open(sys.argv[2], "w", header=source.header, do_compress=False) as target:
        for points in source.chunk_iterator({CHUNK_BYTES} // max(source.header.point_format.size, 1)):
            target.write_points(points)
"""


def _read_laz(path: Path, columns: Columns) -> Scan:
    """Decode in a process of its own, in chunks, to a file that can be checked as any LAS."""
    _check_las_header(path)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "decoded.las"
        done = subprocess.run([sys.executable, "-c", _DECODE, str(path), str(plain)], capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UserError(f"{path}: not a readable LAZ file ({last[:150]})")
        scan = _read_las(plain, columns)
    return replace(scan, path=path)


def _write_las(path: Path, scan: Scan, notes: list[str], compress: bool = False) -> None:
    import laspy

    if scan.template is not None:
        las = laspy.LasData(*scan.template)
    else:
        las = _new_las(scan)
    done = {"x", "y", "z"} | (set(COLOR_NAMES) if scan.template is None and scan.rgb is not None else set())
    standard = set(las.point_format.dimension_names)
    added: dict[str, np.ndarray] = {}
    for name, values in scan.fields.items():
        if name.lower() in done or (name in standard and _fits(las, name, values)):
            continue
        # A dimension of the format that cannot hold these values must not get others.
        added[(f"{name}_input" if name in standard else name)[:32]] = _las_type(values)
    las.add_extra_dims([laspy.ExtraBytesParams(name, values.dtype) for name, values in added.items()])
    for name, values in added.items():
        las[name] = values
    with open(path, "wb") as file:
        las.write(file, do_compress=compress)


def _new_las(scan: Scan) -> Any:
    import laspy

    colors, xyz = scan.rgb, scan.xyz
    header = laspy.LasHeader(point_format=6 if colors is None else 7, version="1.4")
    header.offsets = np.floor(xyz.min(0))
    # The finest decimal step whose multiples fit 32 bits.
    extent = max(float((xyz - header.offsets).max()), 1e-3)
    header.scales = np.full(3, 10.0 ** np.ceil(np.log10(extent / (2**31 - 1))))
    las = laspy.LasData(header)
    las.x, las.y, las.z = xyz.T
    if colors is not None:
        las.red, las.green, las.blue = (colors.astype(np.uint16) * 257).T
    return las


def _fits(las: Any, name: str, values: np.ndarray) -> bool:
    """Put values into a dimension of the format, if that holds them exactly."""
    before = np.array(las[name])
    cast = values.astype(before.dtype)
    if not np.array_equal(cast, values):
        return False
    try:
        las[name] = cast
    except (OverflowError, ValueError):
        # Fewer bits than its type has.
        las[name] = before
        return False
    return True


def _las_type(values: np.ndarray) -> np.ndarray:
    return (
        values.astype(np.uint8) if values.dtype == bool else values.astype(values.dtype.newbyteorder("="), copy=False)
    )


# -- PCD ----------------------------------------------------------------------------------------


def _check_pcd_header(path: Path) -> None:
    """Refuse more points than the file is large enough for."""
    with open(path, "rb") as file:
        head = file.read(1 << 14)
    found = dict(re.findall(rb"(?m)^(\w+) +(.*?)\r?$", head[: max(head.find(b"\nDATA"), 0) + 40]))
    try:
        points, encoding = int(found[b"POINTS"]), found[b"DATA"].strip()
        sizes, counts = ([int(v) for v in found.get(name, b"").split()] for name in (b"SIZE", b"COUNT"))
    except (KeyError, ValueError):
        raise UserError(f"{path}: not a PCD file (no readable header)") from None
    row = sum(size * count for size, count in zip(sizes, counts or [1] * len(sizes)))
    if encoding == b"ascii":
        row = 2 * len(sizes)
    elif encoding == b"binary_compressed":
        # LZF's longest match is 264 bytes, written as 3.
        row /= 88
    if points * row > path.stat().st_size + 2:
        raise UserError(f"{path}: its header claims {points:,} points, more than the file holds")


def _read_pcd(path: Path, columns: Columns) -> Scan:
    from pypcd4 import PointCloud

    _check_pcd_header(path)
    rows = np.atleast_1d(PointCloud.from_path(path).pc_data)
    fields = {name: rows[name] for name in rows.dtype.names if not name.startswith("#")}
    if "rgb" in fields or "rgba" in fields:
        # Three bytes in a float or integer of four.
        packed = np.ascontiguousarray(fields.pop("rgb" if "rgb" in fields else "rgba")).view(np.uint32)
        fields |= {name: (packed >> shift & 255).astype(np.uint8) for name, shift in zip(COLOR_NAMES, (16, 8, 0))}
    return Scan(path, fields)


def _write_pcd(path: Path, scan: Scan, notes: list[str]) -> None:
    from pypcd4 import Encoding, PointCloud

    fields = dict(scan.fields)
    if all(fields.get(name, np.empty(0, int)).dtype == np.uint8 for name in COLOR_NAMES):
        red, green, blue = (fields.pop(name).astype(np.uint32) for name in COLOR_NAMES)
        fields["rgb"] = (red << 16 | green << 8 | blue).view(np.float32)
    fields = {name: values.astype(np.uint8) if values.dtype == bool else values for name, values in fields.items()}
    cloud = PointCloud.from_points(
        list(fields.values()), list(fields), [values.dtype.type for values in fields.values()]
    )
    with open(path, "wb") as file:
        cloud.save(file, encoding=Encoding.BINARY)


# -- NumPy --------------------------------------------------------------------------------------

_VECTORS = {"xyz": "xyz", "points": "xyz", "pos": "xyz", "coord": "xyz", "coords": "xyz"} | dict.fromkeys(
    ("rgb", "color", "colors", "colours"), COLOR_NAMES
)


def _array_fields(path: Path, rows: np.ndarray, columns: Columns) -> dict[str, np.ndarray]:
    if rows.dtype.names:
        return {name: rows[name] for name in rows.dtype.names}
    if rows.ndim != 2 or rows.dtype.kind not in "fiub":
        raise UserError(f"{path}: must be (N, columns) numbers or have named fields, is {rows.dtype} {rows.shape}")
    return dict(zip(column_names(path, rows.shape[1], columns), rows.T))


def _read_npy(path: Path, columns: Columns) -> Scan:
    # Mapped: compares the claimed shape with the file, and cannot unpickle.
    return Scan(path, _array_fields(path, np.load(path, mmap_mode="r", allow_pickle=False), columns))


def _write_npy(path: Path, scan: Scan, notes: list[str]) -> None:
    with open(path, "wb") as file:
        np.save(file, _structured(scan.fields), allow_pickle=False)


def _read_npz(path: Path, columns: Columns) -> Scan:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            with archive.open(info) as member:
                _check_npy_member(path, member, info.file_size)
    fields: dict[str, np.ndarray] = {}
    arrays: dict[str, np.ndarray] = {}
    with np.load(path, allow_pickle=False) as content:
        for key in content.files:
            arrays[key] = values = content[key]
            if values.ndim == 2 and values.shape[1] == 3 and key.lower() in _VECTORS:
                fields |= dict(zip(_VECTORS[key.lower()], values.T))
            elif values.ndim == 2 and len(content.files) == 1:
                fields |= _array_fields(path, values, columns)
            elif values.ndim == 1:
                fields[key] = values
    length = len(fields.get("x", ()))
    return Scan(path, {name: values for name, values in fields.items() if len(values) == length}, arrays)


def _check_npy_member(path: Path, member: Any, size: int) -> None:
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(member)
    if int(np.prod(shape, dtype=object)) * dtype.itemsize > size:
        raise UserError(f"{path}: an array claims the shape {shape}, more than the file holds")


def _write_npz(path: Path, scan: Scan, notes: list[str]) -> None:
    kept = scan.template or {}
    names = {name for key in kept for name in _VECTORS.get(key.lower(), ())}
    with open(path, "wb") as file:
        np.savez(file, **kept, **{n: v for n, v in scan.fields.items() if n not in kept and n not in names})


# -- text ---------------------------------------------------------------------------------------


def _read_text(path: Path, columns: Columns) -> Scan:
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if b"\x00" in content[:4096]:
        raise UserError(f"{path}: not text (it holds NUL bytes)")
    comment, body = _without_comments(content)
    first, _, rest = body.partition(b"\n")
    delimiter = next((mark for mark in (",", ";") if mark.encode() in first), " ")
    names = comment and _words(comment, "," if b"," in comment else delimiter)
    if not _numeric(first, delimiter):
        names, body = _words(first, delimiter), rest
    elif path.suffix.lower() == ".pts" and first.strip().isdigit():
        # Leica's: the number of points on a line of its own.
        body = rest
    if not body.strip():
        raise UserError(f"{path}: no points")
    if delimiter == " ":
        body = re.sub(rb"(?m)^ | ?\r?$", b"", re.sub(rb"[ \t]+", b" ", body))
    table = csv.read_csv(
        io.BytesIO(body),
        read_options=csv.ReadOptions(autogenerate_column_names=True),
        parse_options=csv.ParseOptions(delimiter=delimiter, quote_char=False),
        convert_options=csv.ConvertOptions(strings_can_be_null=False),
    )
    for number, column in enumerate(table.columns):
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)) or column.null_count:
            raise UserError(f"{path}: column {number + 1} is not all numbers")
    named = names is not None and len(names) == len(set(names)) == table.num_columns
    chosen = names if named and names else column_names(path, table.num_columns, columns)
    fields = {name: column.to_numpy() for name, column in zip(chosen, table.columns)}
    return Scan(path, fields, delimiter)


def _without_comments(content: bytes) -> tuple[bytes | None, bytes]:
    """The last comment line on top, without its mark, and what follows."""
    comment = None
    while content.startswith((b"#", b"//", b"\n", b"\r\n")):
        line, _, content = content.partition(b"\n")
        comment = line.strip().lstrip(b"#/ ") or comment
    return comment, content


def _words(line: bytes, delimiter: str) -> list[str]:
    text = line.decode("latin-1").strip()
    return [word.strip().strip('"') for word in (text.split() if delimiter == " " else text.split(delimiter))]


def _numeric(line: bytes, delimiter: str) -> bool:
    try:
        return bool([float(word) for word in _words(line, delimiter)])
    except ValueError:
        return False


def _write_text(path: Path, scan: Scan, notes: list[str], delimiter: str = " ") -> None:
    delimiter = scan.template or delimiter
    with open(path, "wb") as file:
        file.write("".join(f"# {note}\n" for note in notes).encode())
        # A file without names gets them all the same: the new columns would be a riddle.
        file.write((delimiter.join(scan.fields) + "\n").encode())
        options = csv.WriteOptions(include_header=False, delimiter=delimiter, quoting_style="none")
        csv.write_csv(pa.table({name: np.ascontiguousarray(v) for name, v in scan.fields.items()}), file, options)


_TEXT = Format(_read_text, _write_text)
FORMATS = {
    ".ply": Format(_read_ply, _write_ply),
    ".las": Format(_read_las, _write_las),
    ".laz": Format(_read_laz, partial(_write_las, compress=True)),
    ".pcd": Format(_read_pcd, _write_pcd),
    ".npy": Format(_read_npy, _write_npy),
    ".npz": Format(_read_npz, _write_npz),
    ".csv": Format(_read_text, partial(_write_text, delimiter=",")),
    ".txt": _TEXT, ".xyz": _TEXT, ".asc": _TEXT, ".pts": _TEXT,
}  # fmt: skip
