"""Search of whole rows of distances on a GPU (Triton), for the few queries whose candidates were not all listed.

::

    _make_first_rows   for the first query of each program: its distances to all points, shared by several programs
    _search_missed     for each query of the program in turn:
                           make its distances to all points, unless it is the program's first
                           find by bisection a threshold that lets through all wanted ranks and few more
                           write down the distances that pass, sort them, and write the columns of the wanted ranks

Bisection halves an interval of distances 12 times, and then an interval of their bit patterns, of which there are at
most 2^32. So it ends after at most 44 passes over the row with an exact threshold. Of several equal distances at the
threshold, those of the smallest columns are kept.
"""

import math
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .keys import key_of, middle_key, value_of
from .launch import FUSED, power_of_two
from .split import SplitPoints

# Columns for which _make_distances makes distances at a time. With 64 channels that is a tile of 64 x 64 products, 32
# registers of each of 128 threads. Other numbers were not measured, because only a few queries in 1000 come here.
COLUMNS = 64


class RowSizes(NamedTuple):
    """How a row is divided. The defaults are derived, not measured, for rows of 4096; tests take small ones."""

    # Programs that share the queries: four for each of an H100's 132 processors, as many as rows of scratch are made.
    programs: int = 528
    # Distances that a program holds in registers; of a longer row the rest is read in every pass. 4096, a row of the
    # paper's blocks, are 32 registers of each of 128 threads (`search_missed` takes a warp for each 1024).
    held: int = 4096
    # Columns at a time while candidates are written down. Each takes four numbers (a distance, its kind, a running sum,
    # a place): with a quarter of `held` they take as many registers.
    piece: int = 1024
    # Columns of a program of _make_first_rows. A row of 4096 has eight such programs. If 3 to 6 in 1000 queries are
    # missed (plan.MARGIN and plan.ROOM), the 12 to 24 rows of a block become 96 to 192 programs, about one for each
    # processor.
    share: int = 512


WHOLE_ROWS = RowSizes()


@triton.jit
def _count(first, limit, row, columns, BELOW: tl.constexpr, BLOCK: tl.constexpr):
    """Count the distances that are at most ``limit``, or below it; ``first`` are those held in registers."""
    counted = first < limit if BELOW else first <= limit
    total = tl.sum(counted.to(tl.int32), 0)
    for start in range(BLOCK, columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        value = tl.load(row + column, mask=column < columns, other=float("inf"))
        counted = value < limit if BELOW else value <= limit
        total += tl.sum(counted.to(tl.int32), 0)
    return total


@triton.jit
def _make_distances(
    row, high, low, units, norms, point, begin, end, columns, width,
    LOOP: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Write a point's distances, less its own norm, to the columns from ``begin`` to ``end``.

    They are infinite where a column may not be a neighbour.
    """
    block = (point // columns).to(tl.int64) * columns
    own = block + point % columns
    twice = 2 * tl.load(units + own)
    for start in range(begin, end, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < end
        product = tl.zeros((COLUMNS,), tl.float32)
        for first in range(0, width, CHANNELS):
            channel = first + tl.arange(0, CHANNELS)
            x = tl.load(high + own * width + channel).to(tl.float32)
            x += tl.load(low + own * width + channel).to(tl.float32)
            place = (block + column)[:, None] * width + channel[None, :]
            y = tl.load(high + place, mask=inside[:, None], other=0.0).to(tl.float32)
            y += tl.load(low + place, mask=inside[:, None], other=0.0).to(tl.float32)
            product += tl.sum(x[None, :] * y, 1)
        product *= tl.load(units + block + column, mask=inside, other=0.0)
        value = tl.load(norms + block + column, mask=inside, other=float("inf")) - twice * product
        if not LOOP:
            value = tl.where(block + column == own, float("inf"), value)
        tl.store(row + column, value, mask=inside)


@triton.jit
def _make_first_rows(
    high, low, units, norms, missed, misses, rows, columns, width,
    LOOP: tl.constexpr, SHARE: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Write the row that each program of :func:`_search_missed` searches first, by several programs: rows are few."""
    miss = tl.program_id(0)
    if miss < tl.load(misses):
        row = rows + miss.to(tl.int64) * columns
        begin = tl.program_id(1) * SHARE
        end = tl.minimum(begin + SHARE, columns)
        point = tl.load(missed + miss)
        _make_distances(row, high, low, units, norms, point, begin, end, columns, width, LOOP, COLUMNS, CHANNELS)


@triton.jit
def _select_ranks(
    row, ranks, out, values, places, order, columns, wanted, number,
    BLOCK: tl.constexpr, PIECE: tl.constexpr, KEEP: tl.constexpr, RANKS: tl.constexpr,
):  # fmt: skip
    """Write ``out = argsort(row, stable)[ranks]``."""
    column = tl.arange(0, BLOCK)
    first = tl.load(row + column, mask=column < columns, other=float("inf"))
    lowest = tl.min(first, 0)
    highest = tl.max(tl.where(first < float("inf"), first, -float("inf")), 0)
    for start in range(BLOCK, columns, BLOCK):
        value = tl.load(row + start + column, mask=start + column < columns, other=float("inf"))
        lowest = tl.minimum(lowest, tl.min(value, 0))
        highest = tl.maximum(highest, tl.max(tl.where(value < float("inf"), value, -float("inf")), 0))

    # Invariant: at least ``wanted`` distances are at most high, and fewer than ``wanted`` are below low.
    low = key_of(lowest)
    high = key_of(highest)
    within = columns
    step = 0
    while (low < high) & (within > KEEP):
        middle = middle_key(low, high, step)
        found = _count(first, value_of(middle), row, columns, False, BLOCK)
        high = tl.where(found >= wanted, middle, high)
        low = tl.where(found >= wanted, low, middle + 1)
        within = tl.where(found >= wanted, found, within)
        step += 1

    # Keep all distances below the limit, and as many of those equal to it, from the first on, as there is room for.
    limit = value_of(high)
    ties = _count(first, limit, row, columns, True, BLOCK)
    below = 0
    equal = 0
    for start in range(0, columns, PIECE):
        place = start + tl.arange(0, PIECE)
        value = tl.load(row + place, mask=place < columns, other=float("inf"))
        # One running sum has two counts: distances below the limit in its lower 16 bits, equal ones in its upper 16.
        kinds = (value < limit).to(tl.int32) + ((value == limit).to(tl.int32) << 16)
        sums = tl.cumsum(kinds, 0)
        to = tl.where(value < limit, below + (sums & 0xFFFF), ties + equal + (sums >> 16)) - 1
        kept = (value <= limit) & (value < float("inf")) & (to < KEEP)
        tl.store(values + to, value, mask=kept)
        tl.store(places + to, place, mask=kept)
        added = tl.sum(kinds, 0)
        below += added & 0xFFFF
        equal += added >> 16
    kept = tl.minimum(below + equal, KEEP)
    tl.debug_barrier()

    # Ties go to the smaller place among the kept, which is the smaller column.
    place = tl.arange(0, KEEP)
    value = tl.load(values + place, mask=place < kept, other=float("inf"))
    pairs = tl.where(place < kept, (key_of(value).to(tl.int64) << 32) | place, 0x7FFFFFFFFFFFFFFF)
    tl.store(order + place, (tl.sort(pairs) & 0xFFFFFFFF).to(tl.int32))
    tl.debug_barrier()
    which = tl.arange(0, RANKS)
    rank = tl.load(ranks + which, mask=which < number, other=0)
    # If distances are NaN there are too few candidates. The result must still be a column: it is 0.
    entry = tl.load(order + rank, mask=(which < number) & (rank < kept), other=0)
    nearest = tl.load(places + entry, mask=(which < number) & (rank < kept), other=0)
    tl.store(out + which, nearest, mask=which < number)


@triton.jit(do_not_specialize=["wanted", "number"])
def _search_missed(
    high, low, units, norms, missed, misses, ranks, out,
    rows, values, places, order, columns, width, wanted, number,
    LOOP: tl.constexpr, BLOCK: tl.constexpr, PIECE: tl.constexpr, KEEP: tl.constexpr, RANKS: tl.constexpr,
    COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Write the results of the missed queries; see the head of this file."""
    program = tl.program_id(0).to(tl.int64)
    rows += program * columns
    values += program * KEEP
    places += program * KEEP
    order += program * KEEP
    for miss in range(tl.program_id(0), tl.load(misses), tl.num_programs(0)):
        point = tl.load(missed + miss)
        if miss >= tl.num_programs(0):
            _make_distances(rows, high, low, units, norms, point, 0, columns, columns, width, LOOP, COLUMNS, CHANNELS)
            tl.debug_barrier()
        to = out + point.to(tl.int64) * number
        _select_ranks(rows, ranks, to, values, places, order, columns, wanted, number, BLOCK, PIECE, KEEP, RANKS)
        tl.debug_barrier()


def search_missed(
    split: SplitPoints,
    missed: Tensor,
    misses: Tensor,
    wanted: int,
    ranks: Tensor,
    loop: bool,
    out: Tensor,
    sizes: RowSizes = WHOLE_ROWS,
) -> None:
    """Write the points at the given ranks of distance from some queries.

    Args:
        missed: which of the B * N queries, int32, in its first ``misses`` (1,) places.
        ranks: (m,) ascending, the last is ``wanted`` - 1. out: (B, N, m) int64, written.
    """
    blocks, count, width = split.high.shape
    programs = min(blocks * count, sizes.programs)
    keep = power_of_two(wanted)
    rows, values = split.norms.new_empty(programs, count), split.norms.new_empty(programs, keep)
    places, order = missed.new_empty(2, programs, keep)
    held = min(power_of_two(count), sizes.held)
    steps = {"LOOP": loop, "COLUMNS": min(held, COLUMNS), "CHANNELS": math.gcd(width, 64)}
    _make_first_rows[(programs, -(-count // sizes.share))](
        *split, missed, misses, rows, count, width, SHARE=sizes.share, **steps, **FUSED
    )
    _search_missed[(programs,)](
        *split, missed, misses, ranks, out, rows, values, places, order, count, width, wanted, len(ranks),
        BLOCK=held, PIECE=min(held, sizes.piece), KEEP=keep, RANKS=power_of_two(len(ranks)),
        num_warps=min(max(held // 1024, keep // 128, 1), 16), **steps, **FUSED,
    )  # fmt: skip
