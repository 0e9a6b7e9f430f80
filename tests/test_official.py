"""Equality with the official PyTorch model: stored outputs, and its formulation at other settings."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from deepgcn_seg import load_official, ops
from deepgcn_seg.benchmark.reference import ReferenceDeepGCN
from deepgcn_seg.model import EdgeConv, MRConv
from deepgcn_seg.model.official import _our_name, conv_name, convert_official

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("*.pt"))


@pytest.fixture(params=FIXTURES, ids=lambda path: path.stem)
def stored(request):
    return torch.load(request.param, weights_only=True)


@pytest.fixture(params=["numba", "torch"])
def backend(request):
    with ops.backend(request.param):
        yield


def without_randomness(model):
    model.train()
    model.head.dropout.p = 0.0
    for graph in model.backbone.graphs:
        graph.stochastic = False
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_connection_and_conv_are_recognised(stored, dtype):
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in stored["state_dict"].items()}
    model = load_official(state, k=9)
    assert {p.dtype for p in model.parameters()} == {dtype}
    config = stored["config"]
    assert (model.backbone.connection.name, model.backbone.channels) == (config["block"], config["n_filters"])
    assert len(model.backbone.graphs) == config["n_blocks"]
    assert type(model.backbone.head) is {"edge": EdgeConv, "mr": MRConv}[config["conv"]]


def test_eval_logits(stored, backend):
    model = load_official(stored["state_dict"], k=9)
    assert (model(stored["points"]) - stored["eval_logits"]).abs().max() < 1e-4


def test_training_pass_and_gradients_in_float32(stored, backend):
    """Against the stored float32 run, whose own rounding is 2e-4 of logits up to 14 (see below)."""
    model = without_randomness(load_official(stored["state_dict"], k=9))
    logits = model(stored["points"])
    assert (logits - stored["train_logits"]).abs().max() < 2e-3
    loss = F.cross_entropy(logits.flatten(0, 1), stored["labels"].flatten())
    assert abs(loss.item() - stored["train_loss"]) < 1e-5
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    for name, expected in stored["grads"].items():
        found = grads[_our_name(name)]
        assert (found - expected.view_as(found)).norm() < 1e-2 * max(1, expected.norm()), name
    for name, norm in stored["grad_norms"].items():
        assert abs(grads[_our_name(name)].norm() - norm) < 1e-2 * max(1, norm), name


def test_training_pass_and_gradients_in_float64(stored, backend):
    """The stored weights through both formulations where rounding hides nothing."""
    config = stored["config"]
    settings = (config["block"], config["conv"], config["n_blocks"], config["n_filters"], config["k"])
    reference = ReferenceDeepGCN(*settings, dropout=0.0)
    reference.load_state_dict(stored["state_dict"])
    model = without_randomness(load_official(stored["state_dict"], k=9)).double()
    grads = []
    for network in (reference.train(), reference.double(), model):
        points = stored["points"].to(next(network.parameters()).dtype)
        network.zero_grad()
        logits = network(points)
        F.cross_entropy(logits.flatten(0, 1), stored["labels"].flatten()).backward()
        grads.append({name: p.grad.clone() for name, p in network.named_parameters()})
        if points.dtype == torch.float32:
            # The reference is the official model: equal to the stored run to the last bits.
            assert (logits - stored["train_logits"]).abs().max() < 1e-5
            assert all((grads[0][n] - g).abs().max() < 1e-4 for n, g in stored["grads"].items())
        elif network is reference:
            expected = logits
    assert torch.allclose(logits, expected, atol=1e-9)
    for name, grad in grads[1].items():
        found = grads[2][_our_name(name)]
        assert torch.allclose(found, grad.view_as(found), atol=1e-9), name


@pytest.mark.parametrize("act", ["relu", "leakyrelu", "prelu"])
@pytest.mark.parametrize("conv", ["edge", "mr"])
@pytest.mark.parametrize(
    ("block", "depth"), [("plain", 2), ("res", 2), ("dense", 2), ("plain", 5), ("res", 6), ("dense", 4)]
)
def test_equals_the_official_formulation(block, conv, depth, act):
    reference = ReferenceDeepGCN(block, conv, depth, 8, k=5, act=act, dropout=0.0).double()
    with torch.no_grad():
        for p in reference.parameters():
            p.add_(0.3 * torch.randn_like(p))
        for m in reference.modules():
            if isinstance(m, torch.nn.PReLU):
                m.weight.abs_()
    points = torch.rand(2, 64, 9, dtype=torch.float64)
    reference.train()
    reference(points)
    model = load_official(reference.state_dict(), k=5, act=act, connection=block, conv=conv).double()
    reference.eval()
    assert torch.allclose(model(points), reference(points), atol=1e-9)
    without_randomness(model)
    reference.train()
    labels = torch.randint(13, (128,))
    for network in (model, reference):
        F.cross_entropy(network(points).flatten(0, 1), labels).backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    for name, p in reference.named_parameters():
        found = grads[_our_name(name)]
        assert torch.allclose(found, p.grad.view_as(found), atol=1e-9), name


@pytest.mark.parametrize("block", ["res", "dense"])
def test_depth_112(block):
    reference = ReferenceDeepGCN(block, "mr", 112, 2, k=1, dropout=0.0).double().eval()
    points = torch.rand(1, 128, 9, dtype=torch.float64)
    model = load_official(reference.state_dict(), k=1, connection=block, conv="mr").double()
    assert torch.allclose(model(points), reference(points), atol=1e-9)


@pytest.mark.parametrize("wrapping", ["bare", "training checkpoint", "data parallel"])
def test_files_as_the_official_training_writes_them(tmp_path, wrapping):
    state = ReferenceDeepGCN("dense", "edge", 3, 8, k=4).state_dict()
    content = dict(state)
    if wrapping == "data parallel":
        content = {f"module.{name}": tensor for name, tensor in state.items()}
    if wrapping != "bare":
        content = {"epoch": 7, "state_dict": content, "optimizer_state_dict": {"lr": 0.1}, "best_value": 50.0}
    torch.save(content, tmp_path / "ckpt.pth")
    model = load_official(tmp_path / "ckpt.pth", k=4, conv="edge")
    assert torch.equal(model.backbone.head.layer.linear.bias, state["head.gconv.nn.0.bias"])


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("deepgcn_seg.model.EdgeConv", "edge"),
        ("deepgcn_seg.model.convolution.MRConv", "mr"),
        ("deepgcn_seg.model.GIN", "deepgcn_seg.model.GIN"),
        # A user's own convolution may have any name.
        ("mine.EdgeConv", "mine.EdgeConv"),
    ],
)
def test_convolutions_of_this_package_have_official_names(target, name):
    assert conv_name({"_target_": target}) == name


def test_what_is_not_official(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"x\.pth"):
        load_official(tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"head\.gconv\.nn\.0\.weight"):
        load_official({"weight": torch.ones(1)})
    state = ReferenceDeepGCN("res", "edge", 3, 8, k=4).state_dict()
    with pytest.raises(ValueError, match="do not tell"):
        load_official(state)
    with pytest.raises(ValueError, match="PReLU"):
        load_official(state, act="prelu", connection="res", conv="edge")
    del state["backbone.1.body.gconv.nn.0.bias"]
    with pytest.raises(ValueError, match="missing"):
        load_official(state, connection="res", conv="edge")


def test_a_deep_checkpoint_is_not_guessed_at():
    """Each candidate is run once over points that grow with depth: minutes beyond a hundred layers."""
    state = torch.load(next(path for path in FIXTURES if "plain" in path.name), weights_only=True)["state_dict"]
    with pytest.raises(ValueError, match="5 layers: give connection= and conv="):
        convert_official(state, max_guessed=4)
    assert load_official(state, connection="plain", conv="mr").num_classes == 13
