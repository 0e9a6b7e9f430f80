"""Point-cloud files: what is written is read, as exactly as the format can; damage is one clear error."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepgcn_seg.data.scan import Scan, find_scans, read_scan, write_scan
from deepgcn_seg.data.scan_formats import FORMATS
from deepgcn_seg.errors import UserError


def scan(count=300, seed=0):
    """Geo-referenced points: the coordinates need more digits than float32 has."""
    rng = np.random.default_rng(seed)
    xyz = rng.uniform([5e5, 5.4e6, 100], [5e5 + 30, 5.4e6 + 20, 103], (count, 3))
    fields = dict(zip("xyz", xyz.T.copy()))
    fields |= {name: rng.integers(0, 256, count, np.uint8) for name in ("red", "green", "blue")}
    fields["reflectance"] = rng.random(count).astype(np.float32)
    return Scan(Path("memory.ply"), fields)


@pytest.mark.parametrize("suffix", FORMATS)
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


@pytest.mark.parametrize("suffix", FORMATS)
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


def test_las_keeps_its_header_and_dimensions(tmp_path):
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
        ("1 2 3 10 20 30 4\n4 5 6 10 20 30 5\n", ["x", "y", "z", "red", "green", "blue", "label"]),
        ("\ufeff1 2 3\n4 5 6\n", ["x", "y", "z"]),
    ],
)
def test_text_as_people_write_it(tmp_path, text, names):
    (tmp_path / "a.txt").write_bytes(text.encode())
    found = read_scan(tmp_path / "a.txt")
    assert list(found.fields) == names
    assert found.xyz.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_a_count_on_top_of_pts(tmp_path):
    (tmp_path / "a.pts").write_text("2\n1 2 3 -5 1 2 3\n4 5 6 -6 1 2 3\n")
    found = read_scan(tmp_path / "a.pts", ["x", "y", "z", "intensity", "r", "g", "b"])
    assert found.xyz.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert found.rgb.tolist() == [[1, 2, 3], [1, 2, 3]]


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
        ("a.ply", PLY.format("ascii", 1) + "1 2 three\n", "column 3 is not all numbers"),
        ("a.ply", PLY.format("ascii", 0), "no points"),
        ("a.ply", PLY.format("ascii", 1) + "1 2 nan\n", "NaN"),
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
        ("a.txt", "1 2 3\n4 5 x\n", "column 3 is not all numbers"),
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


@pytest.mark.parametrize("suffix", [s for s in FORMATS if s not in (".csv", ".asc", ".xyz", ".pts", ".laz")])
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
        assert np.isfinite(found.xyz).all()
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
