"""From the candidates of a row of distances to its wanted ranks, exactly and without sorting the row (numba).

Linear bins over the candidates' keys say how many lie below each. The few candidates in bins that hold a wanted rank
are put in order by counting, for each, who comes before it: sixteen comparisons at a time and no branch to mispredict.
Where they are many, as equal distances of duplicated points make them, they are merge-sorted: O(n log n) at worst.
Ties break towards the smaller point, in whatever order candidates come.
"""

import numpy as np
from numba import njit

from .simd import LANES, count_before, load, splat, store

# Entries of a row that its threshold is taken from.
SAMPLE = 256
BINS = 256
BISECTIONS = 12
# More than these are sorted instead of counted.
COUNTED = 192


def workspace(longest: int, dtype: type) -> tuple[np.ndarray, ...]:
    """Scratch of :func:`select` for up to ``longest`` candidates with keys of that type."""
    return (
        np.empty(longest + LANES, dtype),
        *(np.empty(longest + LANES, np.uint32) for _ in range(3)),
        *(np.empty(BINS, np.uint32) for _ in range(2)),
    )


@njit(nogil=True, cache=True)
def threshold_of(sample, expected):
    """A key that the ``expected`` smallest of ``sample`` do not exceed, nor, but rarely, as large a share of the row.

    Infinite if the sample has no such key.
    """
    rank = int(expected + 2.5 * np.sqrt(expected) + 2.0)
    if rank >= len(sample):
        return sample.dtype.type(np.inf)
    low, high = _span(sample)
    # Bisection of the key: counting has no branches to mispredict.
    for _ in range(BISECTIONS):
        middle = low + (high - low) * sample.dtype.type(0.5)
        count = _count(sample, middle)
        if count < rank:
            low = middle
        else:
            high = middle
            if count <= rank + 2:
                break
    return high


@njit(nogil=True, cache=True)
def remove(point, keys, places, count):
    """Take ``point`` from the first ``count`` candidates, if it is one; how many are left."""
    for j in range(count):
        if places[j] == point:
            keys[j] = keys[count - 1]
            places[j] = places[count - 1]
            return count - 1
    return count


@njit(nogil=True, cache=True)
def select(keys, places, count, ranks, out, space):
    """``out[m]`` is the candidate of rank ``ranks[m]``.

    Args:
        keys, places: the first ``count`` are distances, finite, and the points they lead to.
        ranks: (m,) ascending. out: (m,) int64, written. space: of :func:`workspace`.
    """
    if count <= ranks[-1]:
        # NaN among the distances: there are no ranks. Any answer, but inside the array.
        for m in range(len(ranks)):
            out[m] = ranks[m]
        return
    few_keys, few_places, bin_of, ordered, sizes, wanted = space
    low, high = _span(keys[:count])
    bins = min(BINS, count)
    scale = (bins - 1) / (high - low) if high > low else 0.0
    if not scale < np.finfo(keys.dtype).max:
        scale = 0.0
    scale = keys.dtype.type(scale)
    for j in range(count):
        bin_of[j] = np.uint32(np.int32((keys[j] - low) * scale))
    sizes[:bins] = 0
    for j in range(count):
        sizes[bin_of[j]] += np.uint32(1)

    # A rank becomes a place among the candidates of wanted bins.
    wanted[:bins] = 0
    b = 0
    below = 0
    unwanted = 0
    for m in range(len(ranks)):
        while below + sizes[b] <= ranks[m]:
            below += sizes[b]
            unwanted += 0 if wanted[b] else sizes[b]
            b += 1
        wanted[b] = 1
        out[m] = ranks[m] - unwanted
    few = 0
    for j in range(count):
        few_keys[few] = keys[j]
        few_places[few] = places[j]
        few += wanted[bin_of[j]]
    _order(few_keys, few_places, few, ordered)
    for m in range(len(ranks)):
        out[m] = ordered[out[m]]


@njit(nogil=True, cache=True)
def _order(keys, places, count, ordered):
    """``ordered[:count]``: the first ``count`` places by key, and then by place."""
    if count > COUNTED:
        order = np.argsort(places[:count], kind="mergesort")
        order = order[np.argsort(keys[:count][order], kind="mergesort")]
        ordered[:count] = places[:count][order]
        return
    store(keys, count, splat(keys.dtype.type(np.inf)))
    for i in range(count):
        key, place = splat(keys[i]), splat(places[i])
        at = 0
        for j in range(0, count, LANES):
            at += count_before(load(keys, j), load(places, j), key, place)
        ordered[at] = places[i]


@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz"})
def _count(sample, key):
    """How many of at most 2^24 do not exceed ``key``; counted in float32, which is added in vectors."""
    count = np.float32(0)
    for s in range(len(sample)):
        count += np.float32(1) if sample[s] <= key else np.float32(0)
    return count


@njit(nogil=True, cache=True, fastmath={"nnan", "nsz"})
def _span(keys):
    """Smallest and largest of ``keys``, none of them NaN (so that it runs in vectors)."""
    low = keys[0]
    high = keys[0]
    for j in range(1, len(keys)):
        low = min(low, keys[j])
        high = max(high, keys[j])
    return low, high
