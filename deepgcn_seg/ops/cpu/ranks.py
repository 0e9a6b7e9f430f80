"""From a row's list of candidates to its wanted ranks, exactly and without sorting the list.

A candidate is a key (its distance) and a column (which point it is). At the largest dilation of ResGCN-28, 27, a list
has more than 400 candidates, of which 16 are wanted: those of the ranks 0, 27, ..., 27 * 15. So candidates are divided
into bins by their keys, and only those of bins with a wanted rank are put in order::

    bins: 256 intervals of keys; bin(key) grows with the key
    count the candidates of each bin; running sums tell the bin of each wanted rank
    gather the candidates of wanted bins, bin after bin
    for each gathered candidate:
        place = number of gathered candidates that come before it     compared only with those up to as many places
                                                                      away as the fullest bin has candidates
    out[m] = the candidate whose place corresponds to ranks[m]

Equal keys are ordered by column, so the result is that of a stable sort, in whatever order candidates come. If a bin
holds many candidates, as equal distances of duplicated points make it, the gathered ones are sorted instead: the work
is at worst n log n.
"""

from typing import NamedTuple

import numpy as np

from ...kernel_cache import kernel
from .simd import (
    LANES,
    append,
    at_most,
    comes_before,
    count_bits,
    highest,
    load,
    lowest,
    splat,
    store,
    truncated,
    where_greater,
)

# The more bins, the fewer candidates to put in order, but the more sums for each row. A power of two, for bisection.
# Measured at 4096 points: 128, 256 and 512 differ by less than 5 % of a search; 256 is best from dilation 20 on, where
# most candidates are listed.
BINS = 256
# The most candidates of a bin that are put in order by counting who comes before. That takes n^2 / LANES comparisons,
# and sorting n log n slower steps. Measured with 16 lanes and one bin of n, counted and sorted: 0.5 and 0.9
# microseconds for n = 64, 1.8 and 2.2 for 128, 2.6 and 2.7 for 160, 3.8 and 3.7 for 192.
LARGEST_COUNTED = 192
# Most bisections of the range of keys, which a few outliers can make wide. After 18, an interval of 2^-18 of the range
# is left. With 12, a network's last layers listed a quarter more candidates. (The kernels for GPUs stop at 12; more
# were not tried there.)
BISECTIONS = 18
# A threshold is set this many standard deviations above the rank that is expected, and SLACK ranks more. A list is
# too short only if at least ``rank`` sampled points are among the wanted ones. The hypergeometric distribution
# gives 2 to 4 such rows in 1000 for 4096 points and k = 16, at any dilation up to 27, which is an upper bound. They are
# searched again.
MARGIN, SLACK = 2.5, 2.0


class Scratch(NamedTuple):
    """Memory that :func:`select` works in, allocated once for many rows."""

    # The gathered candidates. Behind them is room for the keys of inf that `_order` writes, and the last entry takes
    # what is dropped.
    few_keys: np.ndarray
    few_columns: np.ndarray
    # The bin of each candidate of the list.
    bin_of: np.ndarray
    # The columns of the gathered candidates, in order.
    ordered: np.ndarray
    # Of each bin: its number of candidates; that of all bins up to it; and where its next candidate is gathered.
    sizes: np.ndarray
    ends: np.ndarray
    starts: np.ndarray


@kernel()
def scratch_for(longest, like):
    """Return scratch for lists of up to ``longest`` candidates, whose keys have the type of the array ``like``."""
    # `_order` writes as many keys of inf as the fullest bin has candidates, and a vector more.
    room = longest + LARGEST_COUNTED + LANES + 1
    few_keys, few_columns = np.empty(room, like.dtype), np.empty(room, np.uint32)
    bin_of, ordered = np.empty(room, np.uint32), np.empty(room, np.uint32)
    sizes, ends, starts = np.empty(BINS, np.uint32), np.empty(BINS, np.uint32), np.empty(BINS, np.uint32)
    return Scratch(few_keys, few_columns, bin_of, ordered, sizes, ends, starts)


@kernel()
def threshold_of(sample, count, expected):
    """Return a key that lets enough of a row through, estimated from the keys ``sample[:count]`` of some of its points.

    Args:
        sample: must have room for LANES more entries after the first ``count``; they are overwritten.
        expected: how many of the sample are expected among the wanted points of the row: if every n-th point is
            sampled, an n-th of the wanted ones.

    Returns:
        The key, or the largest finite one if the sample is too small. Keys of absent points are infinite and never
        pass.
    """
    # The number of sampled points among the wanted ones has a standard deviation of sqrt(expected).
    rank = int(expected + MARGIN * np.sqrt(expected) + SLACK)
    if rank >= count:
        return np.finfo(sample.dtype).max
    low, high = _range_of(sample, count)
    store(sample, count, splat(sample.dtype.type(np.inf)))
    # Look for a key that ``rank`` to ``rank + 2`` of the sample do not exceed: nearly exact, and sooner found.
    # Bisection only counts, without branches. Selecting the key would take branches, which processors mispredict.
    for _ in range(BISECTIONS):
        middle = low + (high - low) * sample.dtype.type(0.5)
        below = _count(sample, count, middle)
        if below < rank:
            low = middle
        else:
            high = middle
            if below <= rank + 2:
                break
    return high


@kernel()
def shorten(keys, columns, count, wanted):
    """Drop candidates that are certainly not among the ``wanted`` nearest, and return how many are left.

    Args:
        keys, columns: the list is their first ``count`` entries. LANES more must exist; they are overwritten.
    """
    threshold = splat(threshold_of(keys, count, wanted))
    store(keys, count, splat(keys.dtype.type(np.inf)))
    end = 0
    for j in range(0, count, LANES):
        some, numbers = load(keys, j), load(columns, j)
        near = at_most(some, threshold)
        append(keys, end, some, near)
        end = append(columns, end, numbers, near)
    return end


@kernel()
def remove(column, keys, columns, count):
    """Remove the candidate ``column`` if it is in the list of ``count`` candidates, and return how many are left."""
    # The order of the list does not matter, so the last candidate takes the place of the removed one.
    for j in range(count):
        if columns[j] == column:
            keys[j] = keys[count - 1]
            columns[j] = columns[count - 1]
            return count - 1
    return count


@kernel()
def select(keys, columns, count, ranks, out, scratch):
    """Write into ``out[m]`` the candidate of rank ``ranks[m]``.

    Args:
        keys, columns: the list is their first ``count`` entries; keys are finite. ``keys`` must have LANES more
            entries, which are overwritten.
        ranks: (m,) ascending. out: (m,) int64. scratch: of :func:`scratch_for`.
    """
    if count <= ranks[-1]:
        # A row whose distances are NaN has no ranks. Any index of a point will do as an answer.
        for m in range(len(ranks)):
            out[m] = ranks[m]
        return
    few_keys, few_columns, bin_of, ordered, sizes, ends, starts = scratch
    # Which bins hold a wanted rank? Those in which the running sum of candidates passes it.
    _write_bins(keys, count, bin_of)
    sizes[:] = 0
    for j in range(count):
        sizes[bin_of[j]] += np.uint32(1)
    below = np.uint32(0)
    for b in range(BINS):
        below += sizes[b]
        ends[b] = below

    # Candidates of bins without a wanted rank are gathered too, because skipping them would need a branch. Each is
    # written to the last place, where the next one overwrites it.
    starts[:] = len(few_keys) - 1
    end, fullest, last, to_place = 0, 0, -1, 0
    for m in range(len(ranks)):
        b = _first_beyond(ends, ranks[m])
        if b != last:
            last = b
            starts[b] = end
            end += np.int64(sizes[b])
            fullest = max(fullest, np.int64(sizes[b]))
            # In the order of the whole list this bin ends at ends[b], and among the gathered candidates at `end`. The
            # difference leads from a rank in this bin to its place.
            to_place = end - np.int64(ends[b])
        # For now the result holds this place; the column that is there replaces it below.
        out[m] = ranks[m] + to_place
    gather(keys, columns, bin_of, count, starts, few_keys, few_columns)
    _order(few_keys, few_columns, end, fullest, ordered)
    for m in range(len(ranks)):
        out[m] = ordered[out[m]]


@kernel()
def _write_bins(keys, count, bin_of):
    """Write the bin of each key.

    The bin is (BINS - 1) * t^2, rounded down, where t grows from 0 at the second smallest key to 1 at the largest. So
    bins are narrower further out, where candidates lie denser (in D dimensions their number grows as the distance to
    the power D).
    """
    low, high = _range_of(keys, count)
    scale = np.sqrt(np.float64(BINS - 1)) / (high - low) if high > low else 0.0
    # If all keys are equal, or so close that the scale overflows, all go to the first bin.
    if not scale < np.finfo(keys.dtype).max:
        scale = 0.0
    lows, scales, zero = splat(low), splat(keys.dtype.type(scale)), splat(keys.dtype.type(0))
    for j in range(0, count, LANES):
        along = (load(keys, j) - lows) * scales
        along = where_greater(along, zero, along, zero)
        store(bin_of, j, truncated(along * along))


@kernel()
def gather(keys, columns, bin_of, count, starts, few_keys, few_columns):
    """Write the candidates of each wanted bin b one after another, beginning at ``starts[b]``.

    Args:
        starts: where the next candidate of each bin goes; advanced by each one. For bins without a wanted rank it is
            the last place of few_keys, and stays there.
    """
    nowhere = len(few_keys) - 1
    for j in range(count):
        at = starts[bin_of[j]]
        few_keys[at] = keys[j]
        few_columns[at] = columns[j]
        starts[bin_of[j]] = at + np.uint32(at < nowhere)


@kernel()
def _first_beyond(ends, rank):
    """Return the index of the first of BINS ascending numbers that is larger than ``rank``; the last one must be."""
    b = 0
    step = BINS // 2
    while step:
        b += step * np.int64(ends[b + step - 1] <= rank)
        step //= 2
    return b


@kernel()
def _order(keys, columns, end, fullest, ordered):
    """Write ``columns[:end]`` into ``ordered``, by key and then by column.

    Args:
        keys: bin after bin; as many more as ``fullest`` and LANES are overwritten.
        fullest: number of candidates in the fullest bin.
    """
    if fullest > LARGEST_COUNTED:
        # Sort by column, then stably by key: candidates with equal keys stay in the order of their columns.
        order = np.argsort(columns[:end], kind="mergesort")
        order = order[np.argsort(keys[:end][order], kind="mergesort")]
        ordered[:end] = columns[:end][order]
        return
    # Keys that are ``fullest`` or more places away are in other bins: those before are smaller, those after are larger.
    # So a key need only be compared with those in between.
    keys[end : end + fullest + LANES] = np.inf
    # The place of a candidate is the number of those before it: a comparison with LANES others at a time, no branches.
    for i in range(end):
        key, column = splat(keys[i]), splat(columns[i])
        at = first = max(i - fullest, 0)
        for j in range(first, i + fullest, LANES):
            at += count_bits(comes_before(load(keys, j), load(columns, j), key, column))
        ordered[at] = columns[i]


@kernel()
def _count(sample, count, key):
    """Return how many of the first ``count`` entries do not exceed ``key``. LANES entries of inf must follow them."""
    limits, total = splat(key), 0
    for s in range(0, count, LANES):
        total += count_bits(at_most(load(sample, s), limits))
    return total


@kernel()
def _range_of(keys, count):
    """Return about the second smallest, and the largest, of the first ``count`` keys, none of which is NaN.

    The LANES entries after them are overwritten. The smallest key is left out because it is often that of the query
    point itself, far below all others: with it the bins would be wide.
    """
    store(keys, count, splat(keys[0]))
    low = high = load(keys, 0)
    for j in range(0, count, LANES):
        some = load(keys, j)
        low = where_greater(low, some, some, low)
        high = where_greater(some, high, some, high)
    least, top = lowest(low), highest(high)
    # Leave out the lane that holds the smallest key. If the same lane held the second smallest too, a larger key is
    # found, and all keys below it go to the first bin.
    second = lowest(where_greater(low, splat(least), low, splat(top)))
    # If there is no lane between the smallest and the largest key, as with few different keys, the range begins at the
    # smallest after all. It would be empty otherwise.
    return (least if second == top else second), top
