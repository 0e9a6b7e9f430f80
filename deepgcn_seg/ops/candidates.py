"""From the candidates of a row of distances to its wanted ranks, exactly and without sorting the row (numba).

Linear bins over the candidates' keys say how many lie below each. The few candidates in bins that hold a wanted rank
are gathered bin by bin, and each bin is put in order by counting, for each of its members, who comes before it: sixteen
comparisons at a time. Where a bin has many, as equal distances of duplicated points make it, it is merge-sorted:
O(n log n) at worst. Ties break towards the smaller point, in whatever order candidates come.
"""

import numpy as np
from numba import njit

from .simd import (
    LANES, PACKS, bits_at, count_before, count_bits, highest, load, lowest, packed, splat, store, truncated, where_greater,
)  # fmt: skip

# Entries of a row that its threshold is taken from.
SAMPLE = 256
BINS = 256
# A quarter of them for so few candidates.
FEW = 128
BISECTIONS = 12
# More than these in one bin are sorted instead of counted.
COUNTED = 192
# A bin that no rank is in.
NO_BIN = 2 * BINS - 1


def workspace(longest: int, dtype: type) -> tuple[np.ndarray, ...]:
    """Scratch of :func:`select` for up to ``longest`` candidates with keys of that type."""
    return (
        np.empty(longest + LANES + 1, dtype),
        *(np.empty(longest + LANES + 1, np.uint32) for _ in range(3)),
        *(np.empty(BINS, np.uint32) for _ in range(4)),
        np.empty(LANES, np.uint32),
    )


@njit(nogil=True, cache=True)
def threshold_of(sample, count, expected):
    """A key that the ``expected`` smallest of ``sample[:count]`` do not exceed, nor, but rarely, as large a share of
    the row.

    Infinite if the sample has no such key. The sample has room for sixteen more, which are overwritten.
    """
    rank = int(expected + 2.5 * np.sqrt(expected) + 2.0)
    if rank >= count:
        return sample.dtype.type(np.inf)
    low, high = _span(sample, count)
    # Bisection of the key: counting has no branches to mispredict.
    for _ in range(BISECTIONS):
        middle = low + (high - low) * sample.dtype.type(0.5)
        below = _count(sample[:count], middle)
        if below < rank:
            low = middle
        else:
            high = middle
            if below <= rank + 2:
                break
    return high


@njit(nogil=True, cache=True)
def remove(column, keys, columns, count):
    """Take ``column`` from the first ``count`` candidates, if it is one; how many are left."""
    for j in range(count):
        if columns[j] == column:
            keys[j] = keys[count - 1]
            columns[j] = columns[count - 1]
            return count - 1
    return count


@njit(nogil=True, cache=True)
def select(keys, columns, count, index, ranks, out, space):
    """``out[m]`` is the candidate of rank ``ranks[m]``.

    Args:
        keys, columns: the first ``count`` are distances, finite, and to which columns. There is room for sixteen more;
            all are overwritten.
        index: which point a column is.
        ranks: (m,) ascending. out: (m,) int64, written. space: of :func:`workspace`.
    """
    if count <= ranks[-1]:
        # NaN among the distances: there are no ranks. Any answer, but inside the array.
        for m in range(len(ranks)):
            out[m] = ranks[m]
        return
    few_keys, few_points, bin_of, ordered, sizes, ends, starts, wanted, table = space
    low, high = _span(keys, count)
    bins = BINS if count > FEW else BINS // 4
    scale = (bins - 1) / (high - low) if high > low else 0.0
    if not scale < np.finfo(keys.dtype).max:
        scale = 0.0
    lows, scales = splat(low), splat(keys.dtype.type(scale))
    for j in range(0, count, LANES):
        store(bin_of, j, truncated((load(keys, j) - lows) * scales))
    sizes[:bins] = 0
    for j in range(count):
        sizes[bin_of[j]] += np.uint32(1)
    below = np.uint32(0)
    for b in range(bins):
        below += sizes[b]
        ends[b] = below

    # A rank becomes a place among the candidates of wanted bins.
    starts[:bins] = len(few_keys) - 1
    table[:] = 0
    filled = 0
    few = 0
    last = -1
    shift = 0
    for m in range(len(ranks)):
        b = _first_beyond(ends, bins, ranks[m])
        if b != last:
            last = b
            wanted[filled] = b
            filled += 1
            table[b >> 5] |= np.uint32(1) << np.uint32(b & 31)
            starts[b] = few
            few += np.int64(sizes[b])
            shift = few - np.int64(ends[b])
        out[m] = ranks[m] + shift
    gather(keys, columns, bin_of, count, index, table, starts, few_keys, few_points)
    store(few_keys, few, splat(keys.dtype.type(np.inf)))
    for n in range(filled):
        stop = np.int64(starts[wanted[n]])
        _order(few_keys, few_points, stop - np.int64(sizes[wanted[n]]), stop, ordered)
    for m in range(len(ranks)):
        out[m] = ordered[out[m]]


@njit(nogil=True, cache=True)
def gather_one_by_one(keys, columns, bin_of, count, index, table, starts, few_keys, few_points):
    """Write the candidates of each wanted bin b behind one another from ``starts[b]`` on, which becomes their end.

    Args:
        table: (16,) bits of wanted bins. starts: of other bins, the last place of few_keys: it takes what nobody wants.
    """
    nowhere = len(few_keys) - 1
    for j in range(count):
        b = bin_of[j]
        at = starts[b]
        few_keys[at] = keys[j]
        few_points[at] = index[columns[j]]
        starts[b] = at + np.uint32(at < nowhere)


@njit(nogil=True, cache=True)
def gather_packed(keys, columns, bin_of, count, index, table, starts, few_keys, few_points):
    """The same, with the wanted packed before: sixteen at a time."""
    store(bin_of, count, splat(np.uint32(NO_BIN)))
    few = 0
    for j in range(0, count, LANES):
        bins = load(bin_of, j)
        chosen = bits_at(table, bins)
        store(keys, few, packed(load(keys, j), chosen))
        store(columns, few, packed(load(columns, j), chosen))
        store(bin_of, few, packed(bins, chosen))
        few += count_bits(chosen)
    gather_one_by_one(keys, columns, bin_of, few, index, table, starts, few_keys, few_points)


gather = gather_packed if PACKS else gather_one_by_one


@njit(nogil=True, cache=True)
def _first_beyond(ends, count, rank):
    """Which of ``count`` ascending numbers, a power of two, is the first larger than ``rank``; the last is."""
    b = 0
    step = count // 2
    while step:
        b += step * np.int64(ends[b + step - 1] <= rank)
        step //= 2
    return b


@njit(nogil=True, cache=True)
def _order(keys, points, start, stop, ordered):
    """``ordered[start:stop]``: ``points[start:stop]`` by key, and then by point. Keys from ``stop`` on are larger."""
    if stop - start > COUNTED:
        order = np.argsort(points[start:stop], kind="mergesort")
        order = order[np.argsort(keys[start:stop][order], kind="mergesort")]
        ordered[start:stop] = points[start:stop][order]
        return
    for i in range(start, stop):
        key, point = splat(keys[i]), splat(points[i])
        at = start
        for j in range(start, stop, LANES):
            at += count_before(load(keys, j), load(points, j), key, point)
        ordered[at] = points[i]


@njit(nogil=True, cache=True, fastmath={"reassoc", "nsz"})
def _count(sample, key):
    """How many of at most 2^24 do not exceed ``key``; counted in float32, which is added in vectors."""
    count = np.float32(0)
    for s in range(len(sample)):
        count += np.float32(1) if sample[s] <= key else np.float32(0)
    return count


@njit(nogil=True, cache=True)
def _span(keys, count):
    """Smallest and largest of the first ``count``, none of them NaN. The sixteen behind are overwritten."""
    store(keys, count, splat(keys[0]))
    low = high = load(keys, 0)
    for j in range(0, count, LANES):
        some = load(keys, j)
        low = where_greater(low, some, some, low)
        high = where_greater(some, high, some, high)
    return lowest(low), highest(high)
