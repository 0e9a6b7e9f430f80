"""Damaged and hostile stores: room files, with and without a checksum that fits, manifests, class lists and official
HDF5 blocks, each read in a child process with little memory. One clear error or sound data, never a crash, a hang, a
traceback or other data. FUZZ_EXAMPLES scales it, as in test_fuzz."""

import hashlib
import json
import os

import h5py
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading_child import Child

from deepgcn_seg.data.classes import S3DIS
from deepgcn_seg.data.labelled_scans import read_labelling
from deepgcn_seg.data.official_hdf5 import OfficialBlocks
from deepgcn_seg.data.room import Room
from deepgcn_seg.data.room_file import CHECKSUM_END, HEADER_BYTES, MAGIC, write_room
from deepgcn_seg.data.store import RoomStore, write_manifest
from deepgcn_seg.data.stored_room import StoredRoom

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))


# -- what the child does ------------------------------------------------------------------------


def _read_room(path):
    """Everything a reader gets; fails if it makes no sense."""
    room = StoredRoom(path)
    xyz, rgb, label = room.all()
    order, labels = room.order(), room.labels()
    assert len(xyz) == len(rgb) == len(label) == len(order) == room.count > 0
    assert xyz.dtype == np.float32 and rgb.dtype == np.uint8 and label.dtype in (np.uint8, np.uint16)
    assert np.isfinite(xyz).all() and np.isfinite(room.size).all() and np.isfinite(room.origin).all()
    assert np.array_equal(labels, label) and np.array_equal(np.sort(order), np.arange(room.count))
    ranges, _ = room.cells.ranges((0.5, 0.5), (1.5, 1.5))
    part = room.read(ranges)[0]
    assert ((part[:, :2] >= 0.5) & (part[:, :2] <= 1.5)).all()
    content = (
        xyz,
        rgb,
        label,
        order,
        room.cells.starts,
        room.size,
        room.origin,
        np.array(room.key),
        np.array(room.colored),
    )
    return hashlib.sha256(b"".join(array.tobytes() for array in content)).hexdigest()


def _read_manifest(path):
    store = RoomStore(path.parent)
    for room in store.rooms:
        store.open(room).all()
    assert store.classes.colors(np.arange(len(store.classes))).shape == (len(store.classes), 3)
    assert all(isinstance(name, str) for name in (*store.classes, store.source))
    return repr([room.key for room in store.rooms])


def _read_classes(path):
    labelling = read_labelling(path)
    # None: not said, which is metres if they look like it.
    assert labelling.scale is None or (np.isfinite(labelling.scale) and labelling.scale > 0)
    assert labelling.classes.colors(np.arange(len(labelling.classes))).dtype == np.uint8
    labelling.label_numbers.require(len(labelling.classes))
    return repr(labelling)


def _read_official(path):
    blocks = OfficialBlocks(path.parent)
    items = blocks.blocks(blocks.rooms, 8)
    points, labels = zip(*(items[i] for i in range(min(len(items), 4))))
    assert all(p.isfinite().all() and p.shape == (8, 9) for p in points)
    assert all(((v >= 0) & (v < 13)).all() for v in labels)
    return hashlib.sha256(b"".join(p.numpy().tobytes() for p in points)).hexdigest()


READERS = {"room": _read_room, "manifest": _read_manifest, "classes": _read_classes, "official": _read_official}


@pytest.fixture(scope="module")
def child():
    process = Child(READERS)
    yield process
    process.end()


# -- what it is fed -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store of two rooms, a list of classes, and official blocks."""
    root = tmp_path_factory.mktemp("fuzz")
    rng = np.random.default_rng(0)
    for name in ("office_1", "office_2"):
        rgb, label = rng.integers(0, 256, (300, 3), np.uint8), rng.integers(0, 13, 300, np.uint8)
        write_room(root, Room("Area_1", name, rng.uniform(0, 3, (300, 3)), rgb, label))
    write_manifest(root, S3DIS, "made by hand")
    (root / "classes.yaml").write_text("classes: {a: 1, b: [2, 3]}\ncolors: {a: [1, 2, 3]}\nskip: [0]\nscale: 0.5\n")
    (root / "official").mkdir()
    with h5py.File(root / "official" / "ply_data_all_0.h5", "w") as file:
        data = rng.uniform(0, 1, (5, 16, 9)).astype(np.float32)
        file.create_dataset("data", data=data, chunks=(2, 8, 9), compression="gzip", shuffle=True)
        file.create_dataset("label", data=rng.integers(0, 13, (5, 16), np.uint8), chunks=(1, 16), compression="gzip")
    (root / "official" / "all_files.txt").write_text("x/ply_data_all_0.h5\n")
    (root / "official" / "room_filelist.txt").write_text("Area_1_a_1\n" * 4 + "Area_2_b_1\n")
    return root


def sealed(content):
    """A room file with the checksum that its content has."""
    rest = content[CHECKSUM_END:]
    return MAGIC + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest


def fuzz(examples, feed):
    run = settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))(
        given(data=st.data())(feed)
    )
    run()


def check(child, kind, path, content):
    """Write, read and put back; returns what became of it, which is no failure."""
    original = path.read_bytes()
    path.write_bytes(content)
    try:
        outcome, said = child.read(kind, path)
    finally:
        path.write_bytes(original)
    assert outcome != "failed", said
    assert outcome == "read" or ("\n" not in said and len(said) < 1000), said
    return outcome, said


NUMBERS = st.sampled_from([b"\xff" * 4, b"\xff" * 8, b"\x00" * 8, b"\x7f\xff", b"\x00\x00\xc0\x7f", b"9" * 11, b"-1"])


def changed(content, data, begin=0):
    """Bytes changed, or numbers made extreme, anywhere from ``begin`` on or close behind it."""
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        most = len(content) if data.draw(st.booleans()) else min(len(content), begin + 600)
        at = data.draw(st.integers(begin, most - 1))
        new = data.draw(st.one_of(NUMBERS, st.binary(min_size=1, max_size=4)))
        content[at : at + len(new)] = new
    return bytes(content)


@pytest.mark.parametrize("kind", ["one byte", "bytes", "cut", "added", "other"])
def test_a_changed_room_is_refused(child, folder, kind):
    path = folder / "Area_1" / "office_1.h5"
    good = path.read_bytes()

    def feed(data):
        if kind == "one byte":
            at = data.draw(st.integers(0, len(good) - 1))
            content = bytearray(good)
            content[at] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            content = good[: data.draw(st.integers(0, len(good) - 1))]
        elif kind == "added":
            at = data.draw(st.sampled_from([0, CHECKSUM_END, HEADER_BYTES, len(good)]))
            content = good[:at] + data.draw(st.binary(min_size=1, max_size=9)) + good[at:]
        else:
            content = data.draw(st.binary(max_size=300)) if kind == "other" else changed(good, data)
        if bytes(content) != good:
            assert check(child, "room", path, content)[0] == "refused"

    fuzz(EXAMPLES, feed)


# Values that a field may be given.
NASTY = st.one_of(
    st.sampled_from(
        [None, True, "", "x" * 300, "..", "../x", "a/b", "a\x00b", "1", "nan", [], {}, [[]], [1, 2], {"a": 1}]
    ),
    st.sampled_from([0, 1, -1, 2, 255, 256, 999, 4096, 65536, 2**31, 2**32 - 1, 2**32, 2**53, 2**63, 2**64, 10**30]),
    st.sampled_from([0.0, -0.0, 0.5, -1.5, 1e-320, 1e30, 1e308, float("inf"), float("-inf"), float("nan")]),
    st.integers(-10, 20000),
)


def mutated(content, data):
    """Plain values with one of them, at any depth, replaced, removed, doubled or added to."""
    if isinstance(content, (dict, list)) and content and data.draw(st.integers(0, 4)):
        keys = list(content) if isinstance(content, dict) else range(len(content))
        key = data.draw(st.sampled_from(keys))
        copy = content.copy()
        action = data.draw(st.sampled_from(["inside", "inside", "inside", "remove", "add"]))
        if action == "inside":
            copy[key] = mutated(content[key], data)
        elif action == "remove":
            del copy[key]
        elif isinstance(copy, dict):
            copy[data.draw(st.sampled_from(["x", "..", "Area_1/x", "../x/y", "size", ""]))] = data.draw(NASTY)
        else:
            copy.insert(key, data.draw(NASTY))
        return copy
    return data.draw(NASTY)


def test_a_hostile_header_is_refused_or_describes_sound_data(child, folder):
    path = folder / "Area_1" / "office_1.h5"
    good = path.read_bytes()
    header = json.loads(good[CHECKSUM_END:HEADER_BYTES])

    def feed(data):
        text = json.dumps(mutated(header, data)).encode()
        if data.draw(st.integers(0, 9)) == 0:
            text = data.draw(st.sampled_from([b"[" * 3000, b'{"a":' * 600, b"1" * 3900, b"\xff\xfe", b"{}{}"]))
        content = (
            good[:CHECKSUM_END]
            + text.ljust(HEADER_BYTES - CHECKSUM_END)[: HEADER_BYTES - CHECKSUM_END]
            + good[HEADER_BYTES:]
        )
        check(child, "room", path, sealed(content))

    fuzz(EXAMPLES, feed)


def test_hostile_arrays_are_refused_or_sound_data(child, folder):
    path = folder / "Area_1" / "office_1.h5"
    good = path.read_bytes()
    offsets = sorted(json.loads(good[CHECKSUM_END:HEADER_BYTES])["offsets"].values())

    def feed(data):
        check(child, "room", path, sealed(changed(good, data, data.draw(st.sampled_from([HEADER_BYTES, *offsets])))))

    fuzz(EXAMPLES, feed)


def test_hostile_manifests_are_refused_or_say_the_same(child, folder):
    path = folder / "store.json"
    good = json.loads(path.read_text())
    _, rooms = child.read("manifest", path)

    def feed(data):
        outcome, said = check(child, "manifest", path, json.dumps(mutated(good, data)).encode())
        assert outcome == "refused" or said == rooms

    fuzz(EXAMPLES, feed)


@pytest.mark.parametrize("name", ["ply_data_all_0.h5", "all_files.txt", "room_filelist.txt"])
def test_damaged_official_blocks_are_refused_or_sound(child, folder, name):
    path = folder / "official" / name
    good = path.read_bytes()

    def feed(data):
        cut = data.draw(st.integers(0, 5)) == 0
        check(child, "official", path, good[: data.draw(st.integers(0, len(good)))] if cut else changed(good, data))

    # Each is looked at in a process of its own, which takes a third of a second.
    fuzz(max(EXAMPLES // 10, 3), feed)


def test_hostile_class_lists_are_refused_or_sound(child, folder):
    path = folder / "classes.yaml"
    good = yaml.safe_load(path.read_text()) | {"other": "a", "columns": ["x", "y", "z", "label"], "label": "class"}

    def feed(data):
        check(child, "classes", path, yaml.safe_dump(mutated(good, data)).encode())

    fuzz(EXAMPLES, feed)
