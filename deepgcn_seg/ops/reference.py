"""The plain PyTorch formulation of every operation.

It says what the operations compute: the compiled kernels of ``cpu/`` and ``gpu/`` are tested against it. It runs where
they cannot, and where backward passes must be deterministic on a GPU. Its edge aggregation makes tensors of all edges,
(B, N, k, C), as the official code does.
"""

import torch
from torch import Tensor

# The most distances held at a time (16 MiB in float32), so that memory does not grow with the square of the points.
TILE_ENTRIES = 1 << 22
# The fewest queries of a tile, however many points there are: a matrix product with fewer rows is slow.
LEAST_QUERIES = 32

# -- neighbour search -------------------------------------------------------------------------


def search(points: Tensor, mask: Tensor | None, ranks: Tensor, loop: bool, out: Tensor) -> None:
    """Write the points at the given ranks of distance from each point; ties are broken in any order.

    Args:
        points: (B, N, C). mask: (B, N) bool, False where a point may not be a neighbour.
        ranks: (m,) ascending, each below the number of points that may be neighbours.
        loop: whether a point may be its own neighbour. out: (B, N, m) int64, written.
    """
    batch, count, _ = points.shape
    points = centred(points, mask)
    norms = points.square().sum(-1)
    if mask is not None:
        norms = norms.masked_fill(~mask, torch.inf)
    queries = min(count, max(LEAST_QUERIES, TILE_ENTRIES // count))
    furthest = int(ranks[-1]) + 1
    for block in range(batch):
        for first in range(0, count, queries):
            rows = points[block, first : first + queries]
            # |x - y|^2 less |x|^2, which all points y share that a query x is compared with.
            distances = torch.addmm(norms[block], rows, points[block].t(), alpha=-2)
            if not loop:
                distances.diagonal(first).fill_(torch.inf)
            nearest = distances.topk(furthest, largest=False, sorted=True).indices
            out[block, first : first + queries] = nearest[:, ranks.to(nearest.device)]


def centred(points: Tensor, mask: Tensor | None) -> Tensor:
    """Return points with their mean at the origin: ``|y|^2 - 2 x.y`` loses its digits far from it."""
    points = points - mean_of_present(points, mask)[:, None]
    return points if mask is None else torch.where(mask[:, :, None], points, 0)


def mean_of_present(points: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean (B, C) of the points (B, N, C) that are present; absent ones may hold anything."""
    if mask is None:
        return points.mean(1)
    return torch.where(mask[:, :, None], points, 0).sum(1) / mask.sum(1, keepdim=True)


# -- edge aggregation -------------------------------------------------------------------------


def gather_neighbors(x: Tensor, index: Tensor) -> Tensor:
    """Return the neighbours' features: x (B, N, C), index (B, M, k) of M points' neighbours -> (B, M, k, C).

    Raises:
        ValueError: x and index are not of as many blocks; ``Tensor.gather`` would leave blocks out without a word.
    """
    if x.shape[0] != index.shape[0]:
        raise ValueError(f"index: neighbours in {index.shape[0]} blocks, but the features are of {x.shape[0]}")
    return x.gather(1, _rows(index, x.shape[-1])).view(*index.shape, x.shape[-1])


def _rows(index: Tensor, channels: int) -> Tensor:
    """Return an index (B, N, k) as rows (B, N k, channels), for ``gather`` and ``scatter``."""
    return index.flatten(1)[:, :, None].expand(-1, -1, channels)


def neighbor_extremum(x: Tensor, index: Tensor, mask: Tensor | None, sign: Tensor) -> tuple[Tensor, Tensor]:
    """Return what :func:`deepgcn_seg.ops.neighbor_max` does, and the extreme's place 0..k-1 as int16; (B, N, C)."""
    signed, place = (gather_neighbors(x, index) * sign).max(2)
    extreme = signed * sign
    if mask is not None:
        extreme = torch.where(mask[:, :, None], extreme, 0)
    return extreme, place.to(torch.int16)


def neighbor_extremum_backward(grad: Tensor, index: Tensor, mask: Tensor | None, place: Tensor) -> Tensor:
    """Return the gradient (B, N, C) of the features: each extreme's goes to the neighbour that gave it."""
    if mask is not None:
        grad = torch.where(mask[:, :, None], grad, 0)
    return grad.new_zeros(grad.shape).scatter_add_(1, index.gather(2, place.long()), grad)


def edge_moments(
    center: Tensor, neighbor: Tensor, index: Tensor, slope: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance, (B, C), of phi(center_i + neighbor_j) over the edges of each block of points.

    phi(e) = e where e > 0, and slope * e elsewhere; slope (C,).
    """
    edge = center[:, :, None] + gather_neighbors(neighbor, index)
    value = torch.where(edge > 0, edge, slope * edge).to(torch.promote_types(center.dtype, torch.float32))
    if mask is None:
        var, mean = torch.var_mean(value, (1, 2), correction=0)
        return mean, var
    weight = mask[:, :, None, None].to(value.dtype) / (mask.sum(1) * index.shape[2])[:, None, None, None]
    mean = (value * weight).sum((1, 2))
    return mean, ((value - mean[:, None, None]).square() * weight).sum((1, 2))


def edge_moments_backward(
    center: Tensor, neighbor: Tensor, index: Tensor, slope: Tensor, mask: Tensor | None, offset: Tensor, factor: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of center, neighbor and slope, given those of phi: offset + factor * phi, both (B, C)."""
    offset, factor = offset.to(center.dtype), factor.to(center.dtype)
    edge = center[:, :, None] + gather_neighbors(neighbor, index)
    steepness = torch.where(edge > 0, torch.ones_like(slope), slope)
    grad = offset[:, None, None] + factor[:, None, None] * (steepness * edge)
    if mask is not None:
        grad = torch.where(mask[:, :, None, None], grad, 0)
    grad_slope = torch.where(edge > 0, 0, grad * edge).sum((0, 1, 2))
    grad = grad * steepness
    rows = _rows(index, center.shape[-1])
    grad_neighbor = neighbor.new_zeros(neighbor.shape).scatter_add_(1, rows, grad.flatten(1, 2))
    return grad.sum(2), grad_neighbor, grad_slope


# -- what the kernels of both devices have in common ----------------------------------------------


def typical_activation(center: Tensor, neighbor: Tensor, slope: Tensor, mask: Tensor | None) -> Tensor:
    """Return phi of the mean of center and neighbor over the points of each block, (B, C): near the mean of phi.

    Kernels sum up phi less this value and its square. Otherwise the variance would lose digits if the mean is far
    from 0.
    """
    typical = mean_of_present(center, mask) + mean_of_present(neighbor, mask)
    return torch.where(typical > 0, typical, slope * typical)


def moments_of_sums(
    sums: Tensor, squares: Tensor, shift: Tensor, index: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance (B, C), in the type of shift, from sums over the edges of some points each.

    Args:
        sums, squares: (B, parts, C), of phi - shift, and of its square. shift: (B, C).
        index: (B, N, k). mask: (B, N) or None. A block without points gets NaN.
    """
    edges = index.shape[2] * (index.shape[1] if mask is None else mask.sum(1, keepdim=True))
    mean = sums.double().sum(1) / edges
    var = squares.double().sum(1) / edges - mean.square()
    # Rounding can leave a variance of almost zero below zero.
    return (mean + shift).to(shift.dtype), var.clamp(min=0).to(shift.dtype)
