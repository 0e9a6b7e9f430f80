"""torch.compile, torch.export, autocast: the same function."""

import shutil

import pytest
import torch
from torch.nn import functional as F

from deepgcn_seg import DeepGCN

SMALL = {"depth": 4, "channels": 8, "k": 4, "fusion_channels": 16, "head_channels": (16, 8)}
CONNECTIONS = ["plain", "res", "dense", "res+"]
TRAINED = [*({"connection": name} for name in (*CONNECTIONS, "rev")), {"recompute": True}]


@pytest.fixture
def points():
    return torch.rand(2, 64, 9)


@pytest.mark.parametrize("order", ["norm-act", "act-norm"])
@pytest.mark.parametrize("connection", CONNECTIONS)
def test_compiled_evaluation_is_one_graph(connection, order, points):
    model = DeepGCN(connection=connection, order=order, **SMALL).eval()
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(points), model(points), atol=1e-5)


@pytest.mark.parametrize("settings", TRAINED, ids=str)
def test_compiled_training_has_the_same_gradients(settings, points):
    model = DeepGCN(stochastic=False, dropout=0.0, **settings, **SMALL).train()
    labels = torch.randint(13, (128,))
    torch.compiler.reset()
    grads = []
    for network in (model, torch.compile(model, backend="aot_eager")):
        model.zero_grad()
        F.cross_entropy(network(points).flatten(0, 1), labels).backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*grads):
        assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("part", ["backbone.head", "backbone.blocks.1", "backbone", "fusion", "head"])
@pytest.mark.parametrize("connection", [*CONNECTIONS, "rev"])
def test_a_part_may_be_compiled_by_itself(connection, part):
    points = torch.rand(2, 64, 9, dtype=torch.float64)
    model = DeepGCN(connection=connection, stochastic=False, dropout=0.0, **SMALL).double()
    found = []
    for compiles in (False, True):
        if compiles:
            torch.compiler.reset()
            model.get_submodule(part).compile(backend="aot_eager")
        logits = model(points)
        found.append([logits, *torch.autograd.grad(logits.square().sum(), list(model.parameters()))])
    torch.testing.assert_close(*found)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler for torch.compile's CPU code")
def test_inductor(points):
    model = DeepGCN(**SMALL).eval()
    torch.compiler.reset()
    with torch.no_grad():
        assert torch.allclose(torch.compile(model)(points), model(points), atol=1e-5)


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_exported_program(connection, points):
    model = DeepGCN(connection=connection, **SMALL).eval()
    program = torch.export.export(model, (points,))
    assert torch.allclose(program.module()(points), model(points), atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_a_trace_names_what_to_use_instead(points):
    with pytest.raises(RuntimeError, match=r"use torch\.export\.export\(model, \(points,\)\)"):
        torch.jit.trace(DeepGCN(**SMALL).eval(), points)


@pytest.mark.parametrize("connection", [*CONNECTIONS, "rev"])
def test_bfloat16_outside_the_distances(connection, points):
    model = DeepGCN(connection=connection, stochastic=False, dropout=0.0, **SMALL)
    exact = model.backbone.graphs[0](points[..., 6:])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.backbone.graphs[0](points[..., 6:]), exact)
        logits = model(points)
    assert logits.dtype == torch.bfloat16
    F.cross_entropy(logits.float().flatten(0, 1), torch.randint(13, (128,))).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_bfloat16_is_close(points):
    model = DeepGCN(graph="fixed", **SMALL).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mixed = model(points).float()
    assert (mixed - model(points)).abs().mean() < 0.05


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(
    "settings", [{}, {"order": "act-norm"}, {"norm": "instance"}, {"connection": "dense"}], ids=str
)
def test_weights_of_half_precision(settings, training, points):
    model = DeepGCN(stochastic=False, dropout=0.0, graph="fixed", **settings, **SMALL).train(training).bfloat16()
    logits = model(points.bfloat16())
    logits.float().square().sum().backward()
    exact = model.float()(points)
    assert logits.dtype == torch.bfloat16 and (logits.float() - exact).abs().mean() < 0.1 * exact.abs().mean()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_points_of_another_type_than_the_weights_are_refused(dtype, points):
    with pytest.raises(ValueError, match=f"points are {dtype}, but the weights torch.float32"):
        DeepGCN(**SMALL)(points.to(dtype))
