"""Scores and protocols against answers worked out by hand."""

import errno
import math
import os
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

from deepgcn_seg.data.blocks import BlockGrid
from deepgcn_seg.data.classes import ClassList
from deepgcn_seg.data.room import Room
from deepgcn_seg.data.room_file import write_room
from deepgcn_seg.data.store import RoomStore, write_manifest
from deepgcn_seg.errors import UserError
from deepgcn_seg.evaluation import Protocol, Scores, confusion_matrix, evaluate
from deepgcn_seg.evaluation.evaluate import evaluate_rooms
from deepgcn_seg.evaluation.metrics import miou_interval, points_by_class, student_t
from deepgcn_seg.inference.picture import close_together, draw_points, plain, room_picture, scan_picture
from deepgcn_seg.inference.voting import Voting, cover
from deepgcn_seg.settings import SettingError

CLASSES = ClassList.of(["a", "b", "c"], [(255, 0, 0), (0, 255, 0), (0, 0, 255)])
CPU = torch.device("cpu")


def test_confusion_matrix():
    truth = torch.tensor([0, 0, 1, 1, 1])
    predicted = torch.tensor([0, 1, 1, 1, 2])
    assert confusion_matrix(truth, predicted, 3).tolist() == [[1, 1, 0], [0, 2, 1], [0, 0, 0]]
    assert confusion_matrix(truth.tolist(), predicted.numpy(), 3).equal(confusion_matrix(truth, predicted, 3))
    with pytest.raises(ValueError, match=r"labels 0\.\.7"):
        confusion_matrix(torch.tensor([0, 7]), torch.tensor([0, 0]), 3)


@pytest.mark.parametrize("which", ["truth", "prediction"])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 3]), r"labels 0\.\.3, but there are 3"),
        (torch.tensor([-1, 0]), r"labels -1\.\.0"),
        (["a", "b"], "must hold integers"),
        (torch.tensor([0.0, 1.0]), "must hold integers"),
        (torch.tensor([True, False]), "must hold integers"),
        (torch.tensor([0, 1, 2]), "of one shape"),
        (torch.tensor([[0, 1]]), "of one shape"),
        (torch.tensor([0, 1], device="meta"), "on one device"),
    ],
)
def test_a_confusion_matrix_takes_labels_alone(which, labels, message):
    good = torch.tensor([0, 1])
    pair = (labels, good) if which == "truth" else (good, labels)
    with pytest.raises(ValueError, match=message) as raised:
        confusion_matrix(*pair, 3)
    assert which in str(raised.value)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int32])
def test_a_confusion_matrix_of_any_integers(dtype):
    labels = torch.tensor([0, 2, 2]).to(dtype)
    assert confusion_matrix(labels, labels, 3).diagonal().tolist() == [1, 0, 2]
    assert confusion_matrix(labels[:0], labels[:0], 3).sum() == 0


def test_scores_by_hand():
    scores = Scores.of(torch.tensor([[6, 2, 0], [1, 3, 0], [0, 0, 0]]))
    assert scores.iou[:2] == [6 / 9, 3 / 6]
    # c is in neither truth nor prediction: left out, neither 0 nor 1 (the official codes' -1 and 1).
    assert math.isnan(scores.iou[2])
    assert scores.miou == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert scores.macc == pytest.approx((6 / 8 + 3 / 4) / 2)
    assert scores.oa == pytest.approx(9 / 12)
    assert scores.as_dict(["a", "b", "c"])["IoU"]["c"] is None


def test_points_by_class_are_those_of_the_iou():
    by_room = torch.randint(0, 50, (4, 3, 3), generator=torch.Generator().manual_seed(0))
    hits, truth, predicted = points_by_class(by_room).sum(0)
    expected = Scores.of(by_room.sum(0)).iou
    torch.testing.assert_close(hits / (truth + predicted - hits), torch.tensor(expected))


def test_an_interval_by_hand():
    # Of two classes, 80, 50 and 20 of 100 points of the first are right. The second has an IoU of 0 and no points.
    right = torch.tensor([80, 50, 20])
    rooms = points_by_class(
        torch.stack([torch.stack([right, 100 - right], 1), torch.zeros(3, 2, dtype=torch.int64)], 1)
    )
    # The mIoU is half of the share that is right. Without one room it is 0.175, 0.25 or 0.325.
    error = math.sqrt(2 / 3 * 2 * 0.075**2)
    assert miou_interval(rooms, level=0.5) == pytest.approx((0.25 - 0.81650 * error, 0.25 + 0.81650 * error), abs=1e-5)
    # 4.30265 errors reach beyond 0. Rooms that are not scored change nothing.
    assert miou_interval(rooms) == pytest.approx((0, 0.25 + 4.30265 * error), abs=1e-5)
    assert miou_interval(torch.cat([rooms, torch.zeros_like(rooms)])) == miou_interval(rooms)
    # Nor does a class that no room has.
    assert miou_interval(torch.cat([rooms, torch.zeros_like(rooms[..., :1])], -1)) == miou_interval(rooms)


def test_an_interval_ends_at_1():
    rooms = points_by_class(torch.tensor([[[50, 0], [0, 50]], [[50, 0], [0, 50]], [[40, 10], [10, 40]]]))
    low, high = miou_interval(rooms)
    assert 0 < low < 0.875 and high == 1


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.70620), (2, 4.30265), (5, 2.57058), (30, 2.04227), (700, 1.96336)]
)
def test_quantiles_of_t_are_those_of_its_tables(freedom, expected):
    assert student_t(0.95, freedom) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("rooms", [2, 3, 6, 20])
def test_an_interval_holds_the_expected_score_as_often_as_it_says(rooms):
    # Large and small rooms, good and bad ones, and classes that many rooms lack. Percentiles of a bootstrap held the
    # score in 103, 131, 164 and 180 of 200 cases.
    rng = np.random.default_rng(0)
    size = rng.integers(1000, 20_000, size=(200, rooms, 1))
    there = rng.random((200, rooms, 8)) < np.linspace(1, 0.4, 8)
    truth = (size * there * rng.gamma(1, size=there.shape)).astype(int) + there
    share = 1 / (1 + np.exp(-rng.normal(np.linspace(2, 0, 8), 0.8, size=there.shape) - rng.normal(0, 0.4, size.shape)))
    hits = rng.binomial(truth, share)
    wrong = (truth - hits).sum(-1)
    points = torch.from_numpy(np.stack([hits, truth, hits + rng.multinomial(wrong, np.ones(8) / 8)], -2))
    expected = np.mean([_miou_of(case.sum(0)) for case in points])
    covered = sum(low <= expected <= high for low, high in map(miou_interval, points))
    assert 182 <= covered <= 198


def _miou_of(points):
    hits, truth, predicted = points
    return float((hits / (truth + predicted - hits)).nanmean())


@pytest.mark.parametrize("rooms", [torch.ones(1, 2, 2, dtype=torch.int64), torch.zeros(3, 2, 2, dtype=torch.int64)])
def test_no_interval_of_one_room_or_no_points(rooms):
    assert miou_interval(points_by_class(rooms)) is None


def test_a_class_only_predicted_counts_as_zero():
    scores = Scores.of(torch.tensor([[3, 1], [0, 0]]))
    assert scores.iou == [0.75, 0.0]
    assert scores.miou == 0.375
    assert scores.macc == 0.75


def test_pooling_is_not_averaging():
    """One matrix over everything: batches and rooms of any size give the same number."""
    a, b = torch.tensor([[90, 10], [0, 0]]), torch.tensor([[1, 0], [4, 5]])
    pooled = Scores.of(a + b).miou
    assert pooled == pytest.approx((91 / 105 + 5 / 19) / 2)
    assert pooled != pytest.approx((Scores.of(a).miou + Scores.of(b).miou) / 2)


class ByHeight(nn.Module):
    """Class 0 below 1 m, 1 below 2 m, 2 above: channel 2 is the height in metres."""

    def forward(self, points):
        self.shapes = getattr(self, "shapes", []) + [tuple(points.shape)]
        return nn.functional.one_hot(points[..., 2].long().clamp(0, 2), 3).float() * 5


@pytest.fixture
def small_store(tmp_path):
    """Two rooms whose label is the height's, but for 7 points of the first; sampled protocols leave their blocks out."""
    return store_of_heights(tmp_path, 700, 90)


@pytest.fixture
def dense_store(tmp_path):
    """The same with over 100 points in every block, and under 1000."""
    return store_of_heights(tmp_path, 2600, 190)


def store_of_heights(tmp_path, x_1, y_1):
    for name, count, size in (("x_1", x_1, (2.4, 1.7, 3.0)), ("y_1", y_1, (0.8, 0.5, 3.0))):
        rng = np.random.default_rng(count)
        xyz = rng.uniform(0, size, (count, 3))
        xyz[0] = 0
        label = np.minimum((xyz[:, 2]).astype(np.uint8), 2)
        if name == "x_1":
            label[:7] = (label[:7] + 1) % 3
        write_room(tmp_path, Room("Area_1", name, xyz, rng.integers(0, 256, (count, 3), np.uint8), label))
    write_manifest(tmp_path, CLASSES, "made by hand")
    return RoomStore(tmp_path)


@pytest.mark.parametrize("points", [50, 64, 1000])
@pytest.mark.parametrize(("stride", "votes"), [(1.0, 1), (0.5, 2), (0.4, 1)])
def test_rooms_labels_every_point_once(small_store, points, stride, votes):
    protocol = Protocol("rooms", points=points, batch_size=3, stride=stride, votes=votes)
    result = protocol.run(ByHeight(), small_store, small_store.rooms, CPU)
    assert result.points == 790
    assert int(result.confusion.diagonal().sum()) == 783
    assert {key: len(p) for key, p in result.predictions.items()} == {"Area_1/x_1": 700, "Area_1/y_1": 90}
    again = protocol.run(ByHeight(), small_store, small_store.rooms, CPU)
    assert torch.equal(result.confusion, again.confusion)


def test_a_point_that_a_sample_repeats_has_one_vote(small_store):
    """In blocks of fewer points than a sample, a point has one vote from each pass over each block that holds it."""
    voting = Voting(points=1000, batch_size=3, stride=0.5, votes=2)
    for room, votes in voting.vote(ByHeight(), small_store, small_store.rooms, CPU):
        xy = small_store.open(room).all()[0][:, :2]
        blocks = voting.grid().cut(small_store, room)
        holding = sum(((xy >= block.low) & (xy < block.high)).all(1).astype(int) for block in blocks)
        assert set(holding) == {"x_1": {1, 2, 4}, "y_1": {1}}[room.name]
        np.testing.assert_allclose(votes.sum(1), 2 * holding, rtol=1e-6)


@pytest.mark.parametrize("name", ["recut", "blocks"])
@pytest.mark.parametrize(
    "setting", [{"votes": 8}, {"turn": True}, {"mirror": True}, {"scales": (0.9,)}, {"stride": 0.5}]
)
def test_what_only_rooms_reads_is_refused_elsewhere(name, setting):
    with pytest.raises(SettingError, match=f"^{next(iter(setting))}=.*: only with protocol=rooms or protocol=tta"):
        Protocol(name, **setting)
    assert Protocol(name, votes=1, turn=False, mirror=False, scales=[1.0], stride=1.5, side=1.5)


@pytest.mark.parametrize(("name", "stride"), [("recut", 2.0), ("blocks", 1.0), ("rooms", 0.5)])
def test_the_stride_of_sampled_points_follows_the_side(name, stride):
    grid = Protocol(name, side=2.0, min_points=7, **{"stride": 0.5} if name == "rooms" else {}).grid()
    assert grid == BlockGrid(2.0, stride, 1 if name == "rooms" else 7)


def test_votes_are_averaged_as_probabilities(tmp_path):
    """Two samples that are weakly for class 0 lose against one that is sure of class 1."""
    xyz = np.array([[0.1, 0.1, 0.0], [0.2, 0.2, 0.5]])
    write_room(tmp_path, Room("Area_1", "x_1", xyz, np.zeros((2, 3), np.uint8), np.array([1, 1], np.uint8)))
    write_manifest(tmp_path, CLASSES, "two points")
    store = RoomStore(tmp_path)

    class Wavering(nn.Module):
        calls = 0

        def forward(self, points):
            self.calls += 1
            probabilities = [[0.55, 0.45, 1e-9], [0.55, 0.45, 1e-9], [0.05, 0.95, 1e-9]][self.calls - 1]
            return torch.tensor(probabilities).log().expand(*points.shape[:2], 3)

    result = Protocol("rooms", points=2, batch_size=1, votes=3).run(Wavering(), store, store.rooms, CPU)
    assert result.predictions["Area_1/x_1"].tolist() == [1, 1]


@pytest.mark.parametrize(("name", "blocks"), [("blocks", 4 * 3 + 1), ("recut", 3 * 2 + 1)])
def test_block_protocols_score_sampled_points(dense_store, name, blocks):
    """x_1 of 2.4 m x 1.7 m: 4 x 3 blocks at stride 0.5, 3 x 2 at stride 1; y_1 one block."""
    model = ByHeight()
    result = Protocol(name, points=64, batch_size=4).run(model, dense_store, dense_store.rooms, CPU)
    assert result.points == blocks * 64
    assert sum(shape[0] for shape in model.shapes) == blocks


class Broken(ByHeight):
    """Puts out one value that is not finite, for one block of room y_1, which is the last."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, points):
        logits = super().forward(points)
        if points.shape[0] == 1:
            logits[0, 3, 1] = self.value
        return logits


@pytest.mark.parametrize(("name", "pages"), [("rooms", True), ("rooms", False), ("recut", True)])
def test_rooms_have_pages_beside_their_pictures(dense_store, tmp_path, name, pages):
    protocol = Protocol(name, points=64)
    entry = evaluate_rooms(ByHeight(), protocol, dense_store, dense_store.rooms, CPU, tmp_path, "a title", pages=pages)
    expected = {f"{Path(name).stem}.html": room for name, room in entry["pictures"].items()} if pages else {}
    assert entry["pages"] == expected and bool(expected) == (pages and name == "rooms")
    assert {path.name for path in tmp_path.glob("*.html")} == set(expected)
    for page, room in expected.items():
        assert room in (tmp_path / page).read_text()


def test_scores_are_not_lost_with_pictures_that_cannot_be_written(dense_store, tmp_path, monkeypatch, caplog):
    drawn = evaluate.room_picture

    def draw(path, *args, **kwargs):
        if path.name == "worst_room_1.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        drawn(path, *args, **kwargs)

    monkeypatch.setattr(evaluate, "room_picture", draw)
    protocol = Protocol("rooms", points=64)
    entry = evaluate_rooms(ByHeight(), protocol, dense_store, dense_store.rooms, CPU, tmp_path, "a title", pages=True)
    assert list(entry["pictures"]) == ["room.png"] and list(entry["pages"]) == ["room.html"]
    assert 0 < entry["mIoU"] <= 1
    assert "not all rooms are drawn ([Errno 28] No space left on device)" in caplog.text


@pytest.mark.parametrize("name", ["rooms", "recut", "blocks"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_name_checkpoint_and_block(dense_store, tmp_path, name, value):
    protocol = Protocol(name, points=1000, batch_size={"rooms": 6, "recut": 6, "blocks": 12}[name])
    with pytest.raises(UserError, match=r"my\.ckpt: .* NaN or infinite in the block Area_1/y_1 at 0, 0"):
        evaluate_rooms(
            Broken(value), protocol, dense_store, dense_store.rooms, CPU, tmp_path, "title", checkpoint="my.ckpt"
        )


def test_a_network_of_other_classes_is_one_line(small_store):
    for name in ("rooms", "recut"):
        with pytest.raises(UserError, match="4 classes, but .* has 3"):
            Protocol(name, points=64).run(OneMore(), small_store, small_store.rooms[:1], CPU)


class OneMore(ByHeight):
    """A class more than the data have."""

    def forward(self, points):
        return nn.functional.pad(super().forward(points), (0, 1))


@pytest.mark.parametrize("left_out", [slice(2, None), slice(None)])
def test_a_point_that_nobody_votes_for_has_no_label(small_store, monkeypatch, left_out):
    cut = BlockGrid.cut
    monkeypatch.setattr(BlockGrid, "cut", lambda *arguments: cut(*arguments)[left_out.start or 99 :])
    with pytest.raises(UserError, match=r"Area_1/x_1: (\d+ of 700 points are in no block|no block has any)"):
        Protocol("rooms", points=64).run(ByHeight(), small_store, small_store.rooms[:1], CPU)


def test_a_protocol_leaves_the_model_as_it_was(small_store):
    model = ByHeight().train()
    Protocol("rooms", points=64).run(model, small_store, small_store.rooms, CPU)
    assert model.training


def test_unknown_protocol():
    with pytest.raises(ValueError, match="room"):
        Protocol("room")


@pytest.mark.parametrize(("count", "points"), [(10, 4), (3, 8), (8, 8), (1, 5)])
def test_cover_holds_every_point(count, points):
    samples = cover(count, points, np.random.default_rng(0))
    assert samples.shape == (-(-count // points), points)
    assert set(samples.ravel()) == set(range(count))
    if count >= points:
        assert all(len(set(sample.tolist())) == points for sample in samples)


def test_picture_shows_near_points_before_far_ones(tmp_path):
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 40), np.linspace(0, 1, 40)), -1).reshape(-1, 2)
    roof = np.concatenate([grid, np.ones((1600, 1))], 1)
    xyz = np.concatenate([roof, [[0.5, 0.5, 0.0]]])
    rgb = np.array([[0, 255, 0]] * 1600 + [[255, 0, 0]], np.uint8)
    from_above = draw_points(xyz, rgb, width=60, azimuth=0, elevation=90, splat=3).reshape(-1, 3)
    from_below = draw_points(xyz, rgb, width=60, azimuth=0, elevation=-90, splat=3).reshape(-1, 3)
    assert not (from_above == [255, 0, 0]).all(1).any()
    assert (from_below == [255, 0, 0]).all(1).any()
    label = np.arange(1601) % 3
    room_picture(tmp_path / "room.png", xyz, rgb, label, label[::-1].copy(), CLASSES, "a roof")
    assert (tmp_path / "room.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", [r"$\frac{$", "_hidden", "$x$", "a\nb", "\udcff", "名", "<b>&", "", "long " * 500])
def test_a_picture_shows_names_as_they_are(tmp_path, name):
    # A class list holds short printable names alone; titles are names of files, and may be anything.
    shown = name if name.isprintable() and 0 < len(name) <= 100 else "a"
    classes = ClassList.of([shown, "b"], [(255, 0, 0), (0, 255, 0)])
    xyz = np.random.default_rng(0).uniform(0, 2, (50, 3))
    label = np.arange(50) % 2
    room_picture(tmp_path / "a.png", xyz, np.zeros((50, 3), np.uint8), label, label, classes, name)
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(("suffix", "begins"), [("png", b"\x89PNG"), ("pdf", b"%PDF-"), ("svg", b"<?xml")])
def test_pictures_have_a_key_of_errors_and_a_bar_of_confidence(tmp_path, monkeypatch, suffix, begins):
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
    classes = ClassList.of(["a", "b"], [(255, 0, 0), (0, 255, 0)]).in_palette("print")
    xyz = np.random.default_rng(0).uniform(0, 2, (300, 3))
    predicted, truth = np.arange(300) % 2, np.arange(300) // 2 % 2
    path = tmp_path / f"a.{suffix}"
    scan_picture(path, xyz, None, predicted, np.linspace(0, 1, 300), truth, classes, "a scan")
    assert path.read_bytes().startswith(begins)
    if suffix == "svg":
        texts = {node.text for node in ElementTree.parse(path).iter() if node.tag.endswith("}text")}
        assert {"a", "b", "right", "wrong", "confidence", "errors (50.0% of all points)"} <= texts
        assert "unlabelled" not in texts
        dark, light = ("#" + "".join(f"{value:02x}" for value in color) for color in classes.palette)
        assert dark in path.read_text() and light in path.read_text()


def test_no_name_is_left_out_of_a_legend_or_read_as_mathematics():
    figure = Figure()
    FigureCanvasAgg(figure)
    for name in ("_hidden", "$x$"):
        text = figure.text(0, 0, "")
        plain(text, name)
        assert text.get_text() == name and not text.get_parse_math()


def test_stray_points_do_not_make_a_picture_larger_or_a_dot():
    xyz = np.random.default_rng(0).uniform(0, 3, (1000, 3))
    assert close_together(xyz).all()
    xyz[7] = [1e6, 1e6, 0]
    assert np.flatnonzero(~close_together(xyz)).tolist() == [7]
    assert close_together(xyz[:1]).all()
    # A line that goes away from the viewer is no wider than a pixel: its picture must not be as high as memory.
    line = np.linspace(0, 1e6, 50)[:, None] * [-np.sin(np.radians(35)), np.cos(np.radians(35)), 0]
    assert draw_points(line, np.zeros((50, 3), np.uint8), width=100).shape[0] < 250


def test_too_little_memory_is_one_line_that_says_what_would_help(store):
    class Large(torch.nn.Module):
        def forward(self, points):
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 83886080000 bytes")

    with pytest.raises(UserError, match="out of memory for 1 blocks of 64 points .* smaller batch_size"):
        Protocol("recut", points=64, batch_size=1).run(Large(), store, store.rooms[:1], torch.device("cpu"))


@pytest.mark.parametrize("name", ["recut", "blocks"])
def test_the_loss_of_a_sampled_protocol_is_the_cross_entropy_of_its_points(dense_store, name):
    # Its logits are 5 for one class and 0 for the others.
    result = Protocol(name, points=64, batch_size=3).run(ByHeight(), dense_store, dense_store.rooms, CPU)
    right = int(result.confusion.diagonal().sum()) / result.points
    assert 0.9 < right < 1
    assert result.loss == pytest.approx(math.log(math.exp(5) + 2) - 5 * right, rel=1e-5)


def test_rooms_have_no_loss(dense_store):
    assert Protocol("rooms", points=64).run(ByHeight(), dense_store, dense_store.rooms, CPU).loss is None
