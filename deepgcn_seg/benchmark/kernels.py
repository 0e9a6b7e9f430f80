"""The compiled kernels against PyTorch in float64, at the sizes of real blocks: part ``kernels`` of ``measure=gpu``.

A search is right if each neighbour's distance is the one at its rank, but for the rounding of float32: of points that
are equally far, any will do. The inputs of edges are whole eighths and quarters, so that all sums are exact in float32
and equal edges are equal in float64 too.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops

# Largest error of a squared distance, as a share of the sum of both points' squared lengths. float32 has 6e-8.
DISTANCE_TOLERANCE = 1e-6
# Largest error of a sum over edges, as a share of the largest sum.
SUM_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
# Rows of distances that are compared at a time: 2048 x 16,384 in float64 are 268 MB.
ROWS = 2048


@dataclass(frozen=True)
class Check:
    """A comparison: the largest error that was found, and the largest allowed."""

    what: str
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the error is allowed; NaN is not."""
        return self.error <= self.allowed


def backend_to_check(device: torch.device) -> str:
    """Return the backend whose kernels run on a device: Triton's on a GPU, or where its interpreter is on."""
    return "triton" if device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1" else "auto"


def check_kernels(device: torch.device, count: int, channels: int, k: int, dilations: list[int]) -> Iterator[Check]:
    """Compare searches and edge aggregation on two blocks of ``count`` points.

    Args:
        dilations: those to search with; the largest one also with masks, without loops and on unusual points.
    """
    generator = torch.Generator().manual_seed(count)
    largest = max(dilations)
    clouds = {
        "random": torch.randn(2, count, channels, generator=generator),
        "duplicates": torch.randint(0, 3, (2, count, 3), generator=generator).float(),
        "far off": torch.rand(2, count, 3, generator=generator) + 1e4,
    }
    mask = torch.rand(2, count, generator=generator) < 0.8
    cases: list[tuple[str, int, Tensor | None, bool]] = [("random", d, None, True) for d in dilations]
    cases += [("random", largest, None, False), ("random", largest, mask, True)]
    cases += [(name, d, None, True) for name in ("duplicates", "far off") for d in sorted({1, largest})]
    for name, d, present, loop in cases:
        error = search_error(clouds[name].to(device), k, d, None if present is None else present.to(device), loop)
        about = [f"{count} x {clouds[name].shape[2]}", name, f"d {d}"]
        about += ["masked"] * (present is not None) + ["no loops"] * (not loop)
        yield Check(f"search, {', '.join(about)}", error, DISTANCE_TOLERANCE)
    presences: list[tuple[Tensor | None, str]] = [(None, ""), (mask, ", masked")]
    for dtype, allowed in SUM_TOLERANCE.items():
        kind = str(dtype).removeprefix("torch.")
        for present, masked in presences:
            error = extremum_error(device, count, channels, k, dtype, present, generator)
            yield Check(f"neighbor_max, {count} x {channels}, {kind}{masked}", error, allowed)
    for present, masked in presences:
        error = edge_error(device, count, channels, k, present, generator)
        yield Check(f"edge_extremum, {count} x {channels}{masked}", error, SUM_TOLERANCE[torch.float32])


def search_error(points: Tensor, k: int, d: int, mask: Tensor | None, loop: bool) -> float:
    """Return the largest error of the neighbours' distances, as :data:`DISTANCE_TOLERANCE` counts it.

    It is infinite if a neighbour occurs twice, is masked, or is the point itself without loops.
    """
    ranks = torch.arange(k) * d
    with ops.backend(backend_to_check(points.device)):
        found = ops.nearest_ranks(points, ranks, mask, loop)
    exact = points.double()
    exact = exact - exact.mean(1, keepdim=True)
    lengths = exact.square().sum(-1)
    worst = 0.0
    for block, neighbors in enumerate(found):
        for start in range(0, points.shape[1], ROWS):
            rows = slice(start, start + ROWS)
            distances = lengths[block, rows, None] - 2 * exact[block, rows] @ exact[block].T + lengths[block]
            if not loop:
                distances.diagonal(start).fill_(torch.inf)
            if mask is not None:
                distances[:, ~mask[block]] = torch.inf
            wanted = distances.topk(int(ranks[-1]) + 1, largest=False).values[:, ranks.to(points.device)]
            errors = (distances.gather(1, neighbors[rows]) - wanted).abs()
            errors /= (lengths[block, rows, None] + lengths[block][neighbors[rows]]).clamp(min=1e-300)
            errors[neighbors[rows].sort(1).values.diff(dim=1).eq(0).any(1)] = torch.inf
            if mask is not None:
                # An absent point's own row names the point itself.
                errors = errors[mask[block, rows]]
            worst = max(worst, float(errors.nan_to_num(torch.inf).max()) if len(errors) else 0.0)
    return worst


def extremum_error(
    device: torch.device,
    count: int,
    channels: int,
    k: int,
    dtype: torch.dtype,
    mask: Tensor | None,
    generator: torch.Generator,
) -> float:
    """Return the largest error of ``neighbor_max`` and its gradient, as a share of the largest value of each."""
    x = _eighths((2, count, channels), generator)
    index = torch.randint(0, count, (2, count, k), generator=generator)
    sign = torch.where(torch.arange(channels) % 3 == 0, -1.0, 1.0).double()
    weight = _eighths((2, count, channels), generator)

    def run(on: torch.device, kind: torch.dtype, backend: str) -> list[Tensor]:
        inputs = x.to(on, kind).requires_grad_()
        with ops.backend(backend):
            out = ops.neighbor_max(inputs, index.to(on), None if mask is None else mask.to(on), sign.to(on, kind))
            return [out, *torch.autograd.grad((out * weight.to(on, kind)).sum(), inputs)]

    expected = run(torch.device("cpu"), torch.float64, "torch")
    return _largest_error(run(device, dtype, backend_to_check(device)), expected)


def edge_error(
    device: torch.device, count: int, channels: int, k: int, mask: Tensor | None, generator: torch.Generator
) -> float:
    """Return the largest error of ``edge_extremum``, its moments and its gradients, as a share of the largest value."""
    x, weight = _eighths((2, count, channels), generator), _eighths((channels, 2 * channels), generator)
    index = torch.randint(0, count, (2, count, k), generator=generator)
    slope = torch.full((channels,), 0.25, dtype=torch.float64)
    upstream = _eighths((2, count, channels), generator)

    def run(on: torch.device, kind: torch.dtype, backend: str) -> list[Tensor]:
        inputs = [tensor.to(on, kind).requires_grad_() for tensor in (x, weight, slope)]
        present = None if mask is None else mask.to(on)
        with ops.backend(backend):
            out, mean, variance = ops.edge_extremum(inputs[0], inputs[1], None, index.to(on), present, slope=inputs[2])
            assert mean is not None and variance is not None
            loss = (out * upstream.to(on, kind)).sum() + mean.sum() + variance.sum()
            return [out, mean, variance, *torch.autograd.grad(loss, inputs)]

    expected = run(torch.device("cpu"), torch.float64, "torch")
    return _largest_error(run(device, torch.float32, backend_to_check(device)), expected)


def _eighths(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return random whole eighths from -1 to 1, in float64."""
    return torch.randint(-8, 9, shape, generator=generator).double() / 8


def _largest_error(found: list[Tensor], expected: list[Tensor]) -> float:
    pairs = [(a.detach().cpu().double(), b.detach()) for a, b in zip(found, expected, strict=True)]
    errors = [(a - b).abs().max() / b.abs().max() for a, b in pairs]
    return float(torch.stack(errors).nan_to_num(torch.inf).max())
