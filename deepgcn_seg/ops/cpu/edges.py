"""CPU kernels (numba) behind :mod:`deepgcn_seg.ops.edges`.

Edges are visited row by row, a vector of channels at a time (:mod:`.simd`); no edge-sized array exists. Work that only
reads neighbours is split by rows; work that adds to neighbours by channels, so that each task owns what it writes:
scatters need no locks, and no result depends on the number of threads.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...kernel_cache import kernel
from ..backend import HALVES
from .simd import LANES, load, splat, store, where_greater, widened
from .threads import run_sliced

# Rows whose moments are summed up before those of others are added: fixed, as the order of sums is.
ROWS = 256


@kernel()
def _extremum(start, stop, neighbor, index, mask, sign, extreme, chosen):
    """Per channel the largest (sign > 0) or smallest neighbour value, and which it was.

    Args:
        start, stop: points, of all blocks counted through.
        neighbor: (B, N, C). index: (B, N, k). mask: (B, N) bool. sign: (C,) of +1 or -1.
        extreme: (B, N, C), written. chosen: (B, N, C) int16, the place 0..k-1, written.
    """
    count, channels = neighbor.shape[1], neighbor.shape[2]
    k = index.shape[2]
    values, extremes, places = neighbor.reshape(-1), extreme.reshape(-1), chosen.reshape(-1)
    for point in range(start, stop):
        b, i = point // count, point % count
        if not mask[b, i]:
            extreme[b, i] = 0
            chosen[b, i] = 0
            continue
        for first in range(0, channels, LANES):
            turn = load(sign, first)
            best = turn * load(values, (b * count + index[b, i, 0]) * channels + first)
            place = splat(np.int16(0))
            for n in range(1, k):
                value = turn * load(values, (b * count + index[b, i, n]) * channels + first)
                place = where_greater(value, best, splat(np.int16(n)), place)
                best = where_greater(value, best, value, best)
            store(extremes, point * channels + first, best * turn)
            store(places, point * channels + first, place)


@kernel()
def _moments(start, stop, center, neighbor, index, mask, slope, shift, total, square):
    """Sums over the edges of :data:`ROWS` points each of phi(center_i + neighbor_j) - shift, and of its square.

    phi(e) = e where e > 0, slope * e elsewhere. The shift is near the mean, so that a mean far from zero costs no
    digits; from row to row sums are in float64.

    Args:
        start, stop: groups of ROWS points, of all blocks counted through.
        center, neighbor: (B, N, C). slope, shift: (C,). total, square: (B, groups, C) float64, written.
    """
    count, channels = center.shape[1], center.shape[2]
    k, groups = index.shape[2], total.shape[1]
    own, values = center.reshape(-1), neighbor.reshape(-1)
    totals, squares = total.reshape(-1), square.reshape(-1)
    nothing = splat(center.dtype.type(0))
    for group in range(start, stop):
        b, row = group // groups, group % groups * ROWS
        for first in range(0, channels, LANES):
            s, h = load(slope, first), load(shift, first)
            all_sum, all_square = widened(nothing), widened(nothing)
            for i in range(row, min(row + ROWS, count)):
                if not mask[b, i]:
                    continue
                mine = load(own, (b * count + i) * channels + first)
                row_sum, row_square = nothing, nothing
                for n in range(k):
                    e = mine + load(values, (b * count + index[b, i, n]) * channels + first)
                    f = where_greater(e, nothing, e, s * e) - h
                    row_sum = row_sum + f
                    row_square = row_square + f * f
                all_sum = all_sum + widened(row_sum)
                all_square = all_square + widened(row_square)
            store(totals, group * channels + first, all_sum)
            store(squares, group * channels + first, all_square)


@kernel()
def _typical(center, neighbor, slope, shift):
    """Write about the mean of phi, (C,): that of up to twice :data:`ROWS` points."""
    points, channels = center.shape[0] * center.shape[1], center.shape[2]
    own, values = center.reshape(-1), neighbor.reshape(-1)
    step = max(points // ROWS, 1)
    share = splat(center.dtype.type(1 / ((points - 1) // step + 1)))
    nothing = splat(center.dtype.type(0))
    for first in range(0, channels, LANES):
        total = nothing
        for point in range(0, points, step):
            total = total + load(own, point * channels + first) + load(values, point * channels + first)
        e = total * share
        store(shift, first, where_greater(e, nothing, e, load(slope, first) * e))


@kernel()
def _finish_moments(total, square, mask, k, shift, mean, var):
    """Write mean and variance, (B, C), of sums of :func:`_moments`; those of a block without points are NaN."""
    batch, groups, channels = total.shape
    for b in range(batch):
        edges = mask[b].sum() * k
        for c in range(channels):
            own, own_square = 0.0, 0.0
            for group in range(groups):
                own += total[b, group, c]
                own_square += square[b, group, c]
            if edges:
                mean[b, c] = own / edges + shift[c]
                var[b, c] = max(own_square / edges - (own / edges) ** 2, 0.0)
            else:
                mean[b, c] = np.nan
                var[b, c] = np.nan


@kernel()
def _extremum_backward(start, stop, grad, index, mask, chosen, grad_neighbor):
    """Add each extreme's gradient to the neighbour it came from: ``grad_neighbor`` (B, N, C).

    Args:
        start, stop: groups of LANES channels, of all blocks counted through.
    """
    count, channels = grad.shape[1], grad.shape[2]
    groups = channels // LANES
    for group in range(start, stop):
        b, first = group // groups, group % groups * LANES
        for i in range(count):
            if mask[b, i]:
                for c in range(first, first + LANES):
                    grad_neighbor[b, index[b, i, chosen[b, i, c]], c] += grad[b, i, c]


@kernel()
def _moments_backward(
    start, stop, center, neighbor, index, mask, slope, offset, factor, grad_center, grad_neighbor, grad_slope
):
    """Add the gradient of the moments, (offset + factor * phi(e)) * phi'(e) per edge.

    Args:
        start, stop: groups of LANES channels, of all blocks counted through.
        offset, factor: (B, C). grad_center, grad_neighbor: (B, N, C) and grad_slope: (B, C),
            added to.
    """
    count, channels = center.shape[1], center.shape[2]
    k, groups = index.shape[2], channels // LANES
    own, values = center.reshape(-1), neighbor.reshape(-1)
    own_grads, grads = grad_center.reshape(-1), grad_neighbor.reshape(-1)
    nothing, one = splat(center.dtype.type(0)), splat(center.dtype.type(1))
    for group in range(start, stop):
        b, first = group // groups, group % groups * LANES
        s = load(slope, first)
        u, v = load(offset.reshape(-1), b * channels + first), load(factor.reshape(-1), b * channels + first)
        slope_grad = load(grad_slope.reshape(-1), b * channels + first)
        for i in range(count):
            if not mask[b, i]:
                continue
            at = (b * count + i) * channels + first
            mine, own_grad = load(own, at), nothing
            for n in range(k):
                other = (b * count + index[b, i, n]) * channels + first
                e = mine + load(values, other)
                steep = where_greater(e, nothing, one, s)
                g = u + v * (steep * e)
                slope_grad = slope_grad + where_greater(e, nothing, nothing, g * e)
                g = g * steep
                own_grad = own_grad + g
                store(grads, other, load(grads, other) + g)
            store(own_grads, at, load(own_grads, at) + own_grad)
        store(grad_slope.reshape(-1), b * channels + first, slope_grad)


def neighbor_extremum(x: Tensor, index: Tensor, mask: Tensor | None, sign: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`deepgcn_seg.ops.neighbor_max`; also the place (B, N, C) int16 of each extreme."""
    padded, sign = _padded(x, sign)
    extreme, chosen = torch.empty_like(padded), torch.empty(padded.shape, dtype=torch.int16)
    arrays = *_arrays(padded, index), present_points(x, mask), *_arrays(sign, extreme, chosen)
    run_sliced(_extremum, x.shape[0] * x.shape[1], *arrays)
    extreme, chosen = _cut(x, extreme, chosen)
    return extreme.to(x.dtype), chosen


def neighbor_extremum_backward(grad: Tensor, index: Tensor, mask: Tensor | None, chosen: Tensor) -> Tensor:
    """Gradient (B, N, C) of the features."""
    padded, places = _padded(grad, chosen)
    out = torch.zeros_like(padded)
    arrays = *_arrays(padded, index), present_points(grad, mask), *_arrays(places, out)
    run_sliced(_extremum_backward, _groups(padded), *arrays)
    return _cut(grad, out)[0].to(grad.dtype)


def edge_moments(
    center: Tensor, neighbor: Tensor, index: Tensor, slope: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, (B, C), of phi(center_i + neighbor_j) over the edges of each block.

    phi(e) = e for e > 0 and slope * e elsewhere; slope (C,).
    """
    *nodes, slope = _padded(center, neighbor, slope)
    batch, count, channels = nodes[0].shape
    mean, var = (nodes[0].new_empty(batch, channels) for _ in range(2))
    own, values, edges, slopes, means, variances = _arrays(*nodes, index, slope, mean, var)
    present, shift = present_points(center, mask), np.empty_like(slopes)
    _typical(own, values, slopes, shift)
    groups = -(-count // ROWS)
    total, square = np.empty((2, batch, groups, channels))
    run_sliced(_moments, batch * groups, own, values, edges, present, slopes, shift, total, square)
    _finish_moments(total, square, present, edges.shape[2], shift, means, variances)
    mean, var = _cut(center, mean, var)
    return mean, var


def edge_moments_backward(
    center: Tensor,
    neighbor: Tensor,
    index: Tensor,
    slope: Tensor,
    mask: Tensor | None,
    offset: Tensor,
    factor: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of center, neighbor and slope, given those of phi: offset + factor * phi, (B, C) each."""
    own, values, slopes = _padded(center, neighbor, slope)
    offset, factor = _padded(offset.to(own.dtype), factor.to(own.dtype))
    grads = torch.zeros_like(own), torch.zeros_like(values), torch.zeros_like(offset)
    arrays = *_arrays(own, values, index), present_points(center, mask), *_arrays(slopes, offset, factor, *grads)
    run_sliced(_moments_backward, _groups(own), *arrays)
    grad_center, grad_neighbor, grad_slope = _cut(center, *grads)
    return grad_center.to(center.dtype), grad_neighbor.to(neighbor.dtype), grad_slope.sum(0).to(slope.dtype)


def _padded(*tensors: Tensor) -> list[Tensor]:
    """Contiguous, half precision widened, with channels, the last dimension, filled up to whole vectors."""
    missing = -tensors[0].shape[-1] % LANES
    wide = (tensor.float() if tensor.dtype in HALVES else tensor for tensor in tensors)
    return [(F.pad(tensor, (0, missing)) if missing else tensor).contiguous() for tensor in wide]


def _cut(like: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Without what :func:`_padded` added."""
    channels = like.shape[-1]
    return tuple(t if t.shape[-1] == channels else t[..., :channels].contiguous() for t in tensors)


def _groups(x: Tensor) -> int:
    return x.shape[0] * x.shape[2] // LANES


def present_points(x: Tensor, mask: Tensor | None) -> np.ndarray:
    """The mask (B, N) of points present, all of them where none is given."""
    return np.ones(x.shape[:2], bool) if mask is None else mask.contiguous().numpy()


def _arrays(*tensors: Tensor) -> Iterator[np.ndarray]:
    return (tensor.detach().contiguous().numpy() for tensor in tensors)
