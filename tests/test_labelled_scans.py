"""A user's own scans: layouts recognised, labels mapped, with colour and without."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from deepgcn_seg.data.labelled_scans import read_labelling
from deepgcn_seg.data.layouts import recognise
from deepgcn_seg.data.prepare import prepare
from deepgcn_seg.data.scan import Scan, write_scan
from deepgcn_seg.data.sources import folder, s3dis
from deepgcn_seg.data.stanford import read_room
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
        ("classes: {a: 1, b: [1, 2]}", "label 1 is of two classes"),
        ("classes: [a]\nother: b", "other: b is no class"),
        ("classes: [a]\ncolors: {b: [0, 0, 0]}", "colors names b"),
        ("classes: [a]\nlables: x", "unknown key lables"),
        ("classes: [a", "not a readable YAML file"),
        ("classes: {a: x}", "classes.a.0='x': input should be a valid integer"),
    ],
)
def test_classes_without_sense(tmp_path, content, message):
    (tmp_path / "classes.yaml").write_text(content)
    with pytest.raises(UserError) as raised:
        read_labelling(tmp_path / "classes.yaml")
    assert message in str(raised.value) and "classes.yaml" in str(raised.value)


def test_layouts_are_recognised_and_named(tmp_path, raw_rooms, store):
    assert str(recognise(raw_rooms)).endswith("raw Stanford rooms, 12 in 6 areas")
    assert recognise(store.root).kind == "a room store"
    wrapped = tmp_path / "wrapped"
    wrapped.mkdir()
    (wrapped / "Stanford3dDataset_v1.2").symlink_to(raw_rooms)
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
