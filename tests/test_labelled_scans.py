"""A user's own scans: layouts recognised, labels mapped, with colour and without."""

import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from deepgcn_seg.data import classes_file
from deepgcn_seg.data.build_store import prepare
from deepgcn_seg.data.classes_file import ClassesFile
from deepgcn_seg.data.labelled_scans import read_labelling
from deepgcn_seg.data.layouts import recognise
from deepgcn_seg.data.scans.files import write_scan
from deepgcn_seg.data.scans.formats.scan import Scan
from deepgcn_seg.data.sources import folder, s3dis
from deepgcn_seg.data.stanford import read_room
from deepgcn_seg.data.units import UP, require_metres
from deepgcn_seg.errors import UserError


def write_scans(root, suffix=".ply", colored=True, areas=("north", "south"), rooms=2, count=4000, labels=(0, 1, 2)):
    """Rooms whose label is told by height, in a layout of one's own."""
    for number, area in enumerate(areas):
        for room in range(rooms):
            rng = np.random.default_rng([number, room])
            xyz = rng.uniform([100, 200, 0], [102.2, 201.7, 3], (count, 3))
            label = np.array(labels)[np.minimum(xyz[:, 2].astype(int), 2)].astype(np.int32)
            fields = dict(zip("xyz", xyz.T.copy()))
            if colored:
                fields |= {n: rng.integers(0, 256, count, np.uint8) for n in ("red", "green", "blue")}
            (root / area).mkdir(parents=True, exist_ok=True)
            write_scan(root / area / f"room_{room}{suffix}", Scan(Path("x.foo"), fields), {"class": label})
    return root


def classes(root, **content):
    (root / "classes.yaml").write_text(
        yaml.safe_dump({"classes": ["floor", "middle", "ceiling"], **content}, sort_keys=False)
    )
    return root


@pytest.mark.parametrize("suffix", [".ply", ".las", ".npy", ".txt", ".pcd"])
@pytest.mark.parametrize("colored", [True, False])
def test_scans_of_any_format_become_a_store(tmp_path, suffix, colored):
    # LAS without colours has a classification of its own, all 0: the field has to be named.
    raw = classes(write_scans(tmp_path / "raw", suffix, colored), label="class")
    store = prepare(raw, tmp_path / "store")
    assert store.classes.names == ("floor", "middle", "ceiling")
    assert store.areas == ["north", "south"]
    assert store.colored is colored
    xyz, rgb, label = store.open(store.rooms[0]).all()
    assert len(label) == 4000
    # Labels are told by height, and stored heights begin at the lowest point.
    lowest = store.open(store.rooms[0]).origin[2]
    clear = np.abs((xyz[:, 2] + lowest) % 1 - 0.5) < 0.49
    assert np.array_equal(label[clear], (xyz[:, 2] + lowest).astype(int)[clear])
    assert rgb.any() == colored


def test_labels_are_mapped_skipped_and_others_taken_in(tmp_path):
    raw = write_scans(tmp_path / "raw", labels=(7, 40, 9), rooms=1)
    classes(raw, classes={"low": 7, "high": [9, 10]}, other="low", colors={"high": [1, 2, 3]})
    store = prepare(raw, tmp_path / "a")
    assert store.classes.palette[1] == (1, 2, 3)
    counts = np.bincount(store.open(store.rooms[0]).labels())
    assert counts.sum() == 4000 and counts[1] == pytest.approx(1333, abs=120)
    classes(raw, classes={"low": 7, "high": 9}, skip=[40], scale=0.01)
    skipped = prepare(raw, tmp_path / "b")
    stored = skipped.open(skipped.rooms[0])
    assert stored.count == pytest.approx(2667, abs=120)
    assert stored.size[0] == pytest.approx(0.022, rel=0.05)
    classes(raw, classes={"low": 7, "high": 9})
    with pytest.raises(UserError, match="labels 40 are of no class"):
        prepare(raw, tmp_path / "c")


@pytest.mark.parametrize(("wanted", "labels"), [("Kind", [0, 1]), ("kind", [1, 0]), ("KIND", None)])
def test_the_field_of_labels_is_the_one_that_is_spelled_so(tmp_path, wanted, labels):
    (tmp_path / "raw" / "north").mkdir(parents=True)
    raw = classes(tmp_path / "raw", classes=["a", "b"], label=wanted)
    fields = {axis: np.arange(2.0) for axis in "xyz"} | {"Kind": np.arange(2), "kind": np.arange(2)[::-1]}
    write_scan(raw / "north" / "a.ply", Scan(Path("x"), fields), {})
    if labels is None:
        with pytest.raises(UserError, match=r"a\.ply: fields Kind and kind have the same name"):
            prepare(raw, tmp_path / "store")
        return
    store = prepare(raw, tmp_path / "store")
    assert store.open(store.rooms[0]).labels().tolist() == labels


def test_more_than_256_classes(tmp_path):
    raw = write_scans(tmp_path / "raw", labels=(0, 299, 150), rooms=1)
    classes(raw, classes=[f"c{i}" for i in range(300)])
    store = prepare(raw, tmp_path / "store")
    assert set(store.open(store.rooms[0]).labels()) == {0, 299, 150}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("classes: []", "classes is empty"),
        ("names: [a]", "must have classes"),
        ("classes: [a, a]", "unique"),
        ("classes: [1.10, 1.1]", "unique, but 1.1 is there twice"),
        ('classes: [1, "1"]', "unique, but 1 is there twice"),
        ('classes: {1: 0, "1": 1}', "unique, but 1 is there twice"),
        ('classes: {"1": 0}\ncolors: {1: [0, 0, 0], "1": [9, 9, 9]}', "unique, but 1 is there twice"),
        ("classes: {a: 1, b: [1, 2]}", "label 1 is of two classes"),
        ("classes: [a]\nother: b", "other: b is no class"),
        ("classes: [a]\ncolors: {b: [0, 0, 0]}", "colors names b"),
        ("classes: [a]\nlables: x", "unknown key lables"),
        ("classes: [a", "not a readable YAML file"),
        ("classes: {a: x}", "a: x is no label; write each class as name: label, or each as label: name"),
        ("classes: {0: a, b: 1}", "0: a is no label"),
        ("classes: {0: a, b: c}", "0: a is no label"),
        ("classes: {0: a, 1: 5}", "0: a is no label"),
        ("classes: {0.5: a}", "0.5: a is no label"),
        ("classes: {a: 1.5}", "classes.a.0=1.5: input should be a valid integer"),
        ("classes: [{name: a, id: 0}]", "must be a list of names, or name: label"),
        ("classes: [a]\nignore: [b]", "ignore names b, which is no class: give its label, or add it to classes"),
        ("classes: [a]\nignore: [1.5]", "ignore=(1.5,): must be labels (whole numbers or .nan) or names of classes"),
        ("classes: [a]\nignore: [0]", "ignore leaves no class"),
        ("classes: [a, b]\nignore: b\nother: b", "other: b is ignored"),
        ("classes: [a]\nup: w", "up='w': input should be 'z', 'y' or 'x'"),
        ("classes: [a]\nscale: 0", "scale=0"),
        ("classes: [a]\nscale: mm", "scale='mm': must be the metres per unit as a number: write 0.001"),
        ("classes: [a]\nscale: 5 mm", "as a number: 0.001 for millimetres"),
        ("classes: {0: 1, 1: 0}", """name: label or label: name; put the names in quotes, as {"0": 1} or {0: "1"}"""),
        ("classes:\n- 0: a\n- 1: b", "a list of names, or name: label for each class, or label: name for each label"),
        ("classes:", "a list of names, or name: label for each class, or label: name for each label"),
        ("classes:\n\t- a", "line 2: a tab; indent with spaces"),
        ("classes: {a: 0, b: 0x10}", "b: 0x10 is no label"),
    ],
)
def test_classes_without_sense(tmp_path, content, message):
    (tmp_path / "classes.yaml").write_text(content)
    with pytest.raises(UserError) as raised:
        read_labelling(tmp_path / "classes.yaml")
    assert message in str(raised.value) and "classes.yaml" in str(raised.value)


@pytest.mark.parametrize(
    ("content", "numbers"),
    [
        ("{yes: 1, no: 0}", {"yes": [1], "no": [0]}),
        ("{no: 0, yes: 1, off: 2}", {"no": [0], "yes": [1], "off": [2]}),
        ("{0: no, 1: null, 2: ~, 3: No}", {"no": [0], "null": [1], "~": [2], "No": [3]}),
        ("[true, 2024-01-02, 1:30, 007, NULL]", {"true": [0], "2024-01-02": [1], "1:30": [2], "007": [3], "NULL": [4]}),
        ('{"0": 1, "1": 0}', {"0": [1], "1": [0]}),
        ('{0: "1", 1: "0"}', {"1": [0], "0": [1]}),
        ("{010: on, 9: off}", {"off": [9], "on": [10]}),
        ("{on: [1, 2], off: -3}\nother: on\nignore: [off]\ncolors: {on: [1, 2, 3]}\nscale: 1e-3", {"on": [1, 2]}),
        ("[a]\nscale: null\ncolors: ~\nother:\nignore:\nskip: null\nlabel: null", {"a": [0]}),
    ],
)
def test_names_of_classes_are_the_words_as_typed(tmp_path, content, numbers):
    (tmp_path / "classes.yaml").write_text(f"classes: {content}\n")
    found = read_labelling(tmp_path / "classes.yaml")
    by_name = dict(zip(found.classes, map(list, found.numbers.classes), strict=True))
    assert by_name == numbers and list(found.classes) == list(numbers)
    if "scale: 1e-3" in content:
        assert (found.numbers.other, found.numbers.unlabelled) == (0, (-3,))
        assert (found.scale, found.classes.palette) == (0.001, ((1, 2, 3),))


def test_a_list_of_classes_in_another_encoding_says_what_to_do(tmp_path):
    (tmp_path / "classes.yaml").write_bytes("classes: [Möbel]".encode("latin-1"))
    with pytest.raises(UserError, match=r"classes\.yaml: is not UTF-8 text; save it as UTF-8"):
        read_labelling(tmp_path / "classes.yaml")


def test_layouts_are_recognised_and_named(tmp_path, raw_rooms, store):
    assert str(recognise(raw_rooms)).endswith("raw Stanford rooms, 12 in 6 areas")
    assert recognise(store.root).kind.name == "a room store"
    wrapped = tmp_path / "wrapped"
    wrapped.mkdir()
    (wrapped / "Stanford3dDataset_v1.2").symlink_to(raw_rooms)
    # What macOS adds to archives.
    (wrapped / "__MACOSX").mkdir()
    assert recognise(wrapped).root.name == "Stanford3dDataset_v1.2"
    own = classes(write_scans(tmp_path / "own"))
    assert str(recognise(own)).endswith("labelled scans, 4 in 2 areas")
    with pytest.raises(UserError, match=r"data\.root=.*labelled scans.*tools/prepare\.py source="):
        folder(own)
    with pytest.raises(UserError, match="raw Stanford rooms, 12 in 6 areas; first"):
        s3dis(raw_rooms)
    with pytest.raises(UserError, match="looked for"):
        s3dis(tmp_path)
    with pytest.raises(UserError, match="use data=folder"):
        s3dis(prepare(own, tmp_path / "prepared").root)
    with pytest.raises(UserError, match="ready as it is"):
        prepare(store.root, tmp_path / "again")


@pytest.mark.parametrize("layout", ["Area_1/office_1.ply", "Area_1_office_1.ply"])
def test_s3dis_rooms_as_ply(tmp_path, raw_rooms, layout):
    room, _ = read_room(raw_rooms / "Area_1" / "office_1")
    path = tmp_path / "raw" / layout
    path.parent.mkdir(parents=True)
    fields = dict(zip(("x", "y", "z", "red", "green", "blue"), [*room.xyz.T.copy(), *room.rgb.T.copy()]))
    write_scan(path, Scan(path, fields), {"label": room.label})
    store = prepare(tmp_path / "raw", tmp_path / "store")
    assert [entry.key for entry in store.rooms] == ["Area_1/office_1"]
    stored = store.open(store.rooms[0])
    assert np.array_equal(stored.labels(), room.label[stored.order()])


@pytest.mark.parametrize(
    "files",
    [
        ("Area_1/office_1.ply", "Area_1_office_1.ply"),
        ("Area_1/office_1/coord.npy", "points/Area_1_office_1.bin"),
        ("classes.yaml", "Area_1/office_1.ply", "Area_1/office_1.npy"),
    ],
)
def test_two_files_of_one_room_are_an_error_that_names_both(tmp_path, files):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="is the same room as") as raised:
        recognise(tmp_path)
    assert all(name.removesuffix("/coord.npy") in str(raised.value) for name in files[-2:])


@pytest.mark.parametrize(("seen", "hidden"), [("a.ply", "._a.ply"), ("a/coord.npy", ".a/coord.npy")])
def test_hidden_files_of_other_systems_are_no_rooms(tmp_path, seen, hidden):
    for name in (seen, hidden):
        (tmp_path / "Area_1" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "Area_1" / name).touch()
    assert list(recognise(tmp_path).rooms) == ["Area_1/a"]


def test_rooms_as_people_have_them(tmp_path, raw_rooms):
    """Misnamed files, an empty room, one without annotations, one that lacks an annotation."""
    import shutil

    raw = tmp_path / "raw"
    shutil.copytree(raw_rooms / "Area_1", raw / "Area_1")
    office = raw / "Area_1" / "office_1"
    wall = office / "Annotations" / "wall_1.txt"
    wall.rename(wall.with_name("Wall 1.TXT"))
    (office / "Annotations" / "floor_1.txt").unlink()
    (raw / "Area_1" / "empty_1" / "Annotations").mkdir(parents=True)
    (raw / "Area_1" / "hallway_9").mkdir()
    store = prepare(raw, tmp_path / "store")
    assert [room.name for room in store.rooms] == ["conferenceRoom_1", "office_1"]
    told = (store.root / "repairs.txt").read_text()
    for expected in (
        "Wall 1.TXT: file name is not CLASS_NUMBER.txt; labelled wall",
        "an annotation is missing",
        "empty_1/Annotations: no points in any annotation; room skipped",
        "hallway_9: no Annotations folder; room skipped",
    ):
        assert expected in told
    # Prepared again, what was told is still there, once.
    prepare(raw, tmp_path / "store")
    assert sorted((store.root / "repairs.txt").read_text().splitlines()) == sorted(told.splitlines())


def test_a_black_room_is_one_without_colours(tmp_path):
    raw = classes(write_scans(tmp_path / "raw", ".npy"))
    path = raw / "north" / "room_0.npy"
    rows = np.load(path)
    for name in ("red", "green", "blue"):
        rows[name] = 0
    np.save(path, rows)
    store = prepare(raw, tmp_path / "store")
    assert [store.open(room).colored for room in store.rooms] == [False, True, True, True]
    assert not store.colored
    assert "every colour is 0; taken as a room without colours" in (tmp_path / "store" / "repairs.txt").read_text()


def labelled(root, xyz, label, area="north", name="room", **content):
    """Write scans of one room whose labels are floats, as programs write them that know of NaN."""
    (root / area).mkdir(parents=True, exist_ok=True)
    fields = dict(zip("xyz", np.asarray(xyz, np.float64).T.copy()))
    write_scan(root / area / f"{name}.ply", Scan(Path("x.foo"), fields), {"label": np.asarray(label, np.float64)})
    return classes(root, **content)


def stored_points(root, store):
    """The only room of a preparation, in the order of its source: coordinates from the room's minimum, names of classes
    (None for unlabelled points), and all classes."""
    prepared = prepare(root, store)
    stored = prepared.open(prepared.rooms[0])
    back = np.argsort(stored.order())
    xyz, _, label = stored.all()
    names = {**dict(enumerate(prepared.classes)), 255: None}
    return xyz[back], [names[number] for number in label[back].tolist()], prepared.classes.names


@pytest.mark.parametrize(
    "written", ["{0: floor, 5: wall, 6: wall}", '{"0": floor, "5": wall, "6": wall}', "{6: wall, 5: wall, 0: floor}"]
)
def test_classes_of_labels_are_those_of_names(tmp_path, written):
    labelled(tmp_path / "raw", np.arange(9).reshape(3, 3), [5, 0, 6])
    (tmp_path / "raw" / "classes.yaml").write_text(f"classes: {written}\n")
    _, names, known = stored_points(tmp_path / "raw", tmp_path / "store")
    assert names == ["wall", "floor", "wall"] and known == ("floor", "wall")


@pytest.mark.parametrize(
    ("content", "names", "learned"),
    [
        ({}, ["floor", None, "middle"], 3),
        ({"ignore": [1]}, ["floor", None, None], 2),
        ({"ignore": [1.0]}, ["floor", None, None], 2),
        ({"ignore": "middle"}, ["floor", None, None], 2),
        ({"ignore": ["ceiling", float("nan")]}, ["floor", None, "middle"], 2),
        ({"classes": {"floor": [0, 1], "ceiling": 2}, "ignore": 1}, ["floor", None, None], 2),
        ({"classes": {0: "floor", 1: "unknown", 2: "ceiling"}, "ignore": ["unknown"]}, ["floor", None, None], 2),
        ({"classes": ["floor"], "other": "floor", "ignore": [1]}, ["floor", None, None], 1),
    ],
)
def test_unlabelled_points_are_kept_without_a_class_and_counted(tmp_path, caplog, content, names, learned):
    points = np.array([[0, 0, 0], [1, 1, 1], [2, 4, 6]])
    raw = labelled(tmp_path / "raw", points, [0, np.nan, 1], **content)
    xyz, found, classes_ = stored_points(raw, tmp_path / "store")
    assert found == names and len(classes_) == learned
    assert np.array_equal(xyz, points)
    said = f"{names.count(None)} points with no label"
    told = (tmp_path / "store" / "repairs.txt").read_text()
    assert f"room.ply: {said}; kept, but neither trained on nor scored" in told
    assert f"{said} were kept, but neither trained on nor scored" in caplog.text
    assert "repaired or skipped" not in caplog.text


def test_skipped_points_are_left_out_and_those_with_nan_too_if_it_is_listed(tmp_path, caplog):
    points = np.array([[0, 0, 0], [1, 1, 1], [2, 4, 6]])
    raw = labelled(tmp_path / "raw", points, [0, np.nan, 1], classes=["floor"], skip=[float("nan"), 1])
    xyz, names, _ = stored_points(raw, tmp_path / "store")
    assert names == ["floor"] and np.array_equal(xyz, points[:1])
    assert "no label" not in caplog.text


@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_points_without_coordinates_are_left_out_and_counted(tmp_path, caplog, lost):
    points = np.array([[0, 0, 0], [lost, 1, 1], [2, 2, 2], [3, 3, lost]])
    xyz, names, _ = stored_points(labelled(tmp_path / "raw", points, [0, 1, 2, 1]), tmp_path / "store")
    assert np.array_equal(xyz, points[[0, 2]]) and names == ["floor", "ceiling"]
    told = (tmp_path / "store" / "repairs.txt").read_text()
    assert "room.ply: 2 points with NaN or infinite coordinates; left out" in told
    assert "2 points with NaN or infinite coordinates were left out" in caplog.text


def test_rounded_coordinates_are_told_of_the_units_of_the_file(tmp_path, caplog):
    points = np.random.default_rng(0).uniform([451_234, 5_412_345, 100], [451_238, 5_412_348, 103], (500, 3))
    raw = labelled(tmp_path / "raw", points, np.zeros(500), name="exact")
    labelled(raw, points.astype(np.float32), np.zeros(500), name="coarse", scale=0.5)
    assert prepare(raw, tmp_path / "store") is not None
    told = (tmp_path / "store" / "repairs.txt").read_text()
    assert "coarse.ply: coordinates in x, y are rounded to 0.25 m because they were stored as float32" in told
    assert "exact" not in told and "kept as they are" in told
    assert "Coordinates of 1 room were rounded, such as" in caplog.text
    assert "repaired or skipped" not in caplog.text


def test_rounded_coordinates_of_annotations_are_told(tmp_path, caplog):
    points = np.random.default_rng(0).uniform([451_234, 5_412_345, 100], [451_238, 5_412_348, 103], (500, 3))
    folder = tmp_path / "raw" / "Area_1" / "office_1" / "Annotations"
    folder.mkdir(parents=True)
    np.savetxt(folder / "wall_1.txt", np.c_[points, np.full((500, 3), 7)], "%g")
    prepare(tmp_path / "raw", tmp_path / "store")
    told = (tmp_path / "store" / "repairs.txt").read_text()
    assert "office_1: coordinates in x, y are rounded to 10 m because they have six digits at most" in told
    assert "Coordinates of 1 room were rounded, such as" in caplog.text


def test_rooms_without_colours_among_others_are_told(tmp_path, caplog):
    raw = write_scans(tmp_path / "raw", areas=("north",), rooms=2)
    assert prepare(classes(raw), tmp_path / "store").colored and not caplog.text
    write_scans(tmp_path / "other", colored=False, areas=("north",), rooms=1)
    (tmp_path / "other" / "north" / "room_0.ply").rename(raw / "north" / "grey.ply")
    assert not prepare(raw, tmp_path / "store").colored
    assert "1 of 3 rooms have no colours, such as north/grey," in caplog.text


@pytest.mark.parametrize("lost", ["coordinates", "labels"])
def test_a_room_without_any_point_left_is_skipped(tmp_path, lost):
    raw = labelled(tmp_path / "raw", np.eye(3), [0, 1, 2])
    points, label = np.eye(3), np.zeros(3)
    (points if lost == "coordinates" else label)[:] = np.nan
    labelled(raw, points, label, name="hole")
    assert [room.name for room in prepare(raw, tmp_path / "store").rooms] == ["room"]
    assert "no points of any class; room skipped" in (tmp_path / "store" / "repairs.txt").read_text()


@pytest.mark.parametrize(("up", "axes"), [("z", [0, 1, 2]), ("y", [2, 0, 1]), ("x", [1, 2, 0])])
def test_up_and_scale_give_the_axes_and_metres_of_predict(tmp_path, up, axes):
    points = np.random.default_rng(0).integers(0, 3000, (50, 3))
    raw = labelled(tmp_path / "raw", points, np.zeros(50), up=up, scale=0.001)
    xyz, _, _ = stored_points(raw, tmp_path / "store")
    assert xyz == pytest.approx(0.001 * (points - points.min(0))[:, axes], abs=1e-6)


@pytest.mark.parametrize("up", UP)
def test_up_turns_a_scan_and_does_not_mirror_it(up):
    turn = np.eye(3)[list(UP[up])]
    assert np.linalg.det(turn) == pytest.approx(1)
    assert (turn @ np.eye(3)["xyz".index(up)]).tolist() == [0, 0, 1]


def test_rooms_that_were_mirrored_are_prepared_again(tmp_path, monkeypatch):
    raw = labelled(tmp_path / "raw", np.random.default_rng(0).random((50, 3)), np.zeros(50), up="y")
    with monkeypatch.context() as before:
        before.setitem(UP, "y", (0, 2, 1))
        prepare(raw, tmp_path / "store")
    again, expected = (stored_points(raw, tmp_path / name)[0] for name in ("store", "new"))
    assert np.array_equal(again, expected)


# A room of 5 m x 4 m x 2.6 m, the walls included.
ROOM = np.random.default_rng(0).random((4000, 3)) * [5, 4, 2.6]


@pytest.mark.parametrize("stray", [False, True])
@pytest.mark.parametrize(("unit", "scale"), [(1000, "0.001"), (100, "0.01")])
def test_coordinates_that_cannot_be_metres_end_with_the_scale_to_give(tmp_path, unit, scale, stray):
    points = ROOM * unit
    if stray:
        points[0] = 1e5
    raw = labelled(tmp_path / "raw", points, np.zeros(4000))
    with pytest.raises(UserError, match=rf"room\.ply: 4,000 points over .* m are no building.*scale={scale}"):
        prepare(raw, tmp_path / "store")
    store = prepare(raw, tmp_path / "store", scale=float(scale))
    assert stray or store.open(store.rooms[0]).size == pytest.approx([5, 4, 2.6], rel=0.01)
    # What is said to be metres is taken for metres.
    if unit == 100 and not stray:
        assert prepare(classes(raw, scale=1), tmp_path / "store").open(store.rooms[0]).size[2] > 200


@pytest.mark.parametrize("extent", [[0.5, 0.5, 0.5], [50, 40, 30], [300, 300, 800], [2000, 1, 3]])
def test_what_can_be_metres_is_taken_for_metres(extent):
    points = np.random.default_rng(0).random((100_000, 3)) * extent
    points[:50] = 1e6
    require_metres(points)


@pytest.mark.parametrize("layout", ["Area_1/office_1", "points/Area_1_office_1.bin", "north/office_1"])
def test_rooms_of_several_arrays(tmp_path, layout):
    rng = np.random.default_rng(0)
    xyz, rgb = rng.random((50, 3)).astype(np.float32), rng.integers(0, 256, (50, 3), np.uint8)
    label, path = rng.integers(0, 3, 50), tmp_path / "raw" / layout
    if path.suffix == ".bin":
        for folder, values in (("points", np.c_[xyz, rgb].astype("<f4")), ("semantic_mask", label.astype("<i8"))):
            (tmp_path / "raw" / folder).mkdir(parents=True)
            values.tofile(tmp_path / "raw" / folder / path.name)
    else:
        path.mkdir(parents=True)
        for name, values in (("coord", xyz), ("color", rgb), ("segment", label[:, None]), ("instance", label)):
            np.save(path / f"{name}.npy", values)
    if layout.startswith("north"):
        classes(tmp_path / "raw")
    store = prepare(tmp_path / "raw", tmp_path / "store")
    assert [room.key for room in store.rooms] == [layout.replace("points/Area_1_office_1.bin", "Area_1/office_1")]
    stored = store.open(store.rooms[0])
    order = stored.order()
    assert np.array_equal(stored.labels(), label[order])
    assert np.array_equal(stored.all()[1], rgb[order])
    # Other labels alone make another room.
    changed = next(
        file for file in (tmp_path / "raw").rglob("*") if file.stem == "segment" or "mask" in str(file.parent)
    )
    values = np.zeros(50, np.int64)
    np.save(changed, values[:, None]) if changed.suffix == ".npy" else values.tofile(changed)
    again = prepare(tmp_path / "raw", tmp_path / "store")
    assert not again.open(again.rooms[0]).labels().any()


@pytest.mark.parametrize(
    "text", ["classes: [a]\nother: {}", "classes: [a]\nignore: [{}]", "classes: {{a: {}}}", "classes: [{0}, {0}]"]
)
def test_a_message_does_not_grow_with_a_name(text, tmp_path):
    (tmp_path / "classes.yaml").write_text(text.format("n" * 100_000))
    with pytest.raises(UserError) as raised:
        read_labelling(tmp_path / "classes.yaml")
    assert len(str(raised.value)) < 500 + len(str(tmp_path))


def test_many_classes_are_validated_in_a_moment():
    names = tuple(f"class {number}" for number in range(60_000))
    started = time.perf_counter()
    kept = ClassesFile.of({"classes": names, "ignore": names[::2]}, "classes.yaml").kept
    assert len(kept) == 30_000
    assert time.perf_counter() - started < 5


def test_the_example_of_the_module_is_read_and_its_numbers_are_kept(tmp_path):
    example = classes_file.__doc__.split("\n\n")[1]
    (tmp_path / "classes.yaml").write_text(example)
    found = read_labelling(tmp_path / "classes.yaml")
    assert found.classes.names == ("floor", "wall") and found.numbers.classes == ((0,), (1,))
    assert (found.numbers.other, found.numbers.unlabelled, found.skip) == (1, (2, 255), (7,))
