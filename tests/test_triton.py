"""The GPU kernels against the PyTorch formulation; on a GPU where there is one, else step by step on the CPU."""

import copy
import logging

import pytest
import torch

from deepgcn_seg import ops

pytest.importorskip("triton", reason="no Triton on this platform")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def close(found, expected, dtype):
    tolerance = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 2e-2}[dtype]
    expected, found = expected.detach(), found.detach()
    scale = float(expected.abs().max()) + 1e-9
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert float((found.double() - expected.double()).abs().max()) <= tolerance * scale


def case(count, channels, k, dtype, masked):
    a, b = (torch.randn(2, count, channels, device=DEVICE).to(dtype).requires_grad_() for _ in range(2))
    index = torch.randint(0, count, (2, count, k), device=DEVICE)
    mask = (torch.rand(2, count, device=DEVICE) < 0.6) if masked else None
    return a, b, index, mask


SIZES = [(23, 5, 3), (64, 64, 4), (70, 97, 2), (1, 1, 1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_neighbor_max(size, masked, dtype):
    _, x, index, mask = case(*size, dtype, masked)
    sign = torch.where(torch.arange(size[1], device=DEVICE) % 3 == 0, -1.0, 1.0)
    results = []
    for name in ("torch", "triton"):
        with ops.backend(name):
            out = ops.neighbor_max(x, index, mask, sign)
            weight = torch.linspace(-1, 1, out.numel(), device=DEVICE).view(out.shape).to(dtype)
            results.append((out, *torch.autograd.grad((out * weight).sum(), x)))
    assert torch.equal(results[0][0], results[1][0])
    close(results[1][1], results[0][1], dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("slope", [1.0, 0.0, 0.2, -0.3])
@pytest.mark.parametrize("size", SIZES[:3], ids=str)
def test_edge_moments(size, slope, masked, dtype):
    a, b, index, mask = case(*size, dtype, masked)
    slope = torch.full((size[1],), slope, device=DEVICE, dtype=dtype, requires_grad=True)
    results = []
    for name in ("torch", "triton"):
        with ops.backend(name):
            mean, var = ops.edge_moments(a, b, index, slope, mask)
            weight = torch.linspace(-1, 1, mean.numel(), device=DEVICE, dtype=dtype).view(mean.shape)
            loss = (mean * weight).sum() + (var * weight.flip(0)).sum()
            results.append((mean, var, *torch.autograd.grad(loss, (a, b, slope))))
    for expected, found in zip(*results):
        close(found, expected, dtype)


def test_edge_moments_of_half_precision_are_those_of_its_values():
    """Sums run in float32: the result is that of the rounded inputs, not rounded again."""
    a, b, index, _ = case(64, 8, 4, torch.bfloat16, False)
    slope = torch.zeros(8, device=DEVICE, dtype=torch.bfloat16)
    with ops.backend("triton"):
        mean, var = ops.edge_moments(a, b, index, slope)
    with ops.backend("torch"):
        expected = ops.edge_moments(a.double(), b.double(), index, slope.double())
    assert mean.dtype == var.dtype == torch.float32
    assert torch.allclose(mean.double(), expected[0], atol=1e-5)
    assert torch.allclose(var.double(), expected[1], atol=1e-5)


CLOUDS = {
    "random": lambda cloud: cloud,
    "grid": lambda cloud: (cloud * 3).floor(),
    "equal": lambda cloud: cloud * 0,
    "far": lambda cloud: cloud + 1e6,
    # Distances that agree in more leading bits than the kernel first sorts by.
    "outlier": lambda cloud: torch.where(torch.arange(cloud.shape[1], device=cloud.device)[:, None] == 1, 1e4, cloud),
}


@pytest.mark.parametrize("block", [4096, 32], ids=["one pass", "pieces"])
@pytest.mark.parametrize("coded", [512, 0], ids=["coded", "pairs"])
@pytest.mark.parametrize(("count", "k", "dilation"), [(37, 4, 2), (64, 8, 8), (300, 5, 20), (129, 1, 1)])
@pytest.mark.parametrize("points", CLOUDS)
def test_ranks_are_those_of_a_stable_sort(count, k, dilation, points, coded, block, monkeypatch):
    from deepgcn_seg.ops import neighbor_triton

    monkeypatch.setattr(neighbor_triton, "BLOCK", block)
    monkeypatch.setattr(neighbor_triton, "MOST_CODED", coded)
    cloud = CLOUDS[points](torch.rand(2, count, 3, device=DEVICE))
    distances = (cloud[0, :, None] - cloud[1]).square().sum(-1) - 0.5
    distances[:, ::7] = torch.inf
    distances[3] = -distances[3]
    distances[3, ::7] = torch.inf
    distances[5] = 0.0 * torch.where(torch.arange(count, device=DEVICE) % 2 == 0, -1, 1)
    ranks = torch.arange(k) * dilation
    ranks = ranks[ranks < count - -(-count // 7)]
    # A few rows: the interpreter takes a tenth of a second for each.
    distances = distances[:8].contiguous()
    out = torch.empty(1, 8, len(ranks), dtype=torch.int64, device=DEVICE)
    select = neighbor_triton.RankSelection(ranks, 8, count, distances.device)
    select(distances[None], torch.zeros(1, count, device=DEVICE), out)
    assert torch.equal(out[0], distances.sort(dim=1, stable=True).indices[:, ranks.to(DEVICE)])


def test_rows_without_order_still_name_points():
    """Points of a network that diverges: nothing may be read beyond them."""
    points = torch.rand(1, 40, 3, device=DEVICE)
    points[0, 3] = torch.nan
    with ops.backend("triton"):
        found = ops.nearest_ranks(points, torch.arange(8) * 3)
    assert found.min() >= 0 and found.max() < 40


@pytest.mark.parametrize("tile", [1 << 23, 900, 20], ids=["one tile", "blocks", "rows"])
@pytest.mark.parametrize("loop", [True, False])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_neighbors(masked, loop, tile, monkeypatch):
    from deepgcn_seg.ops import neighbor_triton

    monkeypatch.setattr(neighbor_triton, "TILE_ENTRIES", tile)
    monkeypatch.setattr(neighbor_triton, "LEAST_ROWS", 3)
    points = torch.rand(5, 20, 5, device=DEVICE)
    mask = (torch.arange(20, device=DEVICE) < 17).expand(5, -1) if masked else None
    ranks = torch.randperm(12)[:5]
    found = []
    for name in ("torch", "triton"):
        with ops.backend(name):
            found.append(ops.nearest_ranks(points, ranks, mask, loop))
    assert torch.equal(*found)


def test_what_the_kernel_does_not_take_is_left_to_pytorch(caplog):
    points = torch.rand(1, 40, 3, dtype=torch.float64, device=DEVICE)
    with ops.backend("triton"), caplog.at_level(logging.INFO, "deepgcn_seg"):
        found = ops.nearest_ranks(points, torch.arange(5))
        ops.nearest_ranks(points, torch.arange(5))
    with ops.backend("torch"):
        assert torch.equal(found, ops.nearest_ranks(points, torch.arange(5)))
    assert sum("no compiled kernel" in message for message in caplog.messages) == 1


def test_a_network_is_the_same_network():
    """Values and gradients of a whole model, both layer orders, negative norm scales."""
    from deepgcn_seg import DeepGCN

    for order in ("norm-act", "act-norm"):
        torch.manual_seed(0)
        built = DeepGCN.resgcn(depth=2, channels=8, k=4, order=order, dropout=0.0, stochastic=False).to(DEVICE)
        for name, parameter in built.named_parameters():
            if "norm" in name and parameter.ndim == 1:
                torch.nn.init.uniform_(parameter, -1, 1)
        points = torch.rand(2, 12, 9, device=DEVICE)
        results = []
        for name in ("torch", "triton"):
            model = copy.deepcopy(built)
            with ops.backend(name):
                logits = model(points)
                gradients = torch.autograd.grad(logits.square().mean(), list(model.parameters()))
                with torch.no_grad():
                    results.append([logits, *gradients, model.eval()(points)])
        for expected, found in zip(*results):
            assert (found - expected).abs().max() <= 1e-4 * expected.abs().max() + 1e-5
