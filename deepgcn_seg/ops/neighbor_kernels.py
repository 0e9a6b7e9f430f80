"""CPU kernels (numba) behind :func:`deepgcn_seg.ops.nearest_ranks`.

A row of distances is not sorted. Three passes find the wanted ranks exactly:

1. a threshold from a strided sample of the row, a little above the largest wanted rank;
2. one branch-free pass keeps the candidates at or below it (if the sample misled us and too
   few remain, every entry is a candidate);
3. the candidates go into linear bins, in order of index, and only bins that hold a wanted rank
   are sorted. A bin that many equal distances share is merge-sorted, so duplicated points and
   outliers cost O(n log n) at worst, not O(n^2).

Ties break towards the smaller index.
"""

import numpy as np
from numba import njit

SAMPLE = 128
BINS = 1024
INSERTION_LIMIT = 24


@njit(nogil=True, cache=True)
def _kth_smallest(values, k):
    """Value of rank ``k`` of ``values``; reorders ``values`` (Hoare's quickselect)."""
    left, right = 0, len(values) - 1
    while left < right:
        pivot = values[(left + right) >> 1]
        i, j = left, right
        while i <= j:
            while values[i] < pivot:
                i += 1
            while pivot < values[j]:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            right = j
        elif k >= i:
            left = i
        else:
            break
    return values[k]


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
    """A value that about ``wanted`` entries of ``row``, and rarely fewer, do not exceed."""
    n = len(row)
    step = n // SAMPLE
    for s in range(SAMPLE):
        sample[s] = row[s * step]
    expected = wanted * SAMPLE / n
    rank = int(expected + 3.0 * np.sqrt(expected) + 2.0)
    if rank >= SAMPLE:
        return np.inf
    return _kth_smallest(sample, rank)


@njit(nogil=True, cache=True)
def _keep_candidates(row, threshold, keys, index):
    count = 0
    for j in range(len(row)):
        keys[count] = row[j]
        index[count] = j
        count += row[j] <= threshold
    return count


@njit(nogil=True, cache=True)
def select_ranks(start, stop, distances, ranks, out):
    """``out[r] = argsort(distances[r], stable)[ranks]`` for rows ``start <= r < stop``.

    Args:
        distances: (R, N) floating point, ``inf`` where a point may not be chosen.
        ranks: (m,) ascending, each below the number of finite distances of every row.
        out: (R, m) int64, written.
    """
    n = distances.shape[1]
    wanted = ranks[-1] + 1
    keys = np.empty(n + 1, distances.dtype)
    index = np.empty(n + 1, np.int32)
    sorted_keys = np.empty(n + 1, distances.dtype)
    sorted_index = np.empty(n + 1, np.int32)
    bin_of = np.empty(n + 1, np.int32)
    sample = np.empty(SAMPLE, distances.dtype)
    ends = np.empty(BINS + 1, np.int32)
    for r in range(start, stop):
        row = distances[r]
        count = 0
        if n >= 8 * SAMPLE:
            count = _keep_candidates(row, _threshold(row, wanted, sample), keys, index)
        if count < wanted:
            # Largest finite value: absent points (inf) must not stretch the bins.
            count = _keep_candidates(row, np.finfo(distances.dtype).max, keys, index)
        low = keys[0]
        high = keys[0]
        for j in range(count):
            low = min(low, keys[j])
            high = max(high, keys[j])
        spread = high - low
        bins = min(BINS, count)
        scale = (bins - 1) / spread if spread > 0 else 0.0
        if not scale < np.finfo(distances.dtype).max:
            scale = 0.0
        ends[: bins + 1] = 0
        for j in range(count):
            b = np.int32((keys[j] - low) * scale)
            bin_of[j] = b
            ends[b + 1] += 1
        for b in range(bins):
            ends[b + 1] += ends[b]
        # Scatter in order of index; afterwards ends[b] is where bin b stops.
        for j in range(count):
            at = ends[bin_of[j]]
            ends[bin_of[j]] = at + 1
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
