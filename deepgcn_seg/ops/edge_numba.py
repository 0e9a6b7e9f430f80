"""CPU kernels (numba) behind :mod:`deepgcn_seg.ops.edges`.

Work is split by (block, group of channels): each task owns its channels of every array it
writes, so scatters need no locks and results do not depend on the number of threads. Edges are
visited row by row; no edge-sized array exists.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from .threads import run_sliced

CHANNELS = 32


@njit(nogil=True, cache=True)
def _task(task, channels):
    groups = (channels + CHANNELS - 1) // CHANNELS
    first = (task % groups) * CHANNELS
    return task // groups, first, min(first + CHANNELS, channels)


@njit(nogil=True, cache=True)
def _extremum(start, stop, neighbor, index, mask, sign, extreme, chosen):
    """Per channel the largest (sign > 0) or smallest neighbour value, and which it was.

    Args:
        neighbor: (B, N, C). index: (B, N, k). mask: (B, N) bool. sign: (C,) of +1 or -1.
        extreme: (B, N, C), written. chosen: (B, N, C) int16, the place 0..k-1, written.
    """
    count, channels = neighbor.shape[1], neighbor.shape[2]
    k = index.shape[2]
    best = np.empty(CHANNELS, neighbor.dtype)
    place = np.empty(CHANNELS, np.int16)
    for task in range(start, stop):
        b, first, last = _task(task, channels)
        width = last - first
        s = sign[first:last]
        for i in range(count):
            if not mask[b, i]:
                extreme[b, i, first:last] = 0
                chosen[b, i, first:last] = 0
                continue
            row = neighbor[b, index[b, i, 0], first:last]
            for c in range(width):
                best[c] = row[c] * s[c]
                place[c] = 0
            for n in range(1, k):
                row = neighbor[b, index[b, i, n], first:last]
                for c in range(width):
                    value = row[c] * s[c]
                    better = value > best[c]
                    best[c] = value if better else best[c]
                    place[c] = np.int16(n) if better else place[c]
            for c in range(width):
                extreme[b, i, first + c] = best[c] * s[c]
                chosen[b, i, first + c] = place[c]


@njit(nogil=True, cache=True)
def _moments(start, stop, center, neighbor, index, mask, slope, shift, mean, var):
    """Mean and biased variance over a block's edges of phi(center_i + neighbor_j).

    phi(e) = e where e > 0, slope * e elsewhere. Sums run on phi - shift, in float64 from row to
    row, so that a mean far from zero costs no digits.

    Args:
        center, neighbor: (B, N, C). slope, shift: (C,). mean, var: (B, C) float64, written.
    """
    count, channels = center.shape[1], center.shape[2]
    k = index.shape[2]
    row_sum = np.empty(CHANNELS, center.dtype)
    row_square = np.empty(CHANNELS, center.dtype)
    total = np.empty(CHANNELS, np.float64)
    square = np.empty(CHANNELS, np.float64)
    for task in range(start, stop):
        b, first, last = _task(task, channels)
        width = last - first
        s = slope[first:last]
        h = shift[first:last]
        total[:] = 0
        square[:] = 0
        edges = 0
        for i in range(count):
            if not mask[b, i]:
                continue
            edges += k
            own = center[b, i, first:last]
            row_sum[:] = 0
            row_square[:] = 0
            for n in range(k):
                row = neighbor[b, index[b, i, n], first:last]
                for c in range(width):
                    e = own[c] + row[c]
                    f = (e if e > 0 else s[c] * e) - h[c]
                    row_sum[c] += f
                    row_square[c] += f * f
            for c in range(width):
                total[c] += row_sum[c]
                square[c] += row_square[c]
        for c in range(width):
            m = total[c] / edges
            mean[b, first + c] = m + h[c]
            var[b, first + c] = max(square[c] / edges - m * m, 0.0)


@njit(nogil=True, cache=True)
def _extremum_backward(start, stop, grad, index, mask, chosen, grad_neighbor):
    """Add each extreme's gradient to the neighbour it came from: ``grad_neighbor`` (B, N, C)."""
    count, channels = grad.shape[1], grad.shape[2]
    for task in range(start, stop):
        b, first, last = _task(task, channels)
        for i in range(count):
            if mask[b, i]:
                for c in range(first, last):
                    grad_neighbor[b, index[b, i, chosen[b, i, c]], c] += grad[b, i, c]


@njit(nogil=True, cache=True)
def _moments_backward(
    start, stop, center, neighbor, index, mask, slope, offset, factor, grad_center, grad_neighbor, grad_slope
):
    """Add the gradient of the moments, (offset + factor * phi(e)) * phi'(e) per edge.

    Args:
        offset, factor: (B, C). grad_center, grad_neighbor: (B, N, C) and grad_slope: (B, C),
            added to.
    """
    count, channels = center.shape[1], center.shape[2]
    k = index.shape[2]
    own_grad = np.empty(CHANNELS, center.dtype)
    row_slope = np.empty(CHANNELS, center.dtype)
    for task in range(start, stop):
        b, first, last = _task(task, channels)
        width = last - first
        s = slope[first:last]
        u = offset[b, first:last]
        v = factor[b, first:last]
        for i in range(count):
            if not mask[b, i]:
                continue
            own = center[b, i, first:last]
            own_grad[:] = 0
            row_slope[:] = 0
            for n in range(k):
                j = index[b, i, n]
                row = neighbor[b, j, first:last]
                target = grad_neighbor[b, j, first:last]
                for c in range(width):
                    e = own[c] + row[c]
                    steep = 1 if e > 0 else s[c]
                    g = u[c] + v[c] * (steep * e)
                    row_slope[c] += 0 if e > 0 else g * e
                    g = g * steep
                    own_grad[c] += g
                    target[c] += g
            for c in range(width):
                grad_center[b, i, first + c] += own_grad[c]
                grad_slope[b, first + c] += row_slope[c]


def neighbor_extremum(x: Tensor, index: Tensor, mask: Tensor | None, sign: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`deepgcn_seg.ops.neighbor_max`; also the place (B, N, C) int16 of each extreme."""
    x = x.contiguous()
    extreme = torch.empty_like(x)
    chosen = torch.empty(x.shape, dtype=torch.int16)
    run_sliced(_extremum, _tasks(x), *_arrays(x, index, _present(x, mask), sign, extreme, chosen))
    return extreme, chosen


def neighbor_extremum_backward(grad: Tensor, index: Tensor, mask: Tensor | None, chosen: Tensor) -> Tensor:
    """Gradient (B, N, C) of the features."""
    grad = grad.contiguous()
    out = torch.zeros_like(grad)
    run_sliced(_extremum_backward, _tasks(grad), *_arrays(grad, index, _present(grad, mask), chosen, out))
    return out


def edge_moments(
    center: Tensor, neighbor: Tensor, index: Tensor, slope: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See :func:`deepgcn_seg.ops.edge_moments`."""
    center, neighbor = center.contiguous(), neighbor.contiguous()
    typical = center.mean((0, 1)) + neighbor.mean((0, 1))
    shift = torch.where(typical > 0, typical, slope * typical)
    mean = torch.empty(center.shape[0], center.shape[2], dtype=torch.float64)
    var = torch.empty_like(mean)
    present = _present(center, mask)
    run_sliced(_moments, _tasks(center), *_arrays(center, neighbor, index, present, slope, shift, mean, var))
    return mean.to(center.dtype), var.to(center.dtype)


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
    center, neighbor = center.contiguous(), neighbor.contiguous()
    offset, factor = offset.to(center.dtype), factor.to(center.dtype)
    grads = torch.zeros_like(center), torch.zeros_like(neighbor), torch.zeros_like(offset)
    arrays = _arrays(center, neighbor, index, _present(center, mask), slope, offset, factor, *grads)
    run_sliced(_moments_backward, _tasks(center), *arrays)
    return grads[0], grads[1], grads[2].sum(0)


def _tasks(x: Tensor) -> int:
    return x.shape[0] * -(-x.shape[2] // CHANNELS)


def _present(x: Tensor, mask: Tensor | None) -> Tensor:
    return torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask


def _arrays(*tensors: Tensor):
    return (tensor.detach().contiguous().numpy() for tensor in tensors)
