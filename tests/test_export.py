"""Exported networks, run by onnxruntime and by PyTorch without this package's operations, against the network."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_geometric.nn as pyg
from test_checkpoint import NETWORK, small
from test_commands import run
from torch import nn

from deepgcn_seg import DeepGCN
from deepgcn_seg.data.classes import S3DIS
from deepgcn_seg.errors import UserError
from deepgcn_seg.inference.export import differences, load_exported, standard_program, write_onnx
from deepgcn_seg.model import GIN, EdgeConv, GENConv, GraphSAGE, MessagePassing, MRConv
from deepgcn_seg.model.checkpoint import save_checkpoint

pytest.importorskip("onnxruntime")
ROOT = Path(__file__).parent.parent
SMALL = {"depth": 3, "channels": 8, "k": 4, "fusion_channels": 16, "head_channels": (16, 8)}
KINDS = {
    "edge": {},
    "dense, relative, fixed graph": {"connection": "dense", "conv": MRConv, "graph": "fixed", "order": "act-norm"},
    "plain, instance norm, no loops": {"connection": "plain", "norm": "instance", "loop": False},
    "res+, gen, layer norm": {"connection": "res+", "conv": GENConv, "norm": "layer", "act": "gelu"},
    "reversible, sage": {"connection": "rev", "conv": GraphSAGE},
    "gin, prelu": {"conv": GIN, "act": "prelu", "norm": "none"},
    "edge, prelu": {"act": "prelu"},
    "edge, falling prelu": {"act": partial(nn.PReLU, init=-0.3), "norm": "none"},
    "of torch_geometric": {
        "conv": partial(MessagePassing, operator=partial(pyg.GATv2Conv, heads=2, concat=False)),
    },
}


def network(**settings):
    """A network whose norms have scales of both signs and statistics of their own, as a trained one's."""
    torch.manual_seed(0)
    model = DeepGCN(**{**SMALL, **settings}).eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d):
            nn.init.uniform_(norm.weight, -1, 1)
            nn.init.uniform_(norm.running_mean, -0.1, 0.1)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_onnx_gives_the_same_logits_for_any_number_of_blocks_and_points(settings, tmp_path):
    model = network(**settings)
    write_onnx(model, tmp_path / "model.onnx", {"classes": '["a"]'})
    sizes = [(1, model.min_points), (3, 57), (2, 300)]
    for found in differences(model, load_exported(tmp_path / "model.onnx"), sizes):
        assert found.logits < 1e-4
        assert found.labels == 0


@pytest.mark.parametrize(
    "settings", [{}, {"conv": MRConv}, {"act": "prelu"}, {"act": partial(nn.PReLU, init=-0.3)}], ids=str
)
def test_a_program_has_standard_operators_alone(settings):
    model = network(**settings)
    program = standard_program(model)
    assert not [node for node in program.graph.nodes if "deepgcn_seg" in str(node.target)]
    points = torch.rand(3, 40, 9)
    torch.testing.assert_close(program.module()(points), model(points))
    assert any(isinstance(part, nn.PReLU) for part in model.modules()) == ("act" in settings)


def test_the_axes_of_an_onnx_model_have_names(tmp_path):
    import onnx

    write_onnx(network(depth=2), tmp_path / "model.onnx", {})
    graph = onnx.load(tmp_path / "model.onnx").graph
    axes = [[dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in (graph.input[0], graph.output[0])]  # fmt: skip
    assert axes == [["blocks", "points", 9], ["blocks", "points", 13]]
    inside = {dim.dim_param for value in graph.value_info for dim in value.type.tensor_type.shape.dim}
    assert not [name for name in inside if re.search(r"\bs\d", name)]


def test_a_difference_is_found():
    model = network()
    wrong = lambda points: -model(torch.from_numpy(points)).detach().numpy()
    (found,) = differences(model, wrong, [(2, 40)])
    assert (found.blocks, found.points) == (2, 40)
    assert found.logits == pytest.approx(2)
    assert found.labels > 0.9


class Unmoved(nn.Module):
    """What reads a value of its input, as no trace can."""

    def __init__(self, *channels):
        super().__init__()

    def forward(self, x, *others):
        return x * float(x.sum())


class UntracedConv(EdgeConv):
    def forward(self, x, index, mask=None):
        return super().forward(x, index, mask) * float(x.sum())


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"conv": UntracedConv}, r"backbone\.head, UntracedConv"),
        ({"norm": Unmoved}, r"backbone\.head\.layer\.norm, Unmoved"),
        ({"act": Unmoved}, r"backbone\.head\.layer\.act, Unmoved"),
    ],
    ids=["convolution", "norm", "activation"],
)
def test_the_part_that_cannot_be_traced_is_named_in_one_line(settings, part, capfd):
    with pytest.raises(UserError, match=f"^the network cannot be exported: {part}: ") as raised:
        standard_program(network(**settings))
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "small.ckpt"
    save_checkpoint(path, small(), NETWORK, S3DIS, {"points": 64, "batch_size": 2})
    return path


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".onnx", ".pt2"])
def test_the_command(checkpoint, tmp_path, ending):
    output = tmp_path / f"model{ending}"
    done = run("export", f"checkpoint={checkpoint}", f"output={output}", f"hydra.run.dir={tmp_path}/log")
    # Tracing, the file's size and three comparisons; nothing of other libraries.
    assert done.stderr.count("Compared on") == 3
    assert len((done.stdout + done.stderr).strip().splitlines()) == 5, done.stdout + done.stderr
    if ending == ".onnx":
        import onnx

        facts = {entry.key: json.loads(entry.value) for entry in onnx.load(output).metadata_props}
    else:
        found = dict.fromkeys(("classes", "channels", "variant", "side", "points", "min_points"), "")
        torch.export.load(output, extra_files=found)
        facts = {key: json.loads(value) for key, value in found.items()}
    assert facts["classes"] == list(S3DIS.names)
    assert facts["channels"] == ["block", "color", "room"]
    assert (facts["points"], facts["side"], facts["variant"]) == (64, 1.0, "paper")


@pytest.mark.slow
def test_the_example_of_the_page_needs_onnxruntime_and_numpy_alone(checkpoint, tmp_path):
    run(
        "export",
        f"checkpoint={checkpoint}",
        f"output={tmp_path}/model.onnx",
        "check=false",
        f"hydra.run.dir={tmp_path}",
    )
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.S)[1]
    block = np.random.default_rng(0).uniform(0, 1, (500, 6)) * [1, 1, 3, 255, 255, 255]
    np.save(tmp_path / "block.npy", block)
    # Neither PyTorch nor this package can be imported.
    guard = "import sys\nsys.modules['torch'] = sys.modules['deepgcn_seg'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", guard + code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    from deepgcn_seg import load_model
    from deepgcn_seg.data.blocks import block_features

    size = np.array([4.0, 5.0, 3.0])
    features = block_features(block[:, :3].astype("f"), block[:, 3:].astype("f"), size, "paper", 1.0)
    with torch.inference_mode():
        labels = load_model(checkpoint)(torch.from_numpy(features)[None])[0].argmax(-1)
    expected = np.bincount(labels.numpy(), minlength=13)
    counts = {name: int(count) for name, count in re.findall(r"^(\w+) (\d+)$", done.stdout, re.M)}
    assert counts == {name: count for name, count in zip(S3DIS.names, expected) if count}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "checkpoint is not set"),
        (["checkpoint={checkpoint}"], "output is not set"),
        (["checkpoint={checkpoint}", "output=model.txt"], "must be a file whose name ends in .onnx or .pt2"),
        (["checkpoint={checkpoint}", "output=/nowhere/model.onnx"], "there is no folder /nowhere"),
        (["checkpoint={checkpoint}", "output={folder}"], "is a folder: give a file"),
        (["checkpoint=/nowhere.ckpt", "output=model.onnx"], "checkpoint /nowhere.ckpt: no such file"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(checkpoint, tmp_path, arguments, message):
    folder = tmp_path / "folder.onnx"
    folder.mkdir()
    given = [argument.format(checkpoint=checkpoint, folder=folder) for argument in arguments]
    done = run("export", *given, f"hydra.run.dir={tmp_path}", check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
