"""Point-cloud files: what is written is read, as exactly as the format can; damage is one clear error."""

import importlib.util
import os
import struct
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_checkpoint import NETWORK, TRAINED_ON, small
from test_commands import run

from deepgcn_seg.data.annotation_file import read_points
from deepgcn_seg.data.classes import S3DIS
from deepgcn_seg.data.scans.files import read_scan, write_scan
from deepgcn_seg.data.scans.format_table import WRITTEN
from deepgcn_seg.data.scans.formats.bounds import Bounds
from deepgcn_seg.data.scans.formats.scan import Scan
from deepgcn_seg.data.scans.formats.text import read_text
from deepgcn_seg.data.scans.search import find_scans
from deepgcn_seg.errors import UserError
from deepgcn_seg.model.checkpoint import save_checkpoint

NEEDS_PYE57 = pytest.mark.skipif(importlib.util.find_spec("pye57") is None, reason="pye57 is not installed")


# Two points in one column of a scanner that stands at the origin.
PTX_HEADER = "1\n2\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"


def writable(*besides):
    """The suffixes of all formats that are written but some, for tests that are skipped if a library is missing."""
    suffixes = [suffix for suffix in WRITTEN if suffix not in besides]
    return [pytest.param(suffix, marks=NEEDS_PYE57 if suffix == ".e57" else ()) for suffix in suffixes]


def scan(count=300, seed=0):
    """Geo-referenced points: the coordinates need more digits than float32 has."""
    rng = np.random.default_rng(seed)
    xyz = rng.uniform([5e5, 5.4e6, 100], [5e5 + 30, 5.4e6 + 20, 103], (count, 3))
    fields = dict(zip("xyz", xyz.T.copy()))
    fields |= {name: rng.integers(0, 256, count, np.uint8) for name in ("red", "green", "blue")}
    fields["reflectance"] = rng.random(count).astype(np.float32)
    return Scan(Path("memory.ply"), fields)


@pytest.mark.parametrize("suffix", writable())
@pytest.mark.parametrize("count", [1, 300])
def test_what_is_written_is_read(tmp_path, suffix, count):
    before = scan(count)
    label = np.arange(count).astype(np.uint8)
    write_scan(tmp_path / f"a{suffix}", before, {"label": label}, ["classes: floor wall"])
    after = read_scan(tmp_path / f"a{suffix}")
    # LAS keeps whole numbers of a step, here of a ten-millionth of a metre.
    assert np.abs(after.xyz - before.xyz).max() <= (1e-7 if suffix in (".las", ".laz") else 0)
    assert np.array_equal(after.rgb, before.rgb)
    assert np.array_equal(after.fields["label"], label)
    assert np.allclose(after.fields["reflectance"], before.fields["reflectance"], rtol=1e-6)


@pytest.mark.parametrize("suffix", writable())
@pytest.mark.parametrize("other", [".ply", ".las", ".pcd", ".csv", ".npz"])
def test_any_format_becomes_any_other_and_keeps_its_fields(tmp_path, suffix, other):
    before = scan()
    write_scan(tmp_path / f"a{suffix}", before, {})
    first = read_scan(tmp_path / f"a{suffix}")
    write_scan(tmp_path / f"b{other}", first, {"label": np.arange(300) % 7})
    second = read_scan(tmp_path / f"b{other}")
    assert np.abs(second.xyz - before.xyz).max() <= 1e-6
    assert np.array_equal(second.rgb, before.rgb)
    assert np.allclose(second.fields["reflectance"], before.fields["reflectance"], rtol=1e-6)
    assert np.array_equal(second.fields["label"], np.arange(300) % 7)


@pytest.mark.parametrize("big", [True, False])
@pytest.mark.parametrize("text", [True, False])
def test_ply_of_both_byte_orders_with_faces(tmp_path, big, text):
    from plyfile import PlyData, PlyElement

    rows = np.array([(0, 0, 0, 7), (1, 0, 0, 8), (0, 1, 0.5, 9)], [(n, "f8") for n in "xyz"] + [("class", "i4")])
    faces = np.array([([0, 1, 2],)], [("vertex_indices", "i4", (3,))])
    elements = [PlyElement.describe(rows, "vertex"), PlyElement.describe(faces, "face")]
    PlyData(elements, text=text, byte_order=">" if big else "<", comments=["a comment"]).write(str(tmp_path / "a.ply"))
    found = read_scan(tmp_path / "a.ply")
    assert found.xyz.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0.5]]
    assert found.rgb is None
    write_scan(tmp_path / "b.ply", found, {"label": np.array([1, 2, 3], np.uint8)})
    again = PlyData.read(str(tmp_path / "b.ply"))
    assert again["vertex"]["label"].tolist() == [1, 2, 3]
    assert again["vertex"]["class"].tolist() == [7, 8, 9]
    assert again["face"]["vertex_indices"][0].tolist() == [0, 1, 2]
    assert again.comments == ["a comment"]


def test_las_keeps_its_header_and_dimensions(tmp_path, caplog):
    """But for the version: older ones than 1.4 have no extra bytes, and PDAL reads none from them."""
    import laspy

    las = laspy.create(point_format=3, file_version="1.2")
    las.header.offsets, las.header.scales = [1000, 2000, 0], [0.001] * 3
    las.x, las.y, las.z = np.array([1000.5, 1001.25]), np.array([2000.0, 2001.0]), np.array([0.125, 2.0])
    las.classification = np.array([2, 6], np.uint8)
    las.red = np.array([0, 65535], np.uint16)
    las.write(str(tmp_path / "a.las"))
    found = read_scan(tmp_path / "a.las")
    assert found.xyz.tolist() == [[1000.5, 2000.0, 0.125], [1001.25, 2001.0, 2.0]]
    assert found.rgb[:, 0].tolist() == [0, 255]
    write_scan(tmp_path / "b.las", found, {"label": np.array([3, 4], np.uint8)})
    again = laspy.read(str(tmp_path / "b.las"))
    assert again.header.point_format.id == 3
    assert str(again.header.version) == "1.4" and "version 1.2 of LAS becomes 1.4" in caplog.text
    assert again.header.offsets.tolist() == [1000, 2000, 0]
    assert np.asarray(again.classification).tolist() == [2, 6]
    assert np.asarray(again["label"]).tolist() == [3, 4]


@pytest.mark.parametrize("encoding", ["ASCII", "BINARY", "BINARY_COMPRESSED"])
def test_pcd_of_every_encoding(tmp_path, encoding):
    from pypcd4 import Encoding, PointCloud

    points = np.random.default_rng(0).random((50, 3)).astype(np.float32)
    with open(tmp_path / "a.pcd", "wb") as file:
        PointCloud.from_xyz_points(points).save(file, encoding=Encoding[encoding])
    assert np.allclose(read_scan(tmp_path / "a.pcd").xyz, points, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1 2 3\n4 5 6\n", ["x", "y", "z"]),
        ("1,2,3\n4,5,6\n", ["x", "y", "z"]),
        ("1;2;3\r\n4;5;6\r\n", ["x", "y", "z"]),
        ("  1   2\t3  \n\n4 5 6", ["x", "y", "z"]),
        ("x y z\n1 2 3\n4 5 6\n", ["x", "y", "z"]),
        ("X,Y,Z,Class\n1,2,3,9\n4,5,6,8\n", ["X", "Y", "Z", "Class"]),
        ("//X Y Z Scalar_field\n1 2 3 0.5\n4 5 6 0.5\n", ["X", "Y", "Z", "Scalar_field"]),
        ("# made by hand\n# x y z r g b\n1 2 3 4 5 6\n4 5 6 7 8 9\n", ["x", "y", "z", "r", "g", "b"]),
        ("1 2 3 10 20 30\n4 5 6 10 20 30\n", ["x", "y", "z", "red", "green", "blue"]),
        ("1 2 3 0 0 0\n4 5 6 0 0 0\n", ["x", "y", "z", "red", "green", "blue"]),
        ("//X Y Z R G B\n2\n1 2 3 4 5 6\n4 5 6 7 8 9\n", ["X", "Y", "Z", "R", "G", "B"]),
        ("2\n1 2 3\n4 5 6\n", ["x", "y", "z"]),
        ("//X,Y,Z\n1 2 3\n4 5 6\n", ["X", "Y", "Z"]),
        ("# x y z i\n# made by hand\n1 2 3 4\n4 5 6 5\n", ["x", "y", "z", "i"]),
        ("# x y z in metres\n1 2 3\n4 5 6\n", ["x", "y", "z"]),
        ("a title of a scan\n\nx,y,z\n1,2,3\n4,5,6\n", ["x", "y", "z"]),
        ("x,y,z,\n1,2,3,\n4,5,6,\n", ["x", "y", "z"]),
        ("x,y,z\n1,2,3,,\n4,5,6\n", ["x", "y", "z"]),
        ("x;y;z\n1,0;2;3\n4;5,00;6\n", ["x", "y", "z"]),
        ("x\ty\tz\n1,0\t2,0\t3,0\n4,0\t5,0\t6,0\n", ["x", "y", "z"]),
        ("1,0 2 3\n4 5 6,0\n", ["x", "y", "z"]),
        ("1\t2\t3\t\n4\t5\t6\t\n", ["x", "y", "z"]),
        ("X\tY\tZ\tScalar field\n1\t2\t3\t0\n4\t5\t6\t0\n", ["X", "Y", "Z", "Scalar field"]),
        (",x,y,z\n0,1,2,3\n1,4,5,6\n", ["unnamed", "x", "y", "z"]),
        ("x,y,z,,\n1,2,3,4,5\n4,5,6,7,8\n", ["x", "y", "z", "unnamed", "unnamed_2"]),
        ('"x","y","z"\n1,2,3\n4,5,6\n', ["x", "y", "z"]),
        ("X (m);Y (m);Z (m)\n1;2;3\n4;5;6\n", ["X (m)", "Y (m)", "Z (m)"]),
        ("Points:0,Points:1,Points:2\n1,2,3\n4,5,6\n", ["Points:0", "Points:1", "Points:2"]),
        ("1 2 3\n# another part\n// and more\n4 5 6\n", ["x", "y", "z"]),
        ("% x y z\n1 2 3\n4 5 6\n", ["x", "y", "z"]),
        ("\ufeff1 2 3\n4 5 6\n", ["x", "y", "z"]),
        ('"x","y","z"\n"1.0","2.0","3.0"\n"4","+5"," 6 "\n', ["x", "y", "z"]),
        ('x;y;z\n"1,0";"2,0";"3,0"\n4;5;6\n', ["x", "y", "z"]),
        ('"x" "y" "z"\n"1" "2" "3"\n"4"  5\t"6"\n', ["x", "y", "z"]),
        ('"X","Y","Z","my, field"\n1,2,3,0\n4,5,6,0\n', ["X", "Y", "Z", "my, field"]),
        ('"","x","y","z"\n"1",1,2,3\n"2",4,5,6\n', ["x", "y", "z"]),
        ('"x" "y" "z"\n"1" 1 2 3\n"2" 4 5 6\n', ["x", "y", "z"]),
        ('"","x","y","z"\n"7",1,2,3\n"8",4,5,6\n', ["unnamed", "x", "y", "z"]),
        ("1|2|3\n4|5|6\n", ["x", "y", "z"]),
        ("x|y|z|my label\n1|2|3|0\n4|5|6|0\n", ["x", "y", "z", "my label"]),
        ("1 2 3 # first\n4 5 6 // second, 2; 3|4\n", ["x", "y", "z"]),
        ("1,2,3 # first; point\n4,5,6, # second\n", ["x", "y", "z"]),
        ("1\u00a02\u00a03\n4 5 6\n", ["x", "y", "z"]),
        ("1.0D+00 20d-1 .3D1\n4 5 6\n", ["x", "y", "z"]),
        (
            "#  POINT3D_ID, X, Y, Z, R, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)\n7 1 2 3 0 0.5 9 9 9 9\n8 4 5 6 0 0.5\n",
            ["POINT3D_ID", "X", "Y", "Z", "R", "ERROR"],
        ),
        ("# x, y, z, i\n1 2 3 4\n4 5 6 7\n", ["x", "y", "z", "i"]),
    ],
)
def test_text_as_people_write_it(tmp_path, text, names):
    (tmp_path / "a.txt").write_bytes(text.encode())
    found = read_scan(tmp_path / "a.txt")
    assert list(found.fields) == names
    assert found.xyz.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("columns", [None, ["x", "y", "z", "intensity", "r", "g", "b"]])
def test_pts_has_the_intensity_before_the_colours(tmp_path, columns):
    (tmp_path / "a.pts").write_text("2\n1 2 3 5 1 2 30\n4 5 6 -6 1 2 30\n")
    found = read_scan(tmp_path / "a.pts", columns)
    assert found.xyz.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert found.fields["intensity"].tolist() == [5, -6]
    assert found.rgb.tolist() == [[1, 2, 30], [1, 2, 30]]


AMBIGUOUS = {
    "a signed intensity before colours": "1 2 3 -1045 10 20 30\n",
    "an intensity before colours": "1 2 3 45 10 20 30\n",
    "colours with a transparency": "1 2 3 10 20 30 255\n",
    "normals": "1 2 3 0.6 0 0.8\n1 2 3 -0.6 0 0.8\n",
    "normals along an axis": "1 2 3 0 0 1\n1 2 3 0 1 0\n",
    "fractions": "1 2 3 0.25 0.5 0.75\n",
    "beyond 8 bits": "1 2 3 300 20 30\n",
    "five": "1 2 3 4 5\n",
    "names of too few columns": "//X Y Z\n1 2 3 4 5 6\n",
    "names twice": "x,y,z,z\n1,2,3,4\n",
    "a title": "my scan\n1,2,3\n",
}


@pytest.mark.parametrize("suffix", [".txt", ".xyz", ".csv", ".npy"])
@pytest.mark.parametrize("text", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_columns_whose_meaning_is_not_certain_are_asked_for(tmp_path, text, suffix):
    path = tmp_path / f"a{suffix}"
    rows = text.splitlines()
    if suffix == ".npy":
        if not text[0].isdigit():
            pytest.skip("arrays have no titles")
        rows = [[float(word) for word in row.split()] for row in rows if "," not in row]
        np.save(path, np.array(rows))
    else:
        path.write_text(text)
    with pytest.raises(UserError, match=r"columns=\[x,y,z") as raised:
        read_scan(path)
    first = rows[0] if suffix == ".npy" else next(row for row in rows if row[0].isdigit()).split()
    assert suffix == ".csv" or all(str(word).strip(",") in str(raised.value) for word in first)
    count = len(text.splitlines()[-1].replace(",", " ").split())
    named = ["x", "y", "z", "a", "b", "c", "d"][:count]
    assert read_scan(path, named).xyz[0].tolist() == [1, 2, 3]


def test_columns_that_are_given_count_more_than_those_of_the_file(tmp_path):
    path = write(tmp_path / "a.csv", "x,y,z,a\n1,2,3,4\n")
    assert list(read_scan(path, ["y", "x", "z", "label"]).fields) == ["y", "x", "z", "label"]
    with pytest.raises(UserError, match="4 columns, but columns names 3"):
        read_scan(path, ["x", "y", "z"])
    with pytest.raises(UserError, match="one name to two columns"):
        read_scan(path, ["x", "y", "z", "x"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.5 2,500 3\n", "no points"),
        ("1;2,5;3\n1.5;2,5;3\n", "line 1, column 2 is no number: 2,5; write all numbers with decimal points"),
        ("x,y,z,label\n1,2,3,\n", r"line 2, column 4 \(label\) is empty; write NaN"),
        ("x\ty\tz\ti\n1\t2\t3\t\n4\t5\t6\t7\n", r"line 2, column 4 \(i\) is empty"),
        ("x\ty\tz\ti\n1\t\t3\t4\n", r"line 2, column 2 \(y\) is empty"),
        ("x,y,z,i\n1,2,3,\n4,5,6,7\n", r"line 2, column 4 \(i\) is empty"),
        ("x,y,z,label\n1,2,3,4\n\n# a\n1,2,3,\n", r"line 5, column 4 \(label\) is empty"),
        ("1 2 3 chair\n1 2 3 4\n", "line 1, column 4 is no number: chair; write a number, write NaN"),
        ("x,y,z,color\n1,2,3,#ff0000\n", r"column 4 \(color\) is no number: #ff0000; write colours as three columns"),
        ("1 2 3 #ff0000\n", "line 1, column 4 is no number: #ff0000; write colours"),
        ("1 2 3\n1 \x1b[2J 3\n", r"line 2, column 2 is no number: \?\[2J; "),
        (f"1 2 3\n1 {'a' * 900} 3\n", r"line 2, column 2 is no number: a{40}\.\.\.; "),
        ("1 2 3\n1 2 1_000\n", "line 2, column 3 is no number: 1_000"),
        ("1 2 3\n1 2 -\n", "line 2, column 3 is no number: -;"),
        ('1;2;"3\n', 'line 1, column 3 is no number: "3;'),
        ("v 1 2 3\nv 4 5 6\n", "line 1, column 1 is no number: v; the file looks like Wavefront OBJ"),
        ("2\nwater\nC 1 2 3\nH 4 5 6\n", "line 3, column 1 is no number: C"),
        ("1\t2;3\n", r"no points; its first line is: 1\\t2;3; numbers are read with blanks, tabs, commas"),
        ("(1, 2, 3)\n", "no points; its first line is: .1, 2, 3.; .* without brackets"),
        ("1.234,56;2.345,67;10,0\n", "no points; .* without separators of thousands"),
        ('"1,234.56","2.5","3.5"\n', r"line 1, column 1 is no number: 1,234\.56; .* without thousands separators"),
        ("2\n1\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n1 0 0 0\n", "looks like PTX"),
        ('"","x","y","z"\n"a",1,2,3\n', "line 2, column 1 is no number: a"),
        ("no\n" * 30, "no numbers in its first 21 lines; the first is: no"),
        ("x y z\n".encode("utf-16"), "not text in UTF-8"),
    ],
)
def test_text_that_cannot_be_told_is_an_error(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_scan(write(tmp_path / "a.txt", text))


def test_missing_and_infinite_numbers_of_other_programs(tmp_path):
    text = "x y z a b\n1 2 3 NA 1.#INF\n1 2 3 null -1.#INF\n1 2 3 N/A -nan(ind)\n1 \u22122 3 1.#QNAN 1.5D+01\n"
    found = read_scan(write(tmp_path / "a.txt", text))
    assert found.fields["y"].tolist() == [2, 2, 2, -2]
    assert np.isnan(found.fields["a"]).all()
    assert np.array_equal(found.fields["b"], [np.inf, -np.inf, np.nan, 15], equal_nan=True)


def test_columns_that_are_left_out_are_said(tmp_path, caplog):
    read_scan(write(tmp_path / "a.csv", '"","x","y","z"\n"1",1,2,3\n'))
    assert "its first column, the numbers of the rows without a name, is left out" in caplog.text
    read_scan(write(tmp_path / "a.txt", "# ID, X, Y, Z, TRACK[] as (A, B)\n7 1 2 3 0 0\n"))
    assert "the lists of numbers behind column 4 are left out" in caplog.text


def test_names_that_are_not_utf_8_are_those_of_windows(tmp_path, caplog):
    found = read_scan(write(tmp_path / "a.txt", "x y z Höhe\n1\u00a02\u00a03 4\n".encode("cp1252")))
    assert found.fields["Höhe"].tolist() == [4] and found.xyz.tolist() == [[1, 2, 3]]
    assert "line 1 is not UTF-8; it is read as cp1252" in caplog.text


@pytest.mark.parametrize("head", ["", "x,y,z\n", "a title\n"])
def test_commas_that_may_be_decimal_are_asked_for(tmp_path, head):
    path = write(tmp_path / "a.csv", head + "1,05,2,5,3,5\n4,5,2,0,1,0\n2,5,2,5,1,0\n")
    with pytest.raises(UserError) as raised:
        read_scan(path)
    message = str(raised.value)
    assert "columns=[x,y,z,r,g,b] (6 names) for 1 05 2 5 3 5 or columns=[x,y,z] (3 names) for 1.05 2.5 3.5" in message
    assert read_scan(path, ["x", "y", "z"]).xyz.tolist() == [[1.05, 2.5, 3.5], [4.5, 2, 1], [2.5, 2.5, 1]]
    whole = read_scan(path, ["x", "y", "z", "r", "g", "b"])
    assert whole.xyz.tolist() == [[1, 5, 2], [4, 5, 2], [2, 5, 2]]
    assert whole.rgb.tolist() == [[5, 3, 5], [0, 1, 0], [5, 1, 0]]


@pytest.mark.parametrize(
    "text",
    [
        "x,y,z,r,g,b\n1,2,3,10,20,30\n",
        "1, 2, 3, 10, 20, 30\n",
        "1,-2,3,10,20,30\n",
        "1,2,3,10,20,30\n1,-2,3,10,20,30\n",
        "1,2,3,10,20,30\n1.5,2,3,10,20,30\n",
    ],
)
def test_commas_that_cannot_be_decimal_separate(tmp_path, text):
    assert read_scan(write(tmp_path / "a.csv", text)).rgb[0].tolist() == [10, 20, 30]


@pytest.mark.parametrize("suffix", writable(".csv", ".asc", ".xyz", ".pts", ".txt"))
def test_columns_that_are_not_used_are_said(tmp_path, suffix, caplog):
    write_scan(tmp_path / f"a{suffix}", scan(5), {})
    read_scan(tmp_path / f"a{suffix}", ["x", "y", "z"])
    assert "columns" not in caplog.text
    found = read_scan(tmp_path / f"a{suffix}", ["a", "b", "c"])
    assert found.xyz.shape == (5, 3)
    assert f"a{suffix}: columns=[a,b,c] is not used, because the file names its fields: x, y, z, " in caplog.text


def test_columns_do_not_join_what_the_file_names(tmp_path):
    with pytest.raises(UserError, match="6 columns, but columns names 3"):
        read_scan(write(tmp_path / "a.csv", "x,y,z,r,g,b\n1,2,3,10,20,30\n"), ["x", "y", "z"])


@pytest.mark.parametrize("rows", ["1 2 3 NA\n", '"1" 2 3 4\n', "1 2 3 4 # a\n", "1 2 3 1d0\n", "1 2 3 \u22124\n"])
def test_unusual_text_in_pieces_is_text_as_a_whole(tmp_path, rows):
    path = write(tmp_path / "a.txt", rows * 50 + "1 2 3 x\n" + rows)
    with pytest.raises(UserError, match="line 51, column 4 .d. is no number: x"):
        read_text(Bounds(path, piece_bytes=100), list("xyzd"))
    found = read_text(Bounds(write(path, rows * 50), piece_bytes=100), list("xyzd"))
    assert found.xyz.tolist() == [[1, 2, 3]] * 50
    assert np.array_equal(found.fields["d"], read_scan(path, list("xyzd")).fields["d"], equal_nan=True)


@pytest.mark.parametrize(
    "text",
    [
        "1 2 " + '"' * 500_000 + "\n",
        "1 2 " + '"a ' * 300_000 + "\n",
        "1 2 " + "1" * 500_000 + "x\n",
        "1 2 3 " + "#abc " * 200_000 + "\n",
        "1 2 3" + " " * 900_000 + "#\n",
        "1 2 3\n" + "1 2 NA\n" * 300_000 + "1 2 x\n",
        "1 2 3\n" + '"1" 2 ' + '"' + " " * 900_000 + "\n",
        "x,y," + '"' * 300_000 + "\n1,2,3\n",
        "1,2," + "1" * 500_000 + "," + "5,5,5\n",
    ],
)
def test_unusual_text_costs_linear_time(tmp_path, text):
    begun = time.process_time()
    for names in (None, ["x", "y", "z"]):
        with suppress(UserError):
            read_scan(write(tmp_path / "a.txt", text), names)
    assert time.process_time() - begun < 10


@pytest.mark.parametrize("name", ["rgb", "RGB", "rgba"])
def test_three_colours_packed_into_one_number(tmp_path, name):
    text = f"x y z {name}\n1 2 3 16711680\n1 2 3 255\n1 2 3 {0xFF010203}\n1 2 3 {0xFF010203 - 2**32}\n"
    found = read_scan(write(tmp_path / "a.txt", text))
    assert found.rgb.tolist() == [[255, 0, 0], [0, 0, 255], [1, 2, 3], [1, 2, 3]]
    assert found.fields[name].tolist()[:2] == [16711680, 255]
    for suffix in (".ply", ".npz", ".las", ".csv", ".pcd"):
        write_scan(tmp_path / f"b{suffix}", found, {})
        assert np.array_equal(read_scan(tmp_path / f"b{suffix}").rgb, found.rgb)


def test_packed_colours_may_be_the_bits_of_a_float():
    bits = np.array([0xFF0000, 0xFF, 0xFFFFFFFF, 0x4A808080], np.uint32)
    coordinates = dict.fromkeys("xyz", np.arange(4.0))
    found = Scan(Path("x"), {**coordinates, "rgb": bits.view(np.float32)})
    assert found.rgb.tolist() == [[255, 0, 0], [0, 0, 255], [255] * 3, [128] * 3]
    with pytest.raises(UserError, match="field rgb has numbers that are not three colours packed into one"):
        Scan(Path("x"), {**coordinates, "rgb": np.full(4, 0.5)}).rgb  # noqa: B018
    with pytest.raises(UserError, match="not three colours packed"):
        Scan(Path("x"), {**coordinates, "rgb": np.full(4, 2**32)}).rgb  # noqa: B018
    assert Scan(Path("x"), {**coordinates, "rgb": np.arange(4, dtype=np.uint8)}).rgb is None
    missing = np.array([np.nan, 255, 256, 65536])
    assert Scan(Path("x"), {**coordinates, "rgb": missing}).rgb.tolist() == [[0] * 3, [0, 0, 255], [0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize("names", [["x", "y", "z", "X", "Y", "Z"], ["X", "y", "Z", "Y", "z", "x"]])
@pytest.mark.parametrize("suffix", writable())
def test_names_that_differ_in_case_are_two_fields(tmp_path, suffix, names):
    """The coordinates are x, y and z; nothing of the others is lost in any format."""
    fields = {name: np.arange(4.0) + 10 * number for number, name in enumerate(names)}
    write_scan(tmp_path / f"a{suffix}", Scan(Path("memory.ply"), fields), {})
    found = read_scan(tmp_path / f"a{suffix}")
    assert np.allclose(found.xyz.T, [fields[name] for name in "xyz"])
    for name in "XYZ":
        kept = f"{name}_input" if suffix in (".las", ".laz") else name
        assert found.fields[kept].tolist() == fields[name].tolist()


def test_a_name_stands_for_its_own_spelling_or_else_for_the_only_other_one():
    def of(*names):
        return Scan(Path("a.ply"), {name: np.zeros(2) for name in names})

    assert of("LABEL", "label", "Label").field("label") == "label"
    assert of("class", "Label").field("label", "class") == "Label"
    assert of("Label [1]", "LABEL").field("label") == "LABEL"
    assert of("Label [1]", "x").field("label") == "Label [1]"
    assert of("Label", "LABEL").field("Label") == "Label"
    assert of("x").field("label") is None
    with pytest.raises(UserError, match=r"a\.ply: fields Label and LABEL have the same name but for case or unit"):
        of("Label", "LABEL").field("label")
    with pytest.raises(UserError, match=r"fields x \[m\] and x \[ft\] have the same name"):
        of("x [m]", "y", "z", "x [ft]").xyz  # noqa: B018


def test_colours_of_paraview(tmp_path):
    names = '"Points:0","Points:1","Points:2","RGB:0","RGB:1","RGB:2"'
    found = read_scan(write(tmp_path / "a.csv", f"{names}\n1,2,3,10,20,30\n"))
    assert found.xyz.tolist() == [[1, 2, 3]] and found.rgb.tolist() == [[10, 20, 30]]


def test_a_count_that_is_not_that_of_the_points_is_said(tmp_path, caplog):
    read_scan(write(tmp_path / "a.txt", "1\n1 2 3\n4 5 6\n"))
    assert "says that it has 1 points, but has 2" in caplog.text


def test_fractions_of_cloudcompare_are_colours(tmp_path):
    found = read_scan(write(tmp_path / "a.txt", "//X Y Z Rf Gf Bf\n1 2 3 0 1 0.2\n"))
    assert found.rgb.tolist() == [[0, 255, 51]]
    found = read_scan(write(tmp_path / "a.txt", "//X Y Z Rf Gf Bf\n1 2 3 0 1 0\n"))
    assert found.rgb.tolist() == [[0, 255, 0]]


@pytest.mark.parametrize(
    ("name", "above"),
    [("a.txt", "x y z r g b\n"), ("a.csv", "x,y,z,red,green,blue\n"), ("a.ptx", PTX_HEADER)],
)
@pytest.mark.parametrize(
    ("colors", "expected"),
    [
        (["0 0.5 0.9", "1 0.25 0"], [[0, 128, 230], [255, 64, 0]]),
        (["0.5 0 1", "0.9 1 0"], [[128, 0, 255], [230, 255, 0]]),
        (["1.0000001 0.5 0", "0.25 0.9 1"], [[255, 128, 0], [64, 230, 255]]),
        (["1 0 3", "1 0 1"], [[1, 0, 3], [1, 0, 1]]),
    ],
    ids=["whole red", "whole others", "rounded", "bytes"],
)
def test_the_range_of_colours_is_that_of_all_three(tmp_path, name, above, colors, expected):
    rows = "".join(f"1 2 {n} {'0.5 ' * (name == 'a.ptx')}{color}\n" for n, color in enumerate(colors))
    found = read_scan(write(tmp_path / name, above + (rows.replace(" ", ",") if name == "a.csv" else rows)))
    assert found.rgb.tolist() == expected


def test_fractions_beyond_one_are_refused():
    fields = dict.fromkeys("xyz", np.arange(3.0)) | dict.fromkeys("rgb", np.array([0.1, 0.5, 1.2]))
    with pytest.raises(UserError, match="x: colours have fractions up to 1.2; scale them to 0..1 or 0..255"):
        Scan(Path("x"), fields).rgb  # noqa: B018
    means = Scan(Path("x"), fields | dict.fromkeys("rgb", np.array([0.1, 7.5, 99.7])))
    assert means.rgb[:, 0].tolist() == [0, 8, 100]


@pytest.mark.parametrize("scale", [1 / 255, 1, 256, 257])
def test_colours_of_any_depth(tmp_path, scale):
    before = scan()
    wide = {n: before.fields[n].astype(float) * scale for n in ("red", "green", "blue")}
    kind = np.float32 if scale < 1 else np.uint16
    after = Scan(before.path, {**before.fields, **{n: v.astype(kind) for n, v in wide.items()}})
    assert np.array_equal(after.rgb, before.rgb)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


PLY = "ply\nformat {} 1.0\nelement vertex {}\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
PCD = "VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH {0}\nHEIGHT 1\nPOINTS {0}\nDATA {1}\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.ply", PLY.format("binary_little_endian", 4_000_000_000) + "x" * 100, "4,000,000,000 points, more than max_points=200,000,000"),
        ("a.ply", PLY.format("ascii", 100_000_000) + "1 2 3\n", "claims 100,000,000 points and at least"),
        ("a.ply", PLY.format("ascii", 2) + "1 2 3.000000\n", "claims 1 lines more"),
        ("a.ply", PLY.format("ascii", 1) + "1 2 three\n", "line 8, column 3 (z) is no number: three"),
        ("a.pcd", PCD.format(1, "ascii") + "1 2 three\n", "line 10, column 3 (z) is no number: three"),
        ("a.ply", PLY.format("ascii", 0), "no points"),
        ("a.ply", PLY.format("ascii", 1) + "1 2 nan\n", "no points with coordinates"),
        ("a.ply", "hello", "not a PLY file"),
        ("a.ply", "ply\nformat ascii 1.0\nelement face 0\nend_header\n", "no element vertex"),
        ("a.pcd", PCD.format(100_000_000, "binary") + "x" * 100, "claims 100,000,000 points"),
        ("a.pcd", PCD.format(100_000_000, "ascii") + "1 2 3\n", "claims 100,000,000 points"),
        ("a.pcd", PCD.format(100_000_000, "binary_compressed") + "x" * 100, "claims 100,000,000 points"),
        ("a.pcd", "hello", "no readable header"),
        ("a.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (4000000000, 3), }" + b" " * 45 + b"\n", "not a readable NPY"),
        ("a.npy", b"hello", "not a readable NPY"),
        ("a.npz", b"PK\x03\x04", "not a readable NPZ"),
        ("a.las", b"LASF" + b"\x00" * 400, "not a readable LAS"),
        ("a.las", b"LASF" + b"\x00" * 96 + b"\xff" * 200, "claims 4,294,967,295 records"),
        ("a.txt", "", "no points"),
        ("a.txt", "1 2 3\n4 5\n", "line 2 has 2 columns, not 3"),
        ("a.txt", "1 2 3\n4 5 x\n", "line 2, column 3 is no number: x"),
        ("a.txt", "1 2\n", "2 columns without names"),
        ("a.txt", "1 2 3\n\x00\n", "NUL"),
        ("a.csv", "a,b,c\n1,2,3\n", "no fields x, y, z"),
        ("a.obj", "v 0 0 0", "unknown format"),
    ],
)  # fmt: skip
def test_damaged_files_are_one_clear_error(tmp_path, name, content, message):
    with pytest.raises(UserError) as raised:
        read_scan(write(tmp_path / name, content)).xyz  # noqa: B018
    assert message in str(raised.value)
    assert str(tmp_path / name) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_pickles_are_not_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "opened",)

    np.save(tmp_path / "a.npy", np.array([Trap()]), allow_pickle=True)
    np.savez(tmp_path / "a.npz", xyz=np.array([Trap()]))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(UserError):
            read_scan(tmp_path / name)
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("suffix", writable(".csv", ".asc", ".xyz", ".pts", ".laz", ".e57"))
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_damage_is_an_error_or_points(tmp_path_factory, suffix, data):
    """A valid file with bytes changed, cut out or added anywhere."""
    folder = tmp_path_factory.mktemp("damage")
    write_scan(folder / f"a{suffix}", scan(20), {})
    content = bytearray((folder / f"a{suffix}").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(content) - 1, 0)))
        new = data.draw(st.binary(max_size=8))
        content[at : at + data.draw(st.integers(0, 8))] = new
    (folder / f"a{suffix}").write_bytes(content)
    try:
        found = read_scan(folder / f"a{suffix}")
        assert np.isfinite(found.xyz).any()
        assert found.rgb is None or found.rgb.dtype == np.uint8
    except UserError as error:
        assert f"a{suffix}" in str(error)  # noqa: PT017


def test_scans_of_a_folder_or_pattern(tmp_path):
    for name in ("b.ply", "a.las", "c.doc"):
        (tmp_path / name).touch()
    assert [path.name for path in find_scans(tmp_path)] == ["a.las", "b.ply"]
    assert [path.name for path in find_scans(f"{tmp_path}/*.ply")] == ["b.ply"]
    with pytest.raises(UserError, match="no point-cloud files"):
        find_scans(f"{tmp_path}/*.xyz")


NPY = b"\x93NUMPY\x01\x00v\x00{'descr': %s, 'fortran_order': False, 'shape': %s, }"


def npy(description, shape, content=b""):
    head = (NPY % (description, shape)).ljust(127) + b"\n"
    return head + content


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        # A negative count without properties ended the process inside NumPy.
        ("a.ply", "ply\nformat binary_little_endian 1.0\nelement vertex -1\nend_header\n0000000000000", "line 3"),
        ("a.ply", "ply\nformat binary_little_endian 1.0\nelement vertex 5\nend_header\n0000000000000", "0 fields"),
        ("a.ply", PLY.format("ascii", "1_0") + "1 2 3\n" * 10, "line 3"),
        ("a.ply", PLY.format("ascii", "\u0661") + "1 2 3\n", "line 3"),
        ("a.ply", PLY.format("ascii", "1e999") + "1 2 3\n", "line 3"),
        ("a.ply", PLY.format("binary_little_endian", 2**63) + "x" * 40, "more than max_points"),
        # Only a whole line ends the header.
        ("a.ply", PLY.format("binary_little_endian", 100_000_000).replace("element", "comment end_header\nelement"), "claims"),
        ("a.ply", PLY.format("ascii", 1).replace("end_h", "element face 100000000\nproperty int a\nend_h") + "1 2 3\n", "claims"),
        ("a.ply", PLY.format("ascii", 1).replace("float y", "float x") + "1 2 3\n", "two properties x"),
        ("a.ply", PLY.format("ascii", 1).replace("float z", "list uchar int z") + "1 2 0\n", "property z of element vertex is a list"),
        ("a.ply", PLY.format("ascii", 1).replace("end_h", "element vertex 1\nend_h") + "1 2 3\n", "two elements"),
        ("a.ply", PLY.format("ascii", 1).replace("float z", "uchar z") + "1 2 300\n", "is uint8 in the header"),
        ("a.ply", "ply\n" + "comment a\n" * 10_000 + PLY.format("ascii", 1)[4:] + "1 2 3\n", "no header in its first"),
        ("a.pcd", PCD.format(0, "binary").replace("1 1 1", "1 1 1000000000"), "1,000,000,002 fields"),
        ("a.pcd", PCD.format(1, "ascii").replace("1 1 1", "1 1 -1") + "1 2 3\n", "no readable header"),
        ("a.pcd", PCD.format(1, "ascii").replace("HEIGHT 1", "HEIGHT 9") + "1 2 3\n", "WIDTH x HEIGHT is 1 x 9"),
        ("a.pcd", PCD.format(2**63, "ascii") + "1 2 3\n", "more than max_points"),
        ("a.pcd", PCD.format(1, "ascii").replace("4 4 4", "4 4 8").replace("F F F", "F F I") + f"1 2 {2**63}\n", "is int64 in"),
        ("a.pcd", PCD.format(2, "ascii") + "1 2 3.000000\n", "claims 2 points, it has 1"),
        ("a.pcd", PCD.format(2, "ascii").replace("x y z", "x y y") + "1 2 3\n4 5 6\n", "two fields"),
        ("a.pcd", PCD.format(1, "binary_compressed").encode() + b"\x05\x00\x00\x00\xff\xff\xff\xffhello", "inflate to 4,294,967,295"),
        ("a.pcd", PCD.format(1, "binary_compressed").encode() + b"\xff\xff\xff\xff\x0c\x00\x00\x00hello", "4,294,967,295 compressed"),
        ("a.npy", npy(b"[('x','|S0'),('y','|S0'),('z','|S0')]", b"(100000000,)"), "something else than numbers"),
        ("a.npy", npy(b"[('x','<f4',(3,)),('y','<f4')]", b"(1,)", bytes(16)), "field x has 3 numbers for each point"),
        ("a.npy", npy(b"[('x',[('a','<f4')]),('y','<f4')]", b"(1,)", bytes(8)), "something else than numbers"),
        ("a.npy", npy(b"'|O'", b"(100000000,)"), "something else than numbers"),
        ("a.npy", npy(b"'<f4'", b"(-1, 3)"), "claims -1 points"),
        ("a.npy", npy(b"'<f4'", b"(3, -1)"), "claims the shape"),
        ("a.npy", npy(b"'<f4'", b"(100000000, 3)"), "claims an array of 1,200,000,000 bytes"),
        ("a.txt", b"1 " * 600_000 + b"\n", "a line longer than"),
        ("a.txt", b"1 2 3\n" + b"1" * 2_500_000, "a line longer than"),
        ("a.txt", b"#" * 1_200_000 + b"\n1 2 3\n", "a line longer than"),
        ("a.txt", b"1 " * 3000 + b"\n", "3,000 fields"),
        ("a.txt", b"1 2 1e999\n", "no points with coordinates"),
        ("a.csv", "x,y,z\n1,2,3\n1,,3\n", "line 3, column 2 (y) is empty"),
        # Other names than the file's would be guessed.
        ("a.csv", "x,y,z,x\n1,2,3,4\n", "(x,y,z,x) do not name its 4 columns"),
        ("a.csv", "x,y,z,r,g,b\n1,2,3,4,5,6,7\n", "(x,y,z,r,g,b) do not name its 7 columns"),
        ("a.npy", npy(b"'<f4'", b"(3, 100000000)"), "100,000,000 fields"),
    ],
)  # fmt: skip
def test_what_a_header_claims_is_not_believed(tmp_path, name, content, message):
    with pytest.raises(UserError) as raised:
        read_scan(write(tmp_path / name, content)).xyz  # noqa: B018
    assert message in str(raised.value)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    ("at", "kind", "number", "message"),
    [
        (100, "I", 3_000_000, "claims 3,000,000 records"),
        (243, "I", 900, "claims record 1 of 900"),
        (247, "Q", 100_000_000, "claims 100,000,000 points"),
        (247, "Q", 2**63, "more than max_points"),
        (131, "d", 0.0, "the scales"),
        (131, "d", float("nan"), "the scales"),
        (155, "d", float("inf"), "offsets"),
        (375 + 20, "H", 65535, "record 1 of"),
    ],
)
def test_a_las_header_is_not_believed(tmp_path, at, kind, number, message):
    before = scan(20)
    write_scan(tmp_path / "a.las", before, {"label": np.arange(20, dtype=np.uint8)})
    content = bytearray((tmp_path / "a.las").read_bytes())
    struct.pack_into(f"<{kind}", content, at, number)
    with pytest.raises(UserError, match=message):
        read_scan(write(tmp_path / "a.las", bytes(content)))


@pytest.mark.parametrize("suffix", writable())
def test_more_than_max_points_is_refused_by_name(tmp_path, suffix):
    write_scan(tmp_path / f"a{suffix}", scan(20), {})
    with pytest.raises(UserError, match=r"20 points, more than max_points=19; give a larger max_points"):
        read_scan(tmp_path / f"a{suffix}", max_points=19)
    assert len(read_scan(tmp_path / f"a{suffix}", max_points=20)) == 20


def test_arrays_that_inflate_are_bounded_by_max_points(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", xyz=np.zeros((3, 3)), image=np.zeros((1000, 2000)))
    with pytest.raises(UserError, match=r"inflates to 16,000,0\d\d bytes, more than 64 for each of max_points=1,000"):
        read_scan(tmp_path / "a.npz", max_points=1000)
    assert len(read_scan(tmp_path / "a.npz")) == 3


def test_arrays_named_in_capitals_are_coordinates(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.arange(3.0), Y=np.arange(3.0), Z=np.arange(3.0), camera=np.eye(4))
    found = read_scan(tmp_path / "a.npz")
    assert found.xyz.tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
    write_scan(tmp_path / "b.npz", found, {})
    assert np.array_equal(np.load(tmp_path / "b.npz")["camera"], np.eye(4))


def test_an_archive_of_very_many_members_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for number in range(25_000):
            archive.writestr(f"{number}.npy", b"")
    with pytest.raises(UserError, match="a list of members longer than"):
        read_scan(tmp_path / "a.npz")


def test_a_million_comment_lines_cost_linear_time(tmp_path):
    write(tmp_path / "a.txt", b"#\n" * 1_000_000 + b"1 2 3\n")
    begun = time.process_time()
    assert read_scan(tmp_path / "a.txt").xyz.tolist() == [[1, 2, 3]]
    # Copying the rest of the file for each line took minutes.
    assert time.process_time() - begun < 10


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "closed"])
def test_what_is_no_file_is_one_line(tmp_path, kind):
    path = tmp_path / "a.txt"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    said = {"folder": "is a folder", "pipe": "not a regular file but a pipe"}.get(kind, "no such file")
    for read in (read_scan, lambda name: read_points(name, [])):
        with pytest.raises(UserError, match=f"{path}: {said}"):
            read(path)


NAMES = {
    "x\x1b[2Jy": "x_[2Jy",
    "a\nb": "a_b",
    "a\x00b": "a_b",
    "\u202eabc": "_abc",
    "long" * 99: "long" * 16,
    "": "unnamed",
    "_": "unnamed_2",
}


@pytest.mark.parametrize("suffix", writable())
def test_names_from_a_file_are_cleaned_once_and_written_by_every_format(tmp_path, suffix):
    fields = dict(scan(5).fields) | {name: np.arange(5.0) for name in [*NAMES, "a b", "a,b", "é", "../c", "file"]}
    np.savez(tmp_path / "a.npz", **{name: values for name, values in fields.items() if name != "file"})
    write_scan(tmp_path / "in.npz", Scan(Path("x.foo"), fields), {})
    found = read_scan(tmp_path / "in.npz")
    assert all(name.isprintable() and 0 < len(name) <= 64 for name in found.fields)
    assert {"x_[2Jy", "a_b", "a_b_2", "_abc", "long" * 16, "unnamed", "unnamed_2", "a b", "é", "file"} <= set(
        found.fields
    )
    write_scan(tmp_path / f"b{suffix}", found, {"label": np.arange(5) % 2}, ["label 0 a\nb"])
    again = read_scan(tmp_path / f"b{suffix}")
    assert len(again) == 5 and np.allclose(again.xyz, found.xyz, atol=1e-6)
    assert len(again.fields) == len(found.fields) + 1 or suffix in (".las", ".laz")
    assert np.array_equal(again.fields["label"], np.arange(5) % 2)


def test_text_in_pieces_is_text_as_a_whole(tmp_path):
    rng = np.random.default_rng(0)
    lines = [f"{a:.18e} {b:.3f} {n} {n + 2**60} {n if n < 150 else b}" for n, (a, b) in enumerate(rng.random((300, 2)))]
    text = "\n\n".join(lines) + ("\r\n" if len(lines) % 2 else "")
    names = ["x", "y", "z", "id", "mixed"]
    whole = read_scan(write(tmp_path / "a.txt", text), names)
    pieces = read_text(Bounds(tmp_path / "a.txt", piece_bytes=100), names)
    expected = np.array([[float(word) for word in line.split()] for line in lines])
    for place, name in enumerate(names):
        assert np.array_equal(pieces.fields[name], whole.fields[name])
        assert pieces.fields[name].dtype == whole.fields[name].dtype == (np.int64 if name in "z id" else np.float64)
        assert np.array_equal(whole.fields[name].astype(float), expected[:, place])
    assert whole.fields["id"].tolist() == [n + 2**60 for n in range(300)]
    with pytest.raises(UserError, match="line 599 has 2 columns, not 5"):
        read_text(Bounds(write(tmp_path / "b.txt", "\n\n".join([*lines[:-1], "1 2"])), piece_bytes=100), names)


@pytest.mark.parametrize("order", ["<", ">", "text"])
def test_ply_elements_that_are_not_points_are_copied(tmp_path, order):
    from plyfile import PlyData, PlyElement

    rng = np.random.default_rng(0)
    camera = np.array([(1.5, 7)], [("focal", "f4"), ("id", "u1")])
    kinds = [("x", "f8"), ("y", "f8"), ("z", "f8"), ("a", "i1"), ("b", "u2"), ("c", "i4"), ("d", "f4")]
    rows = np.array([tuple(row) for row in rng.integers(0, 100, (50, 7)) + 0.0], kinds)
    faces = np.empty(20, [("vertex_indices", object), ("flag", "u1")])
    faces["vertex_indices"] = [rng.integers(0, 50, size).astype(np.int32) for size in rng.integers(0, 6, 20)]
    faces["flag"] = 3
    elements = [PlyElement.describe(e, n) for e, n in ((camera, "camera"), (rows, "vertex"), (faces, "face"))]
    PlyData(elements, text=order == "text", byte_order="<" if order == "text" else order).write(str(tmp_path / "a.ply"))
    found = read_scan(tmp_path / "a.ply")
    assert all(np.array_equal(found.fields[name], rows[name]) for name in rows.dtype.names)
    assert all(found.fields[name].dtype.isnative for name in rows.dtype.names)
    write_scan(tmp_path / "b.ply", found, {"label": np.arange(50, dtype=np.uint8)})
    again = PlyData.read(str(tmp_path / "b.ply"))
    assert again["vertex"]["label"].tolist() == list(range(50))
    assert all(np.array_equal(again["vertex"][name], rows[name]) for name in rows.dtype.names)
    assert [list(face) for face in again["face"]["vertex_indices"]] == [list(f) for f in faces["vertex_indices"]]
    assert again["face"]["flag"].tolist() == [3] * 20


MEASURE = """
import sys
from deepgcn_seg.data.scans.files import read_scan, write_scan
from deepgcn_seg.memory import peak_resident_mb
import deepgcn_seg.data.scans.format_table, numba, laspy, lzf
from deepgcn_seg.data.scans.formats.token_kernel import split_lines
read_scan(sys.argv[2])
before = peak_resident_mb()
scan = read_scan(sys.argv[1])
read = peak_resident_mb()
scan.xyz
print((read - before) * 2**20, (peak_resident_mb() - before) * 2**20)
"""


@pytest.mark.parametrize(("suffix", "factor"), [(".ply", 31), (".pcd", 31), (".laz", 42), (".npz", 31), (".txt", 56)])
def test_memory_is_a_stated_number_of_bytes_a_point(tmp_path, suffix, factor):
    """What ``read_scan`` says: a point's bytes in the file, or 8 for each column of text; 24 for coordinates."""
    count = 1_500_000
    fields = dict.fromkeys("xyz", np.zeros(count)) | dict.fromkeys(("red", "green", "blue"), np.zeros(count, np.uint8))
    fields["reflectance"] = np.zeros(count, np.float32)
    write_scan(tmp_path / f"a{suffix}", Scan(Path("x.foo"), fields), {})
    write_scan(tmp_path / f"b{suffix}", Scan(Path("x.foo"), {name: of[:9] for name, of in fields.items()}), {})
    command = [sys.executable, "-c", MEASURE, str(tmp_path / f"a{suffix}"), str(tmp_path / f"b{suffix}")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    read, with_xyz = map(float, done.stdout.split())
    # Room for a piece of the file, and for one column while it is put together.
    assert read / count < factor + 8 + 48e6 / count
    assert with_xyz / count < factor + 8 + 2 * 24 + 48e6 / count


def threads():
    return len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed by Linux only")
@pytest.mark.parametrize("suffix", writable())
def test_reading_and_writing_leave_no_threads(tmp_path, suffix):
    """A thread of Arrow's that still holds a Python object when the interpreter ends aborts the process."""
    code = "import os, sys; from pathlib import Path; from test_scan import *\n"
    code += "import deepgcn_seg.data.scans.format_table, numba, laspy, torch; before = threads(); folder = Path(sys.argv[1])\n"
    code += (
        "write_scan(folder / sys.argv[2], scan(9), {}); read_scan(folder / sys.argv[2]).xyz; print(threads() - before)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), f"a{suffix}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    assert done.stdout.strip() == "0"


@pytest.mark.slow
def test_no_process_aborts_at_its_end_after_reading_text(tmp_path):
    """Several at once on busy cores, where one in eighteen ended with "terminate called without an active exception"."""
    write_scan(tmp_path / "a.csv", scan(1500), {})
    command = [
        sys.executable,
        "-c",
        f"from deepgcn_seg.data.scans.files import read_scan; read_scan('{tmp_path}/a.csv')",
    ]

    def status(_):
        return subprocess.run(command, capture_output=True).returncode

    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as several:
            found = list(several.map(status, range(30)))
        busy.kill()
    assert found == [0] * 30


def test_modules_in_the_current_folder_are_not_run_to_decode_laz(tmp_path, monkeypatch):
    write_scan(tmp_path / "a.laz", scan(9), {})
    for name in ("lazrs", "os", "resource", "text", "arrays"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('was run')")
    monkeypatch.chdir(tmp_path)
    assert len(read_scan("a.laz")) == 9


def test_annotations_in_pieces_are_annotations_as_a_whole(tmp_path):
    odd = {3: "1.0 2.0 3.0 18\x107 1 2", 40: "", 77: "1 2 3", 150: "1e2 -.5 0.1234567890123456789 1 2 3"}
    lines = [odd.get(number, f"{number}.25 -{number} 0.5 1 2 {number}") for number in range(200)]
    path = write(tmp_path / "chair_1.txt", "\n".join(lines))
    whole, pieces = [], []
    expected = read_points(path, whole)
    assert np.array_equal(read_points(path, pieces, piece_bytes=100), expected)
    assert len(expected) == 198 and [repair.line for repair in whole] == [4, 78]
    assert pieces == whole


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # Half a million digits before something else took a regular expression hours.
        (b"1" * 500_000 + b"x 1 1 1 1 1\n", None),
        (b"1" * 2_500_000, "a line longer than"),
        (b"\n" * 6_000_000 + b"1 2 3 4 5 6\n", None),
    ],
)
def test_an_annotation_costs_linear_time(tmp_path, content, message):
    path = write(tmp_path / "chair_1.txt", content)
    begun = time.process_time()
    if message:
        with pytest.raises(UserError, match=message):
            read_points(path, [])
    else:
        assert len(read_points(path, [])) <= 1
    assert time.process_time() - begun < 10


@pytest.mark.parametrize("tool", ["predict", "prepare"])
def test_max_points_is_a_setting_of_every_command_that_reads_scans(tmp_path, tool):
    (tmp_path / "scans" / "a").mkdir(parents=True)
    np.savetxt(tmp_path / "scans" / "a" / "room.txt", np.random.default_rng(0).uniform(0, 2, (50, 4)).round(1), "%.1f")
    (tmp_path / "scans" / "classes.yaml").write_text("classes: [a, b]\ncolumns: [x, y, z, label]\n")
    save_checkpoint(tmp_path / "a.ckpt", small(), NETWORK, S3DIS, TRAINED_ON)
    predict = [f"checkpoint={tmp_path}/a.ckpt", f"input={tmp_path}/scans/a/room.txt", f"output={tmp_path}/o.ply"]
    command = (
        [*predict, "columns=[x,y,z,i]"]
        if tool == "predict"
        else [f"source={tmp_path}/scans", f"data.root={tmp_path}/s"]
    )
    done = run(tool, *command, "max_points=49", f"hydra.run.dir={tmp_path}/log", check=False)
    assert done.returncode == 2
    assert "max_points=49" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "text", ["1 2 3\r4 5 6\r", "x y z\r1 2 3\r\r4 5 6", "1 2 3\r\n4 5 6\r\n", "# a\r2\r1 2 3\r4 5 6\r"]
)
def test_lines_may_end_with_a_carriage_return(text, tmp_path):
    path = tmp_path / "scan.txt"
    path.write_bytes(text.encode())
    scan = read_scan(path)
    assert scan.xyz.tolist() == [[1, 2, 3], [4, 5, 6]] and list(scan.fields) == ["x", "y", "z"]


def test_a_long_file_of_carriage_returns(tmp_path):
    rows = np.random.default_rng(0).integers(0, 1000, (200_000, 3))
    path = tmp_path / "scan.xyz"
    path.write_bytes(b"".join(b"%d %d %d\r" % tuple(row) for row in rows))
    assert np.array_equal(read_scan(path).xyz, rows)


def test_a_single_carriage_return_among_other_lines_joins_no_rows(tmp_path):
    path = tmp_path / "scan.txt"
    path.write_bytes(b"1 2 3\n4 5 6\r7 8 9\n")
    assert read_scan(path).xyz.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize("name", ["scan.pts", "scan.txt"])
def test_text_with_fewer_points_than_it_says_is_an_error(name, tmp_path):
    path = tmp_path / name
    path.write_text("3\n1 2 3\n4 5 6\n")
    with pytest.raises(UserError, match="says that it has 3 points, but has 2"):
        read_scan(path)


ELEMENT_BEFORE = PLY.format("ascii", 2).replace("element vertex", "element camera 2\nproperty int n\nelement vertex")


@pytest.mark.parametrize("blank", ["\n", " \t\n", "\r\n\n"])
@pytest.mark.parametrize(
    ("name", "head", "rows"),
    [
        ("a.ply", PLY.format("ascii", 2), ["1 2 3", "4 5 6"]),
        ("b.ply", ELEMENT_BEFORE, ["7", "8", "1 2 3", "4 5 6"]),
        ("a.ptx", PTX_HEADER, ["1 2 3 0.5", "4 5 6 0.5"]),
        ("a.pcd", PCD.format(2, "ascii"), ["1 2 3", "4 5 6"]),
        ("a.pts", "2\n", ["1 2 3", "4 5 6"]),
    ],
)
def test_blank_lines_among_rows_are_no_rows(name, head, rows, blank, tmp_path):
    for place in range(len(rows) + 1):
        lines = [f"{row}\n" for row in rows]
        lines.insert(place, blank)
        found = read_scan(write(tmp_path / name, head + "".join(lines)))
        assert found.xyz.tolist() == [[1, 2, 3], [4, 5, 6]], place


def test_rows_of_an_element_without_properties_are_blank(tmp_path):
    head = ELEMENT_BEFORE.replace("property int n\n", "")
    assert read_scan(write(tmp_path / "a.ply", head + "\n\n1 2 3\n4 5 6\n")).xyz.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("form", "rows", "message"),
    [
        ("ascii", b"1 2 3\n4 5 6\n7 8 9\n\n", "1 lines more than its header claims"),
        ("binary_little_endian", np.arange(10, dtype="<f4").tobytes()[:-3], "13 bytes more than its header claims"),
    ],
)
def test_a_ply_file_with_more_than_it_claims_is_told(form, rows, message, tmp_path, caplog):
    path = tmp_path / "scan.ply"
    names = "".join(f"property float {name}\n" for name in "xyz")
    path.write_bytes(f"ply\nformat {form} 1.0\nelement vertex 2\n{names}end_header\n".encode() + rows)
    assert len(read_scan(path)) == 2
    assert message in caplog.text


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("more", "faces", "fill"), [(1, 0, 200), (12, 0, 200), (1, 3, 200), (12, 3, 200), (12, 3, 0)])
def test_points_of_ply_that_are_longer_than_the_header_says_are_refused(more, faces, fill, order, tmp_path):
    """PCL declares three bytes of colours and writes a packed integer, Assimp four bytes and writes four floats."""
    form = "binary_little_endian" if order == "<" else "binary_big_endian"
    head = f"ply\nformat {form} 1.0\nelement vertex 5\n" + "".join(f"property float {name}\n" for name in "xyz")
    head += f"element face {faces}\nproperty list int short indices\nproperty uchar flag\nelement camera 1\n"
    rest = b"".join(struct.pack(f"{order}i{n}hB", n, *range(n), 7) for n in range(faces)) + bytes(4)
    path, points = tmp_path / "scan.ply", np.arange(15, dtype=f"{order}f4").reshape(5, 3)
    content = f"{head}property float focal\nend_header\n".encode()
    path.write_bytes(content + points.tobytes() + rest)
    assert np.array_equal(read_scan(path).xyz, points)
    longer = np.concatenate([points.view(np.uint8).reshape(5, -1), np.full((5, more), fill, np.uint8)], 1)
    path.write_bytes(content + longer.tobytes() + rest)
    with pytest.raises(UserError, match="points have other bytes than" if faces else f"have {12 + more} bytes each"):
        read_scan(path)
    path.write_bytes(content + points.tobytes() + rest[:-1])
    with pytest.raises(UserError, match="its header claims|face, camera. do not end with the file"):
        read_scan(path)


@pytest.mark.parametrize("length", [-1, 2**61, 2**63 - 1])
def test_lengths_of_lists_in_ply_are_not_trusted(length, tmp_path):
    head = "ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\nelement face 2\n"
    content = head.encode() + b"property list double double a\nend_header\n" + bytes(4) + struct.pack("<qq", length, 0)
    with pytest.raises(UserError, match="do not end with the file"):
        read_scan(write(tmp_path / "a.ply", content))
