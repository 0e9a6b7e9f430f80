"""Neighbour search on a GPU (Triton): for each query point, the points at given ranks of distance from it.

No matrix of distances is stored. Each line is a kernel::

    _split            each point, centred: unit * (high + low), two float16 vectors; |x|^2
    _thresholds       for each query: distances to a sample of the points, by the high parts alone;
                      threshold = a value that Plan.rank of them do not exceed, by bisection
    _candidates       for each tile of 64 queries, for each tile of 64 points:
                          distances of the tile, in registers
                          those up to the query's threshold go to the query's list, as (distance, column)
    _select_listed    for each query: sort its list; the columns at the wanted ranks are the result
    rows.*            for each query whose list is too short or full (the sample was not like the whole,
                      or too many distances are equal): search its whole row of distances

Distances are compared as ``|y|^2 - 2 x.y``: the ``|x|^2`` of a query changes no rank. Products run on tensor cores,
which multiply float16: three products of high and low parts are as exact as one of float32.
docs/performance.md says where the time of an inference on an H100 goes.
"""

import logging
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import reference
from .launch import interpreted, power_of_two
from .rows import WHOLE_ROWS, RowSizes, SplitPoints, key_of, middle_key, search_missed, value_of

# A threshold lies this many standard deviations of the sampling error above what the sample says. Then 6 in 1000 rows
# of independent distances have fewer candidates than wanted.
MARGIN = 2.5
# A list has room for this many standard deviations more candidates than are expected. A network's features are less
# evenly spread than random points, and 3 in 1000 of its rows have more candidates than that.
ROOM = 4.0
# Halvings of the interval of a row's sampled distances: 2^-12 of it is less than the sampling error.
STEPS = tl.constexpr(12)
# Rows and columns of a tile of distances, and channels at a time: 64 x 64 float32 sums are 32 registers of each of 128
# threads.
ROWS, COLUMNS, CHANNELS = 64, 64, 64
# Points of a program of _split, which keeps 64 channels of each in registers.
SPLIT_ROWS = 32
# A list of more would not fit into a program's registers while it is sorted: PyTorch's topk takes over.
MOST_KEPT = 4096
# Inline assembly is for NVIDIA's GPUs, not for AMD's.
NVIDIA = torch.version.hip is None

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What bounds memory and work of a search. The defaults were measured on an H100; tests take others.

    Attributes:
        list_bytes: memory of the lists of candidates; queries are searched in parts that fit.
        least_sample, most_sample: points that a row's threshold is taken from: an eighth of all, within these.
        most_sorted: of longer lists, candidates beyond the wanted ones are dropped before they are sorted.
        most_coded: longer lists are sorted by 64-bit pairs. In shorter ones distance and place share 32 bits, half the
            work, and the place leaves at least 22 bits to the distance.
    """

    list_bytes: int = 96 << 20
    least_sample: int = 512
    most_sample: int = 1024
    most_sorted: int = 128
    most_coded: int = 1024


@dataclass(frozen=True)
class Plan:
    """How rows of distances are searched, given their length and the number of candidates needed.

    Attributes:
        wanted: candidates needed. sample: points sampled, every ``stride``-th.
        rank: which of the sampled distances is the threshold, from 1.
        capacity: room for candidates. keep: how many of them are sorted at most, a power of two.
    """

    wanted: int
    sample: int
    stride: int
    rank: int
    capacity: int
    keep: int


LIMITS = Limits()


@lru_cache(maxsize=256)
def plan(wanted: int, count: int, limits: Limits = LIMITS) -> Plan:
    """Return a plan by which few rows have fewer candidates than wanted, or more than there is room for."""
    sample = min(max(power_of_two(count) // 8, limits.least_sample), limits.most_sample)
    # The sample is drawn without replacement. Its variance is smaller by the factor 1 - sample / count.
    expected, spread = wanted * sample / count, math.sqrt(max(1 - sample / count, 0))
    if count <= sample:
        # The sample is everything, but its distances are rounded to float16's three digits.
        sample, slack = max(power_of_two(count), 16), 2 + count // 64
        rank = found = min(wanted + slack, count)
        most = float(min(found + slack, count))
    else:
        rank = min(math.ceil(expected + MARGIN * spread * math.sqrt(expected)) + 1, sample)
        found = rank * count // sample
        most = found * (1 + ROOM * spread / math.sqrt(rank))
    capacity = -(-math.ceil(most) // 16) * 16
    keep = max(power_of_two(wanted), min(power_of_two(found), limits.most_sorted), 16)
    return Plan(wanted, sample, max(count // sample, 1), rank, capacity, keep)


@triton.jit
def _centred(points, mean, row, channel, present, count, channels):
    """Load channels of points less their block's mean; zero where a point is absent."""
    inside = present[:, None] & (channel < channels)[None, :]
    x = tl.load(points + row[:, None] * channels + channel[None, :], mask=inside, other=0.0)
    return x - tl.load(mean + (row // count)[:, None] * channels + channel[None, :], mask=inside, other=0.0)


@triton.jit
def _split(
    points, mean, mask, high, low, units, norms, total, count, channels, width,
    MASKED: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Write centred points as ``unit * (high + low)``, and their squared lengths, infinite for absent points.

    The unit is a power of two, in which a point's largest coordinate is between 2^14 and 2^15. float16 has 11 bits:
    what both parts leave out of a coordinate is at most 2^-23 of that, as in float32.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    here = row < total
    present = here
    if MASKED:
        present = here & (tl.load(mask + row, mask=here, other=0) != 0)
    largest = tl.zeros((ROWS,), tl.float32)
    norm = tl.zeros((ROWS,), tl.float32)
    for start in range(0, width, CHANNELS):
        x = _centred(points, mean, row, start + tl.arange(0, CHANNELS), present, count, channels)
        largest = tl.maximum(largest, tl.max(tl.abs(x), 1))
        norm += tl.sum(x * x, 1)
    tl.store(norms + row, tl.where(present, norm, float("inf")), mask=here)
    # float32's exponent bits, which are 127 more than the exponent. From 15 on the unit does not underflow to zero.
    exponent = tl.maximum(largest.to(tl.int32, bitcast=True) >> 23, 15)
    unit = ((exponent - 14) << 23).to(tl.float32, bitcast=True)
    scale = ((268 - exponent) << 23).to(tl.float32, bitcast=True)
    tl.store(units + row, unit, mask=here)
    for start in range(0, width, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        x = scale[:, None] * _centred(points, mean, row, channel, present, count, channels)
        rounded = x.to(tl.float16)
        place = row[:, None] * width + channel[None, :]
        tl.store(high + place, rounded, mask=here[:, None])
        tl.store(low + place, (x - rounded.to(tl.float32)).to(tl.float16), mask=here[:, None])


@triton.jit
def _operand(x, row, inside, channel, width):
    """Load channels of the split points ``row``."""
    return tl.load(x + row[:, None] * width + channel[None, :], mask=inside[:, None], other=0.0)


@triton.jit
def _add_products(sums, left_high, left_low, right_high, right_low):
    """Add the products of points in two parts; low times low is below float32's precision."""
    right_high, right_low = tl.trans(right_high), tl.trans(right_low)
    sums = tl.dot(left_low, right_high, sums)
    sums = tl.dot(left_high, right_low, sums)
    return tl.dot(left_high, right_high, sums)


@triton.jit
def _products(
    high, low, left, left_inside, right, right_inside, width,
    EXACT: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Return the products of the points ``left`` with the points ``right``, (ROWS, COLUMNS).

    With EXACT as in float32, otherwise of the high parts alone, to three digits.
    """
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, width, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        left_high = _operand(high, left, left_inside, channel, width)
        right_high = _operand(high, right, right_inside, channel, width)
        if EXACT:
            left_low = _operand(low, left, left_inside, channel, width)
            right_low = _operand(low, right, right_inside, channel, width)
            sums = _add_products(sums, left_high, left_low, right_high, right_low)
        else:
            sums = tl.dot(left_high, tl.trans(right_high), sums)
    return sums


@triton.jit
def _distances(sums, row_units, units, norms, row, column, inside, LOOP: tl.constexpr):
    """Return ``|y|^2 - 2 x.y`` from the products of points in their units; infinite where y may not be chosen."""
    # One unit after the other: their product may be below what float32 can hold.
    sums *= tl.load(units + column, mask=inside, other=0.0)[None, :]
    value = tl.load(norms + column, mask=inside, other=float("inf"))[None, :] - 2 * row_units[:, None] * sums
    if not LOOP:
        value = tl.where(column[None, :] == row[:, None], float("inf"), value)
    return value


@triton.jit(do_not_specialize=["stride", "rank"])
def _thresholds(
    high, units, norms, thresholds, count, width, stride, rank,
    LOOP: tl.constexpr, SAMPLE: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Write a value for each row that at least ``rank`` of its sampled distances do not exceed, and hardly more."""
    block = tl.program_id(1).to(tl.int64)
    high += block * count * width
    units += block * count
    norms += block * count
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    here = row < count
    sampled = tl.arange(0, SAMPLE) * stride
    inside = sampled < count
    sums = _products(high, high, row, here, sampled, inside, width, False, CHANNELS, ROWS, SAMPLE)
    row_units = tl.load(units + row, mask=here, other=0.0)
    value = _distances(sums, row_units, units, norms, row, sampled, inside, LOOP)
    below = tl.min(value, 1)
    above = tl.max(tl.where(value < float("inf"), value, -float("inf")), 1)
    for _ in range(STEPS):
        middle = 0.5 * below + 0.5 * above
        enough = tl.sum((value <= middle[:, None]).to(tl.int32), 1) >= rank
        above = tl.where(enough, middle, above)
        below = tl.where(enough, below, middle)
    tl.store(thresholds + block * count + row, above, mask=here)


@triton.jit(do_not_specialize=["first_block", "first_row", "rows"])
def _candidates(
    high, low, units, norms, thresholds, lists, found, first_block, first_row, rows, count, width, capacity,
    LOOP: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """Append each row's distances up to its threshold, with their columns in ascending order, to its list."""
    block = (first_block + tl.program_id(1)).to(tl.int64)
    tile = tl.program_id(0) * ROWS
    high += block * count * width
    low += block * count * width
    units += block * count
    norms += block * count
    lists += (tl.program_id(1).to(tl.int64) * rows + tile) * capacity
    row = first_row + tile + tl.arange(0, ROWS)
    # The last tile of these rows may reach beyond them.
    here = row < first_row + rows
    threshold = tl.load(thresholds + block * count + row, mask=here, other=-float("inf"))
    row_units = tl.load(units + row, mask=here, other=0.0)
    channel = tl.arange(0, CHANNELS)
    # If all channels fit into one step, the rows are loaded once for all columns.
    if not WIDE:
        left_high = _operand(high, row, here, channel, width)
        left_low = _operand(low, row, here, channel, width)
    written = tl.zeros((ROWS,), tl.float32)
    start_of_list = lists.to(tl.int64) + 8 * (tl.arange(0, ROWS) * capacity - 0x4B000000).to(tl.int64)
    number = tl.arange(0, COLUMNS)
    up_to = tl.where(number[:, None] <= number[None, :], 1.0, 0.0).to(tl.float16)
    for start in range(0, count, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < count
        if WIDE:
            sums = _products(high, low, row, here, column, inside, width, True, CHANNELS, ROWS, COLUMNS)
        else:
            right_high = _operand(high, column, inside, channel, width)
            right_low = _operand(low, column, inside, channel, width)
            sums = tl.zeros((ROWS, COLUMNS), tl.float32)
            sums = _add_products(sums, left_high, left_low, right_high, right_low)
        value = _distances(sums, row_units, units, norms, row, column, inside, LOOP)
        kept = value <= threshold[:, None]
        # Where in the list does each kept distance go? Running counts along a row, as a product with a triangle of
        # ones: its result lies in the same threads as the distances. tl.cumsum would move it between threads (62
        # microseconds for 45).
        counts = tl.dot(tl.where(kept, 1.0, 0.0).to(tl.float16), up_to, out_dtype=tl.float32)
        # 8388607 is 2^23 - 1: with 2^23 added, a small whole number is the last bits of a float32, which is quicker
        # than a conversion.
        place = (counts + (written + 8388607.0)[:, None]).to(tl.int32, bitcast=True)
        if PTX:
            # Each thread stores its own kept pairs. tl.store would first move addresses, values and masks between
            # threads, so that neighbouring threads write neighbouring addresses.
            tl.inline_asm_elementwise(
                """{
                .reg .pred kept; .reg .b64 address;
                setp.le.f32 kept, $2, $5;
                setp.lt.and.s32 kept, $4, $6, kept;
                mad.wide.s32 address, $4, 8, $1;
                @kept st.global.v2.b32 [address], {$3, $2};
                mov.b32 $0, 0;
                }""",
                "=r,l,f,r,r,f,r",
                [start_of_list[:, None], value, column[None, :], place, threshold[:, None], 0x4B000000 + capacity],
                dtype=tl.int32,
                is_pure=False,
                pack=1,
            )
        else:
            pair = (value.to(tl.int32, bitcast=True).to(tl.int64) << 32) | column[None, :]
            address = start_of_list[:, None] + 8 * place.to(tl.int64)
            kept = kept & (place < 0x4B000000 + capacity)
            tl.store(address.to(tl.pointer_type(tl.int64)), pair, mask=kept)
        written += tl.max(counts, 1)
    tl.store(found + block * count + row, written.to(tl.int32), mask=here)


@triton.jit
def _distance_of(pair):
    """Return the distance of a list's entry, (distance << 32) | column."""
    return (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _keep_nearest(lists, value, place, count, threshold, wanted, KEEP: tl.constexpr):
    """Move the nearest candidates, at least as many as wanted, to the front of their list; return how many they are."""
    low = key_of(tl.min(tl.where(place < count, value, float("inf")), 0))
    high = key_of(threshold)
    within = count
    step = 0
    while (low < high) & (within > KEEP):
        middle = middle_key(low, high, step)
        found = tl.sum(((value <= value_of(middle)) & (place < count)).to(tl.int32), 0)
        high = tl.where(found >= wanted, middle, high)
        low = tl.where(found >= wanted, low, middle + 1)
        within = tl.where(found >= wanted, found, within)
        step += 1
    kept = (value <= value_of(high)) & (place < count)
    pair = tl.load(lists + place, mask=kept, other=0)
    to = tl.cumsum(kept.to(tl.int32), 0) - 1
    tl.debug_barrier()
    tl.store(lists + to, pair, mask=kept)
    tl.debug_barrier()
    return within


@triton.jit(do_not_specialize=["first_point", "first_row", "rows", "wanted", "number"])
def _select_listed(
    lists, found, thresholds, order, missed, misses, ranks, out,
    first_point, first_row, rows, columns, capacity, wanted, number,
    WIDTH: tl.constexpr, KEEP: tl.constexpr, BITS: tl.constexpr, CODED: tl.constexpr, RANKS: tl.constexpr,
):  # fmt: skip
    """Write the columns of the candidates at the given ranks; one program a row. Note rows whose list is not whole."""
    program = tl.program_id(0)
    lists += program.to(tl.int64) * capacity
    order += program.to(tl.int64) * KEEP
    # ``row`` counts through the points of all blocks, ``program`` through the rows that are searched at a time.
    row = first_point + program // rows * columns + first_row + program % rows
    count = tl.load(found + row)
    threshold = tl.load(thresholds + row)
    listed = (count >= wanted) & (count <= capacity)
    if KEEP < WIDTH:  # noqa: SIM102 - the outer one is the compiler's
        if listed & (count > KEEP):
            place = tl.arange(0, WIDTH)
            value = _distance_of(tl.load(lists + place, mask=place < count, other=0))
            count = _keep_nearest(lists, value, place, count, threshold, wanted, KEEP)
            # More than KEEP are left if too many distances are equal.
            listed = count <= KEEP
    if not listed:
        tl.store(missed + tl.atomic_add(misses, 1), row)
    if listed:
        place = tl.arange(0, KEEP)
        inside = place < count
        value = _distance_of(tl.load(lists + place, mask=inside, other=0))
        misplaced = 1
        if CODED:
            # Sort 32-bit codes: the distance's leading bits above, its place in the list below, which breaks ties. The
            # order is wrong only where two distances agree in those bits and differ in the others; then sort again.
            lowest = tl.min(tl.where(inside, value, float("inf")), 0)
            span = threshold - lowest
            scale = tl.where(span > 0, (2.0 ** (32 - BITS) - 1) / span, 0.0)
            code = tl.minimum((value - lowest) * scale, 2.0 ** (32 - BITS) - 1) - 2.0 ** (31 - BITS)
            code = (tl.where(inside, code, 0.0).to(tl.int32) << BITS) | place
            sorted_place = tl.sort(tl.where(inside, code, 0x7FFFFFFF)) & (KEEP - 1)
            tl.store(order + place, sorted_place.to(tl.int16))
            tl.debug_barrier()
            pairwise = place + 1 < count
            following = tl.load(order + place + 1, mask=pairwise, other=0).to(tl.int32)
            here = _distance_of(tl.load(lists + sorted_place, mask=pairwise, other=0))
            after = _distance_of(tl.load(lists + following, mask=pairwise, other=0))
            misplaced = tl.max((here > after).to(tl.int32), 0)
            tl.debug_barrier()
        if misplaced != 0:
            pairs = tl.where(inside, (key_of(value).to(tl.int64) << 32) | place, 0x7FFFFFFFFFFFFFFF)
            tl.store(order + place, (tl.sort(pairs) & 0xFFFF).to(tl.int16))
        tl.debug_barrier()
        which = tl.arange(0, RANKS)
        rank = tl.load(ranks + which, mask=which < number, other=0)
        chosen = tl.load(order + rank, mask=which < number, other=0).to(tl.int32)
        pair = tl.load(lists + chosen, mask=which < number, other=0)
        tl.store(out + row.to(tl.int64) * number + which, pair & 0xFFFFFFFF, mask=which < number)


class Lists(NamedTuple):
    """Scratch for the queries that are searched at a time."""

    # For each query, its candidates as (distance << 32) | column, and their places in the list in order of distance.
    entries: Tensor
    order: Tensor
    # (B, N) int32: how many candidates each query has.
    found: Tensor
    # int32: the queries, of B * N, whose whole row is to be searched; and how many they are, (1,).
    missed: Tensor
    misses: Tensor


def search(
    points: Tensor,
    mask: Tensor | None,
    ranks: Tensor,
    loop: bool,
    out: Tensor,
    limits: Limits = LIMITS,
    how: Plan | None = None,
    sizes: RowSizes = WHOLE_ROWS,
) -> None:
    """Write the points at the given ranks of distance from each point. Ties go to the smaller index.

    Args:
        points: (B, N, C). mask: (B, N) bool, False where a point may not be a neighbour.
        ranks: (m,) ascending, each below the number of points that may be neighbours.
        loop: whether a point may be its own neighbour. out: (B, N, m) int64, written.
        limits, how, sizes: memory and work, for tests; ``how`` is :func:`plan`'s by default.
    """
    batch, count, channels = points.shape
    how = how or plan(int(ranks[-1]) + 1, count, limits)
    if points.dtype != torch.float32:
        _log_unsuited(count, str(points.dtype))
    if points.dtype != torch.float32 or how.keep > MOST_KEPT:
        reference.search(points, mask, ranks, loop, out)
        return
    step = min(CHANNELS, max(power_of_two(channels), 16))
    split = _split_points(points.contiguous(), mask, -(-channels // step) * step)
    thresholds = _sampled_thresholds(split, how, loop, step)
    # Only kernels read the ranks: the host need not wait for the copy.
    ranks = ranks.to(points.device, non_blocking=True)
    # Search as many blocks at a time as the lists have room for, or a part of the rows if a block is too large.
    most = limits.list_bytes // (8 * how.capacity + 2 * how.keep)
    together, chunk = min(max(most // count, 1), batch), min(count, max(most // ROWS, 1) * ROWS)
    lists = Lists(
        points.new_empty(together * chunk * how.capacity, dtype=torch.int64),
        points.new_empty(together * chunk * how.keep, dtype=torch.int16),
        points.new_empty(batch, count, dtype=torch.int32),
        points.new_empty(batch, count, dtype=torch.int32),
        points.new_zeros(1, dtype=torch.int32),
    )
    for block in range(0, batch, together):
        for row in range(0, count, chunk):
            blocks, rows = min(together, batch - block), min(chunk, count - row)
            _list_candidates(split, thresholds, lists, how, loop, step, (block, blocks), (row, rows))
            coded = how.keep <= limits.most_coded
            _select_from_lists(thresholds, lists, how, coded, ranks, out, (block, blocks), (row, rows))
    search_missed(split, lists.missed, lists.misses, how.wanted, ranks, loop, out, sizes)


@lru_cache(maxsize=8)
def _log_unsuited(count: int, dtype: str) -> None:
    log.info("no compiled kernel selects neighbours among %d points in %s: using PyTorch's topk", count, dtype)


def _split_points(points: Tensor, mask: Tensor | None, width: int) -> SplitPoints:
    """Return points centred and in two parts (see :func:`_split`), their channels filled up with zeros to ``width``."""
    batch, count, channels = points.shape
    mean = reference.mean_of_present(points, mask)
    high, low = points.new_empty(2, batch, count, width, dtype=torch.float16)
    units, norms = points.new_empty(2, batch, count)
    present = points if mask is None else mask.contiguous().view(torch.uint8)
    _split[(-(-batch * count // SPLIT_ROWS),)](
        points, mean, present, high, low, units, norms, batch * count, count, channels, width,
        MASKED=mask is not None, ROWS=SPLIT_ROWS, CHANNELS=min(CHANNELS, power_of_two(width)), num_warps=4,
    )  # fmt: skip
    return SplitPoints(high, low, units, norms)


def _sampled_thresholds(split: SplitPoints, how: Plan, loop: bool, step: int) -> Tensor:
    """Return the threshold of each row, (B, N): of its distances to the sample the one at ``Plan.rank``."""
    batch, count, width = split.high.shape
    thresholds = torch.empty_like(split.norms)
    # Sums of 2^15 distances are in a program's registers at a time.
    rows = min((1 << 15) // how.sample, 64)
    _thresholds[(-(-count // rows), batch)](
        split.high, split.units, split.norms, thresholds, count, width, how.stride, how.rank,
        LOOP=loop, SAMPLE=how.sample, ROWS=rows, CHANNELS=min(step, 32), num_warps=8, num_stages=1,
    )  # fmt: skip
    return thresholds


def _list_candidates(
    split: SplitPoints,
    thresholds: Tensor,
    lists: Lists,
    how: Plan,
    loop: bool,
    step: int,
    blocks: tuple[int, int],
    rows: tuple[int, int],
) -> None:
    """Fill the lists of some rows of some blocks; ``blocks`` and ``rows`` are each (first, number)."""
    _, count, width = split.high.shape
    wide = width > step
    _candidates[(-(-rows[1] // ROWS), blocks[1])](
        *split, thresholds, lists.entries, lists.found, blocks[0], *rows, count, width, how.capacity,
        LOOP=loop, WIDE=wide, ROWS=ROWS, COLUMNS=COLUMNS, CHANNELS=step, PTX=NVIDIA and not interpreted(),
        num_warps=4, num_stages=1 if wide else 2,
    )  # fmt: skip


def _select_from_lists(
    thresholds: Tensor,
    lists: Lists,
    how: Plan,
    coded: bool,
    ranks: Tensor,
    out: Tensor,
    blocks: tuple[int, int],
    rows: tuple[int, int],
) -> None:
    """Write the wanted ranks of some blocks' rows from their lists; both given as the first and how many."""
    count = out.shape[1]
    _select_listed[(blocks[1] * rows[1],)](
        lists.entries, lists.found, thresholds, lists.order, lists.missed, lists.misses, ranks, out,
        blocks[0] * count, *rows, count, how.capacity, how.wanted, len(ranks),
        WIDTH=max(power_of_two(how.capacity), how.keep), KEEP=how.keep, BITS=how.keep.bit_length() - 1, CODED=coded,
        RANKS=power_of_two(len(ranks)), num_warps=min(max(how.keep // 256, 1), 16),
    )  # fmt: skip
