"""Averages of several networks, and votes of turned, mirrored and scaled copies."""

import json
import shutil
from pathlib import Path
from typing import get_overloads, get_type_hints

import numpy as np
import pytest
import torch
import yaml
from test_checkpoint import NETWORK, TRAINED_ON
from test_commands import TINY, run

from deepgcn_seg import DeepGCN, Run, Segmenter, load_model
from deepgcn_seg.data.augmentation import BlockPoints
from deepgcn_seg.data.classes import S3DIS, ClassList
from deepgcn_seg.errors import UserError
from deepgcn_seg.evaluation import Protocol
from deepgcn_seg.inference import Voting
from deepgcn_seg.inference.sampling import TTA, Sampling
from deepgcn_seg.inference.tiles import Tiles
from deepgcn_seg.model import Ensemble
from deepgcn_seg.model.checkpoint import read_checkpoint, save_checkpoint
from deepgcn_seg.model.description import Network
from deepgcn_seg.model.from_description import build_network

CPU = torch.device("cpu")
DEEPER = {**NETWORK, "depth": 3, "connection": "dense", "conv": {"name": "edge"}}


def save(path, network=NETWORK, classes=S3DIS, weights_seed=0, **trained_on):
    """A checkpoint of a network with random weights."""
    torch.manual_seed(weights_seed)
    network = {**network, "num_classes": len(classes)}
    model = build_network(Network.of(network, "test"))
    save_checkpoint(path, model, network, classes, {**TRAINED_ON, **trained_on}, step=weights_seed)
    return path


@pytest.fixture
def pair(tmp_path):
    """Two checkpoints whose networks are built in different ways."""
    return [save(tmp_path / "a.ckpt"), save(tmp_path / "b.ckpt", DEEPER, weights_seed=1)]


def scan(count=400):
    rng = np.random.default_rng(0)
    return rng.uniform(0, [2.6, 1.8, 2.9], (count, 3)), rng.integers(0, 256, (count, 3), np.uint8)


def test_type_checkers_know_what_is_loaded():
    assert [get_type_hints(each)["return"] for each in get_overloads(load_model)] == [DeepGCN, Ensemble]
    assert get_type_hints(Run.load)["return"] is DeepGCN
    assert get_type_hints(DeepGCN)["classes"] is get_type_hints(Ensemble)["classes"] is ClassList


def test_probabilities_are_averaged(pair):
    points = torch.rand(2, 64, 9)
    with torch.no_grad():
        average = load_model(pair)(points).softmax(-1)
        first, second = (load_model(path)(points).softmax(-1) for path in pair)
    assert torch.allclose(average, (first + second) / 2, atol=1e-6)
    assert not torch.allclose(average, first, atol=1e-3)


def test_labels_of_a_scan_are_those_of_the_averaged_probabilities(pair):
    xyz, rgb = scan()
    tiles = Tiles(xyz - xyz.min(0), rgb, 20.0)
    voting = Voting(points=64, batch_size=2, votes=2)
    by_hand = 0
    with torch.inference_mode():
        for path in pair:
            [(entry, votes)] = voting.vote(load_model(path), tiles, tiles.entries, CPU)
            by_hand = by_hand + votes / votes.sum(1, keepdim=True) / 2
    found = Segmenter(pair, device="cpu", votes=2).predict(xyz, rgb)
    order = tiles.points_of(entry)
    assert np.allclose(found.confidence[order], by_hand.max(1).values, atol=1e-5)
    close = by_hand.topk(2).values.diff().abs().ravel() < 1e-5
    assert (torch.from_numpy(found.label[order].astype(int)) == by_hand.argmax(1))[~close].all()


def test_an_average_of_one_is_that_network(pair):
    xyz, rgb = scan()
    one, alone = (Segmenter(path, device="cpu").predict(xyz, rgb) for path in ([pair[0]], pair[0]))
    assert np.array_equal(one.label, alone.label) and np.array_equal(one.confidence, alone.confidence)
    model, points = load_model(pair[0]), torch.rand(1, 64, 9)
    assert type(load_model([pair[0]])) is type(model)
    assert torch.allclose(Ensemble([model])(points), model(points).log_softmax(-1), atol=1e-6)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_logit_that_is_not_finite_does_not_vanish_in_the_average(value):
    class Bad(torch.nn.Module):
        def forward(self, points):
            logits = torch.zeros(*points.shape[:2], 3)
            logits[0, 5, 1] = value
            return logits

    class Good(torch.nn.Module):
        def forward(self, points):
            return torch.tensor([300.0, 0, -300]).expand(*points.shape[:2], 3)

    average = Ensemble([Good(), Bad(), Good()])(torch.rand(2, 8, 9))
    bad = ~torch.isfinite(average).all(-1)
    assert bad[0, 5] and bad.sum() == 1


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"classes": ClassList.of(("wall", "rest"), ((0, 0, 0), (1, 1, 1)))}, r"classes \[wall,rest\], but \[ceiling"),
        ({"network": {**NETWORK, "in_channels": 10}, "features": ("block", "color", "room", "height")}, "channels 10"),
        ({"features": ("color", "block", "room")}, r"features \[color,block,room\], but \[block,color,room\]"),
        ({"variant": "port"}, "variant port, but paper"),
        ({"side": 2.0}, r"side of a block 2.0, but 1.0"),
    ],
)
def test_networks_that_see_or_tell_apart_other_things_are_not_averaged(tmp_path, other, message):
    paths = [save(tmp_path / "a.ckpt"), save(tmp_path / "b.ckpt", **other)]
    for load in (load_model, Segmenter):
        with pytest.raises(
            UserError, match=f"checkpoint {paths[1]}: .*{message}.* in {paths[0]}; networks are averaged"
        ):
            load(paths)


def test_a_first_network_of_unknown_input_does_not_hide_that_others_differ(tmp_path):
    variants = {"a": "paper", "b": "paper", "c": "port"}
    first, *others = [save(tmp_path / f"{name}.ckpt", variant=variant) for name, variant in variants.items()]
    torch.save({**read_checkpoint(first), "trained_on": None}, first)
    with pytest.raises(UserError, match=f"checkpoint {others[1]}: variant port, but paper in {others[0]}"):
        load_model([first, *others])


def test_a_checkpoint_counts_once(pair, tmp_path):
    (tmp_path / "link.ckpt").symlink_to(pair[0])
    with pytest.raises(UserError, match="link.ckpt: is given twice"):
        load_model([*pair, tmp_path / "link.ckpt"])
    shutil.copy(pair[0], tmp_path / "copy.ckpt")
    with pytest.raises(UserError, match=r"copy\.ckpt: has the weights of .*; each member of an ensemble counts once"):
        Segmenter([pair[0], tmp_path / "copy.ckpt"], device="cpu")
    for wrong in (None, ["A", 3], {"A": 1}, 3, b"A"):
        with pytest.raises(UserError, match="^checkpoint=.*: must be a file or run directory, or a list of them"):
            Segmenter(wrong)
    with pytest.raises(UserError, match="give at least one file"):
        load_model([])


def test_blocks_have_as_many_points_as_any_network_was_trained_on(tmp_path, caplog):
    paths = [
        save(tmp_path / "a.ckpt", points=64, batch_size=2),
        save(tmp_path / "b.ckpt", points=96, batch_size=4, weights_seed=1),
    ]
    segmenter = Segmenter(paths, device="cpu")
    assert (segmenter._voting.points, segmenter._voting.batch_size) == (96, 2)
    assert "64, 96 points a block; 96 are taken" in caplog.text


# -- copies of the room -----------------------------------------------------------------------------


def block():
    rng = np.random.default_rng(1)
    size = np.array([3.0, 2.0, 2.5], np.float32)
    return BlockPoints(rng.uniform(0, 1, (50, 3)).astype(np.float32) * size, np.zeros((50, 3), np.float32), size)


def test_eight_votes_see_all_turns_of_the_room_and_of_its_mirror_image():
    points, sampling = block(), Sampling(**{**TTA, "scales": [1.0]})
    x, y, _ = points.xyz.T
    width, length, _ = points.room_size
    # By hand: a quarter turn takes (x, y) to (length - y, x), and the room's sides change places.
    turns = [(x, y), (length - y, x), (width - x, length - y), (y, width - x)]
    x = width - x
    turns += [(x, y), (length - y, x), (width - x, length - y), (y, width - x)]
    for vote, expected in enumerate(turns):
        found = sampling.copy(points, vote)
        assert np.allclose(found.xyz[:, :2], np.stack(expected, 1), atol=1e-5)
        assert np.array_equal(found.xyz[:, 2], points.xyz[:, 2])
        assert np.allclose(found.room_size[:2], (width, length) if vote % 2 == 0 else (length, width))


def test_votes_take_the_scales_in_turn():
    points = block()
    for vote, factor in enumerate((1.0, 0.95, 1.05, 1.0, 0.95)):
        found = Sampling(scales=TTA["scales"]).copy(points, vote)
        assert np.allclose(found.xyz, points.xyz * np.float32(factor))
        assert np.allclose(found.xyz / found.room_size, points.xyz / points.room_size, atol=1e-6)
    assert Sampling().copy(points, 3) is points


def test_the_config_and_python_mean_the_same_copies_and_numbers_name_them():
    config = yaml.safe_load((Path(__file__).parent.parent / "conf" / "protocol" / "tta.yaml").read_text())
    assert {key: tuple(v) if isinstance(v, list) else v for key, v in config.items() if key != "defaults"} == TTA
    named = Protocol("rooms", **TTA).describe()
    assert "votes 8, turned, mirrored, scaled by 1, 0.95, 1.05" in named
    assert "votes 1, 4096" in Protocol("rooms").describe()


@pytest.mark.parametrize("turn", [True, False])
@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.95, 1.05), (0.9,)], ids=str)
@pytest.mark.parametrize("votes", [1, 2, 3, 4, 5, 8])
def test_a_description_names_the_copies_that_a_vote_has_seen(votes, scales, mirror, turn):
    sampling = Sampling(votes=votes, turn=turn, mirror=mirror, scales=scales)
    points = block()
    copies = [sampling.copy(points, vote) for vote in range(votes)]
    factors = [round(float(copy.room_size[2] / points.room_size[2]), 4) for copy in copies]
    # A quarter turn swaps the sides of the room; a mirror image changes the orientation of three edges.
    orientation = lambda found: np.sign(np.linalg.det((found.xyz[1:4] - found.xyz[0]).astype(np.float64)))
    seen = {
        "turned": any(copy.room_size[0] < copy.room_size[1] for copy in copies),
        "mirrored": any(orientation(copy) != orientation(points) for copy in copies),
    }
    told = [f"votes {votes}", *(name for name, done in seen.items() if done)]
    if set(factors) != {1.0}:
        told.append(f"scaled by {', '.join(f'{factor:g}' for factor in dict.fromkeys(factors))}")
    assert sampling.describe_votes() == ", ".join(told)


def test_labels_of_copies(pair):
    xyz, rgb = scan()
    copies, votes = (Segmenter(pair, device="cpu", **settings) for settings in ({"tta": True}, {"votes": 8}))
    assert copies.describe().endswith(f"({pair[0]}, {pair[1]}); votes 8, turned, mirrored, scaled by 1, 0.95, 1.05")
    assert not np.allclose(copies.predict(xyz, rgb).confidence, votes.predict(xyz, rgb).confidence)
    assert Segmenter(pair[0], device="cpu", tta=True, votes=24)._voting.votes == 24


# -- commands ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run, and other networks as if trained on the same data: from another seed, and with another area held out."""
    root = tmp_path_factory.mktemp("several")
    run("train", *TINY, f"data.root={root}/data", "max_steps=1", f"hydra.run.dir={root}/a")
    trained_on = read_checkpoint(root / "a" / "checkpoints" / "best.ckpt")["trained_on"]
    for name, settings in {"b,b": {"seed": 1}, "other": {"fold": 2}, "unknown": {"fold": None}}.items():
        (root / name / "checkpoints").mkdir(parents=True)
        save(root / name / "checkpoints" / "best.ckpt", DEEPER, **{**trained_on, **settings}, weights_seed=1)
    return root


def evaluate(root, checkpoint, *settings, check=True):
    shutil.rmtree(root / "scores", ignore_errors=True)
    return run("evaluate", f"checkpoint={checkpoint}", *settings, f"hydra.run.dir={root}/scores", check=check)


def test_the_number_of_an_average_names_its_networks(runs):
    done = evaluate(runs, f"[{runs}/a, '{runs}/b,b']", "protocol=tta", "protocol.votes=2")
    entry = json.loads((runs / "scores" / "metrics.json").read_text())["test"]
    paths = [f"{runs}/{name}/checkpoints/best.ckpt" for name in ("a", "b,b")]
    assert entry["checkpoints"] == paths
    assert entry["checkpoint"] == f"average of 2 networks ({', '.join(paths)})"
    assert entry["protocol"].startswith("rooms (") and "votes 2, turned, scaled by 1, 0.95, 64" in entry["protocol"]
    assert "average of 2 networks" in " ".join(done.stdout.split())


def test_the_fold_is_that_of_the_networks_that_know_theirs(runs):
    evaluate(runs, f"[{runs}/unknown,{runs}/a]")
    assert json.loads((runs / "scores" / "metrics.json").read_text())["test"]["areas"] == [5]


def test_an_average_of_one_has_the_number_of_the_network(runs):
    found = []
    for checkpoint in (f"{runs}/a", f"[{runs}/a]"):
        evaluate(runs, checkpoint)
        entry = json.loads((runs / "scores" / "metrics.json").read_text())["test"]
        found.append((entry["confusion"], entry["checkpoint"], entry["checkpoint_step"]))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("other", "settings", "message"),
    [
        ("{}/other", [], "data.fold 2, but 5 in"),
        ("'{}/b,b'", ["part=validation"], "they have no validation rooms in common"),
        ("{}/nowhere", [], "nowhere"),
    ],
)
def test_what_cannot_be_averaged_is_one_line(runs, other, settings, message):
    done = evaluate(runs, f"[{runs}/a,{other.format(runs)}]", *settings, check=False)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]


def test_a_scan_is_labelled_by_several(runs, tmp_path):
    xyz, _ = scan()
    np.save(tmp_path / "scan.npy", xyz)
    shutil.copy(runs / "b,b" / "checkpoints" / "best.ckpt", tmp_path / "b.ckpt")
    command = [f"input={tmp_path}/scan.npy", f"output={tmp_path}/out.npy", f"hydra.run.dir={tmp_path}/log", "tta=true"]
    done = run("predict", f"checkpoint=[{runs}/a,{tmp_path}/b.ckpt]", *command)
    assert "average of 2 networks" in done.stderr and "votes 8, turned, mirrored, scaled" in done.stderr
    paths = [runs / "a", tmp_path / "b.ckpt"]
    expected = Segmenter(paths, device="cpu", tta=True).predict(xyz)
    assert np.array_equal(np.load(tmp_path / "out.npy")["label"], expected.label)
