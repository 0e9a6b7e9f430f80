"""Beginning with the weights of another training: what fits is taken, by name, and nothing else."""

import hashlib
import logging
from pathlib import Path

import pytest
import torch

from deepgcn_seg import DeepGCN
from deepgcn_seg.data.classes import S3DIS, ClassList
from deepgcn_seg.errors import UserError
from deepgcn_seg.model.checkpoint import save_checkpoint
from deepgcn_seg.model.description import Description
from deepgcn_seg.model.from_description import build_network
from deepgcn_seg.model.transfer import read_source, take_weights

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("*.pt"))
SMALL = {"depth": 3, "channels": 8, "k": 4, "fusion_channels": 16, "head_channels": [16, 8]}
COLORS = [(0, 0, 0)] * 20


def described(classes=S3DIS.names, features=("block", "color", "room"), variant="paper", **network):
    """The description of a small network for these classes and channels."""
    channels = 3 * len(features)
    positions = list(range(channels - 3, channels))
    fields = {**SMALL, "in_channels": channels, "num_classes": len(classes), "positions": positions, **network}
    trained_on = {"features": features, "variant": variant}
    palette = COLORS[: len(classes)]
    content = {"model_config": fields, "classes": classes, "palette": palette, "trained_on": trained_on}
    return Description.of(content, "test")


def random_model(own):
    """A network whose every tensor is random, so that none equals its first value by chance."""
    model = build_network(own.network)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) + 0.5 if tensor.is_floating_point() else torch.tensor(7))
    return model


def saved(path, own, **more):
    model = random_model(own)
    fields = own.plain()
    classes = ClassList.of(own.classes, own.palette)
    save_checkpoint(path, model, fields["network"], classes, fields["trained_on"], step=5, **more)
    return model


def taken(path, own):
    """A fresh network with the weights of a file, its tensors before that, and what fitted."""
    model = build_network(own.network)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network = own.plain()["network"]
    return model, before, take_weights(model, own, read_source(path, network))


def test_the_same_network_takes_everything(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    source = saved(tmp_path / "a.ckpt", described())
    model, _, fit = taken(tmp_path / "a.ckpt", described())
    assert not fit.newly_initialised and not fit.unused
    points = torch.rand(2, 32, 9)
    assert torch.equal(model.eval()(points), source.eval()(points))
    assert f"weights={tmp_path}/a.ckpt: {len(fit.taken)} of {len(fit.taken)} tensors are taken, 100 % of" in caplog.text


@pytest.mark.parametrize(
    ("source", "own", "anew", "unused"),
    [
        ({}, {"classes": ["floor", "wall", "chair"]}, ["head.classifier"], []),
        # As many classes, but others, or in another order.
        ({}, {"classes": [*S3DIS.names[1:], "thing"]}, ["head.classifier"], []),
        ({}, {"classes": S3DIS.names[::-1]}, ["head.classifier"], []),
        ({}, {"features": ["block", "room"]}, ["backbone.head"], []),
        # As many channels, but others.
        ({"features": ["color", "room"]}, {"features": ["block", "room"]}, ["backbone.head"], []),
        (
            {},
            {"depth": 5},
            ["backbone.blocks.2", "backbone.blocks.3", "fusion.layer", "head.first"],
            [],
        ),
        ({"depth": 4}, {}, ["fusion.layer", "head.first"], ["backbone.blocks.2"]),
        ({}, {"channels": 12}, ["backbone.head", "backbone.blocks", "fusion.layer", "head.first"], []),
        ({}, {"connection": "dense"}, ["backbone.blocks.1.conv", "fusion.layer", "head.first"], []),
        ({"bias": False}, {}, ["linear.bias", "classifier.bias"], []),
        ({}, {"bias": False}, [], ["linear.bias", "classifier.bias"]),
        ({}, {"norm": "none"}, [], ["norm.weight", "norm.running_mean"]),
        ({"conv": {"name": "gen"}}, {"conv": {"name": "gen"}, "features": ["block", "room"]}, ["backbone.head"], []),
        # As many channels in all, of other layers.
        ({"depth": 6, "channels": 4}, {}, ["backbone.", "fusion.layer", "head.first"], []),
        # As many channels of fusion vector and layers together.
        ({"depth": 2, "fusion_channels": 24}, {}, ["backbone.blocks.1", "fusion.layer", "head.first"], []),
        ({"head_channels": [16, 8, 8]}, {}, ["head.classifier"], ["head.rest.1"]),
        # Only the last layer is fused, so that a deeper one has the same fusion block.
        ({"connection": "rev"}, {"connection": "rev", "depth": 4}, ["backbone.blocks.2"], []),
    ],
    ids=str,
)  # fmt: skip
def test_what_fits_is_taken_and_the_rest_begins_anew(tmp_path, source, own, anew, unused):
    other = saved(tmp_path / "a.ckpt", described(**source)).state_dict()
    model, before, fit = taken(tmp_path / "a.ckpt", described(**own))
    now = model.state_dict()
    inside = lambda name: any(part in name for part in anew)
    for name, tensor in now.items():
        expected = before[name] if inside(name) else other[name]
        assert torch.equal(tensor, expected), name
    assert all(any(part in name for part in anew) for name in fit.newly_initialised)
    assert set(fit.taken) == {name for name in now if not inside(name)}
    assert all(any(part in name for name in fit.unused) for part in unused)
    assert {name for name in other if name not in now} == set(fit.unused)


def test_nothing_that_fits_is_an_error(tmp_path):
    saved(tmp_path / "a.ckpt", described(act="prelu"))
    own = described(act="prelu", channels=4, fusion_channels=8, head_channels=[8, 4])
    with pytest.raises(
        UserError, match=r"weights=.*a.ckpt: nothing fits this network: backbone.head \(\(8, 18\) there"
    ):
        taken(tmp_path / "a.ckpt", own)


def test_messages_say_what_and_why(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    saved(tmp_path / "a.ckpt", described(depth=4, order="act-norm", variant="port", conv={"name": "mr"}))
    taken(tmp_path / "a.ckpt", described(["Boden", "Wand"], depth=4))
    assert (
        "Begin anew: head.classifier (classes ceiling, floor, wall and 10 more there, Boden, Wand here)" in caplog.text
    )
    warning = next(record.message for record in caplog.records if record.levelname == "WARNING")
    for part in ("conv is mr there, edge here", "model.order is act-norm there, norm-act here", "data.variant is port"):
        assert part in warning
    caplog.clear()
    other = {"k": 3, "dilation": [1, 1, 2], "loop": False}
    taken(tmp_path / "a.ckpt", described(depth=4, order="act-norm", variant="port", conv={"name": "mr"}, **other))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert "see other neighbours: k is 4 there, 3 here; graph.dilation is linear there, [1,1,2] here; graph.loop" in (
        caplog.text
    )


def test_every_argument_that_changes_what_weights_compute_gives_a_line(tmp_path, caplog):
    saved(tmp_path / "a.ckpt", described(conv={"name": "gen"}))
    conv = {"name": "gen", "temperature": 2.0}
    taken(tmp_path / "a.ckpt", described(norm_eps=1e-3, act="gelu", connection="plain", conv=conv))
    for told in (
        "model.norm_eps is 1e-05 there, 0.001 here",
        "model.act is relu there, gelu",
        "backbone.connection is",
    ):
        assert told in caplog.text
    caplog.set_level(logging.INFO)
    taken(tmp_path / "a.ckpt", described(conv={"name": "gen"}, graph="fixed"))
    assert "see other neighbours: graph.name is dynamic there, fixed here" in caplog.text
    assert "conv is gen softmax 1.0" in caplog.text and "gen softmax 2.0" in caplog.text


@pytest.mark.parametrize(
    ("source", "own", "told"),
    [
        ({"depth": 4}, {}, "Not used: backbone.blocks.2"),
        (
            {},
            {"bias": False},
            "Not used: backbone.head.layer.linear.bias, backbone.blocks.0.conv.layer.linear.bias, "
            "backbone.blocks.1.conv.layer.linear.bias and 4 more",
        ),
        ({}, {"connection": "rev"}, "they read 3 layers of 8 channels there, 1 layer of 8 channels here"),
    ],
    ids=str,
)
def test_a_part_is_named_if_it_is_another_as_a_whole_and_else_its_tensors(tmp_path, caplog, source, own, told):
    caplog.set_level(logging.INFO)
    saved(tmp_path / "a.ckpt", described(**source))
    taken(tmp_path / "a.ckpt", described(**own))
    assert told in caplog.text


@pytest.mark.parametrize(
    ("source", "own", "told"),
    [
        ({"groups": 2}, {"groups": 4}, False),
        ({"connection": "rev", "channels": 8}, {"connection": "rev", "channels": 16, "groups": 4}, True),
        ({"dilation": "none", "dilation_period": 2}, {"dilation": "none"}, False),
        ({"dilation_period": 2}, {}, True),
        # A network without biases computes something else with weights that were trained beside some.
        ({}, {"bias": False}, True),
        ({"bias": False}, {}, False),
    ],
    ids=str,
)
def test_arguments_are_compared_where_they_have_a_meaning(tmp_path, caplog, source, own, told):
    caplog.set_level(logging.INFO)
    saved(tmp_path / "a.ckpt", described(**source))
    taken(tmp_path / "a.ckpt", described(**own))
    assert any(f"{name} is" in caplog.text for name in ("model.groups", "graph.period", "model.bias")) == told


def test_positions_are_compared_by_what_they_are(tmp_path, caplog):
    saved(tmp_path / "a.ckpt", described())
    taken(tmp_path / "a.ckpt", described(features=["block", "room"]))
    assert not caplog.text
    taken(tmp_path / "a.ckpt", described(positions=[0, 1, 2]))
    assert "model.positions is in room there, in block here" in caplog.text


def test_averaged_weights_are_those_that_are_taken(tmp_path):
    others = random_model(described()).state_dict()
    averaged = saved(tmp_path / "a.ckpt", described(), training={"model": others, "steps_averaged": 5})
    model, _, _ = taken(tmp_path / "a.ckpt", described())
    assert all(torch.equal(tensor, averaged.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_run_directory_stands_for_its_best_checkpoint(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in ("last", "best"):
        saved(tmp_path / "checkpoints" / f"{name}.ckpt", described())
    source = read_source(tmp_path, {})
    best = tmp_path / "checkpoints" / "best.ckpt"
    digest = hashlib.sha256(best.read_bytes()).hexdigest()
    assert source.record() == {"path": str(best), "sha256": digest, "step": 5}
    best.unlink()
    assert read_source(tmp_path, {}).path.name == "last.ckpt"


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.stem)
def test_an_official_checkpoint_gives_the_official_logits(fixture, caplog):
    stored = torch.load(fixture, weights_only=True)
    config = stored["config"]
    own = described(
        variant="port", depth=config["n_blocks"], channels=config["n_filters"], k=9, connection=config["block"],
        conv={"name": config["conv"]}, dilation="none" if config["block"] == "plain" else "linear", order="act-norm", positions=[0, 1, 2], fusion_channels=1024,
        head_channels=[512, 256],
    )  # fmt: skip
    model, _, fit = taken(fixture, own)
    assert not fit.newly_initialised and not caplog.text
    assert (model.eval()(stored["points"]) - stored["eval_logits"]).abs().max() < 1e-4
    # In a network of the other recipe the same tensors fit, but a warning says what has another meaning.
    other = own.network.plain() | {"order": "norm-act", "positions": [6, 7, 8]}
    taken(fixture, described(variant="paper", **other))
    for part in ("model.order is act-norm there", "data.variant is port there", "model.positions is in block there"):
        assert part in caplog.text


def test_an_untrained_official_checkpoint_is_taken_as_the_network_is(tmp_path, caplog):
    """Its statistics do not tell plain from res, nor edge from mr. The file is in the format before PyTorch 1.6."""
    state = torch.load(FIXTURES[-1], weights_only=True)["state_dict"]
    fresh = {name: 0 * tensor if name.endswith("num_batches_tracked") else tensor for name, tensor in state.items()}
    torch.save({"state_dict": fresh}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    source = read_source(tmp_path / "a.pth", {"k": 4, "connection": "plain", "conv": {"name": "mr"}})
    assert (source.description.network.connection, source.description.network.conv.name) == ("plain", "mr")
    assert "does not show whether it is plain or res, edge or mr; taken as plain and mr" in caplog.text


def test_an_official_checkpoint_of_another_activation_says_so():
    with pytest.raises(
        UserError, match="as an official checkpoint: act='prelu', but the checkpoint has no PReLU slopes"
    ):
        read_source(FIXTURES[-1], {"k": 9, "act": "prelu"})


class Foreign:
    """A class that a pickle must not name."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"^weights=.*a\.ckpt: no such file"),
        (Foreign(), "it names test_transfer Foreign"),
        ({"a": torch.ones(2)}, "not of deepgcn_seg; as an official checkpoint: "),
        ([1], "not of deepgcn_seg; as an official checkpoint: "),
    ],
    ids=["missing", "pickle of a class", "tensors", "list"],
)
def test_a_file_that_cannot_be_is_one_line(tmp_path, content, message):
    if content is not None:
        torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=message) as raised:
        read_source(tmp_path / "a.ckpt", {})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("fusion.layer.linear.weight", torch.nan, "fusion.layer.linear.weight has NaN or infinite values"),
        ("fusion.layer.norm.running_var", -1.0, "fusion.layer.norm.running_var has negative variances"),
    ],
)
def test_values_that_no_training_leaves_are_refused(tmp_path, name, value, message):
    saved(tmp_path / "a.ckpt", described())
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    content["model"][name].fill_(value)
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=message):
        taken(tmp_path / "a.ckpt", described())


class Own(DeepGCN):
    """A network of a user's own, which the file only names."""


def test_parts_of_a_users_own_need_no_trust(tmp_path):
    network = {"name": "own", "target": "test_transfer.Own", "options": {}}
    own = described()
    model = random_model(own)
    save_checkpoint(tmp_path / "a.ckpt", model, network, S3DIS, own.plain()["trained_on"])
    found, _, fit = taken(tmp_path / "a.ckpt", own)
    assert not fit.newly_initialised
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in found.state_dict().items())
