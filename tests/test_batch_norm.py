"""The package's batch norm with the settings that tools of PyTorch give it, against torch.nn.BatchNorm1d."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from deepgcn_seg import DeepGCN
from deepgcn_seg.model.convolution import EdgeConv
from deepgcn_seg.model.layers import BatchNorm, LayerSpec, moments
from deepgcn_seg.ops import gather_neighbors

SMALL = {"depth": 3, "channels": 8, "k": 4, "fusion_channels": 16, "head_channels": (8,), "stochastic": False}
WITHOUT_STATISTICS = {"running_mean": None, "running_var": None}
SETTINGS = {
    "as built": {},
    "cumulative average": {"momentum": None},
    "no statistics": {"track_running_stats": False, "num_batches_tracked": None, **WITHOUT_STATISTICS},
    "no statistics, tracked": WITHOUT_STATISTICS,
    "statistics kept as they are": {"track_running_stats": False},
    "batches not counted": {"num_batches_tracked": None},
    "batches not counted, cumulative": {"num_batches_tracked": None, "momentum": None},
}


def changed(norm, settings):
    for name, value in settings.items():
        setattr(norm, name, value)
    return norm


def whole(norm, x):
    return norm(x)


def masked(norm, x):
    mask = torch.arange(50)[None] < 30
    return norm(torch.cat([x, torch.rand(2, 20, 6).to(x)], 1), mask.expand(2, -1))[:, :30]


def counted(norm, x):
    return norm(x, None, torch.ones(2, 30))


def affine(norm, x):
    scale, shift = norm.scale_shift(*moments(x), 30) if norm.uses_batch_statistics else norm.fixed_scale_shift()
    return scale * x + shift


@pytest.mark.parametrize("call", [whole, masked, counted, affine])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_values_and_buffers_are_those_of_torch(settings, call):
    ours, theirs = (changed(kind(6).double(), settings) for kind in (BatchNorm, nn.BatchNorm1d))
    for training in (True, True, False, True):
        x = 3 * torch.randn(2, 30, 6, dtype=torch.float64) + 1
        expected = theirs.train(training)(x.flatten(0, 1)).view(x.shape)
        assert torch.allclose(call(ours.train(training), x), expected, atol=1e-9)
        for name, buffer in theirs._buffers.items():
            found = ours._buffers[name]
            assert (found is None) == (buffer is None) and (buffer is None or torch.allclose(found, buffer)), name


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_edges_are_normalised_as_torch_does(settings, training):
    conv = EdgeConv(3, 6, LayerSpec(act="none")).double().train(training)
    theirs = changed(nn.BatchNorm1d(6).double(), settings).train(training)
    changed(conv.layer.norm, settings)
    x, index = torch.randn(2, 20, 3, dtype=torch.float64), torch.randint(20, (2, 20, 4))
    center = x[:, :, None].expand(-1, -1, 4, -1)
    edges = conv.layer.linear(torch.cat([center, gather_neighbors(x, index) - center], -1))
    expected = theirs(edges.flatten(0, 2)).view(edges.shape).amax(2)
    assert torch.allclose(conv(x, index), expected, atol=1e-9)


@pytest.mark.parametrize("settings", [{}, {"connection": "rev"}, {"recompute": True}], ids=str)
def test_update_bn_averages_the_statistics_of_batches(settings):
    model = DeepGCN(dropout=0.0, graph="fixed", **settings, **SMALL).double()
    batches = [torch.rand(2, 40, 9, dtype=torch.float64) for _ in range(2)]
    norms = [part for part in model.modules() if isinstance(part, BatchNorm)]
    found = []
    for batch in batches:
        for norm in norms:
            norm.momentum = 1.0
        model.train()(batch).sum().backward()
        found.append([(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms])
    update_bn(batches, model)
    for norm, first, second in zip(norms, *found):
        assert torch.allclose(norm.running_mean, (first[0] + second[0]) / 2)
        assert torch.allclose(norm.running_var, (first[1] + second[1]) / 2)
        norm.momentum = None
    # What the backward pass computes again does not count, with this momentum either.
    model(batches[0]).sum().backward()
    assert all(norm.num_batches_tracked == 3 and norm.momentum is None for norm in norms)


def test_inference_without_running_statistics_normalises_all_blocks_together():
    model = DeepGCN(dropout=0.0, **{**SMALL, "depth": 2}).eval()
    for part in model.modules():
        if isinstance(part, BatchNorm):
            changed(part, SETTINGS["no statistics"])
    # More points than inference takes at a time.
    points = torch.rand(3, 2048, 9)
    with torch.no_grad():
        found = model(points)
    assert torch.allclose(found, model(points), atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"connection": "res+"}, {"connection": "rev"}], ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_converted_batch_norms_are_refused(settings, training):
    model = nn.SyncBatchNorm.convert_sync_batchnorm(DeepGCN(**settings, **SMALL)).train(training)
    with pytest.raises(ValueError, match="SyncBatchNorm cannot stand.*sync_norms"):
        model(torch.rand(2, 40, 9))
