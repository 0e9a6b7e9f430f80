"""Frozen parts stay as they are to the last bit, and the others learn as if they were not frozen."""

from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F

from deepgcn_seg import DeepGCN
from deepgcn_seg.errors import UserError
from deepgcn_seg.model import GENConv, MRConv
from deepgcn_seg.model.convolution import EdgeConv, GraphSAGE
from deepgcn_seg.model.freezing import freeze, outermost, require_taken, set_training_mode

NETWORKS = {
    "plain": {"connection": "plain"},
    "res": {"connection": "res", "block_dropout": 0.2},
    "dense": {"connection": "dense", "act": "prelu"},
    "res+": {"connection": "res+", "conv": GENConv},
    "rev": {"connection": "rev", "conv": GraphSAGE},
    "recomputed": {"recompute": True, "conv": MRConv},
    "act-norm": {"order": "act-norm", "conv": EdgeConv, "graph": "fixed"},
}
PARTS = (["backbone"], ["backbone.head"], ["backbone.blocks.1"], ["fusion", "head.rest"], ["head"], ["backbone.blocks"])


def small(**settings):
    """A network in eval mode, as a validation leaves it."""
    model = DeepGCN(
        depth=4, channels=8, k=4, fusion_channels=16, head_channels=(16, 8), **{"stochastic": False, **settings}
    )
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.copy_(torch.rand(buffer.shape) + 0.5)
    return model.eval()


def backward(model, points, labels):
    torch.manual_seed(3)
    F.cross_entropy(model(points).flatten(0, 1), labels.flatten()).backward()


@pytest.mark.parametrize("parts", PARTS, ids=str)
@pytest.mark.parametrize("network", NETWORKS)
def test_frozen_parts_stay_and_the_others_learn_as_before(network, parts):
    model = small(**NETWORKS[network])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    frozen = {name for name in before if name.startswith(tuple(f"{part}." for part in parts))}
    points, labels = torch.rand(2, 24, 9), torch.randint(13, (2, 24))
    # The same modes, but with every gradient.
    free = deepcopy(model)
    set_training_mode(free, parts)
    backward(free, points, labels)

    freeze(model, parts)
    set_training_mode(model, parts)
    backward(model, points, labels)
    expected = {name: parameter.grad for name, parameter in free.named_parameters()}
    for name, parameter in model.named_parameters():
        if name in frozen:
            assert parameter.grad is None, name
        elif expected[name] is None:
            assert parameter.grad is None or not parameter.grad.any(), name
        else:
            assert torch.allclose(parameter.grad, expected[name], rtol=1e-4, atol=1e-6), name

    optimizer = torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.5)
    optimizer.step()
    now = model.state_dict()
    changed = {name for name in before if not torch.equal(now[name], before[name])}
    assert not changed & frozen
    parameters = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    # Weight decay alone changes every parameter that is trained and not zero.
    assert {name for name in parameters if expected[name] is not None and before[name].any()} <= changed
    assert {name for name in before if "running" in name} - frozen <= changed


@pytest.mark.parametrize("network", NETWORKS)
def test_a_frozen_backbone_keeps_nothing_for_backward(network):
    model = small(**NETWORKS[network])
    points, kept = torch.rand(2, 24, 9), []

    def bytes_kept():
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes), lambda t: t):
            model.backbone(points)
        return sum(kept)

    set_training_mode(model, [])
    assert bytes_kept() > 0
    freeze(model, ["backbone"])
    set_training_mode(model, ["backbone"])
    assert bytes_kept() == 0


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["backbon"], r"freeze=\[backbon\]: no part backbon; did you mean backbone"),
        (["backbone.blocks.9"], "no part backbone.blocks.9; did you mean backbone.blocks.0"),
        (["encoder"], "no part encoder; choose from backbone, fusion, head and the parts in them"),
        ([""], "no part"),
        (["backbone", "fusion", "head"], r"freeze=\[backbone,fusion,head\]: nothing is left to train"),
    ],
)
def test_what_cannot_be_frozen_is_one_line(parts, message):
    with pytest.raises(UserError, match=message):
        freeze(small(), parts)


@pytest.mark.parametrize(
    ("parts", "refused"),
    [
        (["backbone"], True),
        (["fusion", "backbone.head.layer"], True),
        (["backbone.blocks"], False),
        (["backbone.head2"], False),
    ],
)
def test_what_begins_anew_is_not_frozen(parts, refused):
    anew = {"backbone.head": "channels block there, room here"}
    if not refused:
        require_taken(parts, anew)
        return
    with pytest.raises(UserError, match=r"backbone.head begins anew \(channels block there, room here\), and frozen"):
        require_taken(parts, anew)


def test_a_part_of_a_frozen_part_is_not_named_again():
    names = ["backbone.head", "backbone", "fusion", "backbone", "backbone2"]
    assert outermost(names) == ["backbone", "fusion", "backbone2"]
