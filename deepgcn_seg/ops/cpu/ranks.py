"""From the candidates of a row of distances to its wanted ranks, exactly and without sorting the row (numba).

Bins over the candidates' keys, narrower the further out as candidates lie denser there, say how many lie below each.
The few candidates in bins that hold a wanted rank are gathered bin by bin, and put in order by counting, for each, who
of those around it comes before it: a vector of comparisons at a time. Where a bin has many, as equal distances of
duplicated points make it, they are merge-sorted: O(n log n) at worst. Ties break towards the smaller point, in
whatever order candidates come.
"""

import numpy as np

from ...kernel_cache import kernel
from .simd import (
    BITS,
    LANES,
    PACKS,
    bits_at,
    count_before,
    count_bits,
    highest,
    load,
    lowest,
    numbered,
    packed,
    splat,
    store,
    truncated,
    where_greater,
)

# Entries of a row that its threshold is taken from.
SAMPLE = 256
BINS = 256
# A quarter of them for so few candidates.
FEW = 128
BISECTIONS = 12
# More than these in one bin are sorted instead of counted.
COUNTED = 192


@kernel()
def workspace(longest, keys):
    """Scratch of :func:`select` for up to ``longest`` candidates with keys of the type of an array's."""
    few = COUNTED + longest + COUNTED + 2 * LANES
    return (
        np.full(few, keys.dtype.type(-np.inf)),
        np.zeros(few, np.uint32),
        np.zeros(few, np.uint32),
        np.zeros(few, np.uint32),
        np.empty(BINS, np.uint32),
        np.empty(BINS, np.uint32),
        np.empty(BINS, np.uint32),
        np.empty(LANES, np.uint32),
    )


@kernel()
def threshold_of(sample, count, expected):
    """A key that the ``expected`` smallest of ``sample[:count]`` do not exceed, nor, but rarely, as large a share of
    the row.

    Infinite if the sample has no such key. The sample has room for a vector more, which is overwritten.
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


@kernel()
def remove(column, keys, columns, count):
    """Take ``column`` from the first ``count`` candidates, if it is one; how many are left."""
    for j in range(count):
        if columns[j] == column:
            keys[j] = keys[count - 1]
            columns[j] = columns[count - 1]
            return count - 1
    return count


@kernel()
def select(keys, columns, count, ranks, out, space):
    """``out[m]`` is the candidate of rank ``ranks[m]``.

    Args:
        keys, columns: the first ``count`` are distances, finite, and to which points. There is room for a vector more;
            all are overwritten.
        ranks: (m,) ascending. out: (m,) int64, written. space: of :func:`workspace`.
    """
    if count <= ranks[-1]:
        # NaN among the distances: there are no ranks. Any answer, but inside the array.
        for m in range(len(ranks)):
            out[m] = ranks[m]
        return
    few_keys, few_columns, bin_of, ordered, sizes, ends, starts, table = space
    low, high = _span(keys, count)
    bins = BINS if count > FEW else BINS // 4
    scale = np.sqrt(np.float64(bins - 1)) / (high - low) if high > low else 0.0
    if not scale < np.finfo(keys.dtype).max:
        scale = 0.0
    lows, scales, zero = splat(low), splat(keys.dtype.type(scale)), splat(keys.dtype.type(0))
    for j in range(0, count, LANES):
        along = (load(keys, j) - lows) * scales
        along = where_greater(along, zero, along, zero)
        store(bin_of, j, truncated(along * along))
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
    few = COUNTED
    fullest = 0
    last = -1
    shift = 0
    for m in range(len(ranks)):
        b = _first_beyond(ends, bins, ranks[m])
        if b != last:
            last = b
            table[b >> 5] |= np.uint32(1) << np.uint32(b & 31)
            starts[b] = few
            few += np.int64(sizes[b])
            fullest = max(fullest, np.int64(sizes[b]))
            shift = few - np.int64(ends[b])
        out[m] = ranks[m] + shift
    gather(keys, columns, bin_of, count, table, starts, few_keys, few_columns, ordered)
    _order(few_keys, few_columns, few, fullest, ordered)
    for m in range(len(ranks)):
        out[m] = ordered[out[m]]


@kernel()
def gather_one_by_one(keys, columns, bin_of, count, table, starts, few_keys, few_columns, space):
    """Write the candidates of each wanted bin b behind one another from ``starts[b]`` on, which becomes their end.

    Args:
        table: (LANES,) uint32, bits of wanted bins. starts: of other bins, the last place of few_keys: it takes what
            nobody wants.
        space: (count + LANES,) uint32 scratch.
    """
    nowhere = len(few_keys) - 1
    for j in range(count):
        at = starts[bin_of[j]]
        few_keys[at] = keys[j]
        few_columns[at] = columns[j]
        starts[bin_of[j]] = at + np.uint32(at < nowhere)


@kernel()
def gather_packed(keys, columns, bin_of, count, table, starts, few_keys, few_columns, space):
    """The same, looking for the wanted ones a vector at a time. Where :data:`.simd.PACKS`."""
    few = 0
    for j in range(0, count, LANES):
        bins = load(bin_of, j)
        chosen = bits_at(table, bins)
        if count - j < LANES:
            chosen &= BITS((1 << (count - j)) - 1)
        store(bin_of, few, packed(bins, chosen))
        store(space, few, packed(numbered(np.uint32(j)), chosen))
        few += count_bits(chosen)
    for j in range(few):
        at = starts[bin_of[j]]
        few_keys[at] = keys[space[j]]
        few_columns[at] = columns[space[j]]
        starts[bin_of[j]] = at + np.uint32(1)


gather = gather_packed if PACKS else gather_one_by_one


@kernel()
def _first_beyond(ends, count, rank):
    """Which of ``count`` ascending numbers, a power of two, is the first larger than ``rank``; the last is."""
    b = 0
    step = count // 2
    while step:
        b += step * np.int64(ends[b + step - 1] <= rank)
        step //= 2
    return b


@kernel()
def _order(keys, columns, stop, fullest, ordered):
    """``ordered[COUNTED:stop]``: ``columns[COUNTED:stop]`` by key, and then by column.

    Args:
        keys: bin by bin, of which the fullest holds so many; below every key before :data:`COUNTED`.
    """
    if fullest > COUNTED:
        order = np.argsort(columns[COUNTED:stop], kind="mergesort")
        order = order[np.argsort(keys[COUNTED:stop][order], kind="mergesort")]
        ordered[COUNTED:stop] = columns[COUNTED:stop][order]
        return
    # So far from a key all are smaller on one side and larger on the other: they are in other bins.
    keys[stop : stop + fullest + LANES] = np.inf
    for i in range(COUNTED, stop):
        key, column = splat(keys[i]), splat(columns[i])
        at = i - fullest
        for j in range(i - fullest, i + fullest, LANES):
            at += count_before(load(keys, j), load(columns, j), key, column)
        ordered[at] = columns[i]


@kernel(fastmath={"reassoc", "nsz"})
def _count(sample, key):
    """How many of at most 2^24 do not exceed ``key``; counted in float32, which is added in vectors."""
    count = np.float32(0)
    for s in range(len(sample)):
        count += np.float32(1) if sample[s] <= key else np.float32(0)
    return count


@kernel()
def _span(keys, count):
    """Smallest and largest of the first ``count``, none of them NaN. A vector behind them is overwritten."""
    store(keys, count, splat(keys[0]))
    low = high = load(keys, 0)
    for j in range(0, count, LANES):
        some = load(keys, j)
        low = where_greater(low, some, some, low)
        high = where_greater(some, high, some, high)
    # The lowest is often the point itself, far from all others.
    least, top = lowest(low), highest(high)
    second = lowest(where_greater(low, splat(least), low, splat(top)))
    return least if second == top else second, top
