"""Aggregation over the edges of a graph on the CPU: the kernels behind :mod:`deepgcn_seg.ops.edges`.

An edge joins point i with its neighbour j = index[i, n], n < k. No array holds the features of edges; only the index
has an entry for each. An edge's value is computed where it is needed, from a register of a point's channels and one of
its neighbour's::

    for each point i:                                         forward: threads share the points
        for each LANES channels:
            for each of the k neighbours j:
                combine center[i] and neighbor[j], keep the largest, or sum up

    for each LANES channels:                                  backward: threads share the channels
        for each point i, and each of its k neighbours j:
            add the edge's gradient to those of i and of j

Backward adds to points j that other points share. As only one thread works on a channel of a block of points, no two
threads add to the same number, and each adds in the same order on any number of threads. That limits the threads: with
16 lanes, 64 channels are 4 vectors, so that one block of points keeps at most 4 threads busy, and two blocks 8. More
than two were not measured.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...kernel_cache import kernel
from .. import reference
from .arrays import as_arrays, present_points
from .simd import LANES, load, splat, store, where_greater, widened
from .threads import run_sliced

# Points in a part of a block. Moments are summed in float64 over each part, and then over the parts, so that the order
# of the sum does not depend on the number of threads. 4096 points make 16 parts, which keep up to 16 threads busy.
PART = 256


class Edges(NamedTuple):
    """The edges e_ij = center_i + neighbor_j of a batch, with the activation phi: e for e > 0, slope * e elsewhere."""

    # (B, N, C) each; C is a multiple of LANES.
    center: np.ndarray
    neighbor: np.ndarray
    # (B, N, k): the numbers j.
    indices: np.ndarray
    # (B, N) bool: points that are not present have no edges.
    present: np.ndarray
    # (C,).
    slope: np.ndarray


@kernel()
def _extremum(start, stop, neighbor, index, present, sign, extreme, place):
    """Write the largest (sign > 0) or smallest value among the neighbours of each point, by channel, and its place.

    Args:
        start, stop: points, counted through all blocks.
        neighbor: (B, N, C). index: (B, N, k). present: (B, N) bool. sign: (C,) of +1 or -1.
        extreme: (B, N, C), written. place: (B, N, C) int16, 0..k-1, written. Zero for points that are not present.
    """
    count, channels = neighbor.shape[1], neighbor.shape[2]
    k = index.shape[2]
    # `load` and `store` need flat arrays, and the index of a vector's first number.
    values, extremes, places = neighbor.reshape(-1), extreme.reshape(-1), place.reshape(-1)
    for point in range(start, stop):
        b, i = point // count, point % count
        if not present[b, i]:
            extreme[b, i] = 0
            place[b, i] = 0
            continue
        for n in range(k):
            if not 0 <= index[b, i, n] < count:
                raise IndexError("index: a neighbour is not one of the block's points, 0 to N - 1")
        for first in range(0, channels, LANES):
            # The smallest value is found as the largest of the negated ones.
            signs = load(sign, first)
            best = signs * load(values, (b * count + index[b, i, 0]) * channels + first)
            at = splat(np.int16(0))
            for n in range(1, k):
                value = signs * load(values, (b * count + index[b, i, n]) * channels + first)
                # Of equal values the first stays.
                at = where_greater(value, best, splat(np.int16(n)), at)
                best = where_greater(value, best, value, best)
            store(extremes, point * channels + first, best * signs)
            store(places, point * channels + first, at)


@kernel()
def _extremum_backward(start, stop, grad, index, present, place, grad_neighbor):
    """Add each extreme's gradient to that of the neighbour it came from.

    Args:
        start, stop: vectors of LANES channels, counted through all blocks.
        grad: (B, N, C). place: of :func:`_extremum`. grad_neighbor: (B, N, C), added to.
    """
    count, channels = grad.shape[1], grad.shape[2]
    vectors = channels // LANES
    for vector in range(start, stop):
        b, first = vector // vectors, vector % vectors * LANES
        for i in range(count):
            if present[b, i]:
                # Each channel of a point may have its extreme from another neighbour, so vectors do not help here.
                for c in range(first, first + LANES):
                    grad_neighbor[b, index[b, i, place[b, i, c]], c] += grad[b, i, c]


@kernel()
def _moments(start, stop, edges, shift, total, square):
    """Write the sums of phi(e) - shift, and of its square, over the edges of :data:`PART` points each.

    The edges of one point are summed up in the points' type, and those of several points in float64.

    Args:
        start, stop: parts of PART points, counted through all blocks.
        shift: (B, C), near the mean of phi(e): sums of squares far from zero would lose digits.
        total, square: (B, parts, C) float64, written.
    """
    count, channels = edges.center.shape[1], edges.center.shape[2]
    k, parts = edges.indices.shape[2], total.shape[1]
    centers, values = edges.center.reshape(-1), edges.neighbor.reshape(-1)
    totals, squares, shifts_of_blocks = total.reshape(-1), square.reshape(-1), shift.reshape(-1)
    zero = splat(edges.center.dtype.type(0))
    for part in range(start, stop):
        b, row = part // parts, part % parts * PART
        for first in range(0, channels, LANES):
            slope, shifts = load(edges.slope, first), load(shifts_of_blocks, b * channels + first)
            all_sum, all_square = widened(zero), widened(zero)
            for i in range(row, min(row + PART, count)):
                if not edges.present[b, i]:
                    continue
                center = load(centers, (b * count + i) * channels + first)
                row_sum, row_square = zero, zero
                for n in range(k):
                    e = center + load(values, (b * count + edges.indices[b, i, n]) * channels + first)
                    phi = where_greater(e, zero, e, slope * e) - shifts
                    row_sum = row_sum + phi
                    row_square = row_square + phi * phi
                # A sum of k numbers of similar size keeps its digits in float32. A sum over all points would not.
                all_sum = all_sum + widened(row_sum)
                all_square = all_square + widened(row_square)
            store(totals, part * channels + first, all_sum)
            store(squares, part * channels + first, all_square)


@kernel()
def _moments_backward(start, stop, edges, offset, factor, grad_center, grad_neighbor, grad_slope):
    """Add the gradients of center, neighbor and slope, given that of phi(e): offset + factor * phi(e).

    Args:
        start, stop: vectors of LANES channels, counted through all blocks.
        offset, factor: (B, C). grad_center, grad_neighbor: (B, N, C), and grad_slope: (B, C), added to.
    """
    count, channels = edges.center.shape[1], edges.center.shape[2]
    k, vectors = edges.indices.shape[2], channels // LANES
    centers, values = edges.center.reshape(-1), edges.neighbor.reshape(-1)
    center_grads, grads = grad_center.reshape(-1), grad_neighbor.reshape(-1)
    zero, one = splat(edges.center.dtype.type(0)), splat(edges.center.dtype.type(1))
    for vector in range(start, stop):
        b, first = vector // vectors, vector % vectors * LANES
        slope = load(edges.slope, first)
        offsets = load(offset.reshape(-1), b * channels + first)
        factors = load(factor.reshape(-1), b * channels + first)
        slope_grad = load(grad_slope.reshape(-1), b * channels + first)
        for i in range(count):
            if not edges.present[b, i]:
                continue
            at = (b * count + i) * channels + first
            center, center_grad = load(centers, at), zero
            for n in range(k):
                other = (b * count + edges.indices[b, i, n]) * channels + first
                e = center + load(values, other)
                # phi(e) = steepness * e, and phi'(e) = steepness.
                steepness = where_greater(e, zero, one, slope)
                phi_grad = offsets + factors * (steepness * e)
                slope_grad = slope_grad + where_greater(e, zero, zero, phi_grad * e)
                e_grad = phi_grad * steepness
                center_grad = center_grad + e_grad
                store(grads, other, load(grads, other) + e_grad)
            store(center_grads, at, load(center_grads, at) + center_grad)
        store(grad_slope.reshape(-1), b * channels + first, slope_grad)


def neighbor_extremum(x: Tensor, index: Tensor, mask: Tensor | None, sign: Tensor) -> tuple[Tensor, Tensor]:
    """Return what :func:`deepgcn_seg.ops.neighbor_max` does, and the place (B, N, C) int16 of each extreme."""
    padded, sign = _padded(x, sign)
    extreme, place = torch.empty_like(padded), torch.empty_like(padded, dtype=torch.int16)
    arrays = *as_arrays(padded, index), present_points(x, mask), *as_arrays(sign, extreme, place)
    run_sliced(_extremum, x.shape[0] * x.shape[1], index.numel() * padded.shape[2], *arrays)
    return _without_padding(x, extreme.to(x.dtype), place)


def neighbor_extremum_backward(grad: Tensor, index: Tensor, mask: Tensor | None, place: Tensor) -> Tensor:
    """Return the gradient (B, N, C) of the features, given that of the extremes and their places."""
    padded, places = _padded(grad, place)
    out = torch.zeros_like(padded)
    arrays = *as_arrays(padded, index), present_points(grad, mask), *as_arrays(places, out)
    # The kernel adds single numbers, not vectors, which takes about LANES times as long.
    run_sliced(_extremum_backward, _channel_vectors(padded), LANES * padded.numel(), *arrays)
    return _without_padding(grad, out)[0].to(grad.dtype)


def edge_moments(
    center: Tensor, neighbor: Tensor, index: Tensor, slope: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance, (B, C), of phi(center_i + neighbor_j) over the edges of each block.

    phi(e) = e for e > 0 and slope * e elsewhere; slope (C,).
    """
    padded_center, padded_neighbor, padded_slope = _padded(center, neighbor, slope)
    edges = _edges(padded_center, padded_neighbor, index, padded_slope, mask)
    batch, count, channels = padded_center.shape
    shift = reference.typical_activation(padded_center, padded_neighbor, padded_slope, mask)
    total, square = shift.new_empty(2, batch, -(-count // PART), channels, dtype=torch.float64)
    steps = index.numel() * channels
    run_sliced(_moments, batch * total.shape[1], steps, edges, *as_arrays(shift, total, square))
    mean, var = reference.moments_of_sums(total, square, shift, index, mask)
    return _without_padding(center, mean, var)


def edge_moments_backward(
    center: Tensor, neighbor: Tensor, index: Tensor, slope: Tensor, mask: Tensor | None, offset: Tensor, factor: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of center, neighbor and slope, given that of phi: offset + factor * phi, (B, C) each."""
    padded = _padded(center, neighbor, slope)
    edges = _edges(padded[0], padded[1], index, padded[2], mask)
    offset, factor = _padded(offset.to(padded[0].dtype), factor.to(padded[0].dtype))
    # Threads work on different blocks, so each block has a gradient of the slope of its own; they are added up below.
    grads = torch.zeros_like(padded[0]), torch.zeros_like(padded[1]), torch.zeros_like(offset)
    steps = index.numel() * padded[0].shape[2]
    run_sliced(_moments_backward, _channel_vectors(padded[0]), steps, edges, *as_arrays(offset, factor, *grads))
    grad_center, grad_neighbor, grad_slope = _without_padding(center, *grads)
    return grad_center.to(center.dtype), grad_neighbor.to(neighbor.dtype), grad_slope.sum(0).to(slope.dtype)


def _edges(center: Tensor, neighbor: Tensor, index: Tensor, slope: Tensor, mask: Tensor | None) -> Edges:
    centers, values, numbers, slopes = as_arrays(center, neighbor, index, slope)
    return Edges(centers, values, numbers, present_points(center, mask), slopes)


def _padded(*tensors: Tensor) -> list[Tensor]:
    """Return contiguous tensors whose channels, the last dimension, fill whole vectors; half precision as float32."""
    missing = -tensors[0].shape[-1] % LANES
    wide = (tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor for tensor in tensors)
    return [(F.pad(tensor, (0, missing)) if missing else tensor).contiguous() for tensor in wide]


def _without_padding(like: Tensor, *tensors: Tensor) -> Any:
    """Return tensors with as many channels as ``like``: without those that :func:`_padded` added."""
    channels = like.shape[-1]
    return tuple(t if t.shape[-1] == channels else t[..., :channels].contiguous() for t in tensors)


def _channel_vectors(x: Tensor) -> int:
    """Return the number of vectors of LANES channels in all blocks."""
    return x.shape[0] * x.shape[2] // LANES
