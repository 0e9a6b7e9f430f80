"""From the candidates of a row of distances to its wanted ranks, exactly and without sorting the row (numba).

Linear bins over the candidates' keys say how many lie below each; only bins that hold a wanted rank are
sorted. A bin that many equal distances share is merge-sorted, so duplicated points and outliers cost
O(n log n) at worst, not O(n^2). Ties break towards the smaller point, in whatever order candidates come.
"""

import numpy as np
from numba import njit

# Entries of a row that its threshold is taken from.
SAMPLE = 256
BINS = 256
BISECTIONS = 12
INSERTION_LIMIT = 24


def workspace(longest: int, dtype: type) -> tuple[np.ndarray, ...]:
    """Scratch of :func:`select` for up to ``longest`` candidates with keys of that type."""
    return (
        np.empty(longest, dtype),
        *(np.empty(longest, np.uint32) for _ in range(3)),
        *(np.empty(BINS, np.uint32) for _ in range(4)),
    )


@njit(nogil=True, cache=True)
def threshold_of(sample, expected):
    """A key that the ``expected`` smallest of ``sample`` do not exceed, nor, but rarely, as large a share of the whole row.

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
    sorted_keys, sorted_places, bin_of, chosen, sizes, wanted, starts, stops = space
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

    # Bins that hold a wanted rank are laid behind one another; a rank becomes a place among them.
    wanted[:bins] = 0
    below = 0
    b = 0
    stop = 0
    filled = 0
    for m in range(len(ranks)):
        while below + sizes[b] <= ranks[m]:
            below += sizes[b]
            b += 1
        if not wanted[b]:
            wanted[b] = 1
            starts[b] = stop
            stop += sizes[b]
            stops[filled] = stop
            filled += 1
        out[m] = ranks[m] - below + stop - sizes[b]

    few = np.uint32(0)
    for j in range(count):
        chosen[few] = j
        few += wanted[bin_of[j]]
    for c in range(few):
        j = chosen[c]
        at = starts[bin_of[j]]
        starts[bin_of[j]] = at + np.uint32(1)
        sorted_keys[at] = keys[j]
        sorted_places[at] = places[j]
    start = 0
    for b in range(filled):
        _sort(sorted_keys, sorted_places, start, stops[b])
        start = stops[b]
    for m in range(len(ranks)):
        out[m] = sorted_places[out[m]]


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


@njit(nogil=True, cache=True)
def _sort(keys, places, start, stop):
    """Sort ``keys[start:stop]``, and ``places`` along with them, by key and then by place."""
    if stop - start > INSERTION_LIMIT:
        order = np.argsort(places[start:stop], kind="mergesort")
        order = order[np.argsort(keys[start:stop][order], kind="mergesort")]
        keys[start:stop] = keys[start:stop][order]
        places[start:stop] = places[start:stop][order]
        return
    for i in range(start + 1, stop):
        key, place = keys[i], places[i]
        j = i - 1
        while j >= start and (keys[j] > key or (keys[j] == key and places[j] > place)):
            keys[j + 1] = keys[j]
            places[j + 1] = places[j]
            j -= 1
        keys[j + 1] = key
        places[j + 1] = place
