"""Checkpoints whose fields and tensors are those of a hostile sender: read by a child process with little memory, each
ends in one clear error or in a network whose output is finite. FUZZ_EXAMPLES scales it, as in test_fuzz."""

import copy
import os
import random

import numpy as np
import pytest
import torch
from reading_child import Child
from test_checkpoint import NETWORK, TRAINED_ON

from deepgcn_seg import DeepGCN, Segmenter
from deepgcn_seg.data.classes import S3DIS
from deepgcn_seg.model import EdgeConv, GENConv, MRConv, load_official
from deepgcn_seg.model.checkpoint import save_checkpoint

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))


def _label(path):
    """Label a small scan with a checkpoint; fails if a label is missing or no number."""
    xyz = np.random.default_rng(0).uniform(0, 1.2, (150, 3))
    segmenter = Segmenter(path, device="cpu")
    found = segmenter.predict(xyz, np.random.default_rng(0).integers(0, 256, (150, 3)).astype(np.uint8))
    assert np.isfinite(found.confidence).all() and (found.label < len(segmenter.classes)).all()
    segmenter.classes.colors(found.label)


def _official(path):
    from deepgcn_seg.errors import UserError

    try:
        load_official(path)
    except ValueError as error:
        raise UserError(str(error)) from None


READERS = {"checkpoint": _label, "official": _official}


@pytest.fixture(scope="module")
def child():
    process = Child(READERS)
    yield process
    process.end()


CONVS = {"edge": EdgeConv, "mr": MRConv, "gen": GENConv}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Contents of checkpoints of several networks."""
    contents = []
    for conv, connection in (("mr", "res"), ("edge", "dense"), ("gen", "rev"), ("edge", "res+")):
        settings = {**NETWORK, "connection": connection}
        model = DeepGCN(**{**settings, "conv": CONVS[conv]})
        path = tmp_path_factory.mktemp("fuzz") / "a.ckpt"
        save_checkpoint(path, model, {**settings, "conv": {"name": conv}}, S3DIS, TRAINED_ON, step=1)
        contents.append(torch.load(path, weights_only=True))
    return contents


VALUES = [
    -1, 0, 1, 2, 3, 7, 13, 64, 65, 255, 256, 2**16, 2**31, 2**63, 10**30, 10**5000, 0.5, -0.5, 1e-300, 1e300, float("nan"),
    float("inf"), True, False, None, "", "res", "batch", "none", "linear", "${depth}", "${oc.env:HOME}", "x" * 10**5, "\ud800",
    "a\nb", b"x", [], [[]], {}, [1], [-1], [0] * 10**4, {"a": 1}, {"name": "gen"}, {"name": "own", "target": "os.system"},
    {"_target_": "os.system"}, {1: 2}, {"name": "gatv2", "heads": 10**6}, torch.ones(3), torch.ones(()), 1j, (1, 2), {1, 2},
]  # fmt: skip


def places(content, path=()):
    """Every place in nested mappings and lists, as keys from the top."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*path, key)
        if len(path) < 3:
            yield from places(value, (*path, key))


def change(content, rng):
    """Put a value in a field's place, take one away, add one, or exchange two."""
    at = rng.choice([place for place in places(content) if place[0] not in ("model", "versions")])
    holder = content
    for key in at[:-1]:
        holder = holder[key]
    kind = rng.random()
    if kind < 0.75:
        holder[at[-1]] = copy.deepcopy(rng.choice(VALUES))
    elif kind < 0.85:
        del holder[at[-1]]
    elif isinstance(holder, dict):
        holder[rng.choice(["more", 5, "depth", "_target_", "points"])] = copy.deepcopy(rng.choice(VALUES))
    else:
        holder.append(copy.deepcopy(rng.choice(VALUES)))


def change_tensor(state, rng):
    """Change a tensor's values, shape, kind or name."""
    name = rng.choice(list(state))
    tensor = state[name]
    if not isinstance(tensor, torch.Tensor):
        return
    flat = tensor.reshape(-1)
    other = rng.choice(
        [
            lambda: tensor.double(),
            lambda: tensor.half(),
            lambda: tensor.to(torch.bfloat16),
            lambda: tensor.to(torch.int64),
            lambda: tensor.to(torch.bool),
            lambda: tensor.to(torch.complex64),
            lambda: tensor * rng.choice([0, -1, 1e30, 3e38, float("nan"), 1e-40]),
            lambda: flat,
            lambda: flat[:0],
            lambda: tensor[None],
            lambda: flat[:1].expand(rng.choice([3, 10**6, 10**12])),
            lambda: torch.zeros(0, 10**6),
            lambda: tensor.t() if tensor.ndim == 2 else tensor,
            lambda: rng.choice(VALUES),
        ]
    )()
    if rng.random() < 0.1:
        state[rng.choice(["x", 5, name + ".x"])] = state.pop(name)
    else:
        state[name] = other


def write(content, path, rng):
    try:
        torch.save(content, path, _use_new_zipfile_serialization=rng.random() < 0.95)
    except Exception:
        # Not even torch can write it.
        return False
    return True


def check(child, kind, path):
    outcome, said = child.read(kind, path)
    assert outcome != "failed", said
    assert outcome == "read" or ("\n" not in said and len(said) < 1000), said
    return outcome


@pytest.mark.parametrize("kind", ["fields", "tensors", "both"])
def test_hostile_checkpoints_are_refused_or_label_every_point(child, sound, tmp_path, kind):
    outcomes = []
    for seed in range(EXAMPLES):
        rng = random.Random(seed)
        content = copy.deepcopy(rng.choice(sound))
        if kind != "tensors":
            for _ in range(rng.choice([1, 1, 1, 2, 5])):
                change(content, rng)
        if kind != "fields" and isinstance(content.get("model"), dict):
            for _ in range(rng.choice([1, 1, 3])):
                change_tensor(content["model"], rng)
        if write(content, tmp_path / "a.ckpt", rng):
            outcomes.append(check(child, "checkpoint", tmp_path / "a.ckpt"))
    assert "refused" in outcomes


def test_bytes_of_a_checkpoint_that_changed_are_refused_or_label_every_point(child, sound, tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save(sound[0], path)
    good = path.read_bytes()
    for seed in range(EXAMPLES):
        rng = random.Random(seed)
        content = bytearray(good)
        for _ in range(rng.choice([1, 1, 4, 50])):
            # Mostly where the pickle is, and the directory at the end.
            at = rng.choice([rng.randrange(len(content)), rng.randrange(6000), -1 - rng.randrange(4000)])
            content[at] = rng.choice([0, 255, content[at] ^ 1 << rng.randrange(8), rng.randrange(256)])
        path.write_bytes(content[: rng.randrange(len(content))] if rng.random() < 0.1 else content)
        check(child, "checkpoint", path)


def test_hostile_official_checkpoints_are_refused(child, tmp_path):
    from pathlib import Path

    fixture = torch.load(next((Path(__file__).parent / "fixtures").glob("plain*.pt")), weights_only=True)["state_dict"]
    for seed in range(EXAMPLES):
        rng = random.Random(seed)
        state = {name: tensor.clone() for name, tensor in fixture.items()}
        for _ in range(rng.choice([1, 1, 3])):
            change_tensor(state, rng)
        content = state if rng.random() < 0.5 else {"state_dict": state, "epoch": rng.choice(VALUES)}
        if write(content, tmp_path / "a.pth", rng):
            check(child, "official", tmp_path / "a.pth")
