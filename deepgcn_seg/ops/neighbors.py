"""Neighbour selection: the k-NN graph, dilated, regular or stochastic, as ranks.

A k-NN graph keeps ranks 0..k-1 of the points ordered by distance; a dilated one 0, d, 2d, ...,
(k-1)d (DeepGCNs, section 3.3); a stochastic one k random ranks below k*d. All are the same
question, "who has these ranks", and none needs the distances sorted or stored whole.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

from . import reference as neighbor_torch
from .backend import cluster_available, kernels
from .calls import operation

# From this many points in three dimensions torch-cluster's search tree beats all distances.
TREE_POINTS = 8192
# torch-cluster's CUDA search takes no more neighbours.
TREE_NEIGHBORS = 100

log = logging.getLogger(__name__)


def nearest_ranks(points: Tensor, ranks: Tensor, mask: Tensor | None = None, loop: bool = True) -> Tensor:
    """For each point, the points at the given ranks of distance from it.

    Distances are squared Euclidean, of centred coordinates, in float32 at least (float64 for
    float64 points), whatever autocast or matmul precision is set. Ties break towards the smaller index under the
    compiled backends and arbitrarily under PyTorch's ``topk``. No gradient flows.

    Args:
        points: (B, N, C) coordinates or features.
        ranks: (k,) integers; 0 is the nearest. Order is kept in the result.
        mask: (B, N) bool, False where a point is absent. An absent point is nobody's neighbour.
        loop: whether a point counts itself, at rank 0 but for ties.

    Returns:
        (B, N, k) int64 indices into 0..N-1. Rows of absent points hold the point itself.

    Raises:
        ValueError: a block has fewer points than the largest rank asks for.
    """
    return _nearest_ranks(points.detach(), ranks, mask, loop)


@operation
def _nearest_ranks(points: Tensor, ranks: Tensor, mask: Tensor | None, loop: bool) -> Tensor:
    ranks = ranks.cpu()
    wanted = ranks.tolist()
    _require_enough(points, max(wanted), mask, loop)
    ascending = wanted == sorted(wanted)
    with _full_precision(points.device.type):
        if points.dtype not in (torch.float32, torch.float64):
            points = points.float()
        if _suits_tree(points, max(wanted), mask, loop) and cluster_available():
            return _search_tree(points, ranks)
        out = torch.empty(*points.shape[:2], len(ranks), dtype=torch.int64, device=points.device)
        _kernel(points).search(points, mask, ranks if ascending else ranks.sort().values, loop, out)
        if not ascending:
            out = out[:, :, ranks.argsort().argsort().to(out.device)]
        if mask is not None:
            itself = torch.arange(points.shape[1], device=out.device)[None, :, None]
            out = torch.where(mask[:, :, None], out, itself)
        return out


@_nearest_ranks.register_fake
def _(points, ranks, mask, loop):
    return points.new_empty(*points.shape[:2], ranks.shape[0], dtype=torch.int64)


def _kernel(points: Tensor) -> ModuleType:
    """What searches these points."""
    compiled = kernels("neighbor", points)
    if compiled is None:
        return neighbor_torch
    if not compiled.suits(points):
        _log_unsuited(points.shape[1], str(points.dtype))
        return neighbor_torch
    return compiled


@lru_cache(maxsize=8)
def _log_unsuited(count: int, dtype: str) -> None:
    log.info("no compiled kernel selects neighbours among %d points in %s: using PyTorch's topk", count, dtype)


@contextmanager
def _full_precision(device: str) -> Iterator[None]:
    """Products of float32 matrices in float32: autocast, TF32 or bfloat16 would move ranks."""
    before = torch.get_float32_matmul_precision()
    if before == "highest" and not torch.is_autocast_enabled(device):
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _require_enough(points: Tensor, furthest: int, mask: Tensor | None, loop: bool) -> None:
    available = points.shape[1] if mask is None else int(mask.sum(1).min())
    if furthest >= available - (not loop):
        raise ValueError(
            f"neighbour rank {furthest} was asked for, but a block has only {available} points"
            f"{'' if loop else ', itself excluded'}: use more points, a smaller k or a smaller dilation"
        )


def _suits_tree(points: Tensor, furthest: int, mask: Tensor | None, loop: bool) -> bool:
    large = points.shape[-1] == 3 and points.shape[1] >= TREE_POINTS
    return large and mask is None and loop and furthest < TREE_NEIGHBORS


def _search_tree(points: Tensor, ranks: Tensor) -> Tensor:
    """Neighbours of points in three dimensions by torch-cluster, in time N log N."""
    import torch_cluster

    batch, count, _ = points.shape
    wanted = int(ranks.max()) + 1
    flat = points.reshape(batch * count, 3).contiguous()
    block = torch.arange(batch, device=points.device).repeat_interleave(count)
    _, found = torch_cluster.knn(flat, flat, wanted, block, block)
    first = torch.arange(batch, device=points.device)[:, None, None] * count
    return (found.view(batch, count, wanted) - first)[:, :, ranks.to(points.device)]
