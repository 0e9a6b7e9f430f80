"""Neighbour search of a CPU with AVX-512 or AVX2, in float32: distances are compared while still in registers.

A row's distances to :data:`SAMPLE` of the points give a threshold; what it lets through are the row's candidates, a
few more than it needs. Points stand in order along the axis they vary most along, so a row's candidates are in a
window around it. A group of rows by two of columns at a time (:mod:`.tiles`),

- where few of a window are near, each pair of points, rounded to 16 bits (:mod:`.lower_bounds`), is multiplied once:
  two bits say for which of the two the other is a candidate. The candidates' distances are made after that, as
  ``|x - y|^2``.
- where many are, or the points are too few for a sample, candidates are appended with their distances to a row's list
  at once; compared are ``|y|^2 / 2 - x.y``, half the squared distance less what a whole row shares.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...kernel_cache import kernel
from .lower_bounds import put_in_order, write_reaches, write_rounded
from .ranks import SAMPLE, remove, select, threshold_of, workspace
from .simd import BITS, LANES, PACKS, count_bits, count_within, load, packed, splat, store
from .threads import for_each_thread, run_each
from .tiles import COLUMNS, append_near, mark_near, squared_distances

# Groups of rows that meet each group of columns: as many as the innermost cache holds, 64 channels wide.
ROW_GROUPS = 32 // LANES
# Pieces of work for each thread: more cost more, fewer leave the last thread alone for longer.
PIECES = 4
# So few points are searched sooner than a thread wakes up.
FEW_POINTS = 256
# Pairs are marked where so many times fewer are wanted than there are points in a window.
SPARSE = 15
# Groups of rows whose marks are held at a time: 8192 rows, 1 KiB for each column.
BAND = 8192 // LANES
LARGEST = np.finfo(np.float32).max


def suits(points: Tensor) -> bool:
    """Whether this search can run on this machine, for points of that type: float32."""
    return points.dtype == torch.float32 and PACKS


def search(points: Tensor, present: np.ndarray, ranks: Tensor, loop: bool, out: Tensor) -> None:
    """Write the points at the given ranks of distance to each point.

    Args:
        points: (B, N, C) float32, contiguous. present: (B, N) bool, False where a point may not be chosen.
        ranks: (m,) ascending, each below the number of points that may be chosen.
        loop: whether a point may be chosen for itself. out: (B, N, m) int64, written.
    """
    if points.shape[1] <= FEW_POINTS:
        _search_few(points.numpy(), present, ranks.numpy(), loop, out.numpy())
        return
    for block in zip(points.numpy(), present, out.numpy()):
        _search_block(*block, ranks.numpy(), loop)


def _search_block(points: np.ndarray, present: np.ndarray, out: np.ndarray, ranks: np.ndarray, loop: bool) -> None:
    """The same for one block: points (N, C), present (N,), out (N, m)."""
    count, channels = points.shape
    groups = _groups(count)
    places = groups * LANES
    mean = np.empty(channels, np.float32)
    _write_mean(points, present, mean)
    order, along = np.arange(places, dtype=np.uint32), np.zeros(places, np.float32)
    sampling = count >= 4 * SAMPLE
    if sampling:
        put_in_order(points, present, mean, count // SAMPLE, order[:count], along)
    tiles, half_norms = _tiled(points, present, mean, order[:count])
    thresholds = np.full(places, LARGEST, np.float32)
    lists = for_each_thread(lambda: _lists(ROW_GROUPS * LANES, places + LANES))
    space = for_each_thread(lambda: workspace(places + LANES, thresholds))
    wanted = int(ranks[-1]) + (1 if loop else 2)
    if sampling:
        sample = order[: count // SAMPLE * SAMPLE : count // SAMPLE]
        sampled, expected = _tiled(points, present, mean, sample), wanted * SAMPLE / count
        _run(_find_thresholds, lambda: (tiles, *sampled, order, expected, thresholds, *lists()), 0, groups)
    reaches, spans = np.empty((2, places), np.float32)
    write_reaches(thresholds, half_norms, channels, reaches, spans)
    windows = np.empty((-(-groups // ROW_GROUPS), 2), np.int64)
    _write_windows(along, spans, windows)
    found = order, ranks, loop, out
    if not sampling or SPARSE * wanted > (windows[:, 1] - windows[:, 0]).mean() * LANES:
        _run(_search_lists, lambda: (tiles, half_norms, thresholds, windows, *found, *lists(), space()), 0, groups)
        return
    rounded = _rounded(tiles, half_norms, reaches)
    # Freed: marks take as much.
    tiles = tiles[:0].copy()
    missing = -channels % LANES
    padded = np.pad(points, ((0, 0), (0, missing))) if missing else points
    marks = np.empty((min(groups, BAND) + COLUMNS, groups, LANES), BITS)
    mark = partial(_run, _mark, lambda: (*rounded, along, spans, marks))
    by_marks = (marks, padded, half_norms, reaches, windows, *found)
    select_marked = partial(_run, _search_marks, lambda: (*by_marks, *lists(), space()))
    for lower in range(0, groups, BAND):
        upper = min(lower + BAND, groups)
        marks.fill(0)
        mark(lower, upper, lower, upper)
        select_marked(lower, upper, lower)


def _run(kernel: Callable[..., None], arguments: Callable[[], tuple], start: int, stop: int, *settings: Any) -> None:
    """``kernel(first, last, *settings, *arguments())`` for parts of the groups from start to stop, on all threads.

    Each calls ``arguments`` for itself. Parts are of whole blocks of :data:`ROW_GROUPS`.
    """
    pieces = PIECES * torch.get_num_threads() * ROW_GROUPS
    piece = -(-(stop - start) // pieces) * ROW_GROUPS

    def work(first: int) -> None:
        kernel(first, min(first + piece, stop), *settings, *arguments())

    run_each(work, range(start, stop, piece))


def _lists(rows: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Room for the candidates of some rows: keys and columns."""
    return np.empty((rows, longest), np.float32), np.empty((rows, longest), np.uint32)


def _tiled(
    points: np.ndarray, present: np.ndarray, mean: np.ndarray, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, C), in that order, in groups of LANES, channel by channel (G, C, LANES), and half their squared norms.

    Their mean is moved to the origin: ``|y|^2 / 2 - x.y`` cancels badly far from it. G is even. Norms of absent
    points, and of what fills the last groups, are infinite: (G * LANES,).
    """
    groups = _groups(len(order))
    tiles, half_norms = np.empty((groups, points.shape[1], LANES), np.float32), np.empty(groups * LANES, np.float32)
    _write_tiles(points, present, mean, order, tiles, half_norms)
    return tiles, half_norms


def _rounded(tiles: np.ndarray, half_norms: np.ndarray, reaches: np.ndarray) -> tuple[np.ndarray, ...]:
    """The words, norms and limits of :func:`.lower_bounds.write_rounded`."""
    groups, channels, _ = tiles.shape
    words, rest = np.empty((groups, -(-channels // 2), LANES), np.int32), np.empty((2, groups * LANES), np.int32)
    write_rounded(tiles, half_norms, reaches, words, *rest)
    return words, *rest


@kernel()
def _groups(count):
    """How many groups so many points fill."""
    return -(-count // (COLUMNS * LANES)) * COLUMNS


@kernel()
def _write_mean(points, present, mean):
    """Write that of the present of (N, C) points."""
    total, count = np.zeros(len(mean)), 0
    for point in range(len(points)):
        if present[point]:
            count += 1
            for channel in range(len(mean)):
                total[channel] += points[point, channel]
    mean[:] = total / max(count, 1)


@kernel()
def _write_tiles(points, present, mean, order, tiles, half_norms):
    """Write :func:`_tiled`."""
    count, channels = len(order), points.shape[1]
    tiles[-COLUMNS:] = 0
    half = splat(np.float32(0.5))
    for group in range(len(tiles)):
        for lane in range(min(count - group * LANES, LANES)):
            point = order[group * LANES + lane]
            for channel in range(channels):
                tiles[group, channel, lane] = points[point, channel] - mean[channel] if present[point] else 0
        tile = tiles[group].reshape(-1)
        squares = splat(np.float32(0))
        for channel in range(0, len(tile), LANES):
            values = load(tile, channel)
            squares = squares + values * values
        store(half_norms, group * LANES, half * squares)
    for place in range(len(half_norms)):
        if place >= count or not present[order[place]]:
            half_norms[place] = np.inf


@kernel()
def _write_windows(along, spans, windows):
    """Write which groups ``first <= g < last`` hold all candidates of each block of :data:`ROW_GROUPS` groups.

    Args:
        along, spans: of :mod:`.lower_bounds`. windows: (blocks, 2).
    """
    size, groups = ROW_GROUPS * LANES, len(along) // LANES
    for block in range(len(windows)):
        rows = slice(block * size, (block + 1) * size)
        span = spans[rows].max()
        lowest, highest = along[rows][0] - span, along[rows][-1] + span
        first, last = 0, groups
        while first + COLUMNS < groups and along[(first + COLUMNS) * LANES - 1] < lowest:
            first += COLUMNS
        while last - COLUMNS > first and along[(last - COLUMNS) * LANES] > highest:
            last -= COLUMNS
        windows[block] = first, last


@kernel()
def _find_thresholds(start, stop, tiles, sample, sample_norms, order, expected, thresholds, keys, columns):
    """Write the largest ``|y|^2 / 2 - x.y`` of a candidate y, for each row x in groups ``start <= g < stop``.

    Args:
        tiles: of :func:`_tiled`; sample, sample_norms too, of some of the points. order: at least as long.
        expected: how many of these are wanted. keys, columns: (ROW_GROUPS * LANES, ·) scratch.
    """
    everything = np.full(len(keys), LARGEST, np.float32)
    kept = np.empty(len(keys), np.int64)
    for first in range(start, stop, ROW_GROUPS):
        last = min(first + ROW_GROUPS, stop)
        kept[:] = 0
        _append(first, last, 0, len(sample), tiles, sample, sample_norms, order, everything, kept, keys, columns)
        for r in range((last - first) * LANES):
            thresholds[first * LANES + r] = min(threshold_of(keys[r], kept[r], expected), LARGEST)


@kernel()
def _append(first, last, lower, upper, tiles, others, half_norms, order, thresholds, kept, keys, columns):
    """Append candidates of the groups of rows ``first <= g < last`` of tiles among ``lower <= h < upper`` of others."""
    for column in range(lower, upper, COLUMNS):
        for row in range(first, last):
            own = slice((row - first) * LANES, (row - first + 1) * LANES)
            append_near(
                tiles, others, half_norms, order, row, column, thresholds[own], kept[own], keys[own], columns[own]
            )


@kernel()
def _search_lists(start, stop, tiles, half_norms, thresholds, windows, order, ranks, loop, out, keys, columns, space):
    """Write ``out`` for the points in groups ``start <= g < stop``, by lists of candidates.

    Args:
        tiles, half_norms: of :func:`_tiled`. thresholds: of :func:`_find_thresholds`. windows: of
            :func:`_write_windows`. order: (G * LANES,) points in order.
        keys, columns: (ROW_GROUPS * LANES, (G + 1) * LANES) scratch. space: that of :mod:`.ranks`.
    """
    wanted = ranks[-1] + (1 if loop else 2)
    kept = np.empty(len(keys), np.int64)
    for first in range(start, stop, ROW_GROUPS):
        last = min(first + ROW_GROUPS, stop)
        kept[:] = 0
        own = thresholds[first * LANES : last * LANES]
        lower, upper = windows[first // ROW_GROUPS]
        _append(first, last, lower, upper, tiles, tiles, half_norms, order, own, kept, keys, columns)
        for r in range(min(last * LANES, len(out)) - first * LANES):
            point = order[first * LANES + r]
            if kept[r] < wanted:
                # The sample misled: every column is a candidate, of the rows that share the registers too.
                group = r // LANES
                again = slice(group * LANES, (group + 1) * LANES)
                kept[again] = 0
                own[again] = LARGEST
                _append(
                    first + group, first + group + 1, 0, len(tiles), tiles, tiles, half_norms, order,
                    own[again], kept[again], keys[again], columns[again],
                )  # fmt: skip
            if not loop:
                kept[r] = remove(point, keys[r], columns[r], kept[r])
            select(keys[r], columns[r], kept[r], ranks, out[point], space)


@kernel()
def _search_few(points, present, ranks, loop, out):
    """:func:`search` of blocks so small that reaching the threads, or Python between two steps, would take longer."""
    blocks, count, channels = points.shape
    groups = _groups(count)
    tiles, half_norms = np.empty((groups, channels, LANES), np.float32), np.empty(groups * LANES, np.float32)
    thresholds = np.empty(groups * LANES, np.float32)
    longest = (groups + 1) * LANES
    keys, columns = (
        np.empty((ROW_GROUPS * LANES, longest), np.float32),
        np.empty((ROW_GROUPS * LANES, longest), np.uint32),
    )
    space = workspace(longest, thresholds)
    mean = np.empty(channels, np.float32)
    order = np.arange(groups * LANES).astype(np.uint32)
    windows = np.full((-(-groups // ROW_GROUPS), 2), 0)
    windows[:, 1] = groups
    for block in range(blocks):
        _write_mean(points[block], present[block], mean)
        _write_tiles(points[block], present[block], mean, order[:count], tiles, half_norms)
        thresholds[:] = LARGEST
        _search_lists(
            0, groups, tiles, half_norms, thresholds, windows, order, ranks, loop, out[block], keys, columns, space
        )


@kernel()
def _mark(start, stop, lower, upper, words, norms, limits, along, spans, marks):
    """Mark the candidates of rows in groups ``start <= g < stop``, and those of their columns to which they are one.

    Where no row and no column reaches the other along the axis, nothing is marked.

    Args:
        words, norms, limits: of :func:`.lower_bounds.write_rounded`. along, spans: of the same module.
        marks: (G', G, LANES) of BITS, written: bit j of ``marks[g - lower, h, i]`` says whether point j of group h is a
            candidate of point i of group g, for ``lower <= g < upper``.
    """
    flat, nobody = marks.reshape(-1), len(marks) - COLUMNS
    for first in range(start, stop, ROW_GROUPS):
        last = min(first + ROW_GROUPS, stop)
        mine = slice(first * LANES, last * LANES)
        left, right, reach = along[mine][0], along[mine][-1], spans[mine].max()
        for column in range(0, len(words), COLUMNS):
            theirs = slice(column * LANES, (column + COLUMNS) * LANES)
            gap = max(along[theirs][0] - right, left - along[theirs][-1])
            if gap > reach and gap > spans[theirs].max():
                continue
            for row in range(first, last):
                if lower <= column and column + 1 < row:
                    # Marked from the other side.
                    continue
                # What is not marked from both sides goes where nobody looks.
                below = column - lower if lower <= column < upper else nobody
                place, mirrored = ((row - lower) * len(words) + column) * LANES, (below * len(words) + row) * LANES
                following = mirrored + len(words) * LANES
                mark_near(words, norms, limits, row, column, flat, place, mirrored, following)


@kernel()
def _search_marks(
    start, stop, lower, marks, points, half_norms, reaches, windows, order, ranks, loop, out, keys, columns, space
):
    """Write ``out`` for the points in groups ``start <= g < stop``, by marks.

    Args:
        marks: see :func:`_mark`. points: (N, multiple of LANES). reaches: (G * LANES,) squared distances; whoever is
            within is marked. The rest as :func:`_search_lists`.
    """
    flat, width = points.reshape(-1), points.shape[1]
    keys, columns = keys[0], columns[0]
    for place in range(start * LANES, min(stop * LANES, len(out))):
        point = order[place]
        if not half_norms[place] < np.inf:
            # Absent, or without distances. Any answer, but inside the array.
            out[point] = ranks
            continue
        group, lane = place // LANES, place % LANES
        if not loop:
            marks[group - lower, group, lane] &= ~(BITS(1) << BITS(lane))
        first, last = windows[group // ROW_GROUPS]
        count = 0
        for column in range(first, last):
            near = marks[group - lower, column, lane]
            store(columns, count, packed(load(order, column * LANES), near))
            count += count_bits(near)
        if _measure(flat, width, point, keys, columns, count, reaches[place]) <= ranks[-1]:
            # The sample misled: every point is a candidate.
            count = 0
            for other in range(len(out)):
                columns[count] = order[other]
                count += half_norms[other] < np.inf and (loop or other != place)
            _measure(flat, width, point, keys, columns, count, reaches[place])
        select(keys, columns, count, ranks, out[point], space)


@kernel()
def _measure(points, width, own, keys, columns, count, reach):
    """Write squared distances of a point to the first so many of columns; how many do not exceed ``reach``."""
    store(columns, count, splat(np.uint32(own)))
    reaches = splat(reach)
    # What fills the last vector is the point itself, within any reach.
    within = -(-count % LANES)
    for j in range(0, count, LANES):
        distances = squared_distances(points, width, own, columns, j)
        store(keys, j, distances)
        within += count_within(distances, reaches)
    return within
