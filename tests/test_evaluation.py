"""Scores and protocols against answers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from deepgcn_seg.data.classes import ClassList
from deepgcn_seg.data.prepare import write_manifest
from deepgcn_seg.data.room import Room
from deepgcn_seg.data.store import RoomStore, write_room
from deepgcn_seg.evaluation import Protocol, Scores, confusion_matrix
from deepgcn_seg.evaluation.protocols import cover
from deepgcn_seg.inference.picture import draw_points, room_picture

CLASSES = ClassList.of(["a", "b", "c"], [(255, 0, 0), (0, 255, 0), (0, 0, 255)])
CPU = torch.device("cpu")


def test_confusion_matrix():
    truth = torch.tensor([0, 0, 1, 1, 1])
    predicted = torch.tensor([0, 1, 1, 1, 2])
    assert confusion_matrix(truth, predicted, 3).tolist() == [[1, 1, 0], [0, 2, 1], [0, 0, 0]]
    with pytest.raises(ValueError, match="labels 0..7"):
        confusion_matrix(torch.tensor([0, 7]), torch.tensor([0, 0]), 3)


def test_scores_by_hand():
    scores = Scores.of(torch.tensor([[6, 2, 0], [1, 3, 0], [0, 0, 0]]))
    assert scores.iou[:2] == [6 / 9, 3 / 6]
    # c is in neither truth nor prediction: left out, neither 0 nor 1 (the official codes' -1 and 1).
    assert math.isnan(scores.iou[2])
    assert scores.miou == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert scores.macc == pytest.approx((6 / 8 + 3 / 4) / 2)
    assert scores.oa == pytest.approx(9 / 12)
    assert scores.as_dict(["a", "b", "c"])["IoU"]["c"] is None


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
    """Two rooms whose label is the height's, but for 7 points of the first."""
    for name, count, size in (("x_1", 700, (2.4, 1.7, 3.0)), ("y_1", 90, (0.8, 0.5, 3.0))):
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
    protocol = Protocol("rooms", points, batch_size=3, stride=stride, votes=votes)
    result = protocol.run(ByHeight(), small_store, small_store.rooms, CPU)
    assert result.points == 790
    assert int(result.confusion.diagonal().sum()) == 783
    assert {key: len(p) for key, p in result.predictions.items()} == {"Area_1/x_1": 700, "Area_1/y_1": 90}
    again = protocol.run(ByHeight(), small_store, small_store.rooms, CPU)
    assert torch.equal(result.confusion, again.confusion)


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

    result = Protocol("rooms", 2, batch_size=1, votes=3).run(Wavering(), store, store.rooms, CPU)
    assert result.predictions["Area_1/x_1"].tolist() == [1, 1]


@pytest.mark.parametrize(("name", "blocks"), [("blocks", 4 * 3 + 1), ("recut", 3 * 2 + 1)])
def test_block_protocols_score_sampled_points(small_store, name, blocks, monkeypatch):
    """x_1 of 2.4 m x 1.7 m: 4 x 3 blocks at stride 0.5, 3 x 2 at stride 1; y_1 one block."""
    monkeypatch.setattr("deepgcn_seg.data.blocks.BlockGrid.__init__.__defaults__", (1.0, 0.5, 1))
    model = ByHeight()
    result = Protocol(name, 64, batch_size=4).run(model, small_store, small_store.rooms, CPU)
    assert result.points == blocks * 64
    assert sum(shape[0] for shape in model.shapes) == blocks


def test_a_protocol_leaves_the_model_as_it_was(small_store):
    model = ByHeight().train()
    Protocol("rooms", 64).run(model, small_store, small_store.rooms, CPU)
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
    room_picture(tmp_path / "room.png", xyz, rgb, label, label[::-1].copy(), CLASSES, "a roof", open_side=0)
    assert (tmp_path / "room.png").read_bytes()[:4] == b"\x89PNG"
