"""Whatever runs a network for its labels runs it in evaluation, and leaves it in the mode it was in."""

import numpy as np
import pytest
import torch
from test_ensemble import CPU, pair, scan  # noqa: F401
from torch import nn

from deepgcn_seg import DeepGCN, Segmenter
from deepgcn_seg.evaluation import Protocol
from deepgcn_seg.inference.export import differences
from deepgcn_seg.model.evaluating import evaluating
from deepgcn_seg.training.inspection import neighbor_distances, predicted_labels

SMALL = {"depth": 3, "channels": 8, "k": 4, "fusion_channels": 16, "head_channels": (16, 8), "dropout": 0.5}


def blocks():
    return torch.rand(3, 64, 9, generator=torch.Generator().manual_seed(0))


def exported(model, store, run):
    (found,) = differences(model, run, [(3, 64)])
    return found


# What runs a network: (model, store, the network's own forward as NumPy sees it) -> a result to compare.
USES = {
    **{
        name: lambda model, store, run, name=name: Protocol(name, points=64).run(model, store, store.rooms[:2], CPU).by_room
        for name in ("rooms", "recut", "blocks")
    },
    "labels of blocks": lambda model, store, run: predicted_labels(model, blocks()),
    "distances of neighbours": lambda model, store, run: neighbor_distances(model, blocks(), blocks()[..., :3]),
    "comparison of an exported file": exported,
}  # fmt: skip
MODES = {
    "training": lambda model: model.train(),
    "training, with frozen parts": lambda model: model.train().backbone.eval(),
    "a part in training": lambda model: model.head.train(),
}


def state(model):
    return {name: (module.training, *map(torch.clone, module.buffers(recurse=False))) for name, module in model.named_modules()}  # fmt: skip


def assert_same_state(model, before):
    for name, (training, *buffers) in state(model).items():
        assert training == before[name][0], name
        assert all(map(torch.equal, buffers, before[name][1:])), name


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_network_is_used_in_evaluation_and_keeps_its_mode(use, mode, store):
    model = DeepGCN(**SMALL).eval()
    forward = DeepGCN(**SMALL).eval()
    forward.load_state_dict(model.state_dict())
    run = lambda points: forward(torch.from_numpy(points)).detach().numpy()
    expected = use(model, store, run)
    mode(model)
    before = state(model)
    found = use(model, store, run)
    assert torch.equal(found, expected) if isinstance(found, torch.Tensor) else found == expected
    assert_same_state(model, before)


@pytest.mark.parametrize("which", [slice(0, 1), slice(None)], ids=["one", "average"])
@pytest.mark.parametrize("mode", [lambda model: model.train(), lambda model: next(model.children()).train()])
def test_a_scan_is_labelled_in_evaluation(pair, which, mode):  # noqa: F811
    segmenter = Segmenter(pair[which], device="cpu")
    expected = segmenter.predict(*scan())
    mode(segmenter.model)
    before = state(segmenter.model)
    found = segmenter.predict(*scan())
    assert np.array_equal(found.label, expected.label) and np.array_equal(found.confidence, expected.confidence)
    assert_same_state(segmenter.model, before)


def test_the_mode_is_that_of_before_after_an_error_too():
    class Fails(nn.Module):
        def forward(self, points):
            raise ArithmeticError

    model = nn.Sequential(nn.Dropout(), Fails().eval())
    with pytest.raises(ArithmeticError), evaluating(model):
        model(torch.rand(1))
    assert [part.training for part in model.modules()] == [True, True, False]


def test_a_part_that_does_more_in_train_does_it():
    """As an adapter that is added to the weights in evaluation and taken out again in training."""

    class Adapter(nn.Module):
        added = False

        def train(self, mode=True):
            self.added = not mode
            return super().train(mode)

    model = nn.Sequential(Adapter(), nn.BatchNorm1d(3))
    with evaluating(model):
        assert model[0].added and torch.is_inference_mode_enabled()
    assert not model[0].added
