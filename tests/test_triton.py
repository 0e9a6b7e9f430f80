"""The GPU kernels against the PyTorch formulation; on a GPU where there is one, else step by step on the CPU."""

import copy
import logging
from dataclasses import replace

import pytest
import torch
from test_edges import moments

from deepgcn_seg import ops

pytest.importorskip("triton", reason="no Triton on this platform")
pytestmark = pytest.mark.usefixtures("triton_kernels")
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
            mean, var = moments(a, b, index, slope, mask)
            weight = torch.linspace(-1, 1, mean.numel(), device=DEVICE, dtype=dtype).view(mean.shape)
            loss = (mean * weight).sum() + (var * weight.flip(0)).sum()
            results.append((mean, var, *torch.autograd.grad(loss, (a, b, slope))))
    for expected, found in zip(*results):
        close(found, expected, dtype)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_many_tiles(masked, monkeypatch):
    """Those of more than a million points go into the first dimension of the grid."""
    monkeypatch.setattr("deepgcn_seg.ops.gpu.edges.MOST_TILES", 1)
    test_neighbor_max(SIZES[0], masked, torch.float32)
    test_edge_moments(SIZES[0], 0.2, masked, torch.float32)


def test_edge_moments_of_half_precision_are_those_of_its_values():
    """Sums run in float32: the result is that of the rounded inputs, not rounded again."""
    a, b, index, _ = case(64, 8, 4, torch.bfloat16, False)
    slope = torch.zeros(8, device=DEVICE, dtype=torch.bfloat16)
    with ops.backend("triton"):
        mean, var = moments(a, b, index, slope)
    with ops.backend("torch"):
        expected = moments(a.double(), b.double(), index, slope.double())
    assert mean.dtype == var.dtype == torch.float32
    assert torch.allclose(mean.double(), expected[0], atol=1e-5)
    assert torch.allclose(var.double(), expected[1], atol=1e-5)


def test_edge_moments_of_blocks_far_from_each_other_and_from_absent_points():
    a, b, index, mask = case(70, 5, 3, torch.float32, True)
    a = torch.where(mask[:, :, None], a + torch.tensor([3000.0, -3000.0], device=DEVICE)[:, None, None], 0)
    with torch.no_grad(), ops.backend("triton"):
        mean, var = moments(a, b, index, torch.ones(5, device=DEVICE), mask)
    with torch.no_grad(), ops.backend("torch"):
        expected = moments(a.double(), b.double(), index, torch.ones(5, device=DEVICE).double(), mask)
    assert torch.allclose(mean.double(), expected[0], rtol=1e-6)
    assert torch.allclose(var.double(), expected[1], rtol=1e-3)


# Points whose distances are exact in float32, so that ties are ties: whole numbers, and the mean at the origin.
CLOUDS = {
    "distinct": lambda half: half * torch.tensor([1.0, 8.0, 64.0]),
    "grid": lambda half: half % 3,
    "equal": lambda half: half * 0,
    # Distances that agree in more leading bits than are sorted by first.
    "outlier": lambda half: torch.where(torch.arange(len(half))[:, None] == 4, 2.0**20, half % 5),
}
# What the search is told, by argument: limits of memory and work, and changes of its plan.
PATHS = {
    "all": ({}, {}),
    "sampled": ({"least_sample": 16}, {}),
    "nearest kept": ({"least_sample": 16, "most_sorted": 16}, {}),
    "pairs": ({"most_coded": 0}, {}),
    "in parts": ({"list_bytes": 1}, {}),
    "too few": ({}, {"rank": 1}),
    "too many": ({}, {"capacity": 1, "keep": 16}),
}


def search(points, ranks, mask=None, loop=True, limits=None, changes=None, sizes=None):
    """The GPU's search of points (B, N, C), called as ``ops`` calls it but for how it goes about it."""
    from deepgcn_seg.ops.gpu.plan import Limits, plan_search
    from deepgcn_seg.ops.gpu.rows import WHOLE_ROWS
    from deepgcn_seg.ops.gpu.search import search

    plan = plan_search(int(ranks[-1]) + 1, points.shape[1], Limits(**(limits or {})))
    plan = replace(plan, **(changes or {}))
    out = torch.empty(*points.shape[:2], len(ranks), dtype=torch.int64, device=DEVICE)
    search(points.to(DEVICE), mask, ranks, loop, out, plan, WHOLE_ROWS._replace(**(sizes or {})))
    return out


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cloud", CLOUDS)
# Few rows: the interpreter takes a tenth of a second for each.
@pytest.mark.parametrize("count", [18, 66, 602] if DEVICE == "cuda" else [18])
def test_ranks_are_those_of_a_stable_sort(count, cloud, path):
    limits, changes = PATHS[path]
    half = CLOUDS[cloud](torch.randint(0, 8, (count // 2, 3)).float())
    points = torch.cat([half, -half])[torch.randperm(count)]
    distances = (points.double()[:, None] - points.double()).square().sum(-1)
    ranks = torch.tensor([0, 1, count // 3, count - 2])
    found = search(points[None], ranks, limits=limits, changes=changes)
    assert torch.equal(found[0].cpu(), distances.sort(dim=1, stable=True).indices[:, ranks])


def test_long_rows_are_searched_in_pieces():
    points = torch.randint(-2, 3, (1, 23, 3), device=DEVICE).float()
    points[:, -1] -= points.sum(1)
    distances = (points[0].double()[:, None] - points[0].double()).square().sum(-1)
    ranks = torch.arange(4) * 5
    sizes = {"held": 16, "piece": 8, "programs": 3, "share": 10}
    found = search(points, ranks, changes={"rank": 1}, sizes=sizes)
    assert torch.equal(found[0], distances.sort(dim=1, stable=True).indices[:, ranks.to(DEVICE)])


@pytest.mark.parametrize(("channels", "scale"), [(3, 1.0), (40, 1e-12), (70, 1e12)])
def test_products_are_as_exact_as_float32(channels, scale):
    """Far from the origin too, at any scale, and with more channels than go through the tensor cores at a time."""
    points = (torch.randn(1, 24, channels, device=DEVICE) + 100) * scale
    exact = (points[0].double()[:, None] - points[0].double()).square().sum(-1)
    with ops.backend("triton"):
        found = ops.nearest_ranks(points, torch.arange(24))[0]
    tolerance = 1e-5 * channels * scale**2
    assert torch.allclose(exact.gather(1, found), exact.sort(1).values, rtol=1e-5, atol=tolerance)


def test_rows_without_order_still_name_points():
    """Points of a network that diverges: nothing may be read beyond them."""
    points = torch.rand(1, 40, 3, device=DEVICE)
    points[0, 3] = torch.nan
    with ops.backend("triton"):
        found = ops.nearest_ranks(points, torch.arange(8) * 3)
    assert found.min() >= 0 and found.max() < 40


@pytest.mark.parametrize("loop", [True, False])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("list_bytes", [None, 5000])
def test_neighbors(masked, loop, list_bytes):
    points = torch.rand(3, 20, 5, device=DEVICE)
    mask = (torch.arange(20, device=DEVICE) < 17).expand(3, -1) if masked else None
    ranks = torch.randperm(12)[:5]
    if list_bytes is None:
        with ops.backend("triton"):
            found = ops.nearest_ranks(points, ranks, mask, loop)
    else:
        ranks = ranks.sort().values
        found = search(points, ranks, mask, loop, {"list_bytes": list_bytes})
    with ops.backend("torch"):
        expected = ops.nearest_ranks(points, ranks, mask, loop)
    # ``nearest_ranks`` fills in the rows of absent points; the kernels' search leaves them open.
    compared = slice(None) if mask is None or list_bytes is None else mask
    assert torch.equal(found[compared], expected[compared])


def test_what_the_kernel_does_not_take_is_left_to_pytorch(caplog):
    points = torch.rand(1, 40, 3, dtype=torch.float64, device=DEVICE)
    with ops.backend("triton"), caplog.at_level(logging.INFO, "deepgcn_seg"):
        found = ops.nearest_ranks(points, torch.arange(5))
        # Layers of a dilated network ask for other ranks: that is no reason to say it again.
        ops.nearest_ranks(points, torch.arange(5) * 2)
    with ops.backend("torch"):
        assert torch.equal(found, ops.nearest_ranks(points, torch.arange(5)))
    assert sum("no compiled kernel" in message for message in caplog.messages) == 1


# Sums have another order, and a norm over few points turns last digits of float32 into the fourth.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-4), (torch.float64, 1e-9)], ids=str)
@pytest.mark.parametrize("order", ["norm-act", "act-norm"])
def test_a_network_is_the_same_network(order, dtype, tolerance):
    """Values and gradients of a whole model, both layer orders, negative norm scales."""
    from deepgcn_seg import DeepGCN

    torch.manual_seed(0)
    built = DeepGCN.resgcn(depth=2, channels=8, k=4, order=order, dropout=0.0, stochastic=False).to(DEVICE, dtype)
    for name, parameter in built.named_parameters():
        if "norm" in name and parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, -1, 1)
    points = torch.rand(2, 12, 9, device=DEVICE, dtype=dtype)
    results = []
    for name in ("torch", "triton"):
        model = copy.deepcopy(built)
        with ops.backend(name):
            logits = model(points)
            gradients = torch.autograd.grad(logits.square().mean(), list(model.parameters()))
            with torch.no_grad():
                results.append([logits, *gradients, model.eval()(points)])
    for expected, found in zip(*results):
        assert (found - expected).abs().max() <= tolerance * (expected.abs().max() + 0.1)
