"""What docs/data.md says is read and refused, format by format; nothing that goes in is lost on the way out."""

import re
import struct
import warnings
from pathlib import Path

import laspy
import numpy as np
import pytest
from test_scan import NEEDS_PYE57, PCD, PLY, scan, writable, write

from deepgcn_seg.commands.predict import write_labelled
from deepgcn_seg.data.classes import S3DIS
from deepgcn_seg.data.scans.files import read_scan, write_scan
from deepgcn_seg.data.scans.format_table import FORMATS
from deepgcn_seg.data.scans.formats.scan import Scan, lost_digits
from deepgcn_seg.data.scans.formats.typed import exactly
from deepgcn_seg.data.scans.search import find_scans
from deepgcn_seg.errors import UserError
from deepgcn_seg.inference.segmenter import Prediction


@pytest.mark.usefixtures("limits_refused")
@pytest.mark.parametrize("suffix", [".laz", pytest.param(".e57", marks=NEEDS_PYE57)])
def test_scans_are_decoded_where_memory_cannot_be_limited(tmp_path, suffix):
    assert len(read_scan(binary(suffix)(tmp_path))) == 20


NAN = np.array([[1, 2, 3], [np.nan] * 3, [4, 5, np.inf]])
FACES = (
    "element face 1\nproperty list uchar int vertex_indices\nproperty uchar red\nproperty float quality\nend_header\n"
)


def binary(suffix, **more):
    """A maker of files by this package's own writer."""

    def make(folder):
        write_scan(folder / f"a{suffix}", scan(20), more)
        return folder / f"a{suffix}"

    return make


def text(name, content):
    return lambda folder: write(folder / name, content)


def arrays(**more):
    def make(folder):
        np.savez(folder / "a.npz", **more)
        return folder / "a.npz"

    return make


def array(values):
    def make(folder):
        np.save(folder / "a.npy", values)
        return folder / "a.npy"

    return make


def pointcept(**more):
    def make(folder):
        (folder / "office_1").mkdir()
        for name, values in more.items():
            np.save(folder / "office_1" / f"{name}.npy", values)
        return folder / "office_1"

    return make


def mmdetection3d(points, **masks):
    def make(folder):
        for name, values in {"points": points, **masks}.items():
            (folder / name).mkdir()
            values.tofile(folder / name / "Area_1_office_1.bin")
        return folder / "points" / "Area_1_office_1.bin"

    return make


RNG = np.random.default_rng(0)
XYZ, RGB, LABEL = RNG.random((20, 3)), RNG.integers(0, 256, (20, 3), np.uint8), RNG.integers(0, 13, 20)
NAMED = np.zeros(20, [("x", "f4"), ("y", ">f4"), ("z", "f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")])
ROWS = np.c_[XYZ, RGB].astype("<f4")
PTX = "2\n1\n7 8 9\n1 0 0\n0 1 0\n0 0 1\n1 0 0 0\n0 1 0 0\n0 0 1 0\n7 8 9 1\n1 2 3 .5\n0 0 0 .5\n"
ORGANISED = PCD.format(4, "ascii").replace("WIDTH 4", "WIDTH 2").replace("HEIGHT 1", "HEIGHT 2")

# Row of the table -> files that are read, files that are refused.
EXAMPLES = {
    "TXT, XYZ, ASC, CSV": (
        [
            text("a.csv", "x;y;z\n1,5;2;3\n"),
            text("a.txt", "//X Y Z Rf Gf Bf\n1\n1 2 3 0.5 0 1\n"),
            text("a.asc", "% x y z\n1\t2\t3\t\n"),
            text("a.xyz", "1,5 2,5 3,5\n"),
            text("a.txt", "a title\nx,y,z,\n1,2,3,\n"),
            text("a.txt", "1\u00a0|2|3 # a comment\n1.5D0|NA|1.#INF\n"),
            text("a.csv", '"x","y","z","a, b"\n"1","2","3","null"\n'),
            text("a.csv", '"","x","y","z"\n"1",1,2,3\n'),
            text("a.csv", "Points:0,Points:1,Points:2,RGB:0,RGB:1,RGB:2\n1,2,3,4,5,6\n"),
            text("a.txt", "x y z Höhe\n1 2 3 4\n".encode("cp1252")),
            text("points3D.txt", "# ID, X, Y, Z, TRACK[] as (IMAGE_ID, POINT2D_IDX)\n1 2 3 4 5 6\n2 2 3 4\n"),
        ],
        [
            text("a.txt", "1 2 3 4 5 6 7\n"),
            text("a.txt", "1 2 3 0.1 0.2 0.3\n"),
            text("a.csv", "x,y,z\n1,2,3,4\n"),
            text("a.csv", "x,y,z\n1,,3\n1,2,3\n"),
            text("a.csv", "1,5,2,5,3,5\n"),
            text("a.csv", '"1,234.5","2.5","3.5"\n'),
            text("a.txt", "2\n1\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n1 0 0 0\n"),
            text("a.txt", "x y z\n1 2 3\n".encode("utf-16")),
        ],
    ),
    "PTS": (
        [
            text("a.pts", "1\n1 2 3 -5 10 20 30\n"),
            text("a.pts", "1 2 3 10 20 30\n"),
            text("a.pts", "1 2 3 -5\n"),
            text("a.pts", "1\n1 2 3 -5\n2\n1 2 3 -5\n1 2 3 -5\n"),
        ],
        [
            text("a.pts", "1 2 3 -5 10 20 300\n"),
            text("a.pts", "1 2 3 4 5\n"),
            text("a.pts", "1\n1 2 3 -5\n2\n1 2 3 -5\n"),
            text("a.pts", "1\n1 2 3 -5\n1\n1 2 3 -5\n1 2 3 -5\n"),
        ],
    ),
    "PTX": (
        [text("a.ptx", PTX), text("a.ptx", PTX + PTX), text("a.ptx", PTX.replace(".5\n", ".5 1 2 3\n"))],
        [
            text("a.ptx", PTX + "1 2 3 .5\n"),
            text("a.ptx", PTX.replace("2\n1\n", "2\n2\n", 1)),
            text("a.ptx", PTX.replace(" .5\n", "\n")),
            text("a.ptx", PTX.replace(".5\n", ".5 1 2\n")),
            text("a.ptx", PTX.replace(".5\n", ".5 1 2 300\n")),
            text("a.ptx", PTX.replace("0 0 1 0\n7 8 9 1\n", "0 0 1 9\n0 0 0 1\n")),
        ],
    ),
    "E57": (
        [binary(".e57"), binary(".e57", scan=np.repeat([0, 1], 10))],
        [lambda folder: write(folder / "b.e57", binary(".e57")(folder).read_bytes()[:-1])],
    ),
    "PLY": (
        [
            binary(".ply"),
            text("a.ply", PLY.format("ascii", 1).replace("end_header\n", FACES) + "1 2 3\n3 0 0 0 255 0.5\n"),
            text("a.ply", PLY.format("ascii", 1).replace("\n", " \n", 1).replace("end_header", "end_header ") + "1 2 3\n"),
            text("a.ply", PLY.format("ascii", 2) + "1 2 3\nnan nan nan\n"),
        ],
        [
            text("a.ply", PLY.format("ascii", 1).replace("float z", "list uchar int z") + "1 2 0\n"),
            text("a.ply", PLY.format("ascii", 2) + "1 2 3\n"),
        ],
    ),
    "PCD": (
        [
            binary(".pcd"),
            text("a.pcd", ORGANISED + "1 2 3\nnan nan nan\n4 5 6\n7 8 9\n"),
            text("a.pcd", "COLUMNS x y z\nPOINTS 1\nDATA ascii\n1 2 3\n"),
            text("a.pcd", "FIELDS x y z _\nSIZE 4 4 4 1\nTYPE F F F U\nCOUNT 1 1 1 4\nWIDTH 1\nDATA ascii\n1 2 3 0 0 0 0\n"),
        ],
        [
            text("a.pcd", ORGANISED.replace("HEIGHT 2", "HEIGHT 3") + "1 2 3\n" * 4),
            text("a.pcd", "FIELDS x y z\nDATA ascii\n1 2 3\n"),
        ],
    ),
    "LAS, LAZ": (
        [binary(".las"), binary(".laz")],
        [text("a.las", b"LASF" + bytes(400)), lambda folder: write(folder / "a.laz", binary(".las")(folder).read_bytes()[:400])],
    ),
    "NPY": (
        [array(NAMED), array(ROWS), array(ROWS.astype(">f8"))],
        [array(np.c_[XYZ, LABEL, RGB]), array(np.c_[XYZ, XYZ]), array(np.array(["a"]))],
    ),
    "NPZ": (
        [
            arrays(points=NAMED, mesh=np.zeros(3, [("v1", "i4")])),
            arrays(points=ROWS, labels=LABEL),
            arrays(xyz=XYZ, rgb=RGB, label=LABEL[:, None], camera=np.eye(4)),
            arrays(X=XYZ[:, 0], Y=XYZ[:, 1], Z=XYZ[:, 2]),
        ],
        [arrays(points=np.c_[XYZ, XYZ]), arrays(camera=np.zeros((2, 3)), image=np.zeros((9, 9)))],
    ),
    "folder with `coord.npy`": (
        [
            pointcept(coord=XYZ.astype("f4"), color=RGB, segment=LABEL[:, None], instance=LABEL),
            pointcept(coord=XYZ, color=RGB.astype("f4"), normal=XYZ, segment20=LABEL),
        ],
        [pointcept(coord=XYZ, segment=LABEL[:9]), pointcept(coord=XYZ[:, :2]), pointcept(color=RGB)],
    ),
    "`points/NAME.bin`": (
        [mmdetection3d(ROWS, semantic_mask=LABEL, instance_mask=LABEL), mmdetection3d(ROWS, semantic_mask=LABEL.astype("u1"))],
        [mmdetection3d(ROWS, semantic_mask=LABEL[:9]), mmdetection3d(ROWS[:, :5]), mmdetection3d(np.c_[XYZ, XYZ].astype("f4"))],
    ),
}  # fmt: skip


def rows_of_the_table():
    content = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
    table = content.split("| format | what is read | what is refused |\n")[1].split("\n\n")[0]
    return [line.split("|")[1].strip() for line in table.splitlines()[1:]]


def test_the_table_of_what_is_read_names_every_format():
    rows = rows_of_the_table()
    assert rows == list(EXAMPLES)
    assert {f".{name.lower()}" for row in rows for name in re.findall(r"\b[A-Z][A-Z0-9]{2}\b", row)} >= set(FORMATS)


@pytest.mark.parametrize("row", [pytest.param(row, marks=NEEDS_PYE57 if row == "E57" else ()) for row in EXAMPLES])
@pytest.mark.parametrize("refused", [False, True])
def test_what_the_table_says_is_read_and_refused(tmp_path, row, refused):
    for number, make in enumerate(EXAMPLES[row][refused]):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = make(folder)
        if refused:
            with pytest.raises(UserError) as raised:
                read_scan(path).xyz  # noqa: B018
            assert str(folder) in str(raised.value) and "\n" not in str(raised.value)
        else:
            assert read_scan(path).xyz.shape == (len(read_scan(path)), 3)


# -- values that are read -------------------------------------------------------------------------


def test_scenes_have_colours_labels_and_instances(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    folder = pointcept(coord=XYZ, color=RGB.astype(float), segment=LABEL[:, None] - 1, instance=LABEL)(tmp_path / "a")
    file = mmdetection3d(ROWS, semantic_mask=LABEL - 1, instance_mask=LABEL.astype("i4"))(tmp_path / "b")
    for path in (folder, file):
        found = read_scan(path)
        assert np.allclose(found.xyz, XYZ)
        assert np.array_equal(found.rgb, RGB)
        assert np.array_equal(found.fields["label"], LABEL - 1)
        assert np.array_equal(found.fields["instance"], LABEL)
    write_scan(tmp_path / "c.ply", read_scan(folder), {})
    assert find_scans(tmp_path) == [folder, file, tmp_path / "c.ply"]
    assert find_scans(folder) == [folder]


def test_a_scene_is_bounded_like_a_file(tmp_path):
    with pytest.raises(UserError, match="more than max_points=19"):
        read_scan(pointcept(coord=XYZ)(tmp_path), max_points=19)
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="more than max_points=19"):
        read_scan(mmdetection3d(ROWS)(tmp_path / "b"), max_points=19)


def test_columns_say_what_a_bin_file_has(tmp_path):
    path = mmdetection3d(np.c_[ROWS[:, :3], LABEL].astype("<f4"))(tmp_path)
    assert read_scan(path, ["x", "y", "z", "label"]).fields["label"].tolist() == LABEL.tolist()


def test_an_archive_keeps_its_arrays_as_they_were_made_up(tmp_path):
    found = read_scan(arrays(points=ROWS, labels=LABEL, normals=XYZ, camera=np.eye(4))(tmp_path))
    assert np.array_equal(found.rgb, RGB)
    assert np.array_equal(np.stack([found.fields[name] for name in ("nx", "ny", "nz")], 1), XYZ)
    write_scan(tmp_path / "b.npz", found, {"red": np.zeros(20, np.uint8)})
    again = np.load(tmp_path / "b.npz")
    assert set(again) == {"points", "labels", "normals", "camera"}
    assert np.array_equal(again["points"][:, 4:], ROWS[:, 4:]) and not again["points"][:, 3].any()
    assert np.array_equal(again["normals"], XYZ) and np.array_equal(again["camera"], np.eye(4))


def test_pcd_keeps_its_arrangement_and_transparency(tmp_path):
    head = "FIELDS x y z rgba\nSIZE 4 4 4 4\nTYPE F F F U\nWIDTH 2\nHEIGHT 2\nVIEWPOINT 1 2 3 1 0 0 0\nDATA ascii\n"
    row = f"1 2 3 {200 << 24 | 10 << 16 | 20 << 8 | 30}\n"
    found = read_scan(write(tmp_path / "a.pcd", head + row * 3 + row.replace("1 2 3", "nan nan nan")))
    assert found.rgb.tolist() == [[10, 20, 30]] * 4 and found.fields["alpha"].tolist() == [200] * 4
    write_scan(tmp_path / "b.pcd", found, {"label": np.arange(4)})
    content = (tmp_path / "b.pcd").read_bytes()
    assert b"\nWIDTH 2\nHEIGHT 2\nVIEWPOINT 1 2 3 1 0 0 0\nPOINTS 4\n" in content
    again = read_scan(tmp_path / "b.pcd")
    assert np.array_equal(again.xyz, found.xyz, equal_nan=True)
    assert again.fields["alpha"].tolist() == [200] * 4 and again.fields["label"].tolist() == [0, 1, 2, 3]


FPFH = np.arange(10, dtype=np.float32).reshape(2, 5)


def pcd_with_counts(path, encoding):
    """A file as PCL writes it: a field with a COUNT before one without."""
    import lzf

    fields = {"x": [1, 2], "y": [3, 4], "fpfh": FPFH, "z": [5, 6], "kind": np.array([[7, 8], [9, 10]])}
    fields = {name: np.reshape(of, (2, -1)).astype(np.float32) for name, of in fields.items()}
    counts = [str(of.shape[1]) for of in fields.values()]
    head = f"FIELDS {' '.join(fields)}\nSIZE 4 4 4 4 4\nTYPE F F F F F\nCOUNT {' '.join(counts)}\nWIDTH 2\n"
    rows = np.hstack([*fields.values()])
    content = rows.tobytes()
    if encoding == "ascii":
        content = "\n".join(" ".join(map(str, row)) for row in rows.tolist()).encode()
    elif encoding == "binary_compressed":
        plain = b"".join(of.tobytes() for of in fields.values())
        packed = lzf.compress(plain)
        content = struct.pack("<II", len(packed), len(plain)) + packed
    return read_scan(write(path, f"{head}DATA {encoding}\n".encode() + content))


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
def test_pcd_keeps_its_counts(tmp_path, encoding):
    before = pcd_with_counts(tmp_path / "a.pcd", encoding)
    assert np.array_equal(np.stack([before.fields[f"fpfh__000{n}"] for n in range(5)], 1), FPFH)
    write_scan(tmp_path / "b.pcd", before, {"label": np.arange(2, dtype=np.uint8)})
    content = (tmp_path / "b.pcd").read_bytes()
    assert b"\nFIELDS x y fpfh z kind label\n" in content and b"\nCOUNT 1 1 5 1 2 1\n" in content
    assert content.endswith(struct.pack("<10fI", 2, 4, *FPFH[1], 6, 9, 10, 1))
    after = read_scan(tmp_path / "b.pcd")
    assert list(after.fields) == [*before.fields, "label"]


def test_pcd_fields_with_a_count_stay_apart_if_they_are_no_longer_whole(tmp_path):
    before = pcd_with_counts(tmp_path / "a.pcd", "binary")
    fields = {name: of for name, of in before.fields.items() if name != "fpfh__0003"}
    write_scan(tmp_path / "b.pcd", Scan(before.path, fields, before.template), {"kind": np.arange(2)})
    after = read_scan(tmp_path / "b.pcd").fields
    assert list(after) == [*fields, "kind"]
    assert after["kind"].tolist() == [0, 1] and after["kind__0001"].tolist() == [8, 10]


def test_pcd_with_colours_in_fields_and_packed_keeps_both(tmp_path):
    head = "FIELDS x y z red green blue rgb\nSIZE 4 4 4 1 1 1 4\nTYPE F F F U U U U\nWIDTH 2\nHEIGHT 1\nDATA ascii\n"
    found = read_scan(write(tmp_path / "a.pcd", head + f"1 2 3 4 5 6 {10 << 16 | 20 << 8 | 30}\n" * 2))
    write_scan(tmp_path / "b.pcd", found, {})
    for each in (found, read_scan(tmp_path / "b.pcd")):
        assert each.rgb.tolist() == [[4, 5, 6]] * 2
        assert each.fields["rgb"].tolist() == [10 << 16 | 20 << 8 | 30] * 2


def test_the_coordinate_system_of_las_is_kept_or_said_to_be_lost(tmp_path, caplog):
    points = laspy.LasData(laspy.LasHeader(point_format=6, version="1.4"))
    points.x = points.y = points.z = np.arange(5.0)
    points.vlrs.append(laspy.VLR("LASF_Projection", 2112, "WKT", b"PROJCS[]\0"))
    points.write(tmp_path / "a.las")
    found = read_scan(tmp_path / "a.las")
    write_scan(tmp_path / "b.laz", found, {})
    assert "not kept" not in caplog.text
    assert "LASF_Projection" in [record.user_id for record in laspy.open(tmp_path / "b.laz").header.vlrs]
    write_scan(tmp_path / "b.ply", found, {})
    assert f"the coordinate reference system of {tmp_path}/a.las is not kept" in caplog.text


@pytest.mark.parametrize("order", ["<", ">", "text"])
def test_ply_elements_before_the_points_are_kept(tmp_path, order):
    from plyfile import PlyData, PlyElement

    camera = np.array([(1.5, 7)], [("focal", "f4"), ("id", "u1")])
    faces = np.array([([0, 1, 0], 9)], [("vertex_indices", "i4", (3,)), ("flag", "u1")])
    rows = np.array([(1, 2, 3), (4, 5, 6)], [("x", "f4"), ("y", "f4"), ("z", "f4")])
    elements = [PlyElement.describe(e, n) for e, n in ((camera, "camera"), (rows, "vertex"), (faces, "face"))]
    PlyData(elements, text=order == "text", byte_order="<" if order == "text" else order).write(str(tmp_path / "a.ply"))
    found = read_scan(tmp_path / "a.ply")
    for name in ("b.ply", "c.ply"):
        write_scan(tmp_path / name, found, {})
        again = PlyData.read(str(tmp_path / name))
        assert again["camera"]["focal"].tolist() == [1.5] and again["camera"]["id"].tolist() == [7]
        assert again["vertex"]["z"].tolist() == [3, 6]
        assert again["face"]["vertex_indices"][0].tolist() == [0, 1, 0] and again["face"]["flag"].tolist() == [9]
    write_scan(tmp_path / "a.ply", found, {})
    with pytest.raises(UserError, match="has changed since it was read"):
        write_scan(tmp_path / "d.ply", found, {})


# -- points without coordinates --------------------------------------------------------------------


@pytest.mark.parametrize("suffix", writable(".las", ".laz", ".e57"))
def test_points_without_coordinates_stay_in_place(tmp_path, suffix):
    write_scan(tmp_path / f"a{suffix}", Scan(Path("x"), dict(zip("xyz", NAN.T.copy()))), {"label": np.arange(3)})
    found = read_scan(tmp_path / f"a{suffix}")
    assert np.array_equal(found.xyz, NAN, equal_nan=True)
    assert found.fields["label"].tolist() == [0, 1, 2]


def test_las_says_that_it_cannot_hold_points_without_coordinates(tmp_path):
    with pytest.raises(UserError, match=r"a\.las: LAS cannot hold points without coordinates"):
        write_scan(tmp_path / "a.las", Scan(Path("x"), dict(zip("xyz", NAN.T.copy()))), {})
    assert not list(tmp_path.iterdir())


def test_colours_of_points_without_coordinates_may_be_missing():
    fields = dict(zip("xyz", NAN.T)) | {name: np.array([0.5, np.nan, np.nan]) for name in ("red", "green", "blue")}
    assert Scan(Path("x"), fields).rgb.tolist() == [[128] * 3, [0] * 3, [0] * 3]
    fields["red"] = np.array([np.nan, 1, 1])
    with pytest.raises(UserError, match="colours that are NaN"):
        Scan(Path("x"), fields).rgb  # noqa: B018


# -- what goes in comes out -------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_las_names_are_32_bytes_unique_and_listed(tmp_path, suffix, caplog):
    long = "scalar_C2C_absolute_distances[<0.5]"
    more = {name: np.full(20, n, np.float32) for n, name in enumerate((long, f"{long}_(X)", f"{long}_(Y)", "é" * 40))}
    write_scan(tmp_path / f"a{suffix}", scan(20), more)
    found = read_scan(tmp_path / f"a{suffix}")
    for number, name in enumerate(more):
        line = re.search(re.escape(f"field {name} is written as ") + r"([^;]+)", caplog.text)
        written = line[1].strip()
        assert len(written.encode()) <= 32 and found.fields[written].tolist() == [number] * 20


@pytest.mark.parametrize("suffix", writable())
def test_big_endian_numbers_are_written_by_every_format(tmp_path, suffix):
    before = scan(20)
    fields = {name: values.astype(values.dtype.newbyteorder(">")) for name, values in before.fields.items()}
    write_scan(tmp_path / f"a{suffix}", Scan(Path("x"), fields), {"label": np.arange(20).astype(">i4")})
    found = read_scan(tmp_path / f"a{suffix}")
    assert np.abs(found.xyz - before.xyz).max() <= 1e-6
    assert np.array_equal(found.rgb, before.rgb) and found.fields["label"].tolist() == list(range(20))


@pytest.mark.parametrize("suffix", writable())
def test_a_scan_is_written_twice(tmp_path, suffix):
    write_scan(tmp_path / f"a{suffix}", scan(20), {"red": np.full(20, 7, np.uint8)})
    found = read_scan(tmp_path / f"a{suffix}")
    for name in ("b", "c"):
        write_scan(tmp_path / f"{name}{suffix}", found, {"red": np.full(20, 9, np.uint8), "label": np.arange(20)})
    assert (tmp_path / f"b{suffix}").read_bytes()[400:] == (tmp_path / f"c{suffix}").read_bytes()[400:]
    assert read_scan(tmp_path / f"c{suffix}").rgb[:, 0].tolist() != found.rgb[:, 0].tolist() == [7] * 20


def test_colours_of_16_bits_are_those_of_las(tmp_path):
    wide = {name: np.arange(20, dtype=np.uint16) * 3001 for name in ("red", "green", "blue")}
    write_scan(tmp_path / "a.las", scan(20), wide)
    assert np.array_equal(read_scan(tmp_path / "a.las").fields["red"], wide["red"])


@pytest.mark.parametrize("names", [("red", "green", "blue"), ("R", "G", "B")])
@pytest.mark.parametrize("suffix", [".ply", ".txt", ".npz"])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([55746, 300, 0]), [55746, 300, 0]),
        (np.array([0.42523, 1, 0]), [27867, 65535, 0]),
        (np.array([0.42523, 1, 0], np.float32), [27867, 65535, 0]),
        (np.array([0, 7, 255]), [0, 1799, 65535]),
        (np.array([0, 7.5, 255]), [0, 1928, 65535]),
    ],
)
def test_las_keeps_all_digits_of_colours_that_it_has_room_for(tmp_path, suffix, values, expected, names):
    fields = dict.fromkeys("xyz", np.arange(3.0)) | dict.fromkeys(names, values)
    write_scan(tmp_path / f"a{suffix}", Scan(Path("x"), fields), {})
    write_scan(tmp_path / "b.las", read_scan(tmp_path / f"a{suffix}"), {})
    found = laspy.read(tmp_path / "b.las")
    assert found.red.tolist() == found.green.tolist() == found.blue.tolist() == expected
    assert not list(found.point_format.extra_dimension_names)


def test_csv_has_its_names_in_the_first_line(tmp_path):
    write_scan(tmp_path / "a.csv", scan(2), {}, ["label 0 wall"])
    assert (tmp_path / "a.csv").read_text().splitlines()[0] == "x,y,z,red,green,blue,reflectance"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "//X Y Z R\n1 2 3 4\n", ["//X Y Z R label", "// label 0 wall", "1 2 3 4 9"]),
        ("a.txt", "# a\n# x y z\n1 2 3\n", ["# x y z label", "# label 0 wall", "1 2 3 9"]),
        ("a.csv", "//X,Y,Z\n1\n1,2,3\n", ["//X,Y,Z,label", "1,2,3,9"]),
        ("a.pts", "//X Y Z\n1\n1 2 3\n", ["1", "//X Y Z label", "// label 0 wall", "1 2 3 9"]),
        ("a.txt", "x y z\n1 2 3\n", ["# label 0 wall", "x y z label", "1 2 3 9"]),
    ],
)
def test_names_of_columns_that_were_in_a_comment_stay_in_one(tmp_path, name, text, expected):
    """CloudCompare reads them from the first line, and ``numpy.loadtxt`` leaves them out."""
    before = read_scan(write(tmp_path / name, text))
    write_scan(tmp_path / f"b{name}", before, {"label": np.array([9])}, ["label 0 wall"])
    assert (tmp_path / f"b{name}").read_text().splitlines() == expected
    assert list(read_scan(tmp_path / f"b{name}").fields) == [*before.fields, "label"]


@pytest.mark.parametrize("text", ["2\n1 2 3 50 7 8 9\n4 5 6 50 7 8 9\n", "1\n1 2 3 50 7 8 9\n1\n4 5 6 50 7 8 9\n"])
def test_pts_begins_with_the_number_of_its_points(tmp_path, text):
    before = read_scan(write(tmp_path / "a.pts", text))
    write_scan(tmp_path / "b.pts", before, {"label": np.arange(2)}, ["label 0 wall"])
    assert (tmp_path / "b.pts").read_text().startswith("2\n# label 0 wall\nx y z intensity red green blue")
    after = read_scan(tmp_path / "b.pts")
    assert list(after.fields) == [*before.fields, "label"]
    for name, values in before.fields.items():
        assert np.array_equal(after.fields[name], values)


@pytest.mark.parametrize(
    ("suffix", "time"),
    [
        (".ply", np.array([2**60 + 1, 5])),
        (".ply", np.array([2**63 - 1, 5])),
        (".ply", np.array([2**64 - 1, 5], np.uint64)),
        (".e57", np.array([2**64 - 1, 5], np.uint64)),
    ],
)
def test_whole_numbers_that_a_format_rounds_are_said(tmp_path, caplog, suffix, time):
    if suffix == ".e57":
        pytest.importorskip("pye57")
    exact = np.array([2**63, 1], np.uint64)
    write_scan(tmp_path / f"a{suffix}", scan(2), {"time": time, "id": exact})
    assert "field time loses digits" in caplog.text and "field id" not in caplog.text


@pytest.mark.parametrize(
    ("values", "kind", "held"),
    [
        ([-1.0, 255.0], "i2", True),
        ([0.5, 1.0], "i8", False),
        ([np.nan, 1.0], "i8", False),
        ([np.inf, 1.0], "u8", False),
        ([-1.0, 1.0], "u8", False),
        ([0.0, 256.0], "u1", False),
        # A processor may convert these to the largest integer, which is rounded to them when it is compared.
        ([2.0**63, 1.0], "i8", False),
        ([2.0**64, 1.0], "u8", False),
        ([-(2.0**63), 1.0], "i8", True),
        (np.array([2**63 - 1, 1]), "f8", False),
        (np.array([2**64 - 1, 1], np.uint64), "f8", False),
        (np.array([2**53, 1]), "f8", True),
        (np.array([-1, 1]), "u8", False),
        (np.array([2**64 - 1, 1], np.uint64), "i8", False),
        ([np.nan, 0.5], "f4", True),
        ([1e300, 0.5], "f4", False),
        ([], "u1", True),
    ],
)
def test_numbers_become_another_type_if_it_holds_them(values, kind, held):
    with warnings.catch_warnings(action="error"):
        found = exactly(np.asarray(values), kind)
    assert (found is not None) == held
    if held:
        assert found.dtype == kind and np.array_equal(found, values, equal_nan=found.dtype.kind == "f")


# -- digits that float32 does not hold ---------------------------------------------------------------


def test_coordinates_that_float32_has_rounded_are_said():
    xyz = np.random.default_rng(0).random((3000, 3)) * [2, 2, 2.6] + [451_234, 5_412_345, 100]
    rounded = xyz.astype(np.float32)
    said = lost_digits(rounded)
    assert "in x, y are rounded to 0.5 m" in said and f"{len(np.unique(rounded, axis=0)):,} different" in said
    assert lost_digits(rounded.astype(np.float64)) == said
    assert lost_digits(xyz) is None
    # The same numbers in millimetres are exact to half a millimetre; whole metres of a grid are no loss.
    assert lost_digits(rounded, 0.001) is None
    assert lost_digits(np.floor(xyz)) is None


def test_coordinates_of_six_digits_are_said():
    xyz = np.random.default_rng(0).random((3000, 3)) * [2, 2, 2.6] + [451_234, 5_412_345, 100]
    xyz[0, 2] = 0
    rounded = np.array([[float(f"{value:g}") for value in row] for row in xyz])
    said = lost_digits(rounded)
    assert "in x, y are rounded to 10 m because they have six digits at most" in said
    assert lost_digits(rounded.astype(np.float32)) == said
    # The first points alone may be whole numbers. Near the origin, six digits are enough.
    assert lost_digits(np.concatenate([rounded, xyz[-1:]])) is None
    assert lost_digits(rounded, 0.001) is None
    assert lost_digits(np.round(xyz - [451_234, 5_412_345, 100], 4)) is None


# -- names and notes of other scripts ---------------------------------------------------------------

# Name -> what it is in formats whose names are ASCII without blanks.
SCRIPTS = {
    "Größe": "Grosse",
    "класс": "klass",
    "Уровень 2": "Uroven_2",
    "🙂": "u1f642",
    "class name": "class_name",
    "Grosse": "Grosse_2",
    "面积": "u9762u79ef",
}
NOTES = ["label 0 Möbel", "label 1 класс 🙂", "label 2 a wall"]
NOTES_IN_ASCII = [
    r"label 0 M\u00f6bel",
    r"label 1 \u043a\u043b\u0430\u0441\u0441 \U0001f642",
    "label 2 a wall",
]


def write_scripts(path):
    write_scan(path, scan(20), {name: np.full(20, n, np.float32) for n, name in enumerate(SCRIPTS)}, NOTES)


def read_with_plyfile(path):
    from plyfile import PlyData

    content = PlyData.read(str(path))
    return {name: content["vertex"][name] for name in content["vertex"].data.dtype.names}, content.comments


def read_with_pypcd4(path):
    from pypcd4 import PointCloud

    content = PointCloud.from_path(path)
    comments = [line[2:].decode() for line in path.read_bytes().split(b"\n") if line.startswith(b"# label")]
    return {name: content.pc_data[name] for name in content.fields}, comments


@pytest.mark.parametrize(("suffix", "reader"), [(".ply", read_with_plyfile), (".pcd", read_with_pypcd4)])
def test_other_programs_read_names_and_notes_of_any_script(tmp_path, suffix, reader, caplog):
    path = tmp_path / f"a{suffix}"
    write_scripts(path)
    assert path.read_bytes().split(b"POINTS" if suffix == ".pcd" else b"end_header")[0].isascii()
    fields, comments = reader(path)
    for number, (name, written) in enumerate(SCRIPTS.items()):
        assert fields[written].tolist() == [number] * 20
        assert name == written or f"field {name} is written as {written}" in caplog.text
    assert comments == NOTES_IN_ASCII
    assert set(SCRIPTS.values()) < set(read_scan(path).fields)


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_laspy_reads_names_of_any_script(tmp_path, suffix, caplog):
    import laspy

    write_scripts(tmp_path / f"a{suffix}")
    found = laspy.read(tmp_path / f"a{suffix}")
    for number, (name, written) in enumerate(SCRIPTS.items()):
        # LAS holds blanks.
        written = written.replace("_", " ") if " " in name else written
        assert np.asarray(found[written]).tolist() == [number] * 20
        assert name == written or f"field {name} is written as {written}" in caplog.text


def test_notes_of_text_are_ascii_and_its_names_are_not_changed(tmp_path):
    write_scripts(tmp_path / "a.txt")
    lines = (tmp_path / "a.txt").read_text("utf-8").splitlines()
    assert lines[:3] == [f"# {note}" for note in NOTES_IN_ASCII]
    assert set(SCRIPTS) - set(read_scan(tmp_path / "a.txt").fields) == {"class name", "Уровень 2"}


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_headers_that_are_not_ascii_are_read_and_become_ascii(tmp_path, encoding):
    head = PLY.format("ascii", 1).replace("element v", "comment Büro à Köln\nelement v")
    head = head.replace("end_header", "property float Größe_à\nelement extra 1\nproperty int Fläche\nend_header")
    found = read_scan(write(tmp_path / "a.ply", (head + "1 2 3 4\n7\n").encode(encoding)))
    assert found.fields["Größe_à"].tolist() == [4]
    write_scan(tmp_path / "b.ply", found, {})
    fields, comments = read_with_plyfile(tmp_path / "b.ply")
    assert fields["Grosse_a"].tolist() == [4] and comments == [r"B\u00fcro \u00e0 K\u00f6ln"]
    pcd = (
        PCD.format(1, "ascii").replace("x y z", "x y z Größe_à").replace("4 4 4", "4 4 4 4").replace("F F F", "F F F F")
    )
    pcd = pcd.replace("1 1 1", "1 1 1 1") + "1 2 3 4\n"
    assert read_scan(write(tmp_path / "a.pcd", pcd.encode(encoding))).fields["Größe_à"].tolist() == [4]


@pytest.mark.parametrize("suffix", [".ply", ".pcd", ".txt"])
def test_very_many_notes_leave_a_header_that_is_read(tmp_path, suffix):
    write_scan(tmp_path / f"a{suffix}", scan(20), {}, [f"label {n} " + "🙂" * 100 for n in range(300)])
    assert np.array_equal(read_scan(tmp_path / f"a{suffix}").rgb, scan(20).rgb)
    assert b"label 20 " in (tmp_path / f"a{suffix}").read_bytes()


# -- arrays that do not fit each other, and arrays that are no fields --------------------------------


def error_of(make, folder):
    with pytest.raises(UserError) as raised:
        read_scan(make(folder)).xyz  # noqa: B018
    assert str(raised.value).isprintable() and str(folder) in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("labels", LABEL[:19]),
        ("Label", LABEL[:1]),
        ("colors", RGB[:19]),
        ("rgb", RGB.T),
        ("intensity", np.zeros(21)),
        ("normals", XYZ[:7]),
        ("rgba", np.zeros((9, 4))),
        ("red", RGB[:19, 0]),
    ],
)
def test_arrays_of_another_length_than_the_points_are_errors(tmp_path, name, values):
    message = error_of(arrays(points=XYZ, **{name: values}), tmp_path)
    assert f"array {name} has {len(values)} rows" in message and "points has 20 points" in message
    assert f"array {name} has" in error_of(arrays(x=XYZ[:, 0], y=XYZ[:, 1], z=XYZ[:, 2], **{name: values}), tmp_path)


def test_odd_names_of_arrays_are_printable_in_the_message(tmp_path):
    message = error_of(arrays(**{"\x1b[2Jodd": XYZ, "labels": LABEL[:19]}), tmp_path)
    assert "array labels has 19 rows (shape (19,)), but ?[2Jodd has 20 points" in message


def test_two_arrays_of_different_coordinates_are_an_error(tmp_path):
    x, y, z = XYZ.T
    for more in ({"xyz": XYZ + 1}, {"xyz": XYZ[:9]}, {"coord": XYZ[::-1]}, {"x": y, "y": y, "z": z}, {"pc": ROWS + 1}):
        message = error_of(arrays(points=XYZ, **more), tmp_path)
        named = "x, y, z" if "x" in more else next(iter(more))
        assert "points" in message and named in message and "remove the one that is not meant" in message


def test_two_arrays_of_the_same_coordinates_are_one(tmp_path, caplog):
    holes = np.where(np.arange(20)[:, None] == 3, np.nan, XYZ)
    found = read_scan(arrays(points=holes, xyz=holes, x=holes[:, 0], y=holes[:, 1], z=holes[:, 2])(tmp_path))
    assert np.array_equal(found.xyz, holes, equal_nan=True)
    assert "arrays xyz and points have the same coordinates; xyz is used" in caplog.text
    assert "arrays xyz and x, y, z have the same" in caplog.text


def las_of(path, **dimensions):
    """A file of four points with extra bytes."""
    las = laspy.LasData(laspy.LasHeader(point_format=6, version="1.4"))
    las.x = las.y = las.z = np.arange(4.0)
    for name, values in dimensions.items():
        kind = values.dtype if values.ndim == 1 else f"{values.shape[1]}{values.dtype.str[1:]}"
        las.add_extra_dim(laspy.ExtraBytesParams(name, kind, description="of its own"))
        las[name] = values
    las.write(str(path))
    return read_scan(path)


VECTORS = np.arange(12, dtype=np.uint8).reshape(4, 3)
NEW = {"label": np.arange(4, dtype=np.uint8) + 200, "confidence": np.array([0.5, 1, 0, np.nan], np.float32)}


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_las_keeps_dimensions_as_they_were(tmp_path, suffix):
    own = {
        "vec": VECTORS,
        "vec_0": VECTORS[:, 1],
        "height": np.array([1, np.nan, 3, 4], np.float32),
        "own": np.arange(4, dtype=np.int16),
    }
    write_scan(tmp_path / f"b{suffix}", las_of(tmp_path / "a.las", **own), NEW)
    found = laspy.read(tmp_path / f"b{suffix}")
    assert list(found.point_format.extra_dimension_names) == ["vec", "vec_0", "height", "own", "label", "confidence"]
    for name, values in {**own, **NEW}.items():
        assert found[name].dtype == values.dtype and np.array_equal(found[name], values, equal_nan=True)
    assert found.point_format.dimension_by_name("vec").description == "of its own"


@pytest.mark.parametrize("suffix", [".las", ".laz"])
@pytest.mark.parametrize("colors", [False, True])
@pytest.mark.parametrize("version", ["1.3", "1.4"])
def test_waveforms_of_las_are_kept(tmp_path, version, suffix, colors):
    """The header says where they begin, which is behind the points of the result."""
    las = laspy.LasData(laspy.LasHeader(point_format=4, version=version))
    las.x = las.y = las.z = np.arange(4.0)
    las.wavepacket_offset = np.arange(4) * 2 + 60
    las.header.global_encoding.waveform_data_packets_internal = True
    las.write(tmp_path / "a.las")
    content = bytearray((tmp_path / "a.las").read_bytes())
    struct.pack_into("<Q", content, 227, len(content))
    if version == "1.4":
        struct.pack_into("<QI", content, 235, len(content), 1)
    waves = struct.pack("<H16sHQ32s", 0, b"LASF_Spec", 65535, 8, b"") + b"waveform"
    before = read_scan(write(tmp_path / "a.las", bytes(content) + waves))
    write_labelled(tmp_path / f"b{suffix}", before, Prediction(*NEW.values()), S3DIS, colors)
    content = (tmp_path / f"b{suffix}").read_bytes()
    assert content[struct.unpack_from("<Q", content, 227)[0] :] == waves
    assert laspy.read(tmp_path / f"b{suffix}").wavepacket_offset.tolist() == [60, 62, 64, 66]


def test_waveforms_of_las_that_are_cut_off_are_an_error(tmp_path):
    las = laspy.LasData(laspy.LasHeader(point_format=4, version="1.3"))
    las.header.global_encoding.waveform_data_packets_internal = True
    las.header.start_of_waveform_data_packet_record = 400
    las.write(tmp_path / "a.las")
    with pytest.raises(UserError, match="its header claims 1 records, more than the file holds"):
        read_scan(tmp_path / "a.las")


@pytest.mark.parametrize("text", ["Flüge".encode(), "Flüge".encode("latin-1")])
@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_texts_in_the_header_of_las_that_are_not_ascii_are_kept(tmp_path, suffix, text):
    las_of(tmp_path / "a.las")
    content = bytearray((tmp_path / "a.las").read_bytes())
    content[26 : 26 + len(text)] = content[58 : 58 + len(text)] = text
    write_scan(tmp_path / f"b{suffix}", read_scan(write(tmp_path / "a.las", bytes(content))), NEW)
    assert (tmp_path / f"b{suffix}").read_bytes()[26:90] == content[26:90]


@pytest.mark.parametrize(
    ("label", "kept"), [(VECTORS, ["label_0", "label_1", "label_2"]), (VECTORS[:, 0].view(np.int8), ["label_input"])]
)
@pytest.mark.parametrize("confidence", [VECTORS[:, 0], np.arange(4, dtype=np.float64) / 3])
def test_results_take_the_place_of_dimensions_of_las(tmp_path, caplog, label, kept, confidence):
    """Other programs find the new label under its name, and the scan's own beside it."""
    before = las_of(tmp_path / "a.las", label=label, confidence=confidence)
    write_labelled(tmp_path / "b.las", before, Prediction(*NEW.values()), S3DIS, False)
    found = laspy.read(tmp_path / "b.las")
    expected = NEW | dict(zip(kept, label.reshape(4, -1).T)) | {"confidence_input": confidence}
    assert sorted(found.point_format.extra_dimension_names) == sorted(expected)
    for name, values in expected.items():
        assert np.array_equal(found[name], values, equal_nan=True), name
    assert ("field label is written as label_0, label_1, label_2" in caplog.text) == (label is VECTORS)


@pytest.mark.parametrize(
    ("dimension", "values"),
    [(np.zeros(4), np.array([2**53 + 1, 1, 2, 3])), (np.zeros(4, np.int64), np.array([2.0**63, 1, 2, 3]))],
)
def test_las_gets_another_dimension_for_numbers_that_one_rounds(tmp_path, dimension, values):
    write_scan(tmp_path / "b.las", las_of(tmp_path / "a.las", number=dimension), {"number": values})
    found = laspy.read(tmp_path / "b.las")["number"]
    assert found.dtype == values.dtype and found.tolist() == values.tolist()


def test_dimensions_of_las_may_be_named_by_axes(tmp_path):
    found = las_of(tmp_path / "a.las", XY=np.arange(4, dtype=np.uint8), yz=np.arange(4, dtype=np.uint8)).fields
    assert found["XY"].tolist() == found["yz"].tolist() == [0, 1, 2, 3] and found["yz"].dtype == np.uint8


def test_arrays_of_an_archive_may_be_named_by_axes(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(4), y=np.zeros(4), z=np.zeros(4), XY=np.zeros(7))
    assert list(read_scan(tmp_path / "a.npz").fields) == ["x", "y", "z"]


def test_what_another_format_does_not_keep_is_said(tmp_path, caplog):
    found = read_scan(arrays(points=ROWS, title=np.array("Büro"), camera=np.eye(4), label=np.array(3))(tmp_path))
    write_scan(tmp_path / "b.npz", found, {})
    assert "not kept" not in caplog.text
    assert np.load(tmp_path / "b.npz")["title"] == "Büro"
    write_scan(tmp_path / "b.ply", found, {})
    for name in ("title", "camera", "label"):
        assert f"array {name} of {tmp_path}/a.npz is not kept" in caplog.text
    assert "array points" not in caplog.text
    caplog.clear()
    faces = PLY.format("ascii", 1).replace("end_header\n", FACES) + "1 2 3\n3 0 0 0 255 0.5\n"
    found = read_scan(write(tmp_path / "c.ply", faces))
    write_scan(tmp_path / "d.ply", found, {})
    assert "not kept" not in caplog.text
    write_scan(tmp_path / "d.las", found, {})
    assert f"element face of {tmp_path}/c.ply is not kept" in caplog.text


# -- arrays of other shapes and types ---------------------------------------------------------------


@pytest.mark.parametrize("names", [("xyz", "rgb"), ("Points", "Color"), ("coord", "colors"), ("position", "rgba")])
def test_named_fields_of_several_numbers_are_fields(tmp_path, names):
    width = 4 if names[1] == "rgba" else 3
    rows = np.zeros(20, [(names[0], "f4", 3), (names[1], "u1", width), ("label", "i4")])
    rows[names[0]], rows[names[1]][:, :3], rows["label"] = XYZ, RGB, LABEL
    for path in (array(rows)(tmp_path), arrays(points=rows)(tmp_path)):
        found = read_scan(path)
        assert np.array_equal(found.xyz, XYZ.astype("f4")) and np.array_equal(found.rgb, RGB)
        assert found.fields["label"].tolist() == LABEL.tolist()
        assert list(found.fields) == ["x", "y", "z", "red", "green", "blue", *["alpha"] * (width == 4), "label"]


def test_named_fields_whose_numbers_have_no_names_are_errors(tmp_path):
    message = error_of(array(np.zeros(5, [("xyz", "f4", 3), ("feature", "f4", 9)])), tmp_path)
    assert "field feature has 9 numbers for each point" in message and "feature_0" in message
    assert "field xyz has 2 numbers" in error_of(array(np.zeros(5, [("xyz", "f4", 2)])), tmp_path)
    message = error_of(array(np.zeros(5, [("pos", [("x", "f4"), ("y", "f4"), ("z", "f4")])])), tmp_path)
    assert (
        "field pos of the array holds something else than numbers" in message and "a field for each number" in message
    )
    assert "5,000 fields" in error_of(array(np.zeros(5, [("xyz", "f4", 5000)])), tmp_path)


def test_long_floats_are_written_with_64_bits_and_read_from_no_file(tmp_path):
    """ARM would read the long floats of a file from x86 as other numbers."""
    long = XYZ.astype(np.longdouble)
    if long.dtype == np.float64:
        pytest.skip("this processor has no longer floats")
    write_scan(tmp_path / "b.npy", Scan(Path("x"), dict(zip("xyz", long.T))), {})
    assert np.array_equal(read_scan(tmp_path / "b.npy").xyz, XYZ)
    rows = np.zeros(len(XYZ), [("xyz", "f4", 3), ("time", long.dtype)])
    for make, what in (
        (array(long), "the array"),
        (arrays(points=long), "points"),
        (array(rows), "field time of the array"),
    ):
        message = error_of(make, tmp_path)
        assert f"{what} has the type {long.dtype}" in message and "astype('float64')" in message


@pytest.mark.parametrize("shape", [(1, 20, 3), (4, 5, 3), (2, 5, 6)])
def test_arrays_of_clouds_and_images_say_how_to_make_rows(tmp_path, shape):
    values = np.zeros(shape)
    for make in (array(values), arrays(points=values), arrays(points=values, labels=LABEL)):
        message = error_of(make, tmp_path)
        assert str(shape) in message and f"array.reshape(-1, {shape[-1]})" in message
    assert "reshape(-1, 3)" in error_of(array(np.zeros((1, 5000, 3))), tmp_path)


# -- the property or field that a message is about ----------------------------------------------------


def test_the_list_that_is_not_read_is_named(tmp_path):
    listed = PLY.format("ascii", 1).replace("end_h", "property list uchar int neighbours\nend_h") + "1 2 3 0\n"
    assert "property neighbours of element vertex is a list" in error_of(text("a.ply", listed), tmp_path)
    face = "element face 1\nproperty list uchar int corners\nelement vertex"
    before = PLY.format("binary_little_endian", 1).replace("element vertex", face) + "0" * 13
    message = error_of(text("a.ply", before), tmp_path)
    assert "property corners of element face is a list" in message and "put vertex first" in message


def test_the_field_that_is_there_twice_is_named(tmp_path):
    twice = PCD.format(1, "ascii").replace("x y z", "x z z") + "1 2 3\n"
    assert "two fields of the same name, z" in error_of(text("a.pcd", twice), tmp_path)


# -- digits that LAS does not hold --------------------------------------------------------------------


def coordinates_to_las(xyz, folder, caplog):
    """Write coordinates as LAS and return the largest difference of what is read, and the warning."""
    caplog.clear()
    write_scan(folder / "b.las", Scan(Path("x"), dict(zip("xyz", xyz.T.copy()))), {})
    return np.abs(read_scan(folder / "b.las").xyz - xyz).max(), caplog.text


def test_las_says_by_how_much_it_rounds(tmp_path, caplog):
    wide = RNG.random((1000, 3)) * 1e7
    error, said = coordinates_to_las(wide, tmp_path, caplog)
    assert 0.004 < error <= 0.005 + 1e-9 and "coordinates are rounded by up to 0.005, because LAS" in said
    stray = np.r_[RNG.random((1000, 3)), [[5e8, 0, 0]]]
    error, said = coordinates_to_las(stray, tmp_path, caplog)
    assert 0.4 < error <= 0.5 and "rounded by up to 0.5, " in said and "the points extend over 500,000,000" in said
    # A scan in its own file's scale is not rounded again.
    found = read_scan(tmp_path / "b.las")
    caplog.clear()
    write_scan(tmp_path / "c.laz", found, {})
    assert np.array_equal(read_scan(tmp_path / "c.laz").xyz, found.xyz) and not caplog.text


@pytest.mark.parametrize("digits", [3, 4])
def test_las_says_that_it_has_fewer_decimals_than_the_scan(tmp_path, caplog, digits):
    # Over 1,000 km LAS has millimetres.
    error, said = coordinates_to_las(np.round(RNG.random((1000, 3)) * 1e6, digits), tmp_path, caplog)
    assert (error > 1e-4) == ("rounded by up to 0.0005" in said) == (digits == 4)


@pytest.mark.parametrize("extent", [1.0, 30.0, 4000.0, 1e6])
def test_las_says_nothing_about_rounding_that_nobody_sees(tmp_path, caplog, extent):
    for digits in (3, 17):
        for origin in ([0, 0, 0], [5e5, 5.4e6, 100]):
            error, said = coordinates_to_las(np.round(RNG.random((500, 3)) * extent, digits) + origin, tmp_path, caplog)
            assert error <= 0.0005 and not said
