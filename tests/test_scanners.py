"""Scans as laser scanners write them: E57, PTX, PTS of several scans, and COPC."""

import io
import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import laspy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scan import NEEDS_PYE57, scan, write

from deepgcn_seg.commands.predict import write_labelled
from deepgcn_seg.data.classes import ClassList
from deepgcn_seg.data.labelled_scans import Labelling, read_labelled_room
from deepgcn_seg.data.scans import format_table
from deepgcn_seg.data.scans.files import read_scan, write_scan
from deepgcn_seg.data.scans.formats.bounds import Bounds
from deepgcn_seg.data.scans.formats.scan import Scan
from deepgcn_seg.data.scans.formats.text import read_text
from deepgcn_seg.errors import UserError
from deepgcn_seg.inference.segmenter import Prediction

RNG = np.random.default_rng(0)
# A turn by 90 degrees about z, and one about an axis of no symmetry, as quaternions w, x, y, z.
QUARTER = (np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5))
ASKEW = tuple(np.array([0.8, 0.1, -0.5, 0.3]) / np.linalg.norm([0.8, 0.1, -0.5, 0.3]))
CLASSES = ClassList.of(("wall", "floor", "Möbel"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
MOVED = (500_000.25, 5_400_000.5, 100.0)


def turned(quaternion, xyz):
    """Points (N, 3) turned by a unit quaternion q: the vector part of q p q*, by Hamilton's product."""

    def product(a, b):
        vector = a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:] + np.cross(a[..., 1:], b[..., 1:])
        return np.concatenate([a[..., :1] * b[..., :1] - (a[..., 1:] * b[..., 1:]).sum(-1, keepdims=True), vector], -1)

    q = np.broadcast_to(quaternion, (len(xyz), 4))
    return product(product(q, np.c_[np.zeros(len(xyz)), xyz]), q * [1, -1, -1, -1])[:, 1:]


# -- PTX -------------------------------------------------------------------------------------------


def ptx(rows, columns=2, quaternion=(1, 0, 0, 0), translation=(0, 0, 0)):
    """A scan as text. rows: the lines of points, a multiple of ``columns``."""
    axes = turned(quaternion, np.eye(3))
    matrix = [*(f"{x!r} {y!r} {z!r} 0" for x, y, z in axes.tolist()), " ".join(map(repr, translation)) + " 1"]
    header = [
        columns,
        len(rows) // columns,
        " ".join(map(repr, translation)),
        *(line[:-2] for line in matrix[:3]),
        *matrix,
    ]
    return "".join(f"{line}\n" for line in [*header, *rows])


POINTS = np.round(RNG.uniform(-9, 9, (6, 3)), 3)
ROWS = [f"{x} {y} {z} 0.{n}" for n, (x, y, z) in enumerate(POINTS.tolist())]
COLORED = [f"{row} {n} 20 255" for n, row in enumerate(ROWS)]


@pytest.mark.parametrize("quaternion", [QUARTER, ASKEW])
def test_ptx_is_one_cloud_in_shared_coordinates(tmp_path, quaternion):
    text = ptx(ROWS, 2, quaternion, MOVED) + ptx(ROWS[:4], 1)
    found = read_scan(write(tmp_path / "a.ptx", text))
    assert np.allclose(found.xyz, np.r_[turned(quaternion, POINTS) + MOVED, POINTS[:4]], rtol=0, atol=1e-8)
    assert found.fields["scan"].tolist() == [0] * 6 + [1] * 4
    assert found.fields["intensity"].tolist() == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0, 0.1, 0.2, 0.3]
    assert found.rgb is None


def test_ptx_keeps_points_without_a_return_in_place_and_colours(tmp_path):
    rows = [*COLORED[:2], "0 0 0 0.5 0 0 0", *COLORED[3:]]
    for newline in ("\n", "\r\n"):
        found = read_scan(write(tmp_path / "a.ptx", ptx(rows, 3, QUARTER, MOVED).replace("\n", newline).encode()))
        assert np.isnan(found.xyz).all(1).tolist() == [False, False, True, False, False, False]
        assert found.rgb[:, 0].tolist() == [0, 1, 0, 3, 4, 5] and found.rgb.dtype == np.uint8
        assert "scan" not in found.fields


def test_ptx_of_millimetres_and_metres(tmp_path):
    text = ptx(ROWS[:4]) + ptx(ROWS[:2], 1, QUARTER, MOVED)
    scaled = text.replace("1.0 0.0 0.0 0\n0.0 1.0 0.0 0\n0.0 0.0 1.0 0", "0.001 0 0 0\n0 0.001 0 0\n0 0 0.001 0", 1)
    assert scaled != text
    found = read_scan(write(tmp_path / "a.ptx", scaled))
    expected = np.r_[POINTS[:4] / 1000, turned(QUARTER, POINTS[:2]) + MOVED]
    assert np.allclose(found.xyz, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_ptx_of_any_system(tmp_path, newline, mark):
    text = mark + (ptx(COLORED, 3, ASKEW, MOVED) + ptx(COLORED[:2], 1)).replace("\n", newline)
    found = read_scan(write(tmp_path / "a.ptx", text.encode()))
    assert np.allclose(found.xyz, np.r_[turned(ASKEW, POINTS) + MOVED, POINTS[:2]], rtol=0, atol=1e-8)
    assert found.rgb[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 0, 1]


def test_colours_of_ptx_are_bytes_or_fractions_in_each_scan(tmp_path):
    def rows(*colors):
        return [f"1 2 3 0.5 {color}" for color in colors]

    text = ptx(rows("0 1 1", "1 0 0"), 1) + ptx(rows("0.0 0.5 1.0", "0.2 0 1"), 1) + ptx(rows("255.0 1.0 7"), 1)
    expected = [[0, 1, 1], [1, 0, 0], [0, 128, 255], [51, 0, 255], [255, 1, 7]]
    assert read_scan(write(tmp_path / "a.ptx", text)).rgb.tolist() == expected


@pytest.mark.parametrize("zero", ["0 0 0 0.5", " 0.000\t0.000 0.000 0.500000 ", "-0 0. +0 1"])
@pytest.mark.parametrize("places", [[0], [0, 1, 2], [3, 5], [5], range(6)])
def test_lines_of_ptx_without_a_return_may_lack_colours(tmp_path, zero, places):
    rows = [zero if number in places else row for number, row in enumerate(COLORED)]
    found = read_scan(write(tmp_path / "a.ptx", ptx(rows, 2, QUARTER, MOVED) + ptx(COLORED[4:], 1)))
    missing = np.isin(np.arange(8), list(places))
    assert np.array_equal(np.isnan(found.xyz).all(1), missing)
    expected = np.r_[turned(QUARTER, POINTS) + MOVED, POINTS[4:]]
    assert np.allclose(found.xyz[~missing], expected[~missing], rtol=0, atol=1e-8)
    assert np.array_equal(found.rgb[:, 0], np.where(missing, 0, [*range(6), 4, 5]))
    # A line with a return must have them.
    with pytest.raises(UserError, match="line 16 has 4 columns, not 7"):
        read_scan(write(tmp_path / "b.ptx", ptx([*COLORED[:5], "0 0 1 0.5"])))


def test_a_field_that_some_scans_lack_is_said(tmp_path, caplog):
    found = read_scan(write(tmp_path / "a.ptx", ptx(ROWS) + ptx(COLORED)))
    assert found.rgb[:, 2].tolist() == [0] * 6 + [255] * 6
    assert "1 of 2 scans have no field red, the first of them scan 0; the points there have 0" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ptx(ROWS).replace("2\n3\n", "2\n4\n", 1), "its header claims 2 lines more than the file holds"),
        (ptx(ROWS).replace("2\n3\n", "2\n900000\n", 1), "its header claims 1,800,000 points, more than the file holds"),
        (ptx(ROWS).replace("2\n3\n", "1000000\n1000000\n", 1), "more than max_points=200,000,000"),
        (ptx(ROWS).replace("2\n3\n", "2e6\n3\n", 1), "line 1: a scan of 2e.06 columns and 3 rows"),
        (ptx(ROWS).replace("2\n3\n", "2\n-3\n", 1), "line 1: a scan of 2 columns and -3 rows"),
        (ptx(ROWS).replace("2\n3\n", "2\n2.5\n", 1), "line 1: a scan of 2 columns and 2.5 rows"),
        (ptx(ROWS).replace("2\n3\n", "2\n2\n", 1), "line 15 is no line 1 of the header of a scan, which has 1 number: "),
        (ptx(ROWS, translation=(np.nan, 0, 0)), "line 3 is no line 3 of the header"),
        (ptx(ROWS).replace("0 0 0 1\n", "0 0 0 2\n"), "line 7: .* is no matrix of a scan"),
        (ptx(ROWS).replace("0 0 0 1\n", "0 0 0 2\n"), "its last column must be 0 0 0 1"),
        (ptx(ROWS, quaternion=(1e-9, 0, 0, 0)), "line 7: .* is no matrix of a scan: it scales points by 1e-18, 1e-18, 1e-18; each must be in 1e-09..1e.09"),
        (ptx([f"{row} 0.5 0.5 1.5" for row in ROWS]), r"colours \(red\) that are not whole numbers in 0..255, nor fractions"),
        (ptx([f"{row} 0.5 0.5 -0.5" for row in ROWS]), r"colours \(blue\) that are not whole numbers in 0..255, nor fractions"),
        (ptx([]), "no points"),
        ("", "no points"),
        ("\n \n", "no points"),
        (ptx([*ROWS[:5], "1 2 3"]), "line 16 has 3 columns, not 4 as the first"),
        (ptx(ROWS) + ptx([*ROWS[:5], "1 2 3"]), "line 32 has 3 columns, not 4 as the first"),
        (ptx(["1.25 2.5 3.75"] * 6), "line 11 has 3 words; a point has 4"),
        (ptx([*ROWS[:5], "1 2 x 4"]), r"line 16, column 3 \(z\) is no number: x"),
        (ptx([*ROWS[:5], ""]), "its header claims 1 lines more than the file holds"),
        (ptx([*ROWS[:5], "# none"]), "claims 6 points, it has 5"),
        (ptx([f"{row} 1 2 256" for row in ROWS]), r"colours \(blue\) that are not whole numbers in 0..255"),
        (ptx([f"{row} 1 nan 25" for row in ROWS]), r"colours \(green\) that are not whole numbers"),
        (ptx(["0 0 0 0"] * 6), "no points with coordinates"),
        ("x\n" * 20, "line 1 is no line 1 of the header of a scan, which has 1 number: x"),
    ],
)  # fmt: skip
def test_ptx_that_is_wrong_is_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=f"a.ptx: .*{message}") as raised:
        read_scan(write(tmp_path / "a.ptx", text)).xyz  # noqa: B018
    assert "\n" not in str(raised.value)


def test_points_of_all_scans_are_counted_together(tmp_path):
    path = write(tmp_path / "a.ptx", ptx(ROWS) + ptx(ROWS))
    assert len(read_scan(path, max_points=12)) == 12
    with pytest.raises(UserError, match="12 points, more than max_points=11"):
        read_scan(path, max_points=11)
    path = write(tmp_path / "a.pts", "6\n" + "\n".join(ROWS) + "\n6\n" + "\n".join(ROWS))
    with pytest.raises(UserError, match="12 points, more than max_points=11"):
        read_scan(path, max_points=11)


def test_ptx_is_only_read(tmp_path):
    with pytest.raises(UserError, match="a.ptx: PTX is only read; write one of .ply, "):
        write_scan(tmp_path / "a.ptx", scan(5), {})


@pytest.mark.parametrize("suffix", [".ptx", ".pts"])
def test_text_that_ends_anywhere_is_an_error_or_whole_lines(tmp_path, suffix):
    text = (
        ptx(ROWS) + ptx(ROWS[:2])
        if suffix == ".ptx"
        else "6\n" + "\n".join(ROWS) + "\n2\n" + "\n".join(ROWS[:2]) + "\n"
    )
    read = 0
    for end in range(0, len(text), 3):
        try:
            found = read_scan(write(tmp_path / f"a{suffix}", text[:end]))
        except UserError as error:
            assert str(tmp_path) in str(error) and "\n" not in str(error)  # noqa: PT017
            continue
        # The file ends behind a scan, or within the last number.
        assert len(found) in (6, 8)
        assert np.allclose(found.xyz, POINTS[[*range(6), 0, 1]][: len(found)])
        read += 1
    assert 1 <= read <= 5


# -- PTS -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [3, 4, 6, 7])
@pytest.mark.parametrize("piece", [64, 1 << 20])
def test_pts_of_several_scans_is_one_cloud(tmp_path, columns, piece):
    counts = [5, 0, 1, 40]
    values = np.c_[
        np.round(RNG.uniform(-9, 9, (46, 3)), 3), RNG.integers(-2048, 2048, 46), RNG.integers(0, 256, (46, 3))
    ]
    values = values[:, [0, 1, 2, *{3: (), 4: (3,), 6: (4, 5, 6), 7: (3, 4, 5, 6)}[columns]]]
    lines = iter([" ".join(f"{value:g}" for value in row) for row in values.tolist()])
    text = "".join(f"{count}\r\n" + "".join(f"{next(lines)}\r\n" for _ in range(count)) for count in counts)
    found = read_text(Bounds(write(tmp_path / "a.pts", text.encode()), piece_bytes=piece), None)
    assert np.array_equal(np.stack([found.fields[name] for name in list(found.fields)[:-1]], 1), values)
    assert found.fields["scan"].tolist() == np.repeat(np.arange(4), counts).tolist()


@pytest.mark.parametrize("empty", [1, 3])
@pytest.mark.parametrize("row", ["1 2 3", "1.5 2 3 7 10 20 30"])
def test_pts_may_begin_with_scans_without_points(tmp_path, empty, row):
    found = read_scan(write(tmp_path / "a.pts", "0\n" * empty + f"3\n{row}\n{row}\n{row}\n0\n1\n{row}\n"))
    assert found.fields["scan"].tolist() == [empty] * 3 + [empty + 2]
    assert found.xyz[:, 1:].tolist() == [[2, 3]] * 4
    with pytest.raises(UserError, match="line 2 says that 2 points follow, but 1 do"):
        read_scan(write(tmp_path / "a.pts", f"0\n2\n{row}\n"))
    with pytest.raises(UserError, match="more than 10,000 scans"):
        read_scan(write(tmp_path / "a.pts", "0\n" * 10_000 + f"1\n{row}\n"))


@pytest.mark.parametrize("suffix", [".xyz", ".asc", ".txt", ".csv"])
@pytest.mark.parametrize("text", ["2\n1 2 3\n4 5 6\n1\n7 8 9\n", "0\n1\n1 2 3\n"])
def test_several_scans_in_other_text_are_told_what_reads_them(tmp_path, suffix, text):
    with pytest.raises(UserError, match=r"each below the number of its points, are read if .* ends in \.pts"):
        read_scan(write(tmp_path / f"a{suffix}", text))
    with pytest.raises(UserError, match="line 2 has 1 columns, not 3 as the first$"):
        read_scan(write(tmp_path / f"a{suffix}", "1 2 3\n4\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2\n1 2 3\n1\n1 2 3\n", "line 1 says that 2 points follow, but 1 do"),
        ("1\n1 2 3\n\n2\n1 2 3\n", "line 4 says that 2 points follow, but 1 do"),
        ("1\n1 2 3\n1\n1 2 3\n4 5 6\n", "line 3 says that 1 points follow, but 2 do"),
        ("1\n1 2 3\n2\n1 2 3\n1 2 3 4\n", "line 5 has more than 3 columns, not 3"),
        ("1\n1 2 3\n2\n1 2 3\n1 x 3\n", "line 5, column 2 is no number: x"),
        ("1\n1 2 3\n" * 10_001, "more than 10,000 scans"),
        ("3\n1 2 3\n", "says that it has 3 points, but has 1"),
    ],
)
def test_pts_that_lies_is_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=f"a.pts: .*{message}"):
        read_scan(write(tmp_path / "a.pts", text))


# -- E57 -------------------------------------------------------------------------------------------


def crc_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


CRC = crc_table()


def repaged(content, edit):
    """An E57 file whose bytes without checksums are changed by ``edit``; the checksums (CRC-32C) are made anew."""
    logical = edit(bytearray(b"".join(content[at : at + 1020] for at in range(0, len(content), 1024))))
    pages = []
    for at in range(0, len(logical), 1020):
        page, check = bytes(logical[at : at + 1020]), 0xFFFFFFFF
        for byte in page:
            check = check >> 8 ^ CRC[(check ^ byte) & 255]
        pages.append(page + struct.pack(">I", check ^ 0xFFFFFFFF))
    return b"".join(pages)


def of_pye57(path, scans):
    """Write an E57 file by the usual interface of pye57. scans: its fields, quaternion and translation of each."""
    import pye57

    with pye57.E57(str(path), "w") as file:
        for fields, quaternion, translation in scans:
            file.write_scan_raw(fields, rotation=np.array(quaternion), translation=np.array(translation))
    return path


def xyz_of_e57(xyz):
    return dict(zip(("cartesianX", "cartesianY", "cartesianZ"), xyz.T.copy()))


def of_libe57(path, *scans, name="a scan", images=0, reference=""):
    """Write an E57 file. scans: functions of a library and a file that return name -> (node of the prototype, numbers),
    and for ``colorLimits`` name -> node."""
    from pye57 import libe57

    image = libe57.ImageFile(str(path), "w")
    image.extensionsAdd("", libe57.E57_V1_0_URI)
    image.extensionsAdd("nor", "http://www.libe57.org/E57_NOR_surface_normals.txt")
    data, pictures = libe57.VectorNode(image, True), libe57.VectorNode(image, True)
    for key, node in {
        "formatName": libe57.StringNode(image, "ASTM E57 3D Imaging Data File"), "guid": libe57.StringNode(image, "1"),
        "versionMajor": libe57.IntegerNode(image, 1), "versionMinor": libe57.IntegerNode(image, 0), "data3D": data,
        "images2D": pictures, "coordinateMetadata": libe57.StringNode(image, reference),
    }.items():  # fmt: skip
        image.root().set(key, node)
    for _ in range(images):
        pictures.append(libe57.StructureNode(image))
    for fields in scans:
        one, prototype = libe57.StructureNode(image), libe57.StructureNode(image)
        one.set("guid", libe57.StringNode(image, "2"))
        one.set("name", libe57.StringNode(image, name))
        data.append(one)
        columns, buffers = fields(libe57, image), libe57.VectorSourceDestBuffer()
        if limits := columns.pop("colorLimits", {}):
            one.set("colorLimits", libe57.StructureNode(image))
        for key, node in limits.items():
            one["colorLimits"].set(key, node)
        # A buffer has one place at least.
        count = len(next(iter(columns.values()))[1])
        columns = {key: (node, np.resize(values, max(count, 1))) for key, (node, values) in columns.items()}
        for key, (node, values) in columns.items():
            prototype.set(key, node)
            buffers.append(libe57.SourceDestBuffer(image, key, values, len(values), True, True))
        points = libe57.CompressedVectorNode(image, prototype, libe57.VectorNode(image, True))
        one.set("points", points)
        writer = points.writer(buffers)
        writer.write(count)
        writer.close()
    image.close()
    return path


COLOR_ELEMENTS = ("colorRed", "colorGreen", "colorBlue")


def colored(values, kind, limits=None):
    """A scan for ``of_libe57`` whose point number i has the colour values[i] in all channels, and i for x, y, z.

    kind: (least, most) of an integer; or "f4" or "f8"; or (least, most, scale) of a scaled integer.
    limits: ``colorLimits``.
    """
    return apart(*[(values, kind, limits)] * 3)


def apart(*channels):
    """A scan as ``colored`` makes it, with values, kind and limits for each of red, green and blue."""

    def fields(e57, image):
        def node(kind):
            if isinstance(kind, str):
                return e57.FloatNode(image, 0.0, {"f4": e57.E57_SINGLE, "f8": e57.E57_DOUBLE}[kind])
            if len(kind) == 2:
                return e57.IntegerNode(image, kind[0], *kind)
            return e57.ScaledIntegerNode(image, 0, *kind, 0.0)

        place = np.arange(float(len(channels[0][0])))
        columns = {name: (e57.FloatNode(image, 0.0), place) for name in ("cartesianX", "cartesianY", "cartesianZ")}
        declared = {}
        for name, (values, kind, *limits) in zip(COLOR_ELEMENTS, channels):
            columns[name] = (node(kind), np.array(values, np.float64))
            for end, limit in zip(("Minimum", "Maximum"), (limits and limits[0]) or ()):
                number = e57.FloatNode if isinstance(limit, float) else e57.IntegerNode
                declared[name + end] = number(image, limit)
        return columns | ({"colorLimits": declared} if declared else {})

    return fields


# Numbers of 10 and 16 bits, the first dark: x / 1023 * 255, and the high byte.
TEN, DARK, WIDE = [0, 3, 512, 1023], [0, 175, 200, 255], [255, 256, 30_000, 65_535]


@NEEDS_PYE57
@pytest.mark.parametrize(
    ("scans", "expected"),
    [
        ([([0, 7, 200], (0, 255), (0, 255)), (WIDE, (0, 65535), (0, 65535))], [0, 7, 200, 0, 1, 117, 255]),
        ([(WIDE, (0, 65535)), ([0, 7, 200], (0, 255))], [0, 1, 117, 255, 0, 7, 200]),
        ([([0, 7, 200], (0, 255)), ([0, 0.5, 1], "f4")], [0, 7, 200, 0, 128, 255]),
        ([([0, 1, 1], (0, 255)), ([], "f4", (0.0, 1.0))], [0, 1, 1]),
        ([(TEN, (0, 1023), (0, 1023))], [0, 1, 128, 255]),
        ([(TEN, (0, 1023))], [0, 1, 128, 255]),
        ([(TEN[:3], (0, 1000))], [0, 1, 128]),
        ([(DARK, (0, 65535), (0, 65535))], [0, 0, 0, 0]),
        ([(DARK, (0, 65535))], [0, 0, 0, 0]),
        ([(DARK, (0, 65535)), (WIDE, (0, 65535))], [0, 0, 0, 0, 0, 1, 117, 255]),
        ([(DARK, (0, 65535), (0, 255))], DARK),
        ([([0, 1, 1], "f4", (0.0, 255.0))], [0, 1, 1]),
        ([([0, 0.5, 1], "f4", (0.0, 1.0))], [0, 128, 255]),
        ([([0, 0.5, 1.001], "f4", (0.0, 1.0))], [0, 128, 255]),
        ([([0, 1, 9, 240], "f4")], [0, 1, 9, 240]),
        ([(np.arange(256) / 255, (0, 255, 1 / 255))], range(256)),
        ([([16, 100, 235], (0, 255), (16, 235))], [0, 98, 255]),
        ([([12, 240], (12, 240))], [12, 240]),
        ([([0, 1, 255], (-(2**15), 2**15 - 1))], [0, 1, 255]),
        # Integers up to 1 are fractions only if colorLimits say so.
        ([([0, 1, 1], (0, 1))], [0, 1, 1]),
        ([([0, 1, 1], (0, 1), (0, 1))], [0, 255, 255]),
        # A scan without points has numbers in any range.
        ([([16, 235], (0, 255), (16, 235)), ([], (0, 255), (16, 235))], [0, 255]),
    ],
)
def test_colours_of_e57_have_the_range_that_each_scan_declares(tmp_path, caplog, scans, expected):
    found = read_scan(of_libe57(tmp_path / "a.e57", *(colored(*scan) for scan in scans)))
    assert not caplog.records
    assert np.array_equal(found.rgb, np.repeat([[of] for of in expected], 3, 1))
    # The colours are the same in every format that the scan is written in.
    for name in ("b.e57", "b.las", "b.ply"):
        write_scan(tmp_path / name, found, {})
        assert np.array_equal(read_scan(tmp_path / name).rgb, found.rgb), name


INT16, INT32 = (-(2**15), 2**15 - 1), (-(2**31), 2**31 - 1)


@NEEDS_PYE57
@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        # The largest limit of a scan decides: 60000 / 256, 200 / 256, 900 / 256; and 1000 * 255 / 1023.
        ([([60_000], (0, 60_000)), ([200], (0, 200)), ([900], (0, 900))], (234, 0, 3)),
        ([([0], (0, 0)), ([255], (0, 255)), ([1000], (0, 1000))], (0, 64, 249)),
        ([([60_000], (0, 60_000)), ([0], (0, 0)), ([1], (0, 1))], (234, 0, 0)),
        ([([200], (0, 200, 1.0)), ([1], (0, 1, 1.0)), ([0.5], (0, 5, 0.1))], (200, 1, 0)),
        # Limits of all scaled integers below 1 are cut fractions, whatever integers there are.
        ([([0.8], (0, 8, 0.1)), ([0.2], (0, 2, 0.1)), ([0], (0, 255))], (204, 51, 0)),
        # Numbers without limits are guessed from alone, fractions apart from integers.
        ([([255], (0, 255)), ([65_535], (0, 65_535)), ([0.6], "f4")], (0, 255, 153)),
        ([([200], (0, 200)), ([100], (0, 100)), ([0.6], "f4")], (200, 100, 153)),
        ([([40_000], (0, 65_535), (0, 65_535)), ([200], INT16), ([100], INT16)], (156, 200, 100)),
        ([([40_000], INT32), ([200], INT16), ([0.2], "f4")], (156, 0, 51)),
        # Numbers below 0 are in a range that is declared, and no matter for the other channels.
        ([([-10], INT16, (-10, 245)), ([200], INT16), ([7], INT16)], (0, 200, 7)),
    ],
)
def test_channels_of_an_e57_scan_have_one_depth(tmp_path, caplog, channels, expected):
    found = read_scan(of_libe57(tmp_path / "a.e57", apart(*channels)))
    assert found.rgb.tolist() == [list(expected)]
    assert not caplog.records


@NEEDS_PYE57
def test_colours_that_a_declared_range_does_not_hold_are_said_once(tmp_path, caplog):
    wrong = colored([0, 7, 200], (0, 255), (0.0, 1.0))
    found = read_scan(of_libe57(tmp_path / "a.e57", colored([0, 9], (0, 255)), wrong))
    assert found.rgb[:, 0].tolist() == [0, 9, 0, 7, 200]
    assert "scan 1 declares colorRed from 0 to 1, but has 0 to 200; the declared range is not used" in caplog.text
    assert len(caplog.records) == 1


@NEEDS_PYE57
def test_color_limits_that_one_channel_does_not_keep_to_are_used_for_none(tmp_path, caplog):
    channels = [([value], (0, 65_535), (0, 255)) for value in (200, 60_000, 30_000)]
    found = read_scan(of_libe57(tmp_path / "a.e57", apart(*channels)))
    assert found.rgb.tolist() == [[0, 234, 117]]
    assert [record.getMessage().split(": ", 1)[1] for record in caplog.records] == [
        "scan 0 declares colorGreen from 0 to 255, but has 60000 to 60000; the declared range is not used, "
        "nor those of the other colours of this scan"
    ]


@NEEDS_PYE57
@pytest.mark.parametrize("values", [[-5, 7], [0, 2**20]])
def test_e57_colours_of_unknown_depth_are_refused(tmp_path, values):
    path = of_libe57(tmp_path / "b.e57", apart((values, INT32), ([0, 9], (0, 255)), (values, INT32)))
    message = f"scan 0 has colours from {min(values)} to {max(values):g}, which are neither 8 nor 16 bits"
    with pytest.raises(UserError, match=re.escape(message)):
        read_scan(path)


@NEEDS_PYE57
def test_fractions_of_text_are_colours_of_e57(tmp_path):
    text = read_scan(write(tmp_path / "a.txt", "x y z r g b\n1 2 3 0 0.5 0.9\n1 2 4 1 0.25 1.0000001\n"))
    write_scan(tmp_path / "a.e57", text, {})
    found = read_scan(tmp_path / "a.e57")
    assert found.fields["green"].tolist() == [0.5, 0.25] and "g" not in found.fields
    assert np.array_equal(found.rgb, text.rgb)


@NEEDS_PYE57
def test_e57_fractions_beyond_one_are_refused_unless_by_a_rounding(tmp_path):
    path = of_libe57(tmp_path / "a.e57", colored([0.5, 1.2], "f4"))
    with pytest.raises(UserError, match=r"a\.e57: scan 0 has colours with fractions up to 1\.2"):
        read_scan(path)
    path = of_libe57(tmp_path / "b.e57", colored([0.5, 1.0000001], "f8"))
    assert read_scan(path).rgb.tolist() == [[128] * 3, [255] * 3]


@NEEDS_PYE57
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_e57_colours_that_are_not_finite_at_points_with_coordinates_are_refused(tmp_path, bad):
    path = of_libe57(tmp_path / "a.e57", apart(([7, 200], "f8"), ([bad, 9], "f8"), ([1, 2], "f8")))
    with pytest.raises(UserError, match=r"a\.e57: colours that are NaN or infinite at points with coordinates"):
        read_scan(path)


@NEEDS_PYE57
def test_ranges_of_colours_that_are_no_numbers_are_not_used(tmp_path):
    content = of_libe57(tmp_path / "a.e57", colored([0, 3, 1023], (0, 1023), (0.25, 2.0**20))).read_bytes()
    for new in (b"nan", b"inf", b"x", b"1e999", b"0.25", b"-7", b""):
        edit = xml_edit(b'<colorRedMaximum type="Float">1.048576e+06<', b'<colorRedMaximum type="Float">%s<' % new)
        assert read_scan(write(tmp_path / "b.e57", repaged(content, edit))).rgb[:, 0].tolist() == [0, 1, 255]


@NEEDS_PYE57
@pytest.mark.parametrize("counts", [(3, 0, 2), (0, 3), (3, 0), (0, 0, 2, 0)])
def test_e57_may_have_scans_without_points(tmp_path, counts):
    values, start = [], 0
    for count in counts:
        values.append(range(start, start + count))
        start += count
    found = read_scan(of_libe57(tmp_path / "a.e57", *(colored(of, (0, 255)) for of in values)))
    assert found.fields["scan"].tolist() == np.repeat(range(len(counts)), counts).tolist()
    assert found.rgb[:, 0].tolist() == list(range(start))
    write_scan(tmp_path / "b.e57", found, {})
    assert np.array_equal(read_scan(tmp_path / "b.e57").fields["scan"], found.fields["scan"])


@NEEDS_PYE57
def test_a_gap_between_scans_of_text_is_written_as_e57(tmp_path):
    text = ptx(ROWS[:2], 1) + ptx([], 1) + ptx(COLORED[2:4], 1)
    for suffix, content in ((".ptx", text), (".pts", "2\n1 2 3\n4 5 6\n0\n2\n7 8 9\n1 1 1\n")):
        found = read_scan(write(tmp_path / f"a{suffix}", content))
        write_labelled(
            tmp_path / "b.e57", found, Prediction(np.zeros(4, np.uint8), np.ones(4, np.float32)), CLASSES, False
        )
        again = read_scan(tmp_path / "b.e57")
        assert again.fields["scan"].tolist() == [0, 0, 2, 2] and np.array_equal(again.xyz, found.xyz)


@NEEDS_PYE57
@pytest.mark.parametrize(
    ("states", "missing"),
    [
        ({"sphericalInvalidState": [0, 1, 2]}, [False, True, True]),
        ({"cartesianInvalidState": [2, 0, 1]}, [True, False, True]),
        # The state of the coordinates that are read counts.
        ({"sphericalInvalidState": [1, 1, 1], "cartesianInvalidState": [0, 0, 2]}, [False, False, True]),
    ],
)
def test_points_of_e57_with_both_coordinates_may_be_marked_by_either_state(tmp_path, states, missing):
    def fields(e57, image):
        xyz = np.arange(3.0) + 1
        names = [f"cartesian{axis}" for axis in "XYZ"] + ["sphericalRange", "sphericalAzimuth", "sphericalElevation"]
        columns = {name: (e57.FloatNode(image, 0.0), xyz) for name in names}
        return columns | {
            name: (e57.IntegerNode(image, 0, 0, 2), np.array(of, np.uint8)) for name, of in states.items()
        }

    found = read_scan(of_libe57(tmp_path / "a.e57", fields))
    assert np.isnan(found.xyz).all(1).tolist() == missing
    assert np.array_equal(found.xyz[~np.array(missing), 0], (np.arange(3.0) + 1)[~np.array(missing)])


@NEEDS_PYE57
def test_e57_of_several_scans_is_one_cloud_in_shared_coordinates(tmp_path):
    first, second = RNG.uniform(-9, 9, (7, 3)), RNG.uniform(-9, 9, (5, 3)).astype(np.float32)
    state, colors = np.array([0, 0, 2, 0, 1, 0, 0], np.int8), RNG.integers(0, 256, (7, 3), np.uint8)
    fields = xyz_of_e57(first) | {"intensity": np.arange(7) / 8, "cartesianInvalidState": state}
    fields |= dict(zip(("colorRed", "colorGreen", "colorBlue"), colors.T.copy()))
    fields |= {"rowIndex": np.arange(7), "columnIndex": np.arange(7) % 2}
    path = of_pye57(tmp_path / "ä [1].e57", [(fields, ASKEW, MOVED), (xyz_of_e57(second), (1, 0, 0, 0), (0, 0, 0))])
    found = read_scan(path)
    assert np.array_equal(np.isnan(found.xyz).all(1), [*(state > 0), *[False] * 5])
    there = state == 0
    # pye57 writes coordinates as float32, in the scanner's own system.
    assert np.allclose(found.xyz[:7][there], turned(ASKEW, first.astype(np.float32)[there]) + MOVED, rtol=0, atol=1e-8)
    assert np.array_equal(found.xyz[7:], second)
    assert found.fields["scan"].tolist() == [0] * 7 + [1] * 5
    assert np.array_equal(found.rgb, np.r_[colors, np.zeros((5, 3), np.uint8)])
    assert np.array_equal(found.fields["intensity"], [*np.arange(7) / 8, *[np.nan] * 5], equal_nan=True)
    assert found.fields["rowIndex"].tolist() == [*range(7), *[0] * 5]


@NEEDS_PYE57
def test_e57_of_other_writers(tmp_path, caplog):
    """Spherical coordinates, scaled integers, integers of odd ranges, 16-bit colours, normals, texts, images."""
    angles = RNG.uniform([1, -3, -1], [9, 3, 1], (50, 3))

    def fields(e57, image):
        scaled = lambda: e57.ScaledIntegerNode(image, 0, -(2**31), 2**31 - 1, 1e-6, 0.0)
        texts = {"sphericalInvalidState": (e57.IntegerNode(image, 0, 0, 2), (np.arange(50) % 25 == 7).astype(np.uint8))}
        found = {
            "sphericalRange": (scaled(), angles[:, 0].copy()),
            "sphericalAzimuth": (scaled(), angles[:, 1].copy()),
            "sphericalElevation": (e57.FloatNode(image, 0.0), angles[:, 2].copy()),
            **texts,
        }
        for name in ("colorRed", "colorGreen", "colorBlue"):
            found[name] = (e57.IntegerNode(image, 0, 0, 65535), np.arange(50, dtype=np.uint16) * 1000)
        found["intensity"] = (e57.IntegerNode(image, -2048, -2048, 2047), np.arange(-25, 25, dtype=np.int16))
        found["nor:normalX"] = (e57.FloatNode(image, 0.0, e57.E57_SINGLE), np.linspace(0, 1, 50, dtype=np.float32))
        found["returnCount"] = (e57.IntegerNode(image, 3, 3, 3), np.full(50, 3, np.uint8))
        found["timeStamp"] = (e57.IntegerNode(image, 0, 0, 2**40), np.arange(50).astype("q") * 2**33)
        return found

    path = of_libe57(tmp_path / "a.e57", fields, name="Büro <1>", images=2, reference='PROJCS["a & b"]')
    found = read_scan(path)
    r, azimuth, elevation = angles.T
    flat = np.stack(
        [r * np.cos(elevation) * f for f in (np.cos(azimuth), np.sin(azimuth))] + [r * np.sin(elevation)], 1
    )
    missing = np.arange(50) % 25 == 7
    assert np.array_equal(np.isnan(found.xyz).all(1), missing)
    assert np.abs(found.xyz - flat)[~missing].max() < 2e-5
    assert found.fields["red"].tolist() == (np.arange(50) * 1000).tolist() and found.rgb[49, 0] == 49000 // 256
    assert found.fields["intensity"].tolist() == list(range(-25, 25)) and found.fields["intensity"].dtype == np.int16
    assert np.array_equal(found.fields["normalX"], np.linspace(0, 1, 50, dtype=np.float32))
    assert found.fields["timeStamp"].tolist() == [n * 2**33 for n in range(50)]
    assert set(found.fields["returnCount"]) == {3}
    write_scan(tmp_path / "b.e57", found, {})
    assert f"2 images of {path} are not kept" in caplog.text
    again = read_scan(tmp_path / "b.e57").template
    assert again.setups[0].name == "Büro <1>" and again.reference == 'PROJCS["a & b"]'
    write_scan(tmp_path / "b.ply", found, {})
    assert f"the coordinate reference system of {path} is not kept; 2 images of {path} is not kept" in caplog.text


@NEEDS_PYE57
def test_e57_keeps_types_names_missing_points_and_poses(tmp_path):
    import pye57

    xyz = RNG.uniform(-9, 9, (9, 3)).astype(np.float32)
    scans = [(xyz_of_e57(xyz[:4]), ASKEW, MOVED), (xyz_of_e57(xyz[4:]), QUARTER, (1, 2, 3))]
    before = read_scan(of_pye57(tmp_path / "a.e57", scans))
    kinds = ("u1", "i1", "u2", "i2", "u4", "i4", "i8", "f4", "f8")
    more = {kind: RNG.integers(0, 99, 9).astype(kind) for kind in kinds}
    for kind in kinds[:7]:
        more[kind][:2] = np.iinfo(kind).min, np.iinfo(kind).max
    more["f8"][0] = more["f4"][1] = np.nan
    more |= {"1 Höhe": np.arange(9.0), "u8": np.arange(9, dtype=np.uint64), "intensity": np.arange(9, dtype=np.float32)}
    x = before.fields["x"].copy()
    x[5] = np.nan
    write_scan(tmp_path / "b.e57", before, more | {"x": x})
    found = read_scan(tmp_path / "b.e57")
    for name in (*kinds, "intensity"):
        assert np.array_equal(found.fields[name], more[name], equal_nan=name[0] == "f"), name
        assert found.fields[name].dtype == more[name].dtype
    assert found.fields["_1_Hohe"].tolist() == found.fields["u8"].tolist() == list(range(9))
    assert np.isnan(found.xyz).all(1).tolist() == [n == 5 for n in range(9)]
    there = np.arange(9) != 5
    assert np.allclose(found.xyz[there], before.xyz[there], rtol=0, atol=1e-8)
    assert np.array_equal(found.fields["scan"], before.fields["scan"])
    # What pye57 makes of the file, for which it needs no extension.
    with pye57.E57(str(tmp_path / "b.e57")) as file:
        assert file.scan_count == 2
        for number, (part, quaternion, translation) in enumerate(
            ((xyz[:4], ASKEW, MOVED), (xyz[[4, *range(6, 9)]], QUARTER, (1, 2, 3)))
        ):
            assert np.allclose(file.get_header(number).rotation, quaternion)
            assert np.allclose(file.get_header(number).translation, translation)
            read = file.read_scan(number, intensity=True, transform=False, ignore_missing_fields=True)
            own = np.stack([read[name] for name in ("cartesianX", "cartesianY", "cartesianZ")], 1)
            assert np.allclose(own, part, rtol=0, atol=1e-8)
    write_scan(tmp_path / "c.e57", before, more | {"x": x})
    assert (tmp_path / "b.e57").read_bytes() == (tmp_path / "c.e57").read_bytes()


@NEEDS_PYE57
def test_e57_of_hundreds_of_scans(tmp_path):
    """Their fields are more than the arguments of a process may be."""
    before = scan(900)
    more = {f"a field with a long name {number}": np.arange(900) for number in range(9)}
    write_scan(tmp_path / "a.e57", before, {"scan": np.arange(900) // 3} | more)
    found = read_scan(tmp_path / "a.e57")
    assert found.fields["scan"].tolist() == (np.arange(900) // 3).tolist()
    assert np.array_equal(found.xyz, before.xyz)


@NEEDS_PYE57
def test_scans_out_of_order_are_one_scan_with_a_field(tmp_path):
    before = scan(6)
    write_scan(tmp_path / "a.e57", before, {"scan": np.array([0, 1, 0, 1, 0, 1])})
    found = read_scan(tmp_path / "a.e57")
    assert found.fields["scan"].tolist() == [0, 1, 0, 1, 0, 1] and np.array_equal(found.xyz, before.xyz)


@NEEDS_PYE57
@pytest.mark.parametrize("output", ["b.e57", "b.las", "b.laz", "b.ply"])
def test_a_labelled_scan_has_every_field_and_row(tmp_path, output):
    fields = xyz_of_e57(RNG.uniform(-9, 9, (7, 3))) | {"intensity": np.arange(7) / 8}
    found = read_scan(of_pye57(tmp_path / "a.e57", [(fields, ASKEW, MOVED)] * 2))
    label, confidence = np.arange(14).astype(np.uint8) % 3, np.linspace(0, 1, 14, dtype=np.float32)
    write_labelled(tmp_path / output, found, Prediction(label, confidence), CLASSES, False)
    again = read_scan(tmp_path / output)
    assert np.abs(again.xyz - found.xyz).max() < 1e-6
    for name, values in {"label": label, "confidence": confidence, "scan": [0] * 7 + [1] * 7}.items():
        assert np.array_equal(again.fields[name], values), name
    assert np.allclose(again.fields.get("intensity_input", again.fields["intensity"]), found.fields["intensity"])
    assert json.loads((tmp_path / f"{output}.classes.json").read_text())["classes"][2] == "Möbel"
    if output == "b.e57":
        assert b"label 2 M\\u00f6bel" in (tmp_path / output).read_bytes()


@NEEDS_PYE57
def test_labelled_e57_is_a_room(tmp_path):
    write_scan(tmp_path / "a.e57", scan(20), {"label": np.arange(20) % 3})
    labelling = Labelling.of(CLASSES)
    room, repairs = read_labelled_room(tmp_path / "a.e57", "north", "hall", labelling)
    assert room.label.tolist() == (np.arange(20) % 3).tolist() and not repairs
    assert np.allclose(room.xyz, scan(20).xyz)


def xml_edit(old, new):
    """An edit of the XML that keeps its length, by blanks behind the end of the file's elements."""

    def edit(logical):
        start = logical.index(b"<?xml")
        end = logical.index(b"</e57Root>") + len(b"</e57Root>")
        changed = bytes(logical[start:end]).replace(old, new, 1)
        assert changed != logical[start:end]
        size = struct.pack("<Q", len(changed))
        whole = bytearray(logical[:start] + changed)
        whole[32:40] = size
        whole += bytes(-len(whole) % 1020)
        whole[16:24] = struct.pack("<Q", len(whole) // 1020 * 1024)
        return whole

    return edit


@pytest.fixture(scope="module")
def sound_e57(tmp_path_factory):
    path = tmp_path_factory.mktemp("e57") / "a.e57"
    xyz = RNG.uniform(-9, 9, (20, 3))
    fields = dict(zip("xyz", xyz.T)) | {"label": np.arange(20, dtype=np.uint8), "scan": np.repeat([0, 1], 10)}
    write_scan(path, Scan(Path("x"), fields), {})
    of_pye57(path.with_name("p.e57"), [(xyz_of_e57(xyz), QUARTER, MOVED)])
    return path.read_bytes(), path.with_name("p.e57").read_bytes()


@NEEDS_PYE57
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'recordCount="10"', b'recordCount="11"', "scan 0 has 10 points, fewer than it claims|not a readable E57"),
        (b'recordCount="10"', b'recordCount="1000000"', "1,000,010 points, more than the file holds"),
        (b'recordCount="10"', b'recordCount="300000000"', "300,000,000 points, more than max_points"),
        (b'recordCount="10"', b'recordCount="-10"', "claims -10 points"),
        (b'recordCount="10"', b'recordCount="ten"', "no whole number but ten"),
        (b"cartesianX", b"cartesianQ", "scan 0 has no coordinates; it has cartesianQ, cartesianY"),
        (b'maximum="255"', b'maximum="-3"', "a field of the numbers 0 to -3"),
        (b'maximum="255"', b'maximum="%s"' % (b"9" * 20), "a field of the numbers 0 to 9999"),
        (b"<vectorChild", b"<vectorChild xmlns='urn:other'", "has no points|not a readable E57"),
        (b"</e57Root>", b"", "not a readable E57 file"),
    ],
)
def test_the_xml_of_e57_is_not_believed(tmp_path, sound_e57, old, new, message):
    with pytest.raises(UserError, match=f"a.e57: .*({message})") as raised:
        read_scan(write(tmp_path / "a.e57", repaged(sound_e57[0], xml_edit(old, new)))).xyz  # noqa: B018
    assert "\n" not in str(raised.value)


@NEEDS_PYE57
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'<w type="Float">', b'<w type="Float">9', r"a pose with the rotation .* must have the length 1"),
        (b'<w type="Float">', b'<w type="Float">x', "the rotation of a pose has no number w"),
        (b'<translation type="Structure">', b'<translation type="Structure"><x type="Float">nan</x>', "the translation of a pose has no number x"),
    ],
)  # fmt: skip
def test_a_pose_of_e57_that_is_none_is_refused(tmp_path, sound_e57, old, new, message):
    with pytest.raises(UserError, match=f"a.e57: .*{message}"):
        read_scan(write(tmp_path / "a.e57", repaged(sound_e57[1], xml_edit(old, new))))


@NEEDS_PYE57
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"<e57Root", b"<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><e57Root", "a document type"),
        (
            b"<e57Root",
            b"<e57Root xmlns:s='http://www.w3.org/2001/XMLSchema-&#105;nstance' s:schemaLocation='a /etc/passwd'",
            "names a schema",
        ),
        (b'encoding="UTF-8"', b'encoding="UTF-7"', "not in UTF-8"),
        (b"<?xml", b"\xff\xfe<\x00?xml", "not in UTF-8"),
    ],
)
def test_the_xml_of_e57_names_no_other_files(tmp_path, sound_e57, old, new, message):
    with pytest.raises(UserError, match=f"a.e57: .*{message}"):
        read_scan(write(tmp_path / "a.e57", repaged(sound_e57[0], xml_edit(old, new))))


@NEEDS_PYE57
def test_e57_that_is_damaged_anywhere_is_an_error(tmp_path, sound_e57):
    """Every byte is below a checksum, and the length of the file is in its header."""
    content = sound_e57[0]
    for at in [*range(0, 48, 9), *range(60, len(content), len(content) // 12)]:
        damaged = bytearray(content)
        damaged[at] ^= 0x55
        for path in (write(tmp_path / "a.e57", bytes(damaged)), write(tmp_path / "b.e57", content[:at])):
            with pytest.raises(UserError, match=path.name) as raised:
                read_scan(path)
            assert "\n" not in str(raised.value)


@NEEDS_PYE57
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_e57_of_hostile_bytes_is_an_error_or_points(tmp_path_factory, sound_e57, data):
    """Changed bytes anywhere, below sound checksums: what the library reads may be anything, but does no harm."""

    def edit(logical):
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(logical) - 1))
            new = data.draw(st.binary(min_size=1, max_size=8))
            logical[at : at + len(new)] = new
        return logical[: len(logical) // 1020 * 1020]

    path = tmp_path_factory.mktemp("hostile") / "a.e57"
    path.write_bytes(repaged(sound_e57[data.draw(st.integers(0, 1))], edit))
    try:
        found = read_scan(path, max_points=1_000_000)
        assert len(found.xyz) == len(found)
    except UserError as error:
        assert "a.e57" in str(error) and str(error).isprintable()  # noqa: PT017


@NEEDS_PYE57
def test_e57_without_points_is_refused(tmp_path):
    with pytest.raises(UserError, match="not an E57 file"):
        read_scan(write(tmp_path / "a.e57", b"ASTM-E57"))
    empty = {name: values[:0] for name, values in scan(5).fields.items()}
    with pytest.raises(UserError, match="no points"):
        write_scan(tmp_path / "a.e57", Scan(Path("x"), empty), {})


@pytest.mark.parametrize(("suffix", "module"), [(".e57", "pye57"), (".laz", "lazrs")])
def test_a_library_that_is_missing_is_named(tmp_path, suffix, module, monkeypatch):
    monkeypatch.setattr(format_table.importlib.util, "find_spec", lambda name: None)
    message = (
        f"a{suffix}: {suffix[1:].upper()} needs the library {module}, which is not installed: pip install {module}"
    )
    with pytest.raises(UserError, match=message):
        read_scan(write(tmp_path / f"a{suffix}", b""))
    with pytest.raises(UserError, match=message):
        write_scan(tmp_path / f"a{suffix}", scan(5), {})


@NEEDS_PYE57
def test_reading_e57_takes_twice_its_arrays_at_most(tmp_path):
    count = 1_500_000
    fields = dict(zip("xyz", RNG.random((3, count)))) | {"label": np.zeros(count, np.uint8)}
    fields |= {"intensity": np.zeros(count, np.float32), "scan": np.repeat(np.arange(3, dtype=np.uint16), count // 3)}
    write_scan(tmp_path / "a.e57", Scan(Path("x"), fields), {})
    code = "import sys, resource; from deepgcn_seg.data.scans.files import read_scan; peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
    code += "before = peak(); found = read_scan(sys.argv[1]); print(peak() - before, sum(of.nbytes for of in found.fields.values()))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.e57")], capture_output=True, text=True, check=True
    )
    taken, size = map(int, done.stdout.split())
    # Besides the arrays, the pieces that are decoded at a time.
    assert taken * 1024 < 2 * size + 30e6


# -- COPC ------------------------------------------------------------------------------------------


def copc(path, count=3000):
    """Write LAZ in chunks of different sizes, which an octree refers to: the layout of COPC 1.0."""
    import lazrs

    las = laspy.LasData(laspy.LasHeader(point_format=7, version="1.4"))
    las.header.scales = [0.001] * 3
    las.x, las.y, las.z = np.random.default_rng(0).random((3, count)) * 10
    las.red = las.green = las.blue = np.arange(count) * 20
    las.classification = np.arange(count) % 9
    described = lazrs.LazVlr.new_for_compression(7, 0, True)
    info = struct.pack("<5d2Q2d88x", 5, 5, 5, 5, 0.1, 0, 0, 0, 0)
    las.header.vlrs.append(laspy.VLR("copc", 1, "copc info", info))
    las.header.vlrs.append(laspy.VLR("laszip encoded", 22204, "", bytes(described.record_data())))
    las.header.update(las.points)
    head, body = io.BytesIO(), io.BytesIO()
    las.header.write_to(head)
    start, width = len(head.getvalue()), las.header.point_format.size
    compressor, raw = lazrs.LasZipCompressor(body, described), las.points.array.tobytes()
    cuts = [0, 700, 701, 2000, count]
    for first, last in zip(cuts, cuts[1:]):
        compressor.compress_many(raw[first * width : last * width])
        if last < count:
            compressor.finish_current_chunk()
    compressor.done()
    points = bytearray(body.getvalue())
    table = struct.unpack_from("<q", points)[0]
    struct.pack_into("<q", points, 0, table + start)
    tree = struct.pack("<4iQii", 0, 0, 0, 0, start + 8, table - 8, count)
    head = bytearray(head.getvalue())
    head[104] |= 0x80
    struct.pack_into("<QI", head, 235, start + len(points), 1)
    struct.pack_into("<2Q", head, head.index(info) + 40, start + len(points) + 60, len(tree))
    record = struct.pack("<H16sHQ32s", 0, b"copc", 1000, len(tree), b"hierarchy")
    return las, write(path, bytes(head) + points + record + tree)


def test_copc_is_read_and_written_as_plain_las(tmp_path):
    las, path = copc(tmp_path / "a.copc.laz")
    found = read_scan(path)
    assert np.array_equal(found.xyz, np.asarray(las.xyz)) and len(found) == 3000
    assert found.fields["classification"].tolist() == (np.arange(3000) % 9).tolist()
    for name in ("b.laz", "b.las", "b.copc.laz"):
        write_scan(tmp_path / name, found, {"label": np.arange(3000) % 7})
        again = laspy.read(tmp_path / name)
        assert not [one for one in [*again.header.vlrs, *(again.evlrs or ())] if one.user_id == "copc"]
        assert np.array_equal(again.xyz, las.xyz) and again["label"].tolist() == (np.arange(3000) % 7).tolist()


def test_copc_that_is_cut_off_is_an_error(tmp_path):
    content = copc(tmp_path / "a.copc.laz")[1].read_bytes()
    for end in (len(content) - 1, len(content) // 2, 800, 300):
        with pytest.raises(UserError, match=r"b\.copc\.laz"):
            read_scan(write(tmp_path / "b.copc.laz", content[:end]))
