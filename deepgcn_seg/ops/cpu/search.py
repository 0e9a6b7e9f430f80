"""CPU kernels (numba) behind :func:`deepgcn_seg.ops.nearest_ranks`.

With AVX-512 or AVX2 and in float32 the search is :mod:`.lists`. Elsewhere rows of distances are products of
matrices, and each is searched in three passes: a threshold from a sample of the row, one branch-free pass that keeps
the candidates at or below it, and the wanted ranks among these (:mod:`.ranks`).
"""

import numpy as np
from torch import Tensor

from ...kernel_cache import kernel
from ..distance_rows import search_rows
from . import lists
from .edges import present_points
from .ranks import SAMPLE, select, threshold_of, workspace
from .simd import LANES
from .threads import run_each

# Distances a thread holds at a time (entries of a row tile): 2 MiB in float32, so
# that a tile is searched while it is in that core's cache.
TILE_ENTRIES = 1 << 19


def search(points: Tensor, mask: Tensor | None, ranks: Tensor, loop: bool, out: Tensor) -> None:
    """See :func:`.distance_rows.search_rows`."""
    if lists.suits(points):
        lists.search(points.contiguous(), present_points(points, mask), ranks, loop, out)
    else:
        search_rows(points, mask, ranks, loop, out, select_ranks, TILE_ENTRIES, run_each)


def suits(points: Tensor) -> bool:
    """Whether the kernels take so many points of their type: any."""
    return True


def select_ranks(distances: Tensor, ranks: Tensor, out: Tensor) -> None:
    """``out[r] = argsort(distances[r], stable)[ranks]``.

    Args:
        distances: (R, N); ``inf`` where a point may not be chosen. ranks: (m,) ascending. out: (R, m) int64, written.
    """
    _select_ranks(distances.numpy(), ranks.numpy(), out.numpy())


@kernel()
def _select_ranks(distances, ranks, out):
    rows, count = distances.shape
    space = workspace(count, distances)
    wanted = ranks[-1] + 1
    # Absent points are at infinity: they must neither be kept nor stretch the bins.
    largest = np.finfo(distances.dtype).max
    keys = np.empty(count + LANES, distances.dtype)
    columns = np.empty(count + LANES, np.uint32)
    sample = np.empty(SAMPLE + LANES, distances.dtype)
    for r in range(rows):
        kept = 0
        if count >= 4 * SAMPLE:
            for s in range(SAMPLE):
                sample[s] = distances[r, s * (count // SAMPLE)]
            threshold = min(threshold_of(sample, SAMPLE, wanted * SAMPLE / count), largest)
            kept = _keep(distances[r], threshold, keys, columns)
        if kept < wanted:
            kept = _keep(distances[r], largest, keys, columns)
        select(keys, columns, kept, ranks, out[r], space)


@kernel()
def _keep(row, threshold, keys, columns):
    """Write entries at most ``threshold``, and where they are, to the front of keys and columns; how many there are."""
    kept = 0
    for j in range(len(row)):
        keys[kept] = row[j]
        columns[kept] = j
        kept += row[j] <= threshold
    return kept
