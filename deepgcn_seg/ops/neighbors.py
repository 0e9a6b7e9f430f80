"""Neighbour search: the k-NN graph of points, dilated or not, regular or stochastic.

A k-NN graph takes the points at ranks 0 .. k-1 of distance; a dilated one those at 0, d, 2d, ..., (k-1)d (DeepGCNs,
"Dilated Aggregation in GCNs"); a stochastic one k random ranks below k*d. All three ask one question: which points have
these ranks? To answer it, not all distances need be stored or sorted.
"""

from contextlib import nullcontext

import torch
from torch import Tensor

from ..precision import full_products
from .backends import search_for
from .calls import operation


def nearest_ranks(points: Tensor, ranks: Tensor, mask: Tensor | None = None, loop: bool = True) -> Tensor:
    """Return, for each point, the points at the given ranks of distance from it.

    Distances are squared Euclidean, in float32 at least (float64 for float64 points), whatever autocast or matmul
    precision is set. Searches by products of coordinates, all but the tree's, centre these first. The compiled backends
    break ties towards the smaller index; PyTorch's ``topk`` and torch-cluster's tree, which ``auto`` takes for large
    three-dimensional clouds, break them arbitrarily. No gradient flows.

    Args:
        points: (B, N, C) coordinates or features.
        ranks: (k,) integers; 0 is the nearest. Their order is kept in the result.
        mask: (B, N) bool, False where a point is absent. An absent point is never a neighbour.
        loop: whether a point is its own neighbour. It then has rank 0, unless another point is as near.

    Returns:
        (B, N, k) int64 indices into 0..N-1. Rows of absent points hold the point itself.

    Raises:
        ValueError: the ranks are no integers from 0 up, or a block of points has fewer than the largest asks for.
    """
    return _nearest_ranks(points.detach(), ranks, mask, loop)


@operation
def _nearest_ranks(points: Tensor, ranks: Tensor, mask: Tensor | None, loop: bool) -> Tensor:
    ranks = ranks.cpu()
    if ranks.dim() != 1 or not len(ranks) or ranks.dtype.is_floating_point or ranks.dtype == torch.bool:
        raise ValueError(f"ranks: {tuple(ranks.shape)} of {ranks.dtype}; must be integers, (k,) with k at least 1")
    ascending, position = ranks.sort()
    if (nearest := int(ascending[0])) < 0:
        raise ValueError(f"ranks: {nearest} is below 0, the rank of the nearest point")
    furthest = int(ascending[-1])
    _require_enough(points, furthest, mask, loop)
    device = points.device.type
    autocast = torch.is_autocast_enabled(device)
    # Autocast, TF32 or bfloat16 would change ranks.
    with full_products(), torch.autocast(device, enabled=False) if autocast else nullcontext():
        if points.dtype not in (torch.float32, torch.float64):
            points = points.float()
        out = torch.empty(*points.shape[:2], len(ranks), dtype=torch.int64, device=points.device)
        search_for(points, mask, furthest, loop)(points, mask, ascending, loop, out)
        if not torch.equal(ascending, ranks):
            out = out[:, :, position.argsort().to(out.device)]
        if mask is not None:
            itself = torch.arange(points.shape[1], device=out.device)[None, :, None]
            out = torch.where(mask[:, :, None], out, itself)
        return out


@_nearest_ranks.register_fake
def _(points, ranks, mask, loop):
    return points.new_empty(*points.shape[:2], ranks.shape[0], dtype=torch.int64)


def _require_enough(points: Tensor, furthest: int, mask: Tensor | None, loop: bool) -> None:
    available = points.shape[1] if mask is None else int(mask.sum(1).min())
    if furthest >= available - (not loop):
        raise ValueError(
            f"neighbour rank {furthest} was asked for, but a block has only {available} points"
            f"{'' if loop else ', itself excluded'}: use more points, a smaller k or a smaller dilation"
        )
