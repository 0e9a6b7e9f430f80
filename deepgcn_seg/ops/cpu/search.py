"""Neighbour search on the CPU: for each query point, the points at given ranks of distance from it.

The distances of all pairs are computed in registers, a tile at a time, written to a tile of 1 KiB (float32, AVX-512) in
the L1 cache, and compared there. Only those that may be among the wanted ones are appended to a row's list::

    for each strip of 32 query points (rows):                       a thread takes slices of consecutive strips
        distances of the rows to a sample of 256 points or more, all of which are listed
        threshold of a row = a distance so large that few rows list too few points               ranks.threshold_of
        for each panel of LANES points (columns):
            tile = distances of the rows to the columns                                          tiles.write_tile
            for each row of the tile:
                bitmask = distances <= threshold of the row
                append the distances and the columns that pass, the candidates, to its list      simd.append
        for each row:
            find the wanted ranks in its list, by bins                                           ranks.select
        for each row whose list was shorter than wanted: again, without a threshold              ranks.shorten

At 4096 points a row lists about 90 candidates for 16 wanted ones, and 630 for 406 (dilation 27). From the list of all
points that a search without a threshold makes, most are dropped before the ranks are found.

Rows and columns are those of the distance matrix, which is never stored: a row belongs to a query point, a column to a
point that it is compared with. Candidates are only those columns of a row whose distance passes its threshold.

What is called a distance here is ``|y|^2 / 2 - x.y``: half the squared distance, less ``|x|^2 / 2``, which all points y
share that a query point x is compared with. Points are centred first, because far from the origin the difference would
lose its digits. One code serves any number of points, float32 and float64, and any width of registers.
"""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from ...kernel_cache import kernel
from .arrays import present_points
from .ranks import remove, scratch_for, select, shorten, threshold_of
from .simd import LANES, append, at_most, load, numbered, splat, store
from .threads import run_sliced
from .tiles import write_tile

# Number of points in the sample: every (N // SAMPLE)-th point of a cloud. A cloud of fewer than 4 * SAMPLE points has
# no sample, and lists all of its points; the others have samples of 256 to 319. A larger sample costs more; a smaller
# one gives looser thresholds, which more candidates pass. Measured: 128, 256 and 512 differ by less than 7 % of a
# search.
SAMPLE = 256
# Panels of query points in a strip, which has 32 rows. With 64 channels they take 8 KiB and stay in the L1 cache while
# all columns are read once, from memory if need be. Measured: 16, 32 and 64 rows are equally fast at 4096 points, whose
# columns fit the L2 cache.
STRIP = 32 // LANES
# How many steps a distance counts for when `run_sliced` decides whether threads share a search. A search of 256 points
# with 64 channels takes 4 nanoseconds for each distance, and edge kernels 0.05 to 0.1 for each of their numbers. So
# threads share the search of one block of 182 points or more, where two begin to be quicker. Measured as
# `threads.SMALL`, with one and with two threads: 0.105, 0.105 ms for 128 points, 0.168, 0.129 for 181, 0.255, 0.186 for
# 256, and 0.430, 0.295 for 362.
STEPS_PER_DISTANCE = 64


class Cloud(NamedTuple):
    """Points of a batch in P panels of LANES points, channel by channel, the last panel filled up."""

    # (B, P, C, LANES).
    panels: np.ndarray
    # (B, P * LANES), half of the squared norms; infinite for absent points, which are never neighbours.
    half_norms: np.ndarray


class Lists(NamedTuple):
    """The candidates of each row of a strip."""

    # (rows, longest) each: distance, and number of the point.
    keys: np.ndarray
    columns: np.ndarray
    # (rows,) int64.
    counts: np.ndarray


def search(
    points: Tensor, mask: Tensor | None, ranks: Tensor, loop: bool, out: Tensor, sample_size: int = SAMPLE
) -> None:
    """Write the points at the given ranks of distance to each point.

    Args:
        points: (B, N, C) float32 or float64. mask: (B, N) bool, False where a point may not be a neighbour.
        ranks: (m,) ascending, each below the number of points that may be neighbours.
        loop: whether a point may be its own neighbour. out: (B, N, m) int64, written. Ties go to the smaller index.
        sample_size: points that thresholds are estimated from. The result does not depend on it.
    """
    batch, count, _ = points.shape
    prepared = _prepared(points.contiguous().numpy(), present_points(points, mask), sample_size)
    strips = -(-count // (STRIP * LANES))
    steps = STEPS_PER_DISTANCE * batch * count * count
    run_sliced(_search_strips, batch * strips, steps, *prepared, ranks.numpy(), loop, out.numpy())


@kernel()
def _prepared(points, present, sample_size):
    """Return the cloud of all points, the cloud of the sample, and its stride: every how many-th point is sampled.

    Args:
        points: (B, N, C). present: (B, N) bool. sample_size: about how many points to sample.
    """
    batch, count, _ = points.shape
    # With few points the sample is empty. Then no threshold holds any point back, and all are listed.
    stride = count // sample_size if count >= 4 * sample_size else count + 1
    cloud, sample = _empty_cloud(points, count), _empty_cloud(points, count // stride)
    for b in range(batch):
        mean = _mean(points[b], present[b])
        _fill(points[b], present[b], mean, 1, cloud.panels[b], cloud.half_norms[b])
        _fill(points[b], present[b], mean, stride, sample.panels[b], sample.half_norms[b])
    return cloud, sample, stride


@kernel()
def _empty_cloud(points, count):
    """Return memory, not yet written, for the cloud of ``count`` points of each block."""
    batch, _, channels = points.shape
    panels = -(-count // LANES)
    half_norms = np.empty((batch, panels * LANES), points.dtype)
    return Cloud(np.empty((batch, panels, channels, LANES), points.dtype), half_norms)


@kernel()
def _mean(points, present):
    """Return the mean (C,) of the points (N, C) that are present."""
    # Summed up in float64, on one thread: the mean must not depend on the number of threads.
    total, count = np.zeros(points.shape[1]), 0
    for point in range(len(points)):
        if present[point]:
            count += 1
            for channel in range(len(total)):
                total[channel] += points[point, channel]
    return (total / max(count, 1)).astype(points.dtype)


@kernel()
def _fill(points, present, mean, stride, panels, half_norms):
    """Write the cloud of every ``stride``-th point of one block, centred.

    Args:
        points: (N, C). present: (N,) bool. mean: (C,), subtracted from the points.
        panels: (P, C, LANES), written. half_norms: (P * LANES,), written.
    """
    count = len(points) // stride
    # The last panel may have fewer points than lanes.
    panels[-1:] = 0
    zero, half = splat(points.dtype.type(0)), splat(points.dtype.type(0.5))
    for panel in range(len(panels)):
        first = panel * LANES
        for lane in range(min(count - first, LANES)):
            point = (first + lane) * stride
            for channel in range(len(mean)):
                panels[panel, channel, lane] = points[point, channel] - mean[channel] if present[point] else 0
        flat, squares = panels[panel].reshape(-1), zero
        # Norms, like the products, are of the centred coordinates.
        for channel in range(0, len(flat), LANES):
            squares = squares + load(flat, channel) * load(flat, channel)
        store(half_norms, first, half * squares)
        for lane in range(LANES):
            if first + lane >= count or not present[(first + lane) * stride]:
                half_norms[first + lane] = np.inf


@kernel()
def _search_strips(start, stop, cloud, sample, stride, ranks, loop, out):
    """Write ``out`` for strips from ``start`` to ``stop``, counted through all blocks of points.

    Args:
        cloud, sample: of all points, and of every ``stride``-th. The others as in :func:`search`.
    """
    count, panels = out.shape[1], cloud.panels.shape[1]
    strips = -(-panels // STRIP)
    # Without loops the query point itself is in the list too, until `_select_row` removes it.
    wanted = ranks[-1] + (1 if loop else 2)
    # Lists have room for a vector more than there are points: `append` writes whole vectors.
    height, longest = STRIP * LANES, (panels + 1) * LANES
    keys, columns = np.empty((height, longest), cloud.panels.dtype), np.empty((height, longest), np.uint32)
    lists, scratch = Lists(keys, columns, np.empty(height, np.int64)), scratch_for(longest, cloud.half_norms)
    # Infinite distances, those to absent points, do not pass the largest finite threshold.
    largest = np.finfo(cloud.panels.dtype).max
    no_limit, thresholds, unfinished = np.full(height, largest), np.full(height, largest), np.empty(height, np.bool_)
    for strip in range(start, stop):
        b, first = strip // strips, strip % strips * STRIP
        block, sampled = Cloud(cloud.panels[b], cloud.half_norms[b]), Cloud(sample.panels[b], sample.half_norms[b])
        queries = block.panels[first : first + STRIP]
        # The lists hold the distances to the sample first. An empty sample leaves them empty, and thresholds largest.
        _fill_lists(queries, sampled, no_limit, lists)
        for r in range(len(queries) * LANES):
            # The sample has one point in ``stride``, so wanted / stride of the wanted ones are expected in it.
            thresholds[r] = threshold_of(keys[r], lists.counts[r], wanted / stride)
        _fill_lists(queries, block, thresholds, lists)
        rows = min(len(queries) * LANES, count - first * LANES)
        for r in range(rows):
            unfinished[r] = lists.counts[r] < wanted
            if not unfinished[r]:
                _select_row(lists, r, first * LANES + r, ranks, loop, out[b], scratch)
        if unfinished[:rows].any():
            # The thresholds of a few rows in a thousand were too low (ranks.MARGIN), so that their lists are too short.
            # These rows now get a threshold that all points pass, and finished rows one that none passes.
            for r in range(rows):
                thresholds[r] = largest if unfinished[r] else -largest
            _fill_lists(queries, block, thresholds, lists)
            for r in range(rows):
                if unfinished[r]:
                    # All points of the cloud are listed. To put so many in order would take a hundred times as long.
                    lists.counts[r] = shorten(keys[r], columns[r], lists.counts[r], wanted)
                    _select_row(lists, r, first * LANES + r, ranks, loop, out[b], scratch)


@kernel()
def _select_row(lists, row, point, ranks, loop, out, scratch):
    """Write ``out[point]`` from the list of the row that belongs to this query point."""
    count = lists.counts[row]
    if not loop:
        count = remove(point, lists.keys[row], lists.columns[row], count)
    select(lists.keys[row], lists.columns[row], count, ranks, out[point], scratch)


@kernel()
def _fill_lists(queries, cloud, thresholds, lists):
    """Write the lists of some rows: the points whose distance does not exceed the row's threshold.

    Args:
        queries: (p, C, LANES), the panels of these rows. cloud: the Cloud of one block of points, or of its sample.
        thresholds: one for each row; further entries are ignored.
        lists: written. A row whose distances are NaN has no candidates.
    """
    tile = np.empty(LANES * LANES, queries.dtype)
    lists.counts[:] = 0
    longest = lists.keys.shape[1]
    keys, columns = lists.keys.reshape(-1), lists.columns.reshape(-1)
    # The outer loop goes over columns and the inner one over rows: the rows of a strip stay in the L1 cache, and each
    # column is used by all of them while it is there too.
    for panel in range(len(cloud.panels)):
        numbers = numbered(np.uint32(panel * LANES))
        for query_panel in range(len(queries)):
            write_tile(queries, query_panel, cloud.panels, panel, cloud.half_norms, tile)
            for i in range(LANES):
                row = query_panel * LANES + i
                start = row * longest
                end = start + lists.counts[row]
                distances = load(tile, i * LANES)
                near = at_most(distances, splat(thresholds[row]))
                append(keys, end, distances, near)
                lists.counts[row] = append(columns, end, numbers, near) - start
