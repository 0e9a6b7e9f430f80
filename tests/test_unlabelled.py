"""Points that nobody has labelled: the network sees them; they are not trained on, not scored, and drawn in grey."""

import base64
import json

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from test_commands import TINY, run
from test_evaluation import CLASSES, CPU, ByHeight
from test_labelled_scans import classes, write_scans
from torch.nn import functional as F

from deepgcn_seg.data.classes import GREY, S3DIS, ClassList, no_label
from deepgcn_seg.data.dataset import BlockDataset
from deepgcn_seg.data.export_hdf5 import export_blocks
from deepgcn_seg.data.official_hdf5 import OfficialBlocks
from deepgcn_seg.data.room import Room
from deepgcn_seg.data.room_file import write_room
from deepgcn_seg.data.store import RoomStore, write_manifest
from deepgcn_seg.errors import UserError
from deepgcn_seg.evaluation import Protocol, Scores, confusion_matrix
from deepgcn_seg.evaluation.evaluate import evaluate_rooms
from deepgcn_seg.inference.picture import room_picture
from deepgcn_seg.inference.segmenter import Prediction
from deepgcn_seg.inference.viewer import write_viewer
from deepgcn_seg.reporting.reading import LeftOut
from deepgcn_seg.reporting.runs import find_runs
from deepgcn_seg.training.class_weights import count_labels
from deepgcn_seg.training.losses import CrossEntropy, Objective


def store_with(root, labels, classes=CLASSES):
    """One room for each array of labels, of points in a column of 1 m x 1 m; the store has them in another order."""
    for number, label in enumerate(labels):
        xyz = np.random.default_rng(number).uniform(0, [1, 1, 3], (len(label), 3))
        rgb = np.zeros((len(label), 3), np.uint8)
        write_room(root, Room("Area_1", f"room_{number}", xyz, rgb, np.asarray(label, classes.dtype)))
    write_manifest(root, classes, "made by hand")
    return RoomStore(root)


@pytest.mark.parametrize(("count", "label", "dtype"), [(3, 255, "uint8"), (255, 255, "uint8"), (256, 65535, "uint16")])
def test_a_store_keeps_unlabelled_points_beside_every_class(tmp_path, count, label, dtype):
    many = ClassList.of(map(str, range(count)), [(1, 2, 3)] * count)
    assert (no_label(many), many.dtype) == (label, dtype)
    store = store_with(tmp_path, [[0, count - 1, label]], many)
    assert sorted(store.open(store.rooms[0]).labels().tolist()) == [0, count - 1, label]
    assert many.colors(np.array([label, count - 1])).tolist() == [list(GREY), [1, 2, 3]]


def test_a_label_that_is_neither_a_class_nor_none_is_refused(tmp_path):
    store = store_with(tmp_path, [[0, 3, 255]])
    with pytest.raises(UserError, match="label 3, but there are 3 classes"):
        store.open(store.rooms[0]).labels()


def test_a_store_of_256_classes_from_before_opens(tmp_path):
    # Its labels have 8 bits, and the last one is a class.
    many = ClassList.of(map(str, range(256)), [(1, 2, 3)] * 256)
    room = Room(
        "Area_1", "room", np.random.default_rng(0).uniform(0, 1, (256, 3)), None, np.arange(256, dtype=np.uint8)
    )
    write_room(tmp_path, room)
    write_manifest(tmp_path, many, "before")
    store = RoomStore(tmp_path)
    assert sorted(store.open(store.rooms[0]).labels().tolist()) == list(range(256))


# -- training -----------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_that_of_the_labelled_points_alone(smoothing):
    logits, labels = torch.randn(2, 6, 3, requires_grad=True), torch.randint(0, 3, (2, 6))
    labels[0, :4] = 255
    loss = Objective(CrossEntropy(smoothing), ignore=255)(logits, labels)
    wanted = F.cross_entropy(logits[labels < 3], labels[labels < 3], label_smoothing=smoothing)
    assert loss.item() == pytest.approx(wanted.item())
    loss.backward()
    assert not logits.grad[0, :4].any() and logits.grad[0, 4:].any()


def test_a_block_without_a_labelled_point_has_no_loss_and_no_gradient():
    logits = torch.randn(1, 6, 3, requires_grad=True)
    loss = Objective(CrossEntropy(0.1), ignore=255)(logits, torch.full((1, 6), 255))
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


def test_unlabelled_points_are_among_those_of_a_block(tmp_path):
    store = store_with(tmp_path, [[0] * 100 + [255] * 100])
    _, label = BlockDataset(store, store.rooms, 200)[0]
    assert label.dtype == torch.int64
    assert label.bincount().nonzero().ravel().tolist() == [0, 255]


def test_unlabelled_points_give_no_class_weight(tmp_path):
    store = store_with(tmp_path, [[0] * 100 + [255] * 90, [1] * 50 + [255] * 3])
    assert count_labels(store, store.rooms).tolist()[:2] == [100, 50]
    assert count_labels(store, store.rooms).sum() == 150


# -- scores -------------------------------------------------------------------------------------


def test_a_point_without_a_true_label_is_counted_nowhere():
    truth, predicted = [0, 255, 1, 255, 2], [0, 0, 2, 1, 2]
    matrix = confusion_matrix(truth, predicted, 3, ignore=255)
    assert matrix.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1]]
    with pytest.raises(ValueError, match=r"prediction has labels 0\.\.255"):
        confusion_matrix([0, 1], [0, 255], 3, ignore=255)
    assert np.isnan(Scores.of(confusion_matrix([255], [0], 3, ignore=255)).miou)


@pytest.mark.parametrize("name", ["rooms", "blocks", "recut"])
def test_every_protocol_leaves_them_out_and_says_how_many(tmp_path, name, capsys):
    rng = np.random.default_rng(0)
    labels = [rng.choice([0, 1, 2, 255], 400), np.full(120, 255)]
    store = store_with(tmp_path / "store", labels)
    protocol = Protocol(name, points=64)
    result = protocol.run(ByHeight(), store, store.rooms, CPU)
    scored = [int(matrix.sum()) for matrix in result.by_room]
    if name == "rooms":
        assert (scored, result.unlabelled) == ([(labels[0] < 255).sum(), 0], 120 + (labels[0] == 255).sum())
        assert all(predicted.max() < 3 for predicted in result.predictions.values())
    else:
        assert scored[1] == 0 and sum(scored) + result.unlabelled == 2 * 64
    entry = evaluate_rooms(ByHeight(), protocol, store, store.rooms, CPU, tmp_path, "a title")
    assert (entry["points"], entry["unlabelled"]) == (sum(scored), result.unlabelled)
    assert f"{result.unlabelled} unlabelled points were left out" in " ".join(capsys.readouterr().out.split())
    assert entry["rooms"]["Area_1/room_1"]["mIoU"] is None
    if name == "rooms":
        # A room without a score is none of the worst.
        assert entry["pictures"] == {"room.png": "Area_1/room_0"}


# -- pictures, pages, other programs -----------------------------------------------------------


def grey_pixels(path):
    with Image.open(path) as image:
        return dict((color, count) for count, color in image.convert("RGB").getcolors(1 << 24)).get(GREY, 0)


def test_a_picture_shows_them_grey_and_not_as_errors(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda self, title: titles.append(title))
    xyz = np.random.default_rng(0).uniform(0, 2, (4000, 3))
    rgb, predicted = np.zeros((4000, 3), np.uint8), np.zeros(4000, np.uint8)
    truth = np.where(xyz[:, 0] < 1, 255, 0).astype(np.uint8)
    room_picture(tmp_path / "some.png", xyz, rgb, truth, predicted, CLASSES, "some")
    assert titles[-1] == "errors (0.0% of labelled points)"
    room_picture(tmp_path / "all.png", xyz, rgb, np.full_like(truth, 255), predicted, CLASSES, "all")
    assert titles[-1] == "no point has a true label"
    room_picture(tmp_path / "none.png", xyz, rgb, predicted, predicted, CLASSES, "none")
    assert titles[-1] == "errors (0.0% of all points)"
    none, some, every = (grey_pixels(tmp_path / f"{name}.png") for name in ("none", "some", "all"))
    # Letters have grey edges.
    assert 5 * none < some < every


def test_a_page_has_them_as_one_further_class_in_grey(tmp_path):
    xyz, truth = np.eye(3), np.array([0, 255, 2], np.uint8)
    found = Prediction(np.zeros(3, np.uint8), np.ones(3, np.float32))
    write_viewer(tmp_path / "a.html", xyz, None, found.label, found.confidence, truth, CLASSES, "t")
    data = json.loads((tmp_path / "a.html").read_text().split('type="application/json">')[1].split("</script>")[0])
    shown = np.frombuffer(base64.b64decode(data["truth"]["values"]), data["truth"]["type"])
    rows = np.frombuffer(base64.b64decode(data["fields"][0]["values"]), "<u4")
    assert {row: data["classes"][number] for row, number in zip(rows, shown)} == {0: "a", 1: "unlabelled", 2: "c"}
    assert data["palette"][3] == list(GREY)


def test_exported_blocks_have_them_and_say_which_label(tmp_path, caplog):
    store = store_with(tmp_path / "store", [[0] * 150 + [255] * 150], S3DIS)
    export_blocks(store, tmp_path / "blocks")
    with h5py.File(tmp_path / "blocks" / "ply_data_all_0.h5") as file:
        count = int((file["label"][:] == 255).sum())
    assert count > 1000 and f"{count:,} points are unlabelled and have the label 255" in caplog.text
    blocks = OfficialBlocks(tmp_path / "blocks")
    result = Protocol("blocks", points=4096).run(Constant(), blocks, blocks.rooms, CPU)
    assert (result.points, result.unlabelled) == (4096 - count, count)


class Constant(torch.nn.Module):
    """Everything is of the first of thirteen classes."""

    def forward(self, points):
        return torch.zeros(*points.shape[:2], 13)


def test_blocks_of_8_bits_are_not_exported_with_more_classes(tmp_path):
    many = ClassList.of(map(str, range(256)), [(1, 2, 3)] * 256)
    with pytest.raises(UserError, match="256 classes, but labels of the HDF5 blocks have 8 bits"):
        export_blocks(store_with(tmp_path / "store", [[0] * 200], many), tmp_path / "blocks")


def test_a_run_with_an_ignored_class_does_not_know_it(tmp_path):
    raw = classes(write_scans(tmp_path / "raw", areas=("a", "b"), count=1500), ignore=["middle"])
    log = f"hydra.run.dir={tmp_path}/log"
    told = run("prepare", f"source={raw}", f"data.root={tmp_path}/store", log).stderr
    assert "points with no label were kept, but neither trained on nor scored" in told
    tiny = [t for t in TINY if not t.startswith("data.store")]
    common = ["data=folder", f"data.root={tmp_path}/store", "data.fold=b", "data.grid.min_points=20"]
    done = run("train", *tiny, *common, f"hydra.run.dir={tmp_path}/run", "recipe.label_smoothing=0.1", "max_steps=2")
    entry = json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]
    assert entry["classes"] == ["floor", "ceiling"]
    assert entry["points"] + entry["unlabelled"] == 3000
    assert entry["unlabelled"] == pytest.approx(1000, abs=120)
    assert f"{entry['unlabelled']:,} unlabelled points were left out" in " ".join(done.stdout.split())
    left_out = LeftOut()
    assert len(find_runs(tmp_path / "run", left_out)[0]) == 1 and not left_out.reasons
