"""Neighbour search on the CPU: for each query point, the points at given ranks of distance from it.

All pairs of points are measured, but no distance of a pair is kept unless it may be among the wanted ones::

    for each block of 32 query points (rows):                              threads take them in turn
        measure the rows' distances to a sample of 256 points
        threshold of a row = a distance that lets through a few more than are wanted     `ranks.threshold_of`
        for each two groups of candidate points (columns):
            distances of a tile of rows by columns, in registers                         `tiles.write_tile`
            for each row: bitmask = distances <= threshold; append these to the row's list
        for each row: find the wanted ranks in its list by bins                          `ranks.select`
        a row whose list is too short, because the sample misled, is done again without a threshold

Compared are ``|y|^2 / 2 - x.y``, half the squared distance less ``|x|^2 / 2``, which all candidates y of a query point
x share. Points are centred first, because this difference loses its digits far from the origin.
"""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from ...kernel_cache import kernel
from .edges import present_points
from .ranks import remove, scratch_for, select, threshold_of
from .simd import LANES, append, at_most, load, numbered, splat, store
from .threads import run_sliced
from .tiles import COLUMNS, ROWS, TILE, write_tile

# Points of the sample: a threshold's error falls with its square root (6 % of candidates more at 256 than at 512).
SAMPLE = 256
# Groups of rows that meet the same columns: 32 rows of 64 channels (8 KiB) and the columns (8 KiB) fit the first cache.
ROW_GROUPS = 32 // LANES


class Cloud(NamedTuple):
    """Points of a batch in groups of LANES, channel by channel, the last group filled up."""

    # (B, G, C, LANES), G a multiple of COLUMNS.
    tiles: np.ndarray
    # (B, G * LANES), half of the squared norms; infinite for points that are nobody's neighbour.
    half_norms: np.ndarray


class Lists(NamedTuple):
    """The candidates of each of ROW_GROUPS * LANES rows."""

    # (rows, longest) each: distance, and number of the point.
    keys: np.ndarray
    columns: np.ndarray
    # (rows,) int64.
    counts: np.ndarray


def search(points: Tensor, mask: Tensor | None, ranks: Tensor, loop: bool, out: Tensor) -> None:
    """Write the points at the given ranks of distance to each point.

    Args:
        points: (B, N, C) float32 or float64. mask: (B, N) bool, False where a point may not be chosen.
        ranks: (m,) ascending, each below the number of points that may be chosen.
        loop: whether a point may be chosen for itself. out: (B, N, m) int64, written. Ties go to the smaller index.
    """
    batch, count, _ = points.shape
    prepared = _prepared(points.contiguous().numpy(), present_points(points, mask))
    blocks = -(-count // (ROW_GROUPS * LANES))
    run_sliced(_search_blocks, batch * blocks, batch * count * count, *prepared, ranks.numpy(), loop, out.numpy())


def suits(points: Tensor) -> bool:
    """Return whether this search takes so many points of their type: any."""
    return True


@kernel()
def _prepared(points, present):
    """Return the cloud of points (B, N, C), present (B, N), and that of a sample of them."""
    batch, count, channels = points.shape
    # Of few points none are sampled: then there is no threshold, and all are candidates.
    step = count // SAMPLE if count >= 4 * SAMPLE else count + 1
    cloud, sample = _empty_cloud(points, count), _empty_cloud(points, count // step)
    for b in range(batch):
        mean = _mean(points[b], present[b])
        _fill(points[b], present[b], mean, 1, cloud.tiles[b], cloud.half_norms[b])
        _fill(points[b], present[b], mean, step, sample.tiles[b], sample.half_norms[b])
    return cloud, sample, step


@kernel()
def _empty_cloud(points, count):
    """Return memory for the cloud of so many points of each block."""
    batch, _, channels = points.shape
    groups = -(-count // (COLUMNS * LANES)) * COLUMNS
    tiles = np.empty((batch, groups, channels, LANES), points.dtype)
    return Cloud(tiles, np.empty((batch, groups * LANES), points.dtype))


@kernel()
def _mean(points, present):
    """Return the mean (C,) of those of points (N, C) that are present."""
    total, count = np.zeros(points.shape[1]), 0
    for point in range(len(points)):
        if present[point]:
            count += 1
            for channel in range(len(total)):
                total[channel] += points[point, channel]
    return (total / max(count, 1)).astype(points.dtype)


@kernel()
def _fill(points, present, mean, step, tiles, half_norms):
    """Write every so manyth of the points of one block, centred: tiles (G, C, LANES) and half_norms (G * LANES,)."""
    count = len(points) // step
    tiles[-COLUMNS:] = 0
    zero, half = splat(points.dtype.type(0)), splat(points.dtype.type(0.5))
    for group in range(len(tiles)):
        first = group * LANES
        for lane in range(min(count - first, LANES)):
            point = (first + lane) * step
            for channel in range(len(mean)):
                tiles[group, channel, lane] = points[point, channel] - mean[channel] if present[point] else 0
        flat, squares = tiles[group].reshape(-1), zero
        for channel in range(0, len(flat), LANES):
            squares = squares + load(flat, channel) * load(flat, channel)
        store(half_norms, first, half * squares)
        for lane in range(LANES):
            if first + lane >= count or not present[(first + lane) * step]:
                half_norms[first + lane] = np.inf


@kernel()
def _search_blocks(start, stop, cloud, sample, step, ranks, loop, out):
    """Write ``out`` for blocks of rows from ``start`` to ``stop``, counted through all blocks of points.

    Args:
        cloud, sample, step: of :func:`_prepared`. The others as in :func:`search`.
    """
    count, groups = out.shape[1], cloud.tiles.shape[1]
    blocks = -(-groups // ROW_GROUPS)
    wanted = ranks[-1] + (1 if loop else 2)
    scratch = scratch_for((groups + 1) * LANES, cloud.half_norms)
    # One vector more than there are columns: `_append` writes whole vectors.
    shape = ROW_GROUPS * LANES, (groups + 1) * LANES
    all_lists = Lists(np.empty(shape, cloud.tiles.dtype), np.empty(shape, np.uint32), np.empty(shape[0], np.int64))
    largest = np.finfo(cloud.tiles.dtype).max
    everything, thresholds = np.full(shape[0], largest), np.full(shape[0], largest)
    for block in range(start, stop):
        b, first = block // blocks, block % blocks * ROW_GROUPS
        rows = cloud.tiles[b, first : first + ROW_GROUPS]
        points = Cloud(cloud.tiles[b], cloud.half_norms[b])
        _fill_lists(rows, Cloud(sample.tiles[b], sample.half_norms[b]), everything, all_lists)
        for r in range(len(rows) * LANES):
            estimate = threshold_of(all_lists.keys[r], all_lists.counts[r], wanted / step)
            thresholds[r] = min(estimate, largest)
        _fill_lists(rows, points, thresholds, all_lists)
        for r in range(min(len(rows) * LANES, count - first * LANES)):
            point, group = first * LANES + r, r // LANES
            if all_lists.counts[r] < wanted:
                # The sample misled. A tile has the rows of a group, so they are all done again.
                own = slice(group * LANES, (group + 1) * LANES)
                again = Lists(all_lists.keys[own], all_lists.columns[own], all_lists.counts[own])
                _fill_lists(rows[group : group + 1], points, everything[own], again)
            keys, columns = all_lists.keys[r], all_lists.columns[r]
            if not loop:
                all_lists.counts[r] = remove(point, keys, columns, all_lists.counts[r])
            select(keys, columns, all_lists.counts[r], ranks, out[b, point], scratch)


@kernel()
def _fill_lists(rows, points, thresholds, lists):
    """Write the candidates of some groups of rows: those of ``points`` whose distance does not exceed the threshold.

    Args:
        rows: (g, C, LANES). points: the Cloud of one block. thresholds: (g * LANES,) or more.
        lists: written; rows of points whose distances are NaN have no candidates.
    """
    tile = np.empty(TILE, rows.dtype)
    lists.counts[:] = 0
    longest = lists.keys.shape[1]
    keys, columns = lists.keys.reshape(-1), lists.columns.reshape(-1)
    for column in range(0, len(points.tiles), COLUMNS):
        for group in range(len(rows)):
            for lane in range(0, LANES, ROWS):
                write_tile(rows, group, lane, points.tiles, points.half_norms, column, tile)
                for i in range(ROWS):
                    row = group * LANES + lane + i
                    threshold, end = splat(thresholds[row]), row * longest + lists.counts[row]
                    for c in range(COLUMNS):
                        distances = load(tile, (i * COLUMNS + c) * LANES)
                        near = at_most(distances, threshold)
                        append(keys, end, distances, near)
                        end = append(columns, end, numbered(np.uint32((column + c) * LANES)), near)
                    lists.counts[row] = end - row * longest
