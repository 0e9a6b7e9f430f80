"""CPU kernels (numba) behind :func:`deepgcn_seg.ops.nearest_ranks`.

A row of distances is not sorted. Three passes find the wanted ranks exactly:

1. a threshold from a strided sample of the row, a little above the largest wanted rank;
2. one branch-free pass (:mod:`.compress`) keeps the candidates at or below it (if the sample misled us and too
   few remain, every entry is a candidate);
3. the candidates go into linear bins, in order of index, and only bins that hold a wanted rank
   are sorted. A bin that many equal distances share is merge-sorted, so duplicated points and
   outliers cost O(n log n) at worst, not O(n^2).

Ties break towards the smaller index.
"""

import numpy as np
from numba import njit
from torch import Tensor

from .compress import LANES, keep
from .threads import run_each as run_tiles

__all__ = ["TILE_ENTRIES", "run_tiles", "select_ranks", "suits"]

SAMPLE = 256
BINS = 512
BISECTIONS = 12
INSERTION_LIMIT = 24
# Distances a thread holds at a time (entries of a row tile): 1 MiB in float32, so
# that a tile is searched while it is in that core's cache.
TILE_ENTRIES = 1 << 19


@njit(nogil=True, cache=True)
def _sort_bin(keys, index, start, stop):
    """Sort ``keys[start:stop]`` and ``index`` along with them, stably."""
    if stop - start > INSERTION_LIMIT:
        order = np.argsort(keys[start:stop], kind="mergesort")
        keys[start:stop] = keys[start:stop][order]
        index[start:stop] = index[start:stop][order]
        return
    for i in range(start + 1, stop):
        key, value = keys[i], index[i]
        j = i - 1
        while j >= start and keys[j] > key:
            keys[j + 1] = keys[j]
            index[j + 1] = index[j]
            j -= 1
        keys[j + 1] = key
        index[j + 1] = value


@njit(nogil=True, cache=True)
def _threshold(row, wanted, sample):
    """A value that about ``wanted`` entries of ``row``, and rarely fewer, do not exceed.

    Bisection of the value over a strided sample: counting has no branches to mispredict.
    """
    n = len(row)
    step = n // SAMPLE
    low, high = row[0], row[0]
    for s in range(SAMPLE):
        sample[s] = row[s * step]
        low = min(low, sample[s])
        high = max(high, sample[s])
    expected = wanted * SAMPLE / n
    rank = int(expected + 2.0 * np.sqrt(expected) + 2.0)
    if rank >= SAMPLE:
        return high
    for _ in range(BISECTIONS):
        middle = low + (high - low) * row.dtype.type(0.5)
        count = 0
        for s in range(SAMPLE):
            count += sample[s] <= middle
        if count < rank:
            low = middle
        else:
            high = middle
            if count <= rank + 2:
                break
    return high


@njit(nogil=True, cache=True, fastmath={"nnan", "nsz"})
def _span(keys, count):
    """Smallest and largest of the first ``count`` keys, none of them NaN (so that it runs in vectors)."""
    low = keys[0]
    high = keys[0]
    for j in range(1, count):
        low = min(low, keys[j])
        high = max(high, keys[j])
    return low, high


@njit(nogil=True, cache=True)
def _select_ranks(start, stop, distances, ranks, out):
    """``out[r] = argsort(distances[r], stable)[ranks]`` for rows ``start <= r < stop``.

    Args:
        distances: (R, N) floating point, ``inf`` where a point may not be chosen.
        ranks: (m,) ascending, each below the number of finite distances of every row.
        out: (R, m) int64, written.
    """
    n = distances.shape[1]
    wanted = ranks[-1] + 1
    # Absent points are at infinity: they must neither be kept nor stretch the bins.
    largest = np.finfo(distances.dtype).max
    keys = np.empty(n + LANES, distances.dtype)
    index = np.empty(n + LANES, np.uint32)
    sorted_keys = np.empty(n + 1, distances.dtype)
    sorted_index = np.empty(n + 1, np.uint32)
    bin_of = np.empty(n + 1, np.uint32)
    sample = np.empty(SAMPLE, distances.dtype)
    ends = np.empty(BINS + 1, np.uint32)
    for r in range(start, stop):
        row = distances[r]
        count = 0
        if n >= 4 * SAMPLE:
            threshold = min(_threshold(row, wanted, sample), largest)
            count = keep(row, threshold, keys, index)
        if count < wanted:
            count = keep(row, largest, keys, index)
        if count < wanted:
            # NaN among the distances: there are no ranks. Any answer, but inside the array.
            for m in range(len(ranks)):
                out[r, m] = ranks[m]
            continue
        low, high = _span(keys, count)
        spread = high - low
        bins = min(BINS, count)
        scale = (bins - 1) / spread if spread > 0 else 0.0
        if not scale < largest:
            scale = 0.0
        scale = row.dtype.type(scale)
        ends[: bins + 1] = 0
        for j in range(count):
            bin_of[j] = np.uint32(np.int32((keys[j] - low) * scale))
        for j in range(count):
            # Unsigned: signed indices would be tested for counting from the end.
            ends[bin_of[j] + np.uint32(1)] += np.uint32(1)
        for b in range(bins):
            ends[b + 1] += ends[b]
        # Scatter in order of index; afterwards ends[b] is where bin b stops.
        for j in range(count):
            at = ends[bin_of[j]]
            ends[bin_of[j]] = at + np.uint32(1)
            sorted_keys[at] = keys[j]
            sorted_index[at] = index[j]
        b = 0
        begin = 0
        done = -1
        for m in range(len(ranks)):
            while ends[b] <= ranks[m]:
                begin = ends[b]
                b += 1
            if done != b:
                _sort_bin(sorted_keys, sorted_index, begin, ends[b])
                done = b
            out[r, m] = sorted_index[ranks[m]]


def select_ranks(distances: Tensor, ranks: Tensor, out: Tensor) -> None:
    """``out[r] = argsort(distances[r], stable)[ranks]``.

    Args:
        distances: (R, N); ``inf`` where a point may not be chosen. ranks: (m,) ascending. out: (R, m) int64, written.
    """
    _select_ranks(0, len(distances), distances.numpy(), ranks.numpy(), out.numpy())


def suits(points: Tensor) -> bool:
    """Whether the kernel takes rows of that many points and their type: any."""
    return True
