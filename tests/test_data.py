"""From the generator to blocks: determinism, the parser, the store, block cutting, sampling."""

import hashlib
import inspect
import itertools
import json
import re
import unicodedata
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepgcn_seg.data.annotation_file import read_points
from deepgcn_seg.data.blocks import BlockGrid, block_features, points_inside, sample_indices, share_held
from deepgcn_seg.data.build_store import prepare
from deepgcn_seg.data.classes import S3DIS, ClassList
from deepgcn_seg.data.dataset import BlockDataset, EpochSampler, block_dataset, make_loader, split_by_area
from deepgcn_seg.data.export_hdf5 import export_blocks
from deepgcn_seg.data.layouts import recognise
from deepgcn_seg.data.official_hdf5 import OfficialBlocks
from deepgcn_seg.data.room import Room
from deepgcn_seg.data.room_file import write_room
from deepgcn_seg.data.rooms_of_s3dis import expected_rooms, missing_rooms, named
from deepgcn_seg.data.stanford import read_room
from deepgcn_seg.data.store import RoomStore, write_manifest
from deepgcn_seg.data.stored_room import StoredRoom
from deepgcn_seg.data.synthetic_rooms import generate, make_room
from deepgcn_seg.errors import UserError
from deepgcn_seg.evaluation.protocols import Protocol

# -- generator ----------------------------------------------------------------------------------


def test_a_room_is_the_same_on_every_machine():
    room, thing = make_room(area=3, number=1, seed=0, density=40)
    digest = hashlib.sha256()
    for array in (np.round(room.xyz * 1000).astype(np.int64), room.rgb, room.label, thing.astype(np.int64)):
        digest.update(np.ascontiguousarray(array).tobytes())
    assert digest.hexdigest()[:16] == "dfa23ce10dfc633a"


def test_seeds_areas_and_numbers_differ():
    rooms = [make_room(*args, density=30)[0] for args in ((1, 0, 0), (1, 0, 1), (2, 0, 0), (1, 4, 0))]
    assert len({(len(room), room.xyz.sum()) for room in rooms}) == 4


def test_every_area_has_every_class():
    for area in range(1, 7):
        labels = [make_room(area, number, 0, 60)[0].label for number in range(6)]
        assert set(np.concatenate(labels)) == set(range(13)), area


def test_density_falls_with_distance_and_objects_cast_shadows():
    room, _ = make_room(5, 1, 0, 1000)
    floor = room.xyz[room.label == S3DIS.names.index("floor")]
    cells = np.histogram2d(floor[:, 0], floor[:, 1], bins=12)[0]
    assert np.quantile(cells, 0.95) > 4 * np.quantile(cells, 0.1)
    assert np.histogram2d(floor[:, 0], floor[:, 1], bins=60)[0].min() == 0


def test_generation_is_cached_and_resumed(tmp_path):
    root = generate(tmp_path / "raw", 1, 20, areas=(1, 2))
    room = root / "Area_1" / "office_1" / "Annotations"
    before = {path: path.stat().st_mtime_ns for path in room.iterdir()}
    (root / "complete").unlink()
    generate(root, 1, 20, areas=(1, 2))
    assert before == {path: path.stat().st_mtime_ns for path in room.iterdir()}


# -- parser -------------------------------------------------------------------------------------


def test_raw_room_round_trip(tmp_path, raw_rooms):
    room, repairs = read_room(raw_rooms / "Area_5" / "office_1")
    made, thing = make_room(5, 0, 0, 60)
    assert repairs == []
    assert len(room) == len(made)
    order, expected = np.lexsort(room.xyz.T), np.lexsort(made.xyz.T)
    assert np.array_equal(room.xyz[order], made.xyz[expected])
    assert np.array_equal(room.label[order], made.label[expected])
    assert np.array_equal(room.rgb[order], made.rgb[expected])
    # The file of the whole room holds the same points.
    whole = read_points(raw_rooms / "Area_5" / "office_1" / "office_1.txt", [])
    assert len(whole) == len(room)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


GOOD = "1.0 2.0 3.0 10 20 30\n1.5 2.5 3.5 11 21 31\n"


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        (b"-9.10 1.785\n", None),
        (b"22.33 5.83 2.1 185\x10187 183\n", [22.33, 5.83, 2.1, 185, 187, 183]),
        (b"1.0 2.0 3.0 185\x00187 183\n", [1.0, 2.0, 3.0, 185, 187, 183]),
        (b"1.0 2.0 3.0 10 20 30 40\n", None),
        (b"1.0 2.0 3.0 10 nan 30\n", None),
        (b"1.0 2.0 3.0 10 20 255.5\n", None),
        (b"1e999 2.0 3.0 10 20 30\n", None),
        (b"hello\n", None),
        (b"1,2 0,5 -1,1 10 20 30\n", [1.2, 0.5, -1.1, 10, 20, 30]),
        (b"1,2 0.5 1.1 10 20 30\n", None),
        (b"1,2 0,5 1,1 10,0,0 20 30\n", None),
        # Cut off: the commas do not separate six numbers.
        (b"1,2 0,5 1,1\n", None),
        (b"1,2 0.5 1.1 10 20\n", None),
        (b"1.2, 0.5, 1.1, 10, 20, 30\n", [1.2, 0.5, 1.1, 10, 20, 30]),
        (b"1.2,,0.5,10,20,30 7\n", None),
        ("\u22121.2 0.5 1.1 10 20 30\n".encode(), None),
        ("\u20131.2 0.5 1.1 10 20 30\n".encode("cp1252"), None),
        ("\ufeff1.2 0.5 1.1 10 20 30\n".encode(), [1.2, 0.5, 1.1, 10, 20, 30]),
        ("1.2\u00a00.5 1.1 10 20 30\n".encode(), [1.2, 0.5, 1.1, 10, 20, 30]),
        (b"1\xb72 0.5 1.1 10 20 30\n", None),
        (b"1'234.5 0.5 1.1 10 20 30\n", None),
        (b'"1.2" "0.5" "1.1" 10 20 30\n', [1.2, 0.5, 1.1, 10, 20, 30]),
        (b"1.\x102 0.5 1.1 10 20 30\n", [1.2, 0.5, 1.1, 10, 20, 30]),
    ],
)
def test_damaged_lines_are_repaired_or_skipped_and_told(tmp_path, line, kept):
    path = write(tmp_path / "chair_1.txt", GOOD.encode() + line + GOOD.encode())
    repairs = []
    rows = read_points(path, repairs)
    assert len(rows) == (4 if kept is None else 5)
    if kept is not None:
        assert rows[2].tolist() == kept
    assert len(repairs) == 1
    assert repairs[0].line == 3
    assert str(path) in str(repairs[0])


@pytest.mark.parametrize("top", ["", "\n", "x y z r g b\n"])
def test_annotations_with_decimal_commas(tmp_path, top):
    path, repairs = write(tmp_path / "chair_1.txt", top + "1,2 0,5 -1,1 10 20 30\n3 ,5 1e1 10,0 20 30\n" * 50), []
    rows = read_points(path, repairs)
    assert rows.tolist() == [[1.2, 0.5, -1.1, 10, 20, 30], [3, 0.5, 10, 10, 20, 30]] * 50
    assert len(repairs) == ("x" in top)


def test_annotations_are_the_same_in_pieces_of_any_size(tmp_path):
    path = write(tmp_path / "chair_1.txt", GOOD + "no row\n" + GOOD + "1 2 3 10\x0020 30")
    whole = []
    rows = read_points(path, whole)
    assert (rows.shape, [repair.line for repair in whole]) == ((5, 6), [3, 6])
    # From each line alone to two pieces.
    for piece_bytes in range(1, path.stat().st_size):
        repairs = []
        assert np.array_equal(read_points(path, repairs, piece_bytes), rows)
        assert repairs == whole


good_row = st.tuples(*[st.decimals(-99, 99, places=3)] * 3, *[st.integers(0, 255)] * 3)
bad_line = st.sampled_from(
    [b"-9.10 1.785", b"x y z r g b", b"1 2 3 4 5", b"1 2 3 4 5 999", b"1 2 3 nan 5 6", b"1 2 3 4 5 6 7"]
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(good_row, bad_line), max_size=40), st.sampled_from([b"\n", b"\r\n"]))
def test_any_mixture_of_good_and_bad_lines(tmp_path_factory, lines, ending):
    good = [row for row in lines if isinstance(row, tuple)]
    bad = len(lines) - len(good)
    numbers = sum(len(re.findall(rb"[0-9.]+", line)) for line in lines if isinstance(line, bytes))
    text = [b" ".join(str(v).encode() for v in row) if isinstance(row, tuple) else row for row in lines]
    path = tmp_path_factory.mktemp("mixture") / "chair_1.txt"
    path.write_bytes(ending.join(text))
    repairs = []
    if bad > 10 or (not good and numbers >= 6):
        with pytest.raises(UserError, match=r"chair_1\.txt"):
            read_points(path, repairs)
        return
    rows = read_points(path, repairs)
    assert np.allclose(rows, np.array(good, float).reshape(-1, 6))
    assert len(repairs) == bad


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes_end_in_rows_or_one_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "chair_1.txt"
    path.write_bytes(content)
    try:
        rows = read_points(path, [])
    except UserError as error:
        assert "chair_1.txt" in str(error)  # noqa: PT017
    else:
        assert rows.shape[1] == 6
        assert np.isfinite(rows).all()


def test_crlf_blank_lines_and_a_truncated_end(tmp_path):
    repairs = []
    assert len(read_points(write(tmp_path / "a.txt", GOOD.replace("\n", "\r\n") + "\r\n"), repairs)) == 2
    assert repairs == []
    assert len(read_points(write(tmp_path / "b.txt", GOOD + "1.0 2."), repairs)) == 2
    assert len(repairs) == 1


def test_a_file_of_something_else_is_an_error(tmp_path):
    path = write(tmp_path / "chair_1.txt", "some text about chairs\n" * 50)
    with pytest.raises(UserError, match=r"chair_1\.txt"):
        read_points(path, [])


@pytest.mark.parametrize(
    "content",
    [
        "1 2 3 10 20 30 1.5 2 3 10 20 30",
        "1 2 3 10 20 999\n",
        "1;2;3;10;20\n30;1.5;2;3;10;20;30\n",
        "1 2 3\n10 20 30\n",
    ],
)
def test_numbers_without_a_row_are_an_error(tmp_path, content):
    path = write(tmp_path / "chair_1.txt", content)
    with pytest.raises(UserError, match=r"chair_1\.txt, line 1: .*; and no other line of the file is a row"):
        read_points(path, [])


@pytest.mark.parametrize("name", ["notes", "Chair 1", "chair_1"])
@pytest.mark.parametrize(
    "content", ["", "\n\n", "1.0 2.", "Measured on 2016-05-03 at 10:30 by 3\n", "nan nan nan 1 2 3\n"]
)
def test_what_holds_no_point_is_skipped_and_gets_no_class(tmp_path, name, content):
    folder = annotated(tmp_path / "office_1", wall_1=[1])
    write(folder / "Annotations" / f"{name}.txt", content)
    room, repairs = read_room(folder)
    assert len(room) == 1 and not any("labelled" in str(repair) for repair in repairs)
    assert f"{name}.txt: no points; skipped" in "\n".join(map(str, repairs))


def test_many_rows_on_one_line_are_an_error(tmp_path):
    path = write(tmp_path / "chair_1.txt", GOOD + "1 2 3 10 20 30\r" * 500)
    with pytest.raises(UserError, match=r"chair_1\.txt, line 3: .*; it has the numbers of many rows, and 7,500 bytes"):
        read_points(path, [])


@pytest.mark.parametrize("number", [2, 50_000])
def test_annotations_with_the_line_ends_of_old_macs(tmp_path, number):
    folder = tmp_path / "office_1"
    rows = "1 2 3 10 20 30\r1.5 2 3 10 20\r" + "1 2.5 3 10 20 31\r" * number
    path = write(folder / "Annotations" / "chair_1.txt", rows)
    write(folder / "office_1.txt", rows + "1 2 3 4 5 6\r" * number)
    room, repairs = read_room(folder)
    assert len(room) == number + 1 and room.rgb[-1].tolist() == [10, 20, 31]
    assert f"{path}, line 2: not six numbers" in str(repairs[0])
    # The lines of the whole room's file are counted too.
    assert f"office_1.txt has {2 * number + 2:,}: an annotation is missing" in str(repairs[1])


def test_room_with_odd_files(tmp_path):
    folder = tmp_path / "Area_1" / "office_1"
    write(folder / "Annotations" / "stairs_1.txt", GOOD)
    write(folder / "Annotations" / "chair_1.txt", GOOD.replace("1.0", "1.25"))
    write(folder / "Annotations" / "table_1.txt", "")
    write(folder / "Annotations" / ".DS_Store", b"\x00\x01")
    room, repairs = read_room(folder)
    assert len(room) == 4
    assert sorted(set(room.label)) == [8, 12]
    assert len(repairs) == 2
    with pytest.raises(UserError, match="unknown class 'stairs'"):
        read_room(folder, ClassList.of(["chair", "table"], [(0, 0, 0), (1, 1, 1)]))


def test_empty_room_and_folder_without_rooms(tmp_path):
    (tmp_path / "Area_1" / "office_1" / "Annotations").mkdir(parents=True)
    room, (repair,) = read_room(tmp_path / "Area_1" / "office_1")
    assert room is None
    assert "no points" in str(repair)
    with pytest.raises(UserError, match="looked for"):
        recognise(tmp_path / "Area_1")


def test_rooms_come_in_natural_order(tmp_path):
    for name in ("office_10", "office_2", ".office_1.tmp"):
        (tmp_path / "Area_1" / name / "Annotations").mkdir(parents=True)
    assert list(recognise(tmp_path).rooms) == ["Area_1/office_2", "Area_1/office_10"]


# -- store --------------------------------------------------------------------------------------


def random_room(count=500, size=(3.3, 2.1, 2.8), seed=0):
    rng = np.random.default_rng(seed)
    xyz = rng.uniform(0, size, (count, 3)) + [1234.5, -77.25, 10.0]
    return Room(
        "Area_1", "office_1", xyz, rng.integers(0, 256, (count, 3), np.uint8), rng.integers(0, 13, count, np.uint8)
    )


def test_store_keeps_every_point_and_its_place(tmp_path):
    room = random_room()
    stored = StoredRoom(write_room(tmp_path, room))
    xyz, rgb, label = stored.all()
    order = stored.order()
    assert np.array_equal(np.sort(order), np.arange(500))
    assert np.allclose(xyz + stored.origin, room.xyz[order], atol=1e-6)
    assert np.array_equal(rgb, room.rgb[order])
    assert np.array_equal(label, room.label[order])
    assert (stored.area, stored.name, stored.count) == ("Area_1", "office_1", 500)
    assert xyz.dtype == np.float32 and rgb.dtype == label.dtype == np.uint8


def stored_room(path, room):
    """A store of one room, and its entry."""
    write_room(path, room)
    write_manifest(path, S3DIS, "one room")
    store = RoomStore(path)
    return store, store.rooms[0]


@pytest.mark.parametrize(("side", "stride"), [(1.0, 0.5), (1.0, 1.0), (1.0, 0.3), (0.7, 0.5), (0.7, 1.0), (0.3, 0.1)])
def test_a_block_holds_exactly_its_points(tmp_path, side, stride):
    store, room = stored_room(tmp_path, random_room(3000))
    stored = store.open(room)
    xyz = stored.all()[0]
    # Every place of the grid, beside those that were found to have points.
    grid = BlockGrid(side, stride, min_points=1)
    low_x, low_y = (np.arange(grid.count(extent)) * stride for extent in stored.size[:2])
    found = {block.low: block for block in grid.cut(store, room)}
    for low in itertools.product(low_x.tolist(), low_y.tolist()):
        high = np.add(low, side)
        inside = ((xyz[:, :2] >= low) & ((xyz[:, :2] < high) | (high >= stored.size[:2]))).all(1)
        block = found.pop(low, None)
        place = [] if block is None else points_inside(stored, block.low, block.high)[3]
        assert set(place) == set(np.flatnonzero(inside))
        assert block is None or block.count == inside.sum()
    assert not found


def test_blocks_cover_the_room_and_follow_the_official_grid(tmp_path):
    store, room = stored_room(tmp_path, random_room(3000))
    # ceil((3.3 - 1) / 0.5) + 1 = 6 by ceil((2.1 - 1) / 0.5) + 1 = 4
    assert [BlockGrid(1.0, 0.5).count(extent) for extent in (3.3, 2.1)] == [6, 4]
    blocks = BlockGrid(1.0, 1.0, 1).cut(store, room)
    assert [block.low for block in blocks] == sorted(block.low for block in blocks)
    places = [points_inside(store.open(room), block.low, block.high)[3] for block in blocks]
    assert np.array_equal(np.sort(np.concatenate(places)), np.arange(3000))


def test_reading_a_block_does_not_read_the_room(tmp_path):
    stored = StoredRoom(write_room(tmp_path, random_room(20000, (30.0, 20.0, 2.8))))
    ranges, exact = stored.cells.ranges((4.0, 7.5), (5.0, 8.5))
    assert exact
    assert len(ranges) == 2
    assert sum(stop - start for start, stop in ranges) < 100


def test_damaged_stores(tmp_path, store):
    with pytest.raises(UserError, match=r"store\.json"):
        RoomStore(tmp_path)
    path = write_room(tmp_path, random_room())
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=r"office_1\.h5"):
        StoredRoom(path)
    manifest = json.loads((store.root / "store.json").read_text())
    write(tmp_path / "store.json", json.dumps({**manifest, "format": 99}))
    with pytest.raises(UserError, match="format 99"):
        RoomStore(tmp_path)
    write(tmp_path / "store.json", "{")
    with pytest.raises(UserError, match="not a readable JSON file"):
        RoomStore(tmp_path)


def test_no_half_written_room_is_left(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(h5py.Group, "create_dataset", fail)
    with pytest.raises(OSError, match="disk full"):
        write_room(tmp_path, random_room())
    assert list(tmp_path.rglob("*.*")) == []


def test_rooms_without_sense_are_refused(tmp_path):
    room = random_room()
    room.xyz[3] = np.nan
    with pytest.raises(UserError, match="NaN"):
        write_room(tmp_path, room)


def test_preparation_goes_on_where_it_stopped_and_reports_repairs(tmp_path, raw_rooms):
    import shutil

    raw = tmp_path / "raw"
    shutil.copytree(raw_rooms / "Area_1", raw / "Area_1")
    file = next((raw / "Area_1" / "office_1" / "Annotations").glob("wall_1.txt"))
    file.write_bytes(file.read_bytes() + b"1.0 2.0\n")
    store = prepare(raw, tmp_path / "store")
    assert len(store.rooms) == 2
    assert "wall_1.txt" in (tmp_path / "store" / "repairs.txt").read_text()
    kept = tmp_path / "store" / "Area_1" / "office_1.h5"
    before = kept.stat().st_mtime_ns
    (tmp_path / "store" / "Area_1" / "conferenceRoom_1.h5").unlink()
    prepare(raw, tmp_path / "store", workers=2)
    assert kept.stat().st_mtime_ns == before
    assert (tmp_path / "store" / "Area_1" / "conferenceRoom_1.h5").is_file()


# -- blocks -------------------------------------------------------------------------------------


def test_nine_channels_of_the_paper():
    xyz = np.array([[2.0, 1.0, 0.5], [2.4, 1.8, 2.0], [2.9, 1.2, 0.0]], np.float32)
    rgb = np.array([[0, 51, 255]] * 3, np.uint8)
    found = block_features(xyz, rgb, np.array([4.0, 2.0, 2.5]), "paper")
    expected = [[-0.5, -0.5, 0.5], [-0.1, 0.3, 2.0], [0.4, -0.3, 0.0]]
    assert np.allclose(found[:, :3], expected, atol=1e-6)
    assert np.allclose(found[:, 3:6], [0, 0.2, 1])
    assert np.allclose(found[:, 6:], xyz / [4.0, 2.0, 2.5])


def test_nine_channels_of_the_port_are_pyg_normalize_scale():
    import torch
    from torch_geometric.data import Data
    from torch_geometric.transforms import NormalizeScale

    xyz = np.random.default_rng(0).uniform(0, 3, (50, 3)).astype(np.float32)
    rgb = np.zeros((50, 3), np.uint8)
    size = np.array([4.0, 4.0, 3.0])
    port, paper = (block_features(xyz, rgb, size, variant) for variant in ("port", "paper"))
    expected = NormalizeScale()(Data(pos=torch.from_numpy(paper[:, :3].copy()))).pos
    assert np.allclose(port[:, :3], expected, atol=1e-6)
    assert np.array_equal(port[:, 3:], paper[:, 3:])
    with pytest.raises(ValueError, match="papr"):
        block_features(xyz, rgb, size, "papr")


@given(count=st.integers(1, 300), points=st.integers(1, 300), seed=st.integers(0, 1000))
@settings(deadline=None)
def test_sampling(count, points, seed):
    sample = sample_indices(count, points, np.random.default_rng(seed))
    assert len(sample) == points
    assert sample.min() >= 0 and sample.max() < count
    # No point twice while others are missing.
    assert len(set(sample.tolist())) == min(count, points)


def test_small_blocks_are_left_out(store):
    room = store.rooms[0]
    counts = [
        len(points_inside(store.open(room), b.low, b.high)[0]) for b in BlockGrid(min_points=100).cut(store, room)
    ]
    assert min(counts) >= 100
    assert len(BlockGrid(min_points=1).cut(store, room)) >= len(counts)


def test_dataset_depends_on_seed_epoch_and_index_alone(store):
    def items(seed=0, epoch=0, workers=0):
        dataset = BlockDataset(store, store.rooms[:2], 64, seed=seed)
        sampler = EpochSampler(len(dataset), seed)
        sampler.set_epoch(epoch)
        return [points for points, _ in make_loader(dataset, 4, sampler, workers)]

    same = lambda a, b: all(bool((x == y).all()) for x, y in zip(a, b))
    assert same(items(), items())
    assert same(items(), items(workers=2))
    assert not same(items(), items(epoch=1))
    assert not same(items(), items(seed=1))


def test_sampler_shows_every_block_once_and_goes_on_where_it_was():
    sampler = EpochSampler(50, seed=3)
    whole = list(sampler)
    assert sorted(i for _, i in whole) == list(range(50))
    sampler.start = 20
    assert list(sampler) == whole[20:]
    assert len(sampler) == 30


@pytest.mark.parametrize("forms", [["NFC"], ["NFD"], ["NFC", "NFD"], ["NFD", "NFC"]])
def test_an_area_is_found_however_its_accents_are_stored_and_typed(forms):
    """If both ways are stored, they are two areas."""
    areas = ["a", *(unicodedata.normalize(form, "Büro") for form in forms)]
    rooms = SimpleNamespace(areas=areas, rooms=[SimpleNamespace(area=area, place=area) for area in areas], root="x")
    for typed in ("NFC", "NFD"):
        name = unicodedata.normalize(typed, "Büro")
        (room,) = split_by_area(rooms, name, validation=0).test
        assert room.area == (name if len(forms) == 2 else areas[1])


def test_split_holds_out_the_area_and_validation_rooms(store):
    split = split_by_area(store, fold=5, validation=0.2)
    assert {room.area for room in split.test} == {"Area_5"}
    assert "Area_5" not in {room.area for room in split.train + split.validation}
    assert len(split.validation) == 2
    assert len(split.train) + len(split.validation) + len(split.test) == len(store.rooms)
    assert not set(split.train) & set(split.validation)
    assert split_by_area(store, 5, 0.0).validation == []
    with pytest.raises(UserError, match="fold=9"):
        split_by_area(store, 9)


def test_class_list():
    assert (len(S3DIS), S3DIS[8], list(S3DIS)[:2]) == (13, "chair", ["ceiling", "floor"])
    assert S3DIS.colors(np.array([8, 0])).tolist() == [[255, 0, 0], [0, 255, 0]]
    with pytest.raises(ValueError, match="unique"):
        ClassList.of(["a", "a"], [(0, 0, 0)] * 2)


# -- other layouts ------------------------------------------------------------------------------


def test_arrays_of_pointnet(tmp_path, raw_rooms):
    room, _ = read_room(raw_rooms / "Area_2" / "office_1")
    rows = np.column_stack([room.xyz, room.rgb, room.label])
    np.save(write(tmp_path / "npy" / "Area_2_office_1.npy", ""), rows)
    stored = prepare(tmp_path / "npy", tmp_path / "store").open(RoomStore(tmp_path / "store").rooms[0])
    assert stored.key == "Area_2/office_1"
    assert np.array_equal(stored.all()[2], room.label[stored.order()])
    for bad, message in ((rows[:, :6], "must be"), (rows + 0.5, "whole"), (np.array([{}]), "array")):
        np.save(tmp_path / "npy" / "Area_3_office_9.npy", bad, allow_pickle=True)
        with pytest.raises(UserError, match=message):
            prepare(tmp_path / "npy", tmp_path / "other")


@pytest.fixture(scope="session")
def exported(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hdf5") / "raw"
    return folder, export_blocks(store, folder)


@pytest.mark.parametrize("variant", ["paper", "port"])
@pytest.mark.parametrize("fold", [1, 5])
def test_official_blocks_equal_torch_geometrics_dataset(exported, variant, fold):
    from torch_geometric.datasets import S3DIS as PygS3DIS
    from torch_geometric.transforms import NormalizeScale

    folder, _ = exported
    blocks = OfficialBlocks(folder)
    split = split_by_area(blocks, fold, validation=0.0)
    transform = NormalizeScale() if variant == "port" else None
    for train, rooms in ((True, split.train), (False, split.test)):
        # Both parts are made when the first is read.
        theirs = PygS3DIS(str(folder.parent), fold, train, pre_transform=transform, force_reload=train)
        ours = blocks.blocks(rooms, 4096, variant=variant)
        assert len(ours) == len(theirs)
        for i in range(len(ours)):
            (points, label), block = ours[i], theirs[i]
            assert np.allclose(points[:, :3], block.pos, atol=1e-5)
            assert np.array_equal(points[:, 3:], block.x)
            assert np.array_equal(label, block.y)


@pytest.mark.parametrize("variant", ["paper", "port"])
def test_official_blocks_have_the_features_of_blocks_that_are_cut_from_rooms(exported, store, variant):
    settings = {"variant": variant, "features": ("height", "room", "block", "color")}
    blocks = OfficialBlocks(exported[0])
    ours, cut = blocks.blocks(blocks.rooms, 4096, **settings), BlockDataset(store, store.rooms, 4096, **settings)
    for i in (0, len(cut) // 2, len(cut) - 1):
        assert ours.room_of[i].key == cut.room_of[i].key
        for mine, other in zip(ours[i], cut[i]):
            assert np.allclose(mine, other, atol=1e-6)


def test_points_of_official_blocks_are_drawn_anew_in_each_epoch(exported):
    blocks = OfficialBlocks(exported[0])
    draw = lambda epoch, seed=0: blocks.blocks(blocks.rooms, 64, seed=seed)[epoch, 3]
    assert all(map(np.array_equal, draw(1), draw(1)))
    for other in (draw(2), draw(1, seed=1)):
        assert not np.array_equal(draw(1)[0], other[0])
    whole, label = blocks.blocks(blocks.rooms, 4096)[3]
    labelled = {(*point, int(of)) for point, of in zip(whole.tolist(), label)}
    assert labelled.issuperset((*point, int(of)) for point, of in zip(draw(1)[0].tolist(), draw(1)[1]))


def test_exported_folder_is_the_official_layout(exported, store):
    folder, count = exported
    assert len((folder / "room_filelist.txt").read_text().splitlines()) == count
    assert (folder / "all_files.txt").read_text() == "raw/ply_data_all_0.h5\n"
    with h5py.File(folder / "ply_data_all_0.h5") as file:
        assert file["data"].shape == (count, 4096, 9)
        assert (file["data"].dtype, file["label"].dtype) == (np.float32, np.uint8)
        # To read one block is to unpack one.
        assert (file["data"].chunks, file["label"].chunks) == ((1, 4096, 9), (1, 4096))


def test_official_folders_that_do_not_fit(exported, tmp_path):
    import shutil

    folder = tmp_path / "blocks"
    shutil.copytree(exported[0], folder)
    names = (folder / "room_filelist.txt").read_text()
    (folder / "room_filelist.txt").write_text(names + "Area_1_office_1\n")
    with pytest.raises(UserError, match=r"room_filelist\.txt names \d+ blocks"):
        OfficialBlocks(folder)
    (folder / "room_filelist.txt").write_text(names)
    blocks = OfficialBlocks(folder)
    with pytest.raises(UserError, match="points=5000"):
        blocks.blocks(blocks.rooms, 5000)[0]
    folder = tmp_path / "damaged"
    shutil.copytree(exported[0], folder)
    (folder / "ply_data_all_0.h5").write_bytes(b"no")
    with pytest.raises(UserError, match=r"ply_data_all_0\.h5"):
        OfficialBlocks(folder)
    (folder / "all_files.txt").unlink()
    with pytest.raises(UserError, match=r"all_files\.txt"):
        OfficialBlocks(folder)


@pytest.mark.parametrize("other", [{"min_points": 20}, {"side": 2.0, "stride": 1.0}, {"stride": 1.0}], ids=str)
def test_official_blocks_are_those_of_one_grid(exported, other):
    blocks, name = OfficialBlocks(exported[0]), next(iter(other))
    with pytest.raises(UserError, match=rf"^data\.grid\.{name}=.*: .* holds blocks that were cut with"):
        block_dataset(blocks, blocks.rooms, 50, BlockGrid(**other))
    block_dataset(blocks, blocks.rooms, 50, BlockGrid())


@pytest.mark.parametrize("other", [{"min_points": 20}, {"side": 2.0}], ids=str)
def test_a_score_of_official_blocks_is_said_to_be_of_them(exported, other):
    blocks = OfficialBlocks(exported[0])
    Protocol("blocks").require_rooms(blocks)
    with pytest.raises(UserError, match="holds blocks that were cut with"):
        Protocol("blocks", **other).require_rooms(blocks)


def test_a_table_of_rooms_names_some_and_counts_the_others():
    assert named([f"office_{i}" for i in range(14)]).endswith("office_10, office_11 and 2 more")
    assert (named(["office_1", "hallway_1"]), named([])) == ("office_1, hallway_1", "-")


def test_the_272_rooms():
    rooms = expected_rooms()
    assert len(set(rooms)) == 272
    counts = [sum(room.startswith(f"Area_{area}/") for room in rooms) for area in range(1, 7)]
    assert counts == [44, 40, 23, 49, 68, 48]
    assert missing_rooms(rooms) == []
    assert missing_rooms(rooms[1:]) == [rooms[0]]


def test_augmented_official_blocks_are_augmented_rooms(store, tmp_path):
    """Points in metres are recovered from the nine channels."""
    from deepgcn_seg.data.augmentation import Scale
    from deepgcn_seg.data.official_hdf5 import room_points

    dataset = BlockDataset(store, store.rooms[:1], 4096)
    features = dataset[0][0].numpy()
    room = store.open(store.rooms[0])
    points = room_points(features)
    assert np.allclose(points.room_size, room.size, rtol=1e-3)
    assert np.allclose(block_features(points.xyz, points.rgb, points.room_size), features, atol=2e-3)
    export_blocks(store, tmp_path)
    blocks = OfficialBlocks(tmp_path)
    plain, scaled = (blocks.blocks(blocks.rooms[:1], 4096, augment=a)[0][0] for a in ((), (Scale(0.5, 0.5),)))
    assert np.allclose(scaled[:, 2], plain[:, 2] / 2, atol=2e-3)


COPIES = [
    "wall_3 (1)", "wall_3(2)", "wall_3 copy", "wall_3 copy 2", "wall_3 - Copy", "wall_3 - Copy (2)", "Copy of wall_3",
    "Copy (2) of wall_3", "Kopie von wall_3", "wall_3 - Kopie", "wall_3 Kopie 2", "wall_3 (copy)", "wall_3_copy",
    "wall_3 (another copy)", "wall_3 (3rd copy)", "WALL_3 (1)", "wall_3 (1) (1)", "wall_7",
]  # fmt: skip


def annotated(folder, **files):
    """Write annotations of a room: name -> heights of its points."""
    (folder / "Annotations").mkdir(parents=True)
    for name, heights in files.items():
        rows = "".join(f"1 2 {height} 10 20 30\n" for height in heights)
        (folder / "Annotations" / f"{name}.txt").write_text(rows)
    return folder


@pytest.mark.parametrize("name", COPIES)
def test_an_annotation_that_is_there_twice_counts_once(tmp_path, name):
    room, repairs = read_room(annotated(tmp_path / "office_1", wall_3=[1, 2], floor_1=[0], **{name: [1, 2]}))
    assert sorted(room.xyz[:, 2]) == [0, 1, 2]
    assert f"{name}.txt: a copy, the 2 points of wall_3.txt; left out" in str(repairs[-1]) and len(repairs) == 1


@pytest.mark.parametrize("name", COPIES[:-1])
def test_what_is_only_named_as_a_copy_is_kept_and_told(tmp_path, name):
    room, repairs = read_room(annotated(tmp_path / "office_1", wall_3=[1, 2], floor_1=[0], **{name: [1, 3]}))
    assert sorted(room.xyz[:, 2]) == [0, 1, 1, 2, 3]
    assert (room.label == S3DIS.names.index("wall")).sum() == 4
    assert f"{name}.txt: named as a copy of wall_3.txt, but has other points; kept" in "\n".join(map(str, repairs))


def test_numbered_names_without_an_original_are_no_copies(tmp_path):
    room, repairs = read_room(annotated(tmp_path / "office_1", **{"chair (1)": [1], "chair (2)": [2]}))
    assert len(room) == 2 and not any("copy" in str(repair) for repair in repairs)


def test_the_same_points_of_two_classes_are_kept_and_told(tmp_path):
    room, repairs = read_room(annotated(tmp_path / "office_1", wall_3=[1, 2], beam_1=[1, 2]))
    assert len(room) == 4
    assert "wall_3.txt: the 2 points of beam_1.txt, labelled beam there; both kept" in str(repairs[-1])


def test_more_annotated_points_than_the_room_has_are_told(tmp_path):
    room = annotated(tmp_path / "office_1", wall_1=range(50), wall_2=range(40))
    (room / "office_1.txt").write_text("1 2 3 4 5 6\n" * 50)
    _, repairs = read_room(room)
    assert "annotations have 90 points, office_1.txt has 50: some may be there twice" in str(repairs[-1])


def test_annotated_points_without_coordinates_are_counted(tmp_path):
    room, repairs = read_room(annotated(tmp_path / "office_1", wall_3=[1, *["nan", "NaN", "-inf"] * 7, 2]))
    assert list(room.xyz[:, 2]) == [1, 2]
    assert [str(r).split(": ")[1] for r in repairs] == ["21 points with NaN or infinite coordinates; left out"]


@pytest.mark.parametrize("colors", [["0.31 0.5 1.0", "0 1 0"], ["0.31 0.5 1.0"]])
def test_colours_of_annotations_may_be_fractions(tmp_path, colors):
    folder = tmp_path / "raw" / "Area_1" / "office_1"
    for number, color in enumerate(colors):
        write(folder / "Annotations" / f"wall_{number}.txt", f"1 2 {number} {color}\n")
    store = prepare(tmp_path / "raw", tmp_path / "store")
    stored = store.open(store.rooms[0])
    assert stored.all()[1].tolist() == [[79, 128, 255], [0, 255, 0]][: len(colors)] and stored.colored
    told = (tmp_path / "store" / "repairs.txt").read_text()
    assert told == f"{folder}: colours are fractions of 1; multiplied by 255\n"


@pytest.mark.parametrize("color", ["0 1 1", "0 0 0", "10 20 30", "2 0.5 0.5", "0.5 1 254.9"])
def test_colours_of_annotations_up_to_255_are_bytes(tmp_path, color):
    folder = tmp_path / "office_1"
    write(folder / "Annotations" / "wall_1.txt", f"1 2 3 {color}\n")
    room, repairs = read_room(folder)
    assert room.rgb.tolist() == [[round(float(value)) for value in color.split()]] and not repairs


def test_colours_of_two_kinds_in_a_room_are_refused(tmp_path):
    for number, color in enumerate(["0.31 0.5 1.0", "31 50 100"]):
        write(tmp_path / "office_1" / "Annotations" / f"wall_{number}.txt", f"1 2 3 {color}\n")
    with pytest.raises(
        UserError, match=r"wall_0\.txt: its colours are fractions of 1, but those of wall_1\.txt are in"
    ):
        read_room(tmp_path / "office_1")


def test_arrays_with_an_instance_column(tmp_path):
    rng = np.random.default_rng(0)
    label, instance = rng.integers(0, 13, 500), rng.integers(-1, 99, 500)
    rows = np.c_[rng.random((500, 3)), rng.integers(0, 256, (500, 3)), label]
    for width, area in ((7, 1), (8, 2)):
        np.save(tmp_path / f"Area_{area}_office_1.npy", np.c_[rows, instance][:, :width])
    store = prepare(tmp_path, tmp_path / "store")
    seven, eight = (store.open(room) for room in store.rooms)
    for mine, other in zip(seven.all(), eight.all()):
        assert np.array_equal(mine, other)
    assert np.array_equal(eight.labels(), label[eight.order()])
    np.save(tmp_path / "Area_2_office_1.npy", np.c_[rows, instance, instance])
    with pytest.raises(UserError, match=r"or \(N, 8\) with the instance, is \(500, 9\)"):
        prepare(tmp_path, tmp_path / "store")


@pytest.mark.parametrize(("side", "density"), [(60, 10), (100, 0.5), (8, 5), (3, 4)])
def test_blocks_too_small_for_the_density_end_with_settings_that_work(tmp_path, side, density):
    count = round(side * side * density)
    xyz = np.random.default_rng(0).random((count, 3)) * [side, side, 8]
    room = Room("Area_1", "tile", xyz, None, np.zeros(count, np.uint8))
    write_room(tmp_path, room)
    write_manifest(tmp_path, S3DIS, "a tile")
    store = RoomStore(tmp_path)
    with pytest.raises(UserError, match=r"no block of 100 points or more in 1 room .*\(Area_1/tile\)") as raised:
        BlockDataset(store, store.rooms, 512)
    advised = dict(re.findall(r"data\.grid\.(\w+)=([\d.]+\d|\d)", str(raised.value)))
    # Fewer than 100 points in all fill no block, however wide.
    assert ("side" in advised) == (count >= 100)
    fewer = BlockGrid(min_points=int(advised.pop("min_points")))
    for grid in (fewer, *([BlockGrid(**{key: float(value) for key, value in advised.items()})] if advised else [])):
        assert share_held(store, store.rooms, grid) >= 0.9
        assert len(BlockDataset(store, store.rooms, 512, grid)[0][0]) == 512


def test_the_share_of_points_in_blocks(tmp_path):
    # 150 points in the first metre, 50 in the third.
    xyz = np.random.default_rng(0).random((200, 3)) + np.where(np.arange(200) < 150, 0, 2)[:, None]
    write_room(tmp_path, Room("Area_1", "two", xyz, None, np.zeros(200, np.uint8)))
    write_manifest(tmp_path, S3DIS, "two heaps")
    store = RoomStore(tmp_path)
    shares = [share_held(store, store.rooms, BlockGrid(min_points=n)) for n in (0, 100)]
    assert shares[0] == 1 and 0.7 < shares[1] < 0.76


# -- the package --------------------------------------------------------------------------------


def test_every_exported_name_is_there_and_no_module_hides_it():
    import deepgcn_seg.data as package

    described = (package.__doc__ or "").replace(",", " ").replace("`", " ").split()
    for name in package.__all__:
        found = getattr(package, name)
        assert not inspect.ismodule(found)
        assert getattr(found, "__name__", name) == name
    assert {"prepare", "RoomStore", "read_scan", "block_dataset", "make_loader"} <= set(described)
    with pytest.raises(AttributeError, match="no attribute prepared"):
        package.prepared  # noqa: B018
