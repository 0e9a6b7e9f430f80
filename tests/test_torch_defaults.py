"""What the calling program has set in PyTorch decides nothing: a checkpoint and a config do."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
import torch_geometric.nn as pyg
from test_commands import TINY
from test_ensemble import pair, scan  # noqa: F401

import deepgcn_seg
from deepgcn_seg import DeepGCN, Segmenter, load_model, load_official
from deepgcn_seg.inference.export import differences, load_exported, write_program
from deepgcn_seg.model import GIN, GENConv, GraphSAGE, MessagePassing, MRConv
from deepgcn_seg.torch_defaults import torch_defaults

OFFICIAL = Path(__file__).parent / "fixtures" / "res_edge_7.pt"


@contextmanager
def float64():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device():
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


PROGRAMS = {
    "float64": float64,
    "default device": default_device,
    "a device's context": lambda: torch.device("meta"),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}
in_every_program = pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
KINDS = {
    "edge, dense": {"connection": "dense"},
    "mr, fixed graph, no loops": {"conv": MRConv, "graph": "fixed", "loop": False},
    "sage, reversible": {"conv": GraphSAGE, "connection": "rev"},
    "gin, instance norm": {"conv": GIN, "norm": "instance"},
    "gen, res+": {"conv": partial(GENConv, message_norm=True), "connection": "res+"},
    "of torch_geometric, with normals": {
        "conv": partial(MessagePassing, operator=pyg.PPFConv, networks={"local_nn": ["in+4", "out"]}),
        "positions": (0, 1, 2),
    },
}


def result(model, mask):
    """Logits in evaluation, and those and the gradients of a training step."""
    torch.manual_seed(0)
    points = torch.rand(2, 40, 9, generator=torch.Generator("cpu").manual_seed(0), dtype=torch.float32, device="cpu")
    mask = None if mask is None else torch.from_numpy(np.arange(40) < np.array([[40], [31]]))
    with torch.no_grad():
        found = [model.eval()(points, mask)]
    model.zero_grad()
    logits = model.train()(points, mask)
    logits.square().mean().backward()
    return [*found, logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("program", [float64, default_device])
@pytest.mark.parametrize("mask", [None, "some absent"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_network_computes_the_same(kind, mask, program):
    build = lambda: DeepGCN(depth=3, channels=8, k=4, fusion_channels=16, head_channels=(16, 8), **kind)
    torch.manual_seed(0)
    model = build()
    copy = build()
    copy.load_state_dict(model.state_dict())
    expected = result(model, mask)
    with program():
        found = result(copy, mask)
    assert len(found) == len(expected) > 5
    assert all(a.dtype == b.dtype == torch.float32 and torch.equal(a, b) for a, b in zip(found, expected))


@in_every_program
@pytest.mark.parametrize("which", [slice(0, 1), slice(None)], ids=["one", "average"])
def test_a_checkpoint_is_loaded_as_it_says(pair, which, program):  # noqa: F811
    expected = load_model(pair[which]).state_dict()
    with program():
        model = load_model(pair[which])
    found = model.state_dict()
    assert all(found[name].dtype == expected[name].dtype and torch.equal(found[name], expected[name]) for name in found)
    # The weights may be trained further.
    model.train()(torch.rand(2, 64, 9)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@in_every_program
@pytest.mark.parametrize("built_inside", [True, False])
def test_a_scan_gets_the_same_labels(pair, built_inside, program):  # noqa: F811
    segmenter = Segmenter(pair, device="cpu")
    expected = segmenter.predict(*scan())
    with program():
        found = (Segmenter(pair, device="cpu") if built_inside else segmenter).predict(*scan())
    if program is not PROGRAMS["autocast"]:
        assert np.array_equal(found.label, expected.label) and np.array_equal(found.confidence, expected.confidence)


@in_every_program
def test_an_official_checkpoint_and_an_exported_file_are_the_same(program, tmp_path):
    expected = load_official(OFFICIAL, connection="res", conv="edge", k=4).state_dict()
    with program():
        model = load_official(OFFICIAL, connection="res", conv="edge", k=4)
        write_program(model, tmp_path / "model.pt2", {})
        (found,) = differences(model, load_exported(tmp_path / "model.pt2"), [(2, 100)])
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert found.logits < 1e-4


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    root = tmp_path_factory.mktemp("plain")
    return root, commands(root, root / "data")


def commands(folder, data):
    """The weights that a short training leaves, its scores, and those of an evaluation."""
    run = deepgcn_seg.train(*TINY, "max_steps=2", f"data.root={data}", f"hydra.run.dir={folder}/run")
    entry = deepgcn_seg.evaluate(f"checkpoint={folder}/run", "protocol=recut", f"hydra.run.dir={folder}/scores")
    scores = [
        {key: each[key] for key in ("confusion", "IoU", "mIoU_interval")} for each in (run.metrics["test"], entry)
    ]
    return load_model(run.directory).state_dict(), json.dumps(scores)


@in_every_program
def test_commands_do_the_same(program, expected, tmp_path):
    root, (weights, scores) = expected
    with program():
        found, own = commands(tmp_path, root / "data")
    assert all(torch.equal(tensor, found[name]) for name, tensor in weights.items())
    assert own == scores


def test_the_program_has_its_own_defaults_back():
    with float64(), default_device(), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        with torch_defaults():
            assert torch.zeros(1).dtype == torch.float32 and torch.zeros(1).device.type == "cpu"
            assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
            assert not torch.is_autocast_enabled("cpu")
        assert torch.get_default_dtype() == torch.float64 and torch.get_default_device().type == "meta"
        assert torch.is_inference_mode_enabled() and torch.is_autocast_enabled("cpu")


def test_threads_that_leave_in_another_order_than_they_came_leave_the_program_s_dtype():
    first_in, second_in, first_out = Barrier(2), Barrier(2), Barrier(2)

    def first():
        with torch_defaults():
            first_in.wait()
            second_in.wait()
        first_out.wait()

    def second():
        first_in.wait()
        with torch_defaults():
            second_in.wait()
            first_out.wait()
            return torch.get_default_dtype()

    with float64(), ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(first), pool.submit(second)]
        assert jobs[1].result(60) == torch.float32
        jobs[0].result(60)
        assert torch.get_default_dtype() == torch.float64
