"""A store is what its manifest says, comes from its source as it is now, and nothing in it reads or runs anything else."""

import hashlib
import json
import logging
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from deepgcn_seg.commands import prepare as prepare_command
from deepgcn_seg.data import build_store
from deepgcn_seg.data.build_store import prepare
from deepgcn_seg.data.classes import S3DIS, ClassList
from deepgcn_seg.data.dataset import make_loader
from deepgcn_seg.data.export_hdf5 import export_blocks
from deepgcn_seg.data.hdf5_arrays import StoredArray, find_arrays
from deepgcn_seg.data.labelled_scans import read_labelling
from deepgcn_seg.data.official_hdf5 import OfficialBlocks
from deepgcn_seg.data.repairs import Repair
from deepgcn_seg.data.room import Room
from deepgcn_seg.data.room_file import (
    CHECKSUM_END,
    HEADER_BYTES,
    MAGIC,
    MadeFrom,
    Preparation,
    read_preparation,
    write_room,
)
from deepgcn_seg.data.sources import folder, synthetic
from deepgcn_seg.data.store import RoomStore, write_manifest
from deepgcn_seg.data.stored_room import StoredRoom
from deepgcn_seg.errors import UserError
from deepgcn_seg.files import creating, replacing


def room(area="Area_1", name="office_1", count=400, seed=0):
    rng = np.random.default_rng(seed)
    rgb, label = rng.integers(0, 256, (count, 3), np.uint8), rng.integers(0, 13, count, np.uint8)
    return Room(area, name, rng.uniform(0, [3, 2, 2.5], (count, 3)), rgb, label)


@pytest.fixture
def small(tmp_path):
    """A store of four rooms in two areas."""
    for area in (1, 2):
        for number in (1, 2):
            write_room(tmp_path, room(f"Area_{area}", f"office_{number}", 400 + 10 * area + number, area + 2 * number))
    write_manifest(tmp_path, S3DIS, "made by hand")
    return tmp_path


def contents(root):
    store = RoomStore(root)
    return {entry.key: store.open(entry).all() for entry in store.rooms}


def resealed(path, change):
    """Change the header and the rest of a room's file, and give it the checksum that fits."""
    content = path.read_bytes()
    header, rest = json.loads(content[CHECKSUM_END:HEADER_BYTES]), bytearray(content[HEADER_BYTES:])
    change(header, rest)
    covered = json.dumps(header).encode().ljust(HEADER_BYTES - CHECKSUM_END) + bytes(rest)
    path.write_bytes(MAGIC + hashlib.sha256(covered).hexdigest().encode() + b"\n" + covered)


# -- the manifest -------------------------------------------------------------------------------


def test_rooms_missing_foreign_and_exchanged_are_one_line(small):
    first, second = small / "Area_1" / "office_1.h5", small / "Area_1" / "office_2.h5"
    content = first.read_bytes()
    first.unlink()
    with pytest.raises(UserError, match=r"Area_1/office_1\.h5: missing"):
        RoomStore(small)
    first.write_bytes(content)
    (small / "Area_1" / "office_9.h5").write_bytes(content)
    with pytest.raises(UserError, match=r"office_9\.h5: not a room of this store.*remove it"):
        RoomStore(small)
    (small / "Area_1" / "office_9.h5").unlink()
    second.write_bytes(content)
    with pytest.raises(UserError, match=r"office_2\.h5: .* bytes, but store\.json says"):
        RoomStore(small)
    with pytest.raises(UserError, match="holds the room Area_1/office_1"):
        StoredRoom(second)


def test_a_room_of_another_store_is_one_line(small):
    """Of the same name and size, and in itself sound."""
    write_room(small, room("Area_1", "office_1", 411, seed=9))
    store = RoomStore(small)
    with pytest.raises(UserError, match=r"office_1\.h5: not the file that store\.json lists"):
        store.open(store.rooms[0])


def test_a_room_that_changes_while_it_is_in_use_is_one_line(small):
    store = RoomStore(small)
    stored = store.open(store.rooms[0])
    before = stored.all()[0]
    os.utime(stored.path, ns=(1, 1))
    assert np.array_equal(stored.all()[0], before)
    write_room(small, room("Area_1", "office_1", 411, seed=9))
    for read in (stored.all, stored.labels, stored.order):
        with pytest.raises(UserError, match="has become another file while it was in use"):
            read()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=1), "store format 1, but this version reads 2"),
        (lambda m: m.update(format=[1, 2]), "format"),
        (lambda m: m.update(classes=[]), "0 classes"),
        (lambda m: m.update(classes=[1] * 13), "should be a valid string"),
        (lambda m: m.update(classes=["a"] * 13), "unique"),
        (lambda m: m.update(classes=["a\n" * 13, *m["classes"][1:]]), "printable"),
        (lambda m: m["palette"].__setitem__(0, [999, 0, 0]), "0..255"),
        (lambda m: m["palette"].__setitem__(0, [1, 0]), "palette"),
        (lambda m: m["palette"].pop(), "one colour each"),
        (lambda m: m.update(source=5), "source"),
        (lambda m: m.update(more=5), "unknown field more"),
        (lambda m: m.update(rooms={}), "rooms"),
        (lambda m: m["rooms"].update({"../x": m["rooms"]["Area_1/office_1"]}), "dot in front"),
        (lambda m: m["rooms"]["Area_1/office_1"].update(points=-1), "points"),
        (lambda m: m["rooms"]["Area_1/office_1"].update(sha256="x"), "sha256"),
    ],
)
def test_manifests_are_validated(small, change, message):
    path = small / "store.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=message) as raised:
        RoomStore(small)
    assert "store.json" in str(raised.value) and "\n" not in str(raised.value)


# -- room files ---------------------------------------------------------------------------------


def test_other_programs_read_rooms_as_hdf5(tmp_path):
    stored = StoredRoom(write_room(tmp_path, room()))
    with h5py.File(stored.path) as file:
        for name, ours in zip(("xyz", "rgb", "label"), stored.all()):
            assert np.array_equal(file[name], ours)
        assert np.array_equal(file["order"], stored.order())
        assert np.array_equal(file.attrs["origin"], stored.origin) and file.attrs["room"] == "office_1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, rest: h.update(points=2**31), "lies outside of the file"),
        (lambda h, rest: h["offsets"].update(xyz=0), "lies outside of the file"),
        (lambda h, rest: h["offsets"].update(cells=2**62), "lies outside of the file"),
        (lambda h, rest: h.update(grid=[2**24, 2**24]), "does not fit the size"),
        (lambda h, rest: h.update(size=[float("nan")] * 3), "size"),
        (lambda h, rest: h.update(size=[9.0, 2.0, 2.5], grid=[18, 4]), "lies outside of the file|without order"),
        (lambda h, rest: h.update(size=[*h["size"][:2], 99.0]), "do not fit the room's extent"),
        (lambda h, rest: h.update(size=[*h["size"][:2], 0.5]), "outside of the room's extent"),
        (lambda h, rest: h.update(label="float16"), "label"),
        (lambda h, rest: h.update(label="uint16"), "lies outside|label [0-9]+, but there are 13 classes"),
        (lambda h, rest: h["offsets"].update(cells=h["offsets"]["xyz"]), "without order"),
        (lambda h, rest: h["offsets"].update(xyz=h["offsets"]["xyz"] + 4), "extent"),
        (lambda h, rest: h["offsets"].update(order=h["offsets"]["xyz"]), "not a permutation"),
        (lambda h, rest: h["offsets"].update(label=h["offsets"]["rgb"]), "label [0-9]+, but there are 13 classes"),
        (lambda h, rest: fill(h, rest, "xyz", b"\x00\x00\xc0\x7f"), "outside of the room's extent"),
        (lambda h, rest: fill(h, rest, "label", b"\xc8"), "label 200, but there are 13 classes"),
    ],
)
def test_a_fitting_checksum_does_not_make_a_room_sound(tmp_path, change, message):
    path = write_room(tmp_path, room())
    resealed(path, change)
    with pytest.raises(UserError, match=message) as raised:
        [read() for read in (StoredRoom(path, classes=13).all, StoredRoom(path).order)]
    assert "office_1.h5" in str(raised.value)


def fill(header, rest, name, value):
    at = header["offsets"][name] - HEADER_BYTES
    rest[at : at + len(value)] = value


def test_what_hdf5_would_follow_is_not_followed(tmp_path):
    """Links and data in other files, in a room with a checksum that fits: the values are the room's own."""
    path = write_room(tmp_path, room())
    before = StoredRoom(path).labels()
    with h5py.File(path, "r+") as file:
        for name in ("label", "xyz", "rgb"):
            del file[name]
        file.create_dataset("label", (400,), "u1", external=[("/etc/passwd", 0, 400)])
        file["xyz"] = h5py.ExternalLink("/dev/zero", "/xyz")
        file["rgb"] = h5py.SoftLink("/rgb")
    resealed(path, lambda header, rest: None)
    assert np.array_equal(StoredRoom(path).labels(), before)


def test_a_pipe_is_no_room(tmp_path):
    (tmp_path / "Area_1").mkdir()
    os.mkfifo(tmp_path / "Area_1" / "office_1.h5")
    with pytest.raises(UserError, match="not a file"):
        StoredRoom(tmp_path / "Area_1" / "office_1.h5")


def test_a_stray_point_is_an_error_and_not_a_million_cells(tmp_path):
    far = room()
    far.xyz[7] = [1e6, 1e6, 0]
    with pytest.raises(UserError, match=r"office_1: the points extend over 1e\+06 x 1e\+06"):
        write_room(tmp_path, far)


def test_a_store_of_many_rooms_opens_few_files(tmp_path):
    write_room(tmp_path, room("Area_1", "r0", 50))
    for number in range(1, 300):
        write_room(tmp_path, room("Area_1", f"r{number}", 50))
    write_manifest(tmp_path, S3DIS, "many rooms")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 20, before[1]))
    try:
        assert sum(len(xyz) for xyz, _, _ in contents(tmp_path).values()) == 300 * 50
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# -- class lists --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: &a [1, 2]\nclasses: {x: *a}", "aliases"),
        ("classes: {a: .inf}", "classes.a.0=inf"),
        ("classes: {a: [0, .nan]}", "classes.a.1=nan"),
        ("classes: {a: [[0]]}", "classes.a.0"),
        ("classes: [a]\nscale: .inf", "scale=inf"),
        ("classes: [a]\nscale: 0", "scale=0"),
        ("classes: [a]\nscale: -1", "scale=-1"),
        ("classes: [a]\nscale: yes", "scale='yes': must be the metres per unit as a number"),
        ("classes: [a]\ncolors: {a: [0, 0, 256]}", "colour of a: must be three numbers of 0..255"),
        ("classes: [a]\ncolors: {a: [0, 0]}", "colors.a"),
        ("classes: [a]\ncolors: {a: [0, 0, 0.5]}", "colors.a.2"),
        ("classes: [a]\nskip: [0]", "label 0 is of a class and of skip"),
        ("classes: [a]\nskip: [1.5]", "skip.0"),
        ("classes: [a]\ncolumns: [x, [null]]", "columns.1"),
        (f"classes: {{a: {'[' * 2000}{']' * 2000}}}", "nested|readable"),
        (f"classes: [{'x' * 101}]", "1 to 100 printable characters"),
        ("classes: {a: 99999999999999999999}", "classes.a.0"),
        ("classes: 5", "classes=5"),
        ("[1]", "must have classes"),
    ],
)
def test_class_lists_are_validated(tmp_path, content, message):
    (tmp_path / "classes.yaml").write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        read_labelling(tmp_path / "classes.yaml")
    assert "classes.yaml" in str(raised.value) and "\n" not in str(raised.value)


def test_more_classes_than_labels_tell_apart():
    ClassList.of([str(i) for i in range(65535)], [(0, 0, 0)] * 65535)
    # One number is for points without a label.
    with pytest.raises(ValueError, match="65536 classes"):
        ClassList.of([str(i) for i in range(65536)], [(0, 0, 0)] * 65536)


# -- what a store was made from -----------------------------------------------------------------


def write_source(root, areas="AB", rooms=2):
    for area in areas:
        (root / area).mkdir(parents=True)
        for number in range(rooms):
            rng = np.random.default_rng([ord(area), number])
            rows = np.c_[rng.uniform(0, 3, (200, 3)), rng.integers(0, 2, 200)]
            np.savetxt(root / area / f"r{number}.txt", rows, fmt="%.3f %.3f %.3f %d")
    (root / "classes.yaml").write_text("classes: [floor, wall]\ncolumns: [x, y, z, label]\n")
    return root


def written(root):
    """When each file of a store was written."""
    return {path.stem: path.stat().st_mtime_ns for path in root.glob("[AB]/*")}


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "source")


def redone(source, root, caplog, **settings):
    """Rooms that the same preparation writes again, and what it says."""
    before = written(root)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        prepare(source, root, **settings)
    return {name for name, time_ in written(root).items() if before.get(name) != time_}, caplog.text


def test_corrected_classes_relabel_every_room(source, tmp_path, caplog):
    prepare(source, tmp_path / "store")
    (source / "classes.yaml").write_text("classes: {wall: 1, floor: 0}\ncolumns: [x, y, z, label]\n")
    rooms, said = redone(source, tmp_path / "store", caplog)
    assert (
        rooms == {"r0", "r1"} and "4 rooms are prepared again: an earlier version prepared them, or the classes" in said
    )
    store = RoomStore(tmp_path / "store")
    for entry in store.rooms:
        stored = store.open(entry)
        truth = np.loadtxt(source / f"{entry.key}.txt")[stored.order(), 3]
        assert [store.classes[label] for label in stored.labels()] == [("floor", "wall")[int(t)] for t in truth]


@pytest.mark.parametrize("line", ["scale: 0.5", "up: y", "skip: [1]", "ignore: [7]", "other: wall"])
def test_what_changes_points_or_labels_redoes_every_room(source, tmp_path, caplog, line):
    if "skip" in line:
        (source / "classes.yaml").write_text("classes: [floor]\nother: floor\ncolumns: [x, y, z, label]\n")
    prepare(source, tmp_path / "store")
    with open(source / "classes.yaml", "a") as file:
        file.write(line + "\n")
    assert "4 rooms are prepared again" in redone(source, tmp_path / "store", caplog)[1]


def test_other_colours_change_the_manifest_alone(source, tmp_path, caplog):
    prepare(source, tmp_path / "store")
    with open(source / "classes.yaml", "a") as file:
        file.write("colors: {floor: [1, 2, 3]}\n")
    assert redone(source, tmp_path / "store", caplog) == (set(), "")
    assert RoomStore(tmp_path / "store").classes.palette[0] == (1, 2, 3)


def test_a_changed_damaged_or_removed_room_is_all_that_is_redone(source, tmp_path, caplog):
    root = tmp_path / "store"
    prepare(source, root)
    assert redone(source, root, caplog) == (set(), "")
    text = (source / "A" / "r1.txt").read_text()
    (source / "A" / "r1.txt").write_text("9 9 9 1\n" + text)
    before = written(root)
    assert redone(source, root, caplog)[1].count("1 rooms are prepared again: source files changed") == 1
    assert RoomStore(root).open(RoomStore(root).rooms[1]).count == 201
    content = bytearray((root / "B" / "r0.h5").read_bytes())
    content[-5] ^= 1
    (root / "B" / "r0.h5").write_bytes(content)
    assert "1 rooms are prepared again: damaged" in redone(source, root, caplog)[1]
    (source / "B" / "r1.txt").unlink()
    assert "1 rooms are removed, their source is gone: B/r1" in redone(source, root, caplog)[1]
    assert [entry.key for entry in RoomStore(root).rooms] == ["A/r0", "A/r1", "B/r0"]
    assert written(root)["r0"] and (root / "A" / "r0.h5").stat().st_mtime_ns in before.values()


def test_rooms_become_empty_and_full_again(source, tmp_path, caplog):
    root, text = tmp_path / "store", (source / "classes.yaml").read_text()
    rows = np.loadtxt(source / "A" / "r0.txt")
    np.savetxt(source / "A" / "r0.txt", np.c_[rows[:, :3], rows[:, 3] * 0], fmt="%.3f %.3f %.3f %d")
    (source / "classes.yaml").write_text("classes: {wall: 1}\nskip: [0]\ncolumns: [x, y, z, label]\n")
    assert len(prepare(source, root).rooms) == 3
    assert redone(source, root, caplog)[0] == set()
    (source / "classes.yaml").write_text(text)
    assert len(prepare(source, root).rooms) == 4
    (source / "classes.yaml").write_text("classes: {wall: 1}\nskip: [0]\ncolumns: [x, y, z, label]\n")
    assert len(prepare(source, root).rooms) == 3
    (source / "A" / "r0.txt").unlink()
    prepare(source, root)
    assert not list(root.glob("*/*.empty"))


def test_shards_redo_what_changed_before_the_store_is_whole(source, tmp_path):
    root = tmp_path / "store"
    prepare(source, root)
    (source / "classes.yaml").write_text("classes: {wall: 1, floor: 0}\ncolumns: [x, y, z, label]\n")
    assert prepare(source, root, shard=(0, 2)) is None
    with pytest.raises(UserError, match=r"no store\.json"):
        RoomStore(root)
    assert prepare(source, root, shard=(1, 2)).classes.names == ("wall", "floor")


def test_a_store_of_another_source_is_not_taken_over(source, tmp_path):
    prepare(source, tmp_path / "store")
    with pytest.raises(UserError, match="a store of other rooms"):
        prepare(write_source(tmp_path / "other", "C"), tmp_path / "store")
    assert len(RoomStore(tmp_path / "store").rooms) == 4


def test_a_foreign_file_in_a_store_is_left_and_named(source, tmp_path):
    prepare(source, tmp_path / "store")
    (tmp_path / "store" / "A" / "mine.h5").write_text("something else")
    with pytest.raises(UserError, match=r"A/mine\.h5: not made from this source; remove it"):
        prepare(source, tmp_path / "store")
    with pytest.raises(UserError, match=r"A/mine\.h5: not a room of this store"):
        RoomStore(tmp_path / "store")


def test_a_synthetic_store_of_an_earlier_version_is_made_again(tmp_path, caplog):
    store = synthetic(tmp_path, rooms_per_area=1, density=30)
    before = contents(store.root)
    store.rooms[0].path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(5000))
    (store.root / "store.json").write_text('{"format": 1, "classes": ["a"], "palette": [[0, 0, 0]], "source": "x"}')
    again = synthetic(tmp_path, rooms_per_area=1, density=30)
    assert "prepared again" in caplog.text
    after = contents(again.root)
    assert all(np.array_equal(a, b) for key in before for a, b in zip(before[key], after[key]))


# -- rooms that cannot be prepared --------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("damage", ["1 2 3 4 5\n", "nothing\n", "1 2 3 9\n", "0 0 0 1\n4e6 0 0 1\n1e4 1e7 0 1\n"])
def test_every_room_that_cannot_be_prepared_is_named_and_the_others_are_kept(source, tmp_path, caplog, damage, workers):
    good = {path: path.read_text() for path in (source / "A" / "r0.txt", source / "B" / "r1.txt")}
    with open(source / "classes.yaml", "a") as file:
        file.write("scale: 1\n")
    for path in good:
        path.write_text(damage)
    with pytest.raises(UserError, match="2 of 4 rooms could not be prepared") as raised:
        prepare(source, tmp_path / "store", workers=workers)
    assert f"{source}/A/r0.txt: " in str(raised.value) and "\n" not in str(raised.value)
    listed = caplog.text.split("Not prepared:")[1]
    assert all(f"  {path}: " in listed for path in good)
    with pytest.raises(UserError, match=r"no store\.json"):
        RoomStore(tmp_path / "store")
    kept = written(tmp_path / "store")
    assert kept.keys() == {"r0", "r1"}
    for path, text in good.items():
        path.write_text(text)
    assert len(prepare(source, tmp_path / "store", workers=workers).rooms) == 4
    assert (tmp_path / "store" / "A" / "r1.h5").stat().st_mtime_ns == kept["r1"]


def test_a_store_that_cannot_be_written_ends_the_preparation(source, tmp_path, monkeypatch):
    tried = []

    def full(root, room, preparation):
        tried.append(room.key)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build_store, "write_room", full)
    with pytest.raises(UserError, match=r"cannot write room A/r0 .*No space left"):
        prepare(source, tmp_path / "store")
    assert tried == ["A/r0"]


def test_a_full_disk_met_by_hdf5_is_an_error_and_no_crash(tmp_path):
    code = (
        "import resource, sys, numpy as np\n"
        "from deepgcn_seg.data.hdf5_writing import new_hdf5\n"
        "for size in (1000, 5000, 7000, 100_000, 10**6):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))\n"
        "    try:\n"
        "        with new_hdf5(sys.argv[1], userblock_size=4096) as file:\n"
        "            file.create_dataset('a', data=np.ones(25_000), chunks=(25_000,))\n"
        "            file.attrs['b'] = 1\n"
        "        print('written')\n"
        "    except OSError as error:\n"
        "        print(error.strerror)\n"
    )
    path = tmp_path / "a.h5"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [*4 * ["File too large"], "written"]
    with h5py.File(path) as file:
        assert file["a"][:].tolist() == [1.0] * 25_000 and file.attrs["b"] == 1


def test_blocks_that_are_there_are_not_exported_over(store, tmp_path):
    (tmp_path / "all_files.txt").write_text("x/ply_data_all_0.h5\n")
    (tmp_path / "ply_data_all_0.h5").write_text("official")
    with pytest.raises(UserError, match="holds HDF5 blocks already, which are kept; choose another folder"):
        export_blocks(store, tmp_path)
    assert (tmp_path / "ply_data_all_0.h5").read_text() == "official"


def test_repairs_of_the_rooms_that_are_kept_are_told_beside_those_that_are_not(tmp_path):
    source = write_damaged(tmp_path / "source")
    bad = source / "Area_2" / "office_1" / "Annotations" / "wall_1.txt"
    good = bad.read_text()
    bad.write_text("something else\n" * 12)
    with pytest.raises(UserError, match=r"Area_2/office_1/Annotations/wall_1\.txt, line 1: .* more than 10 such lines"):
        prepare(source, tmp_path / "store")
    assert b"Area_1/office_1/Annotations/wall_1.txt, line 3" in told(tmp_path / "store")
    bad.write_text(good)
    prepare(source, tmp_path / "store")
    prepare(source, tmp_path / "whole")
    assert told(tmp_path / "store") == told(tmp_path / "whole")


# -- check=true --------------------------------------------------------------------------------


def checked(caplog, source=None, root=None):
    """What a check says in its log."""
    caplog.clear()
    with caplog.at_level(logging.INFO):
        config = {"check": True, "shard": None, "source": source and str(source), "data": {"root": root and str(root)}}
        prepare_command.prepare(OmegaConf.create(config))
    return caplog.text


def test_a_healthy_store_of_other_rooms_than_s3dis_passes(source, tmp_path, caplog, capsys):
    prepare(source, tmp_path / "store")
    assert "not rooms of S3DIS" in checked(caplog, source=source)
    assert "the files of all 4 rooms are as store.json lists them" in checked(caplog, root=tmp_path / "store")
    # Classes of the same names do not make them S3DIS.
    write_manifest(tmp_path / "store", S3DIS, "scans with the classes of S3DIS")
    assert "not rooms of S3DIS" in checked(caplog, root=tmp_path / "store")
    assert capsys.readouterr().out == ""
    path = tmp_path / "store" / "A" / "r1.h5"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=r"A/r1\.h5: damaged"):
        checked(caplog, root=tmp_path / "store")


@pytest.mark.parametrize("nested", [False, True])
def test_a_store_whose_preparation_stopped_is_called_unfinished(source, tmp_path, caplog, nested):
    root = tmp_path / "outer" / "store"
    prepare(source, root)
    (root / "store.json").unlink()
    given = root.parent if nested else root
    for use in (lambda: checked(caplog, root=given), lambda: folder(given)):
        with pytest.raises(UserError, match=r"outer/store: a room store that is not finished"):
            use()
    for path in root.glob("*/*.h5"):
        path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(5000))
    with pytest.raises(UserError, match="no rooms here; looked for"):
        checked(caplog, root=given)


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", ""])
def test_check_names_raw_rooms_whose_annotations_are_missing(tmp_path, caplog, end):
    row, count = f"1 2 3 4 5 6{end or chr(10)}", 50
    for name, annotated in {"whole_1": count, "part_1": count - 1, "none_1": 0, "alone_1": 3}.items():
        annotations = tmp_path / "Area_1" / name / "Annotations"
        annotations.mkdir(parents=True)
        if name != "alone_1":
            (annotations.parent / f"{name}.txt").write_bytes((row * count).encode())
        if annotated:
            rows = (row * annotated).encode()
            (annotations / "wall_1.txt").write_bytes(rows if end else rows[:-1])
    (tmp_path / "Area_1" / "bare_1").mkdir()
    missing = "bare_1 (none is there), Area_1/none_1 (none is there), Area_1/part_1"
    with pytest.raises(UserError) as raised:
        checked(caplog, source=tmp_path)
    assert str(raised.value) == (
        f"{tmp_path}: 272 of the 272 rooms of S3DIS are missing; annotations of 3 rooms are missing: Area_1/{missing} "
        "(they have 49 lines, part_1.txt has 50)"
    )


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("skipped", ["", "A", "B"])
def test_rooms_whose_names_are_one_to_the_file_system_are_an_error(tmp_path, shards, skipped):
    """The link does what such a file system does: what is written as B is read as A too."""
    source, root = write_source(tmp_path / "source", "ABC", rooms=1), tmp_path / "store"
    if skipped:
        (source / skipped / "r0.txt").write_text("1 2 3 7\n")
        with open(source / "classes.yaml", "a") as file:
            file.write("skip: [7]\n")
    (root / "A").mkdir(parents=True)
    (root / "B").symlink_to("A")
    with pytest.raises(UserError, match="rooms ./r0 and ./r0 have the same file, because this file system takes"):
        prepare(source, root, shard=(0, shards))


def test_a_room_that_another_command_overwrites_is_an_error(tmp_path, monkeypatch):
    source, prepare_room = write_source(tmp_path / "source"), build_store._prepare_room

    def with_another(job):
        found = prepare_room(job)
        if job.key == "B/r0":
            write_room(job.root, room("A", "r0"))
        return found

    monkeypatch.setattr(build_store, "_prepare_room", with_another)
    with pytest.raises(UserError, match="room A/r0 was overwritten; another command prepares other rooms here"):
        prepare(source, tmp_path / "store")


# -- what was repaired in a store ---------------------------------------------------------------


def write_damaged(root):
    """Raw Stanford rooms of two areas, in each of which something is repaired: in the second by leaving it out."""
    for area in (1, 2):
        folder = root / f"Area_{area}" / "office_1" / "Annotations"
        folder.mkdir(parents=True)
        rows = "1 2 3 10 20 30\n2 3 4 10 20 30\n"
        (folder / "wall_1.txt").write_text(rows + ("1 2\n" if area == 1 else ""))
        # The name need not be UTF-8, except on macOS.
        name = b"floor_1.txt" if sys.platform == "darwin" else b"floor_1\xff.txt"
        (folder / os.fsdecode(name)).write_text("")
    (root / "Area_1" / "hallway_1").mkdir()
    return root


def write_unlabelled(root):
    write_source(root)
    (root / "classes.yaml").write_text("classes: [floor]\nignore: [1]\ncolumns: [x, y, z, label]\n")
    return root


def told(root):
    return (root / "repairs.txt").read_bytes()


@pytest.mark.parametrize("write", [write_damaged, write_unlabelled])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_preparation_that_is_killed_loses_no_repairs(tmp_path, caplog, write, after):
    source = write(tmp_path / "source")
    code = (
        "import os, sys; from deepgcn_seg.data import build_store\n"
        "def track(results, count, title):\n"
        "    for number, result in enumerate(results, 1):\n"
        f"        if number == {after}: os.kill(os.getpid(), 9)\n"
        "        yield result\n"
        "build_store.track = track; build_store.prepare(sys.argv[1], sys.argv[2])"
    )
    stopped = subprocess.run([sys.executable, "-c", code, source, tmp_path / "store"])
    assert stopped.returncode == -signal.SIGKILL and not (tmp_path / "store" / "repairs.txt").exists()
    prepare(source, tmp_path / "store")
    logged = caplog.text.replace(str(tmp_path / "store"), "")
    caplog.clear()
    prepare(source, tmp_path / "whole")
    assert told(tmp_path / "store") == told(tmp_path / "whole") and told(tmp_path / "store").count(b"\n") == 4
    assert logged == caplog.text.replace(str(tmp_path / "whole"), "") != ""


def test_shards_tell_together_what_was_repaired(tmp_path):
    source = write_damaged(tmp_path / "source")
    for number in range(3):
        prepare(source, tmp_path / "store", shard=(number, 3))
    prepare(source, tmp_path / "whole")
    assert told(tmp_path / "store") == told(tmp_path / "whole")


def test_a_shard_does_not_replace_the_list_of_another_that_was_faster(tmp_path, monkeypatch):
    source = write_damaged(tmp_path / "source")
    write = build_store.write_repairs

    def overtaken(path, repairs):
        monkeypatch.setattr(build_store, "write_repairs", write)
        prepare(source, tmp_path / "store", shard=(1, 2))
        write(path, repairs)

    monkeypatch.setattr(build_store, "write_repairs", overtaken)
    prepare(source, tmp_path / "store", shard=(0, 2))
    prepare(source, tmp_path / "whole")
    assert told(tmp_path / "store") == told(tmp_path / "whole")


@pytest.mark.parametrize("change", ["mended", "removed"])
def test_repairs_are_told_of_the_rooms_as_they_are_now(tmp_path, monkeypatch, change):
    source = write_damaged(tmp_path / "source")
    monkeypatch.chdir(tmp_path)
    prepare("source", tmp_path / "store")
    assert b"source/Area_1/office_1/Annotations/wall_1.txt, line 3: not six numbers" in told(tmp_path / "store")
    if change == "mended":
        (source / "Area_1" / "office_1" / "Annotations" / "wall_1.txt").write_text("1 2 3 10 20 30\n")
    else:
        shutil.rmtree(source / "Area_1" / "office_1")
    # The folder is the same, but written in another way.
    for store in ("store", "fresh"):
        prepare(source, tmp_path / store)
    assert told(tmp_path / "store") == told(tmp_path / "fresh") and b"wall_1" not in told(tmp_path / "store")
    shutil.rmtree(source / "Area_1" / "hallway_1")
    for path in source.rglob("floor_1*"):
        path.unlink()
    prepare(source, tmp_path / "store")
    assert not (tmp_path / "store" / "repairs.txt").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, rest: h.update(repairs=[4096, 2**62]), "outside of the file"),
        (lambda h, rest: h.update(repairs=[4096, 8]), "damaged repairs"),
        (lambda h, rest: h.update(repairs=[4096]), "repairs"),
    ],
)
def test_damaged_repairs_are_one_line(tmp_path, change, message):
    made_from = MadeFrom(settings="0" * 64, files="1" * 64)
    preparation = Preparation(made_from=made_from, repairs=(Repair("a", 1, "b", "c"),))
    path = write_room(tmp_path, room(), preparation)
    assert read_preparation(path) == preparation
    resealed(path, change)
    with pytest.raises(UserError, match=message) as raised:
        read_preparation(path)
    assert "office_1.h5" in str(raised.value) and "\n" not in str(raised.value)


# -- processes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["replacing", "creating"])
def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path, what):
    code = (
        f"import os; from deepgcn_seg.files import {what} as write\n"
        f"with write({str(tmp_path / 'a')!r}) as t: os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    with replacing(tmp_path / "b") as first, creating(tmp_path / "c") as folder:
        first.write_text("b")
        with replacing(tmp_path / "d") as second:
            second.write_text("d")
        assert first.exists() and folder.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c", "d"]


def test_workers_of_a_killed_preparation_end(tmp_path):
    source = write_source(tmp_path / "source", rooms=30)
    code = (
        "import sys; from deepgcn_seg.data.build_store import prepare\n"
        "if __name__ == '__main__': prepare(sys.argv[1], sys.argv[2], workers=2)\n"
    )
    (tmp_path / "run.py").write_text(code)
    job = subprocess.Popen([sys.executable, tmp_path / "run.py", source, tmp_path / "store"], start_new_session=True)
    wait_until(lambda: list((tmp_path / "store").glob("*/*.h5")) or job.poll() is not None)
    job.kill()
    job.wait()
    wait_until(lambda: not living(job.pid))
    assert len(prepare(source, tmp_path / "store").rooms) == 60
    assert not list((tmp_path / "store").rglob("*.tmp"))


def wait_until(happened, seconds=60):
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def living(group):
    """Processes of a group that have not ended."""
    listed = subprocess.check_output(["ps", "-A", "-o", "pid=", "-o", "pgid=", "-o", "stat="], text=True)
    rows = (line.split() for line in listed.splitlines())
    return [process for process, its_group, state, *_ in rows if int(its_group) == group and state[0] != "Z"]


def test_a_program_that_does_not_close_its_loader_ends(tmp_path):
    code = (
        "from deepgcn_seg.data.dataset import make_loader\n"
        "if __name__ == '__main__':\n"
        "    batches = iter(make_loader([1, 2], 1, workers=1))\n"
        "    next(batches)\n"
    )
    (tmp_path / "run.py").write_text(code)
    job = subprocess.Popen([sys.executable, tmp_path / "run.py"], start_new_session=True)
    try:
        assert job.wait(60) == 0
        wait_until(lambda: not living(job.pid))
    finally:
        for process in living(job.pid):
            os.kill(int(process), signal.SIGKILL)
        job.wait()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"),
            "too little shared memory.*--shm-size=2g; or set workers=0",
        ),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is"), "too little shared memory"),
        (OSError(28, "No space left on device"), "too little shared memory"),
        (RuntimeError("unable to open shared memory object </torch_1>: Too many open files (24)"), "ulimit -n"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "ended by the system"),
    ],
)
def test_what_loader_processes_lack_is_one_line(monkeypatch, error, message):
    def fail(loader):
        raise error

    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", fail)
    with pytest.raises(UserError, match=message) as raised:
        list(make_loader([1, 2], 2, workers=1))
    assert "workers=1" in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(type(error)):
        list(make_loader([1, 2], 2, workers=0))


# -- official HDF5 blocks -----------------------------------------------------------------------


def official(root, write):
    with h5py.File(root / "ply_data_all_0.h5", "w") as file:
        rng = np.random.default_rng(0)
        data, label = rng.uniform(0, 1, (7, 50, 9)).astype(np.float32), rng.integers(0, 13, (7, 50), np.uint8)
        write(file, data, label)
    (root / "all_files.txt").write_text("anywhere/ply_data_all_0.h5\n")
    (root / "room_filelist.txt").write_text("Area_1_a_1\n" * 6 + "Area_2_b_1\n")
    return data, label


@pytest.mark.parametrize(
    "packing",
    [
        {},
        {"chunks": (2, 16, 4)},
        {"chunks": (3, 50, 9), "compression": "gzip"},
        {"chunks": (2, 16, 4), "compression": "gzip", "shuffle": True},
    ],
)
def test_rows_of_official_files_are_those_that_hdf5_reads(tmp_path, packing):
    data, label = official(tmp_path, lambda f, d, v: (f.create_dataset("data", data=d, **packing), f.update(label=v)))
    path = tmp_path / "ply_data_all_0.h5"
    (arrays,) = pickle.loads(pickle.dumps(find_arrays([path], ["data", "label"])))
    for i in range(7):
        assert np.array_equal(arrays["data"].row(path, i), data[i])
        assert np.array_equal(arrays["label"].row(path, i), label[i])


@pytest.mark.usefixtures("limits_refused")
def test_official_files_are_read_where_memory_cannot_be_limited(tmp_path):
    official(tmp_path, lambda f, d, v: f.update(data=d, label=v))
    assert find_arrays([tmp_path / "ply_data_all_0.h5"], ["data"])


def test_modules_in_the_current_folder_are_not_run_to_read_official_files(tmp_path, monkeypatch):
    official(tmp_path, lambda f, d, v: f.update(data=d, label=v))
    for name in ("json", "resource", "h5py", "numpy", "classes"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('was run')")
    monkeypatch.chdir(tmp_path)
    (arrays,) = find_arrays([Path("ply_data_all_0.h5")], ["data"])
    assert arrays["data"].shape == (7, 50, 9)


def _external(file, data, label):
    file["label"] = label
    file.create_dataset("data", data.shape, "f4", external=[("/etc/passwd", 0, data.nbytes)])


def _virtual(file, data, label):
    file["label"] = label
    layout = h5py.VirtualLayout(data.shape, "f4")
    layout[:] = h5py.VirtualSource("/dev/zero", "data", data.shape)
    file.create_virtual_dataset("data", layout)


def _many_chunks(file, data, label):
    file["label"] = label
    file.create_dataset("data", data=np.zeros((2, 5900, 9), np.float32), chunks=(1, 1, 1))


def _unwritten(file, data, label):
    file["label"] = np.zeros((10**6, 50), np.uint8)
    file.create_dataset("data", (10**6, 50, 9), "f4", chunks=(10, 50, 9), fillvalue=7)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_external, "data does not lie in the file itself"),
        (_virtual, "data does not lie in the file itself"),
        (_unwritten, "not in the file"),
        (_many_chunks, "data has more than 100000 chunks"),
        (lambda f, d, v: f.update(data=h5py.ExternalLink("/dev/zero", "/x"), label=v), "missing, or lies in another"),
        (lambda f, d, v: f.update(data=h5py.SoftLink("/label"), label=v), "missing, or lies in another"),
        (lambda f, d, v: f.update(data=d), "label is missing"),
        (lambda f, d, v: (f.create_group("data"), f.update(label=v)), "data is not an array"),
        (lambda f, d, v: f.update(data=d.astype("S3"), label=v), "dtype"),
        (lambda f, d, v: f.update(data=d, label=v.astype(np.float32)), "label whole ones"),
        (lambda f, d, v: f.update(data=d[:, :, :5], label=v), r"data must be \(blocks, points, 9\)"),
        (lambda f, d, v: f.update(data=d * np.float32("nan"), label=v), "NaN or infinite"),
        (lambda f, d, v: f.update(data=d, label=v + 13), "labels of no class"),
        (lambda f, d, v: (f.create_dataset("data", data=d, compression="lzf"), f.update(label=v)), "filters"),
    ],
)
def test_official_files_that_reach_outside_or_make_no_sense(tmp_path, write, message):
    official(tmp_path, write)
    with pytest.raises(UserError, match=message) as raised:
        (blocks := OfficialBlocks(tmp_path)).blocks(blocks.rooms, 50)[0]
    assert "ply_data_all_0.h5" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("line", ["../secret.h5", "a/../b.h5", "/etc/x.h5", "..", "x/.h5", "a.txt", "a\\b.h5"])
def test_lists_name_files_of_their_own_folder(tmp_path, line):
    official(tmp_path, lambda f, d, v: f.update(data=d, label=v))
    (tmp_path / "all_files.txt").write_text(line + "\n")
    with pytest.raises(UserError, match=r"all_files\.txt: .* must be the name of an \.h5 file beside it"):
        OfficialBlocks(tmp_path)


@pytest.mark.parametrize(
    ("corners", "message"),
    [
        ([(0, 0), (0, 4), (2, 0), (2, 4)], None),
        ([(2, 4), (0, 0), (2, 0), (0, 4)], None),
        ([(0, 0), (0, 8), (2, 0), (2, 4)], "beside the array's grid"),
        ([(0, 0), (1, 4), (2, 0), (2, 4)], "beside the array's grid"),
        ([(0, 0), (0, 4), (2, 0), (2, 0)], "not in the file"),
        ([(0, 0), (0, 4), (2, 0)], "not in the file"),
        ([(0, 0), (0, 4, 0), (2, 0), (2, 4)], "another rank"),
    ],
)
def test_every_cell_of_a_stored_arrays_grid_has_its_chunk(corners, message):
    stored = {"dtype": "<f4", "shape": (3, 6), "chunk": (2, 4), "filters": []}
    stored["chunks"] = [(corner, 0, 32 * i, 32) for i, corner in enumerate(corners)]
    if message is None:
        assert set(StoredArray.of(stored, "a.h5")._places) == {(0, 0), (0, 1), (1, 0), (1, 1)}
        return
    with pytest.raises(UserError, match=message):
        StoredArray.of(stored, "a.h5")
