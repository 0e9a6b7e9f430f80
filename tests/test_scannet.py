"""ScanNet in the layout of its release: two forms of labels, the official lists, rescans, and the benchmark's text."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from test_commands import ROOT, TINY, data_root, run, trained  # noqa: F401

from deepgcn_seg.commands import prepare as prepare_command
from deepgcn_seg.data.build_store import prepare
from deepgcn_seg.data.dataset import split_by_area
from deepgcn_seg.data.layouts import recognise
from deepgcn_seg.data.room import place_of
from deepgcn_seg.data.scannet import NYU40, SCANNET, read_table, submission_paths, write_submission
from deepgcn_seg.data.sources import folder, scannet
from deepgcn_seg.data.store import RoomStore
from deepgcn_seg.errors import UserError

SECTION = re.search(r"## ScanNet\n(.*?)\n## ", (ROOT / "docs" / "data.md").read_text(), re.S)[1]
COMMANDS = re.findall(r"^    python tools/(\w+)\.py (.*)$", SECTION, re.M)
LISTS = {"train": ["scene0000_00", "scene0000_01", "scene0001_00", "scene0002_00"], "val": ["scene0003_00"]}
# Raw category -> NYU40 id. Two categories are of one id, and ids 38 and 40 are no classes of the benchmark.
CATEGORIES = {
    "wall": 1,
    "floor": 2,
    "office chair": 5,
    "chair": 5,
    "shower curtain": 28,
    "couch": 6,
    "box": 38,
    "bag": 40,
}


def vertices(seed, count=900):
    """Coordinates, colours and NYU40 ids of a scene; a tenth is unannotated, 0."""
    rng = np.random.default_rng(seed)
    xyz = rng.uniform([-1, 2, 0], [0.9, 3.7, 2.5], (count, 3)).astype(np.float32)
    ids = np.array([2, 5, 38, 6, 40, 1, 28])[np.minimum((xyz[:, 2] / 2.5 * 7).astype(int), 6)]
    ids[rng.random(count) < 0.1] = 0
    return xyz, rng.integers(0, 256, (count, 3), np.uint8), ids


def write_mesh(path, xyz, rgb, label=None):
    """A binary PLY as the release has them: colours with alpha, and faces after the vertices."""
    kinds = [*((axis, "<f4") for axis in "xyz"), *((color, "u1") for color in ("red", "green", "blue", "alpha"))]
    kinds += [] if label is None else [("label", "<u2")]
    rows = np.zeros(len(xyz), kinds)
    for names, values in (("xyz", xyz), (("red", "green", "blue"), rgb)):
        for name, column in zip(names, values.T):
            rows[name] = column
    if label is not None:
        rows["label"] = label
    written = {"<f4": "float", "u1": "uchar", "<u2": "ushort"}
    properties = "".join(f"property {written[kind]} {name}\n" for name, kind in kinds)
    faces = np.array([(3, [0, 1, 2])] * 5, [("count", "u1"), ("vertices", "<i4", 3)])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(xyz)}\n{properties}element face 5\n"
        "property list uchar int vertex_indices\nend_header\n".encode()
        + rows.tobytes()
        + faces.tobytes()
    )


def write_annotation(folder, ids, seed=0):
    """The same labels as segments of vertices and objects of segments; the unannotated ones are of no object."""
    rng = np.random.default_rng(seed)
    # Three segments for each id, whose numbers say nothing; and objects of one or two segments.
    numbers = rng.permutation(500)
    segment = numbers[3 * ids + rng.integers(0, 3, len(ids))]
    things = []
    for category, number in CATEGORIES.items():
        segments = numbers[3 * number : 3 * number + 3].tolist()
        if category == "office chair":
            segments = segments[:1]
        elif category == "chair":
            segments = segments[1:]
        things.append({"id": len(things), "objectId": len(things), "segments": segments, "label": category})
    write_json(folder, ".aggregation.json", {"sceneId": folder.name, "appId": "x", "segGroups": things})
    segments = {"params": {"kThresh": "0.01"}, "sceneId": folder.name, "segIndices": segment.tolist()}
    write_json(folder, "_vh_clean_2.0.010000.segs.json", segments)


def write_json(folder, ending, content):
    (folder / f"{folder.name}{ending}").write_text(json.dumps(content))


def write_scene(root, name, form, seed=None, part="scans"):
    """Write a scene with labels in a form (ply, json), or without (None); return its NYU40 ids."""
    xyz, rgb, ids = vertices(int(name[5:9]) if seed is None else seed)
    path = root / part / name
    write_mesh(path / f"{name}_vh_clean_2.ply", xyz, rgb)
    if form == "ply":
        write_mesh(path / f"{name}_vh_clean_2.labels.ply", xyz, np.zeros_like(rgb), ids)
    elif form == "json":
        write_annotation(path, ids)
    return ids


def write_table(root, rows=None):
    lines = ["id\traw_category\tcategory\tcount\tnyu40id\teigen13id\tnyuClass"]
    rows = CATEGORIES if rows is None else rows
    lines += [f"{n}\t{category}\t{category}\t9\t{number}\t7\tx" for n, (category, number) in enumerate(rows.items())]
    (root / "scannetv2-labels.combined.tsv").write_text("\n".join(lines) + "\n")


def write_release(root, lists=LISTS, forms=("ply", "json")):
    """Scenes of the lists, with labels in these forms in turn."""
    for number, name in enumerate(name for names in lists.values() for name in names):
        write_scene(root, name, forms[number % len(forms)], seed=number)
    for area, names in lists.items():
        (root / f"scannetv2_{area}.txt").write_text("".join(f"{name}\n" for name in names))
    write_table(root)
    return root


@pytest.fixture
def release(tmp_path):
    return write_release(tmp_path / "ScanNet", {"train": ["scene0000_00", "scene0000_01"], "val": ["scene0001_00"]})


def labels_in_order(store, room):
    stored = store.open(room)
    return stored.labels()[np.argsort(stored.order())]


# -- what a release becomes ---------------------------------------------------------------------


@pytest.mark.parametrize("forms", [("ply",), ("json",)])
def test_both_forms_of_labels_are_the_benchmarks_classes(tmp_path, forms):
    release = write_release(tmp_path / "ScanNet", forms=forms)
    assert str(recognise(tmp_path)).endswith("scenes of ScanNet, 5 in 2 areas")
    store = prepare(release, tmp_path / "store")
    assert [room.key for room in store.rooms] == [f"{area}/{name}" for area in LISTS for name in LISTS[area]]
    assert len(store.classes) == 20 and store.classes.names[15] == "shower curtain" and store.colored
    for number, room in enumerate(store.rooms):
        xyz, rgb, ids = vertices(number)
        # Worked out apart from the code: the place of an id among the benchmark's, 255 for any other.
        wanted = [{1: 0, 2: 1, 5: 4, 6: 5, 28: 15}.get(int(one), 255) for one in ids]
        assert labels_in_order(store, room).tolist() == wanted
        back = np.argsort(store.open(room).order())
        assert np.allclose(store.open(room).all()[0][back], xyz - xyz.min(0), atol=1e-5)
        assert np.array_equal(store.open(room).all()[1][back], rgb)
    assert store.classes.names == scannet(tmp_path / "store").classes.names


def test_a_segment_of_two_categories_gets_the_later_one_and_unknown_categories_none(release, tmp_path):
    scene = release / "scans" / "scene0000_01"
    things = [("floor", [1, 2]), ("wall", [2]), ("floor", [3]), ("spaceship", [4])]
    groups = [{"id": 0, "objectId": 0, "label": label, "segments": segments} for label, segments in things]
    write_json(scene, ".aggregation.json", {"segGroups": groups})
    write_json(scene, "_vh_clean_2.0.010000.segs.json", {"segIndices": [1, 2, 3, 4, 5] * 180})
    store = prepare(release, tmp_path / "store")
    assert labels_in_order(store, store.rooms[1])[:5].tolist() == [1, 0, 1, 255, 255]
    assert (
        "category spaceship, which scannetv2-labels.combined.tsv does not have; taken as unlabelled"
        in (tmp_path / "store" / "repairs.txt").read_text()
    )


def test_only_a_scene_whose_files_changed_is_prepared_again(release, tmp_path, caplog):
    prepare(release, tmp_path / "store")
    (release / "scans" / "scene0000_00" / "scene0000_00.sens").write_bytes(b"a video")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.h5")}
    caplog.clear()
    prepare(release, tmp_path / "store")
    assert {path: path.stat().st_mtime_ns for path in before} == before and "again" not in caplog.text
    # The table concerns the scene that is labelled by its annotation.
    write_table(release, {**CATEGORIES, "chair": 1})
    prepare(release, tmp_path / "store")
    changed = {path.stem for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {"scene0000_01"}


def test_missing_scenes_are_told_and_scenes_of_no_list_left_out(release, tmp_path, caplog):
    write_scene(release, "scene0009_00", "ply")
    shutil.rmtree(release / "scans" / "scene0000_00")
    store = prepare(release, tmp_path / "store")
    assert [room.name for room in store.rooms] == ["scene0000_01", "scene0001_00"]
    assert "1 scenes of the official lists are missing, such as train/scene0000_00" in caplog.text
    config = OmegaConf.create({"shard": None, "check": True, "source": str(release), "data": {"root": None}})
    with pytest.raises(UserError, match="1 scenes of the official lists are missing: train/scene0000_00"):
        prepare_command.prepare(config)
    write_scene(release, "scene0000_00", "ply")
    prepare_command.prepare(config)
    # The store of the scenes is not compared with S3DIS.
    prepare_command.prepare(OmegaConf.merge(config, {"source": None, "data": {"root": str(tmp_path / "store")}}))


# -- rescans ------------------------------------------------------------------------------------


def test_a_place_is_what_several_scans_show():
    assert place_of("scene0042_00") == place_of("scene0042_07") == "scene0042"
    for name in ("scene0042_0", "scene0042_000", "xscene0042_00", "office_10"):
        assert place_of(name) == name


def test_rescans_are_never_divided_between_training_and_validation(tmp_path):
    names = [f"scene{place:04d}_{scan:02d}" for place in range(6) for scan in range(3)]
    store = prepare(write_release(tmp_path / "ScanNet", {"train": names, "val": ["scene0099_00"]}), tmp_path / "store")
    chosen = set()
    for seed in range(8):
        split = split_by_area(store, "val", validation=0.3, seed=seed)
        assert {room.key for room in split.test} == {"val/scene0099_00"}
        places = [{room.place for room in part} for part in (split.train, split.validation)]
        assert not places[0] & places[1] and [len(part) for part in places] == [4, 2]
        assert len(split.train) + len(split.validation) == len(names)
        chosen.add(frozenset(places[1]))
    assert len(chosen) > 1


def test_what_is_left_out_is_counted(release, tmp_path, caplog):
    """Scenes that no list names, and those without a labelled vertex."""
    write_scene(release, "scene0009_00", "ply")
    xyz, rgb, ids = vertices(0)
    write_mesh(release / "scans" / "scene0000_00" / "scene0000_00_vh_clean_2.labels.ply", xyz, rgb, 0 * ids)
    with caplog.at_level("INFO"):
        store = prepare(release, tmp_path / "store")
    assert "1 scenes that no list names are left out" in caplog.text
    assert "1 rooms are not in the store, such as" in caplog.text and "scene0000_00" in caplog.text
    assert {room.key for room in store.rooms}.isdisjoint({"train/scene0000_00", "train/scene0009_00"})


# -- files that do not fit ----------------------------------------------------------------------


def in_scene(ending, content):
    def change(root):
        path = root / "scans" / "scene0000_01" / f"scene0000_01{ending}"
        path.write_text(content if isinstance(content, str) else json.dumps(content))

    return change


def in_root(name, content):
    return lambda root: (root / name).write_text(content)


SEGMENTS, OBJECTS, TABLE = "_vh_clean_2.0.010000.segs.json", ".aggregation.json", "scannetv2-labels.combined.tsv"
OF_ONE = {"segGroups": [{"label": "wall", "segments": [1]}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "scannetv2_val.txt").unlink(), "scannetv2_val.txt: not there; .* Tasks/Benchmark"),
        (in_root("scannetv2_val.txt", "scene0000_01\n"), "scene0000_01 is a scan of a place that is in .*train"),
        (in_root("scannetv2_val.txt", "../../etc/passwd\n"), "../../etc/passwd is not the name of a scene"),
        (in_root("scannetv2_val.txt", "x" * (2 << 20)), "larger than 1 MiB"),
        (in_scene(SEGMENTS, {"segIndices": [1] * 899}), "labels of 899 vertices, but .*_vh_clean_2.ply has 900"),
        (in_scene(SEGMENTS, {"segIndices": "1" * 900}), "segIndices="),
        (in_scene(SEGMENTS, {"segIndices": [-1] * 900}), "segIndices.0=-1"),
        (in_scene(SEGMENTS, {"segIndices": [10**400]}), "segIndices.0="),
        (in_scene(SEGMENTS, {}), "segIndices is missing"),
        (in_scene(SEGMENTS, "[" * 100_000), "not a readable JSON file"),
        (in_scene(OBJECTS, {"sceneId": "scannet.scene0777_00", **OF_ONE}), "json: is of scannet.scene0777_00, not of"),
        (in_scene(SEGMENTS, {"sceneId": "scene0777_00", "segIndices": [1] * 900}), "json: is of scene0777_00, not of"),
        (in_scene(OBJECTS, {"segGroups": [{"label": 3, "segments": []}]}), "segGroups.0.label=3"),
        (in_scene(OBJECTS, {"segGroups": [{"label": "wall", "segments": [1.5]}]}), "segGroups.0.segments.0=1.5"),
        (lambda root: (root / TABLE).unlink(), f"{TABLE}: not there; the labels of a scene are in"),
        (in_root(TABLE, ""), "must have the columns raw_category and nyu40id"),
        (in_root(TABLE, "raw_category\tnyu40id\nwall\tx\n"), "the nyu40id of wall is x, must be a number"),
        (in_root(TABLE, "raw_category\tnyu40id\nwall\n"), "the nyu40id of wall is None, must be a number"),
        (in_root(TABLE, "raw_category\tnyu40id\n" + "x" * 200_000), "not a readable table"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_the_file(release, tmp_path, change, message):
    change(release)
    with pytest.raises(UserError, match=message) as raised:
        prepare(release, tmp_path / "store")
    assert str(release) in str(raised.value) and "\n" not in str(raised.value) and len(str(raised.value)) < 800
    assert not (tmp_path / "store" / "store.json").exists()


def test_a_scene_without_labels_and_one_with_too_few_are_refused(release, tmp_path):
    scene = release / "scans" / "scene0000_00"
    labels = scene / "scene0000_00_vh_clean_2.labels.ply"
    xyz, rgb, ids = vertices(0)
    write_mesh(labels, xyz[:-1], rgb[:-1], ids[:-1])
    with pytest.raises(UserError, match=r"labels\.ply: labels of 899 vertices, but .* has 900"):
        prepare(release, tmp_path / "store")
    other = np.roll(np.arange(len(xyz)), 1)
    write_mesh(labels, xyz[other], rgb, ids[other])
    with pytest.raises(UserError, match=r"labels\.ply: its vertices are not those of the mesh beside it"):
        prepare(release, tmp_path / "store")
    write_mesh(labels, xyz, rgb)
    with pytest.raises(UserError, match=r"labels\.ply: no field label; it has x, y, z, red"):
        prepare(release, tmp_path / "store")
    labels.unlink()
    with pytest.raises(UserError, match=r"segs\.json: not there; the labels of a scene are in scene0000_00_vh_clean_2"):
        prepare(release, tmp_path / "store")


def test_other_stores_are_not_scannets(tmp_path, store):
    with pytest.raises(UserError, match="other classes than ScanNet; use data=folder"):
        scannet(store.root)
    assert folder(store.root).classes == store.classes


def test_the_table_is_read_as_the_benchmarks_scripts_do(tmp_path):
    write_table(tmp_path, {"a b": 7, '"quoted"': 3, "a\u00e9": 40})
    assert read_table(tmp_path / TABLE) == {"a b": 7, "quoted": 3, "a\u00e9": 40}


# -- the benchmark's text -----------------------------------------------------------------------


def test_a_submission_has_an_id_for_each_vertex(tmp_path):
    assert NYU40 == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 24, 28, 33, 34, 36, 39)
    write_submission(tmp_path / "a.txt", np.array([0, 19, 12, 255, 15], np.uint8))
    assert (tmp_path / "a.txt").read_text() == "1\n39\n14\n0\n28\n"
    paths = submission_paths(tmp_path, [Path("x/scene0707_00_vh_clean_2.ply")])
    assert paths == [tmp_path / "scene0707_00.txt"]
    for name in ("scene0707_00.ply", "scene0707_00_vh_clean.ply", "scene0707_00_vh_clean_2.labels.ply", "room.ply"):
        with pytest.raises(UserError, match=rf"{re.escape(name)} is no scene0000_00_vh_clean_2\.ply"):
            submission_paths(tmp_path, [Path(name)])


def test_a_checkpoint_of_other_classes_writes_no_submission(trained, tmp_path):  # noqa: F811
    write_scene(tmp_path, "scene0707_00", None)
    done = run(
        "predict", f"checkpoint={trained[0]}", f"input={tmp_path}/scans/*/*_vh_clean_2.ply", f"output={tmp_path}/out",
        f"submission={tmp_path}/submission", f"hydra.run.dir={tmp_path}/log", check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "needs a network of ScanNet's 20 classes, but those of " in (last := done.stderr.splitlines()[-1])
    assert "best.ckpt" in last
    assert not list(tmp_path.rglob("*.txt"))


def test_the_documented_commands_go_from_the_release_to_a_submission(tmp_path):
    for name in ("tools", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name)
    release = write_release(tmp_path / "ScanNet")
    for name in ("scene0707_00", "scene0708_00"):
        write_scene(release, name, None, part="scans_test")
    assert [tool for tool, _ in COMMANDS] == ["prepare", "train", "evaluate", "predict"]
    small = [
        *(t for t in TINY if not t.startswith(("data.store", "max_steps"))),
        "data.grid.min_points=20",
        "max_steps=2",
    ]
    done = {}
    for tool, arguments in COMMANDS:
        more = small if tool == "train" else [f"hydra.run.dir={tmp_path}/{tool}"]
        done[tool] = run(tool, *shlex.split(arguments), *more, folder=tmp_path)
    store = RoomStore(tmp_path / "data" / "scannet")
    ids = vertices(4)[2]
    for path in (tmp_path / "outputs" / "scannet", tmp_path / "evaluate"):
        entry = json.loads((path / "metrics.json").read_text())["test"]
        assert list(entry["rooms"]) == ["val/scene0003_00"] and entry["classes"] == list(SCANNET.names)
        assert (entry["points"], entry["unlabelled"]) == (np.isin(ids, NYU40).sum(), (~np.isin(ids, NYU40)).sum())
    assert "unlabelled points were left out" in " ".join(done["evaluate"].stdout.split())
    assert "validation on 1 room" in done["train"].stderr or "validation on 2 rooms" in done["train"].stderr
    assert store.areas == ["train", "val"]
    for name in ("scene0707_00", "scene0708_00"):
        lines = (tmp_path / "submission" / f"{name}.txt").read_text().splitlines()
        assert len(lines) == 900 and set(map(int, lines)) <= set(NYU40)
        assert (tmp_path / "labelled" / name / f"{name}_vh_clean_2.ply").is_file()
