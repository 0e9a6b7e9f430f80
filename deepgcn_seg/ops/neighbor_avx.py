"""Neighbour search of a CPU with AVX-512 or AVX2, in float32: distances are compared while still in registers.

A row's distances to :data:`SAMPLE` of the points give a threshold; what it lets through are the row's candidates, a
few more than it needs. A group of rows by two of columns at a time (:mod:`.tiles_avx`),

- where few are near, each pair of points is multiplied once: two bits say for which of the two the other is a
  candidate. Half the products are saved, for making the candidates' distances again, as ``|x - y|^2``.
- where many are, or the points are too few for a sample, candidates are appended with their distances to a row's list
  at once; compared are ``|y|^2 / 2 - x.y``, half the squared distance less what a whole row shares.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.nn import functional as F

from .candidates import SAMPLE, remove, select, threshold_of, workspace
from .simd import BITS, LANES, PACKS, count_bits, load, numbered, packed, splat, store
from .threads import for_each_thread, run_each
from .tiles_avx import COLUMNS, append_near, mark_near, squared_distances

# Groups of rows that meet each group of columns: as many as the innermost cache holds, 64 channels wide.
ROW_GROUPS = 32 // LANES
# Pieces of work for each thread: more cost more, fewer leave the last thread alone for longer.
PIECES = 4
# So few points are searched sooner than a thread wakes up.
FEW_POINTS = 256
# Pairs are marked where so many times fewer are wanted than there are points.
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
    for block in zip(points, present, out):
        _search_block(*block, ranks, loop)


def _search_block(points: Tensor, present: np.ndarray, out: Tensor, ranks: Tensor, loop: bool) -> None:
    """The same for one block: points (N, C), present (N,), out (N, m)."""
    count = len(points)
    mean = np.empty(points.shape[1], np.float32)
    _write_mean(points.numpy(), present, mean)
    tiles, half_norms = _tiled(points, present, mean)
    groups = len(tiles)
    thresholds = np.full(groups * LANES, LARGEST, np.float32)
    found = ranks.numpy(), loop, out.numpy()
    longest = (groups + 1) * LANES
    lists = for_each_thread(lambda: _lists(ROW_GROUPS * LANES, longest))
    space = for_each_thread(lambda: workspace(longest, thresholds))
    wanted = int(ranks[-1]) + (1 if loop else 2)
    if count >= 4 * SAMPLE:
        sample = slice(0, count // SAMPLE * SAMPLE, count // SAMPLE)
        expected = wanted * SAMPLE / count
        sampled = _tiled(points[sample], present[sample], mean)
        _run(_find_thresholds, lambda: (tiles, *sampled, expected, thresholds, *lists()), 0, groups)
    if count < 4 * SAMPLE or SPARSE * wanted > count:
        _run(_search_lists, lambda: (tiles, half_norms, thresholds, *found, *lists(), space()), 0, groups)
        return
    thresholds = np.minimum(thresholds + half_norms, LARGEST)
    missing = -points.shape[1] % LANES
    rows = (F.pad(points, (0, missing)) if missing else points).numpy()
    marks = np.empty((min(groups, BAND) + COLUMNS, groups, LANES), BITS)
    mark = partial(_run, _mark, lambda: (tiles, half_norms, thresholds, marks))
    select_marked = partial(_run, _search_marks, lambda: (marks, rows, half_norms, *found, *lists(), space()))
    for lower in range(0, groups, BAND):
        upper = min(lower + BAND, groups)
        mark(lower, upper, lower, upper)
        select_marked(lower, upper, lower)


def _run(kernel: Callable[..., None], arguments: Callable[[], tuple], start: int, stop: int, *settings: Any) -> None:
    """``kernel(first, last, *settings, *arguments())`` for parts of the groups from start to stop, on all threads.

    Each calls ``arguments`` for itself.
    """
    piece = -(-(stop - start) // (PIECES * torch.get_num_threads()))

    def work(first: int) -> None:
        kernel(first, min(first + piece, stop), *settings, *arguments())

    run_each(work, range(start, stop, piece))


def _lists(rows: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Room for the candidates of some rows: keys and columns."""
    return np.empty((rows, longest), np.float32), np.empty((rows, longest), np.uint32)


def _tiled(points: Tensor, present: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, C) in groups of LANES, channel by channel (G, C, LANES), and half their squared norms (G * LANES,).

    Their mean is moved to the origin: ``|y|^2 / 2 - x.y`` cancels badly far from it. G is even. Norms of absent
    points, and of what fills the last groups, are infinite.
    """
    groups = _groups(len(points))
    tiles, half_norms = np.empty((groups, points.shape[1], LANES), np.float32), np.empty(groups * LANES, np.float32)
    _write_tiles(points.contiguous().numpy(), np.ascontiguousarray(present), mean, tiles, half_norms)
    return tiles, half_norms


@njit(nogil=True, cache=True)
def _groups(count):
    """How many groups so many points fill."""
    return -(-count // (COLUMNS * LANES)) * COLUMNS


@njit(nogil=True, cache=True)
def _write_mean(points, present, mean):
    """Write that of the present of (N, C) points."""
    total, count = np.zeros(len(mean)), 0
    for point in range(len(points)):
        if present[point]:
            count += 1
            for channel in range(len(mean)):
                total[channel] += points[point, channel]
    mean[:] = total / max(count, 1)


@njit(nogil=True, cache=True)
def _write_tiles(points, present, mean, tiles, half_norms):
    """Write :func:`_tiled`."""
    count, channels = points.shape
    tiles[-COLUMNS:] = 0
    half = splat(np.float32(0.5))
    for group in range(len(tiles)):
        for lane in range(min(count - group * LANES, LANES)):
            point = group * LANES + lane
            for channel in range(channels):
                tiles[group, channel, lane] = points[point, channel] - mean[channel] if present[point] else 0
        tile = tiles[group].reshape(-1)
        squares = splat(np.float32(0))
        for channel in range(0, len(tile), LANES):
            values = load(tile, channel)
            squares = squares + values * values
        store(half_norms, group * LANES, half * squares)
    for point in range(len(half_norms)):
        if point >= count or not present[point]:
            half_norms[point] = np.inf


@njit(nogil=True, cache=True)
def _find_thresholds(start, stop, tiles, sample, sample_norms, expected, thresholds, keys, columns):
    """Write the largest ``|y|^2 / 2 - x.y`` of a candidate y, for each row x in groups ``start <= g < stop``.

    Args:
        tiles: of :func:`_tiled`; sample, sample_norms too, of some of the points.
        expected: how many of these are wanted. keys, columns: (ROW_GROUPS * LANES, ·) scratch.
    """
    everything = np.full(len(keys), LARGEST, np.float32)
    kept = np.empty(len(keys), np.int64)
    for first in range(start, stop, ROW_GROUPS):
        last = min(first + ROW_GROUPS, stop)
        kept[:] = 0
        _append(first, last, tiles, sample, sample_norms, everything, kept, keys, columns)
        for r in range((last - first) * LANES):
            thresholds[first * LANES + r] = min(threshold_of(keys[r], kept[r], expected), LARGEST)


@njit(nogil=True, cache=True)
def _append(first, last, tiles, others, half_norms, thresholds, kept, keys, columns):
    """Append candidates of the groups of rows ``first <= g < last`` of tiles among all others."""
    for column in range(0, len(others), COLUMNS):
        for row in range(first, last):
            own = slice((row - first) * LANES, (row - first + 1) * LANES)
            append_near(tiles, others, half_norms, row, column, thresholds[own], kept[own], keys[own], columns[own])


@njit(nogil=True, cache=True)
def _search_lists(start, stop, tiles, half_norms, thresholds, ranks, loop, out, keys, columns, space):
    """``out[i]`` for the points ``i`` in groups ``start <= g < stop``, by lists of candidates.

    Args:
        thresholds: of :func:`_find_thresholds`. keys, columns: (ROW_GROUPS * LANES, (G + 1) * LANES) scratch, and
            that of :mod:`.candidates`.
    """
    wanted = ranks[-1] + (1 if loop else 2)
    kept = np.empty(len(keys), np.int64)
    for first in range(start, stop, ROW_GROUPS):
        last = min(first + ROW_GROUPS, stop)
        kept[:] = 0
        own = thresholds[first * LANES : last * LANES]
        _append(first, last, tiles, tiles, half_norms, own, kept, keys, columns)
        for r in range(min(last * LANES, len(out)) - first * LANES):
            row = first * LANES + r
            if kept[r] < wanted:
                # The sample misled: every column is a candidate, of the rows that share the registers too.
                group = r // LANES
                again = slice(group * LANES, (group + 1) * LANES)
                kept[again] = 0
                own[again] = LARGEST
                _append(
                    first + group, first + group + 1, tiles, tiles, half_norms,
                    own[again], kept[again], keys[again], columns[again],
                )  # fmt: skip
            if not loop:
                kept[r] = remove(row, keys[r], columns[r], kept[r])
            select(keys[r], columns[r], kept[r], ranks, out[row], space)


@njit(nogil=True, cache=True)
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
    for block in range(blocks):
        _write_mean(points[block], present[block], mean)
        _write_tiles(points[block], present[block], mean, tiles, half_norms)
        thresholds[:] = LARGEST
        _search_lists(0, groups, tiles, half_norms, thresholds, ranks, loop, out[block], keys, columns, space)


@njit(nogil=True, cache=True)
def _mark(start, stop, lower, upper, tiles, half_norms, thresholds, marks):
    """Mark the candidates of rows in groups ``start <= g < stop``, and those of their columns to which they are one.

    Args:
        marks: (G', G, LANES) of BITS, written: bit j of ``marks[g - lower, h, i]`` says whether point j of group h is a
            candidate of point i of group g, for ``lower <= g < upper``.
    """
    flat, nobody = marks.reshape(-1), len(marks) - COLUMNS
    for first in range(start, stop, ROW_GROUPS):
        last = min(first + ROW_GROUPS, stop)
        for column in range(0, len(tiles), COLUMNS):
            for row in range(first, last):
                if lower <= column and column + 1 < row:
                    # Marked from the other side.
                    continue
                # What is not marked from both sides goes where nobody looks.
                below = column - lower if lower <= column < upper else nobody
                place, mirrored = ((row - lower) * len(tiles) + column) * LANES, (below * len(tiles) + row) * LANES
                following = mirrored + len(tiles) * LANES
                mark_near(tiles, half_norms, thresholds, row, column, flat, place, mirrored, following)


@njit(nogil=True, cache=True)
def _search_marks(start, stop, lower, marks, rows, half_norms, ranks, loop, out, some_keys, some_columns, space):
    """``out[i]`` for the points ``i`` in groups ``start <= g < stop``, by marks.

    Args:
        marks: see :func:`_mark`. rows: (N, multiple of LANES) points. The rest as :func:`_search_lists`.
    """
    flat, width = rows.reshape(-1), rows.shape[1]
    keys, columns = some_keys[0], some_columns[0]
    for row in range(start * LANES, min(stop * LANES, len(out))):
        if not half_norms[row] < np.inf:
            # Absent, or without distances. Any answer, but inside the array.
            out[row] = ranks
            continue
        group, lane = row // LANES, row % LANES
        if not loop:
            marks[group - lower, group, lane] &= ~(BITS(1) << BITS(lane))
        count = 0
        for column in range(marks.shape[1]):
            near = marks[group - lower, column, lane]
            store(columns, count, packed(numbered(np.uint32(column * LANES)), near))
            count += count_bits(near)
        if count <= ranks[-1]:
            # The sample misled: every point is a candidate.
            count = 0
            for column in range(len(out)):
                columns[count] = column
                count += half_norms[column] < np.inf and (loop or column != row)
        store(columns, count, splat(np.uint32(row)))
        for j in range(0, count, LANES):
            store(keys, j, squared_distances(flat, width, row, columns, j))
        select(keys, columns, count, ranks, out[row], space)
