"""The plain formulation of rank selection behind :func:`deepgcn_seg.ops.nearest_ranks`."""

from torch import Tensor

from .cpu.threads import run_in_order
from .distance_rows import search_rows

# Distances held at a time (entries of a row tile): 16 MiB in float32.
TILE_ENTRIES = 1 << 22


def search(points: Tensor, mask: Tensor | None, ranks: Tensor, loop: bool, out: Tensor) -> None:
    """See :func:`.distance_rows.search_rows`."""
    search_rows(points, mask, ranks, loop, out, select_ranks, TILE_ENTRIES, run_in_order)


def select_ranks(distances: Tensor, ranks: Tensor, out: Tensor) -> None:
    """``out[r] = argsort(distances[r])[ranks]``, ties in any order.

    Args:
        distances: (R, N); ``inf`` where a point may not be chosen. ranks: (m,) ascending. out: (R, m) int64, written.
    """
    nearest = distances.topk(int(ranks[-1]) + 1, largest=False, sorted=True).indices
    out.copy_(nearest[:, ranks.to(nearest.device)])
