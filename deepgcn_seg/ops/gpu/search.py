"""GPU kernels (Triton) behind :func:`deepgcn_seg.ops.nearest_ranks`.

No distance is stored to be looked at later. A threshold for each row comes from its distances to a sample of the
points; :func:`_candidates` makes all distances, a tile in registers at a time, and writes down those below;
:func:`_order` sorts a row's few candidates. Rows for which the sample misled, or of which too many distances are equal,
are searched whole (:mod:`.rows`).

Products run on tensor cores, each point as the sum of two float16 numbers in a unit of its own, a power of two: three
products of those are as exact as those of float32.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import reference as neighbor_torch
from ..backend import triton_interpreted
from ..distance_rows import mean_of_present
from .rows import key_of, middle_key, search_missed, value_of
from .sizes import power_of_two

# Bytes of candidates at a time.
LIST_BYTES = 96 << 20
# A sampled point for so many points, within bounds.
SHARE, LEAST_SAMPLE, MOST_SAMPLE = 8, 512, 1024
# Standard deviations: of a threshold above what the sample says, and of the room for candidates above their number
# (a network's features are less even than random points: 3 in 1000 rows miss it).
MARGIN, ROOM = 2.5, 4.0
# Halvings of the interval of a row's sampled distances.
STEPS = tl.constexpr(12)
# Of more candidates than these, those beyond the wanted are left out before they are sorted.
MOST_SORTED = 128
# With more too few of 32 bits are left for their distance, when their place takes the others.
MOST_CODED = 1024
# Rows and columns of a tile of distances, and channels at a time.
ROWS, COLUMNS, CHANNELS = 64, 64, 64
# Points of a program that splits them.
SPLIT_ROWS = 32
# More candidates than these are left to PyTorch's topk.
MOST_KEPT = 4096
# Not all GPUs that Triton is for have PTX.
NVIDIA = torch.version.hip is None


@dataclass(frozen=True)
class Plan:
    """How rows of so many distances are searched.

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


@lru_cache(maxsize=256)
def plan(wanted: int, count: int) -> Plan:
    """So that few rows have fewer candidates than wanted, or more than there is room for."""
    sample = min(max(power_of_two(count) // SHARE, LEAST_SAMPLE), MOST_SAMPLE)
    expected, spread = wanted * sample / count, math.sqrt(max(1 - sample / count, 0))
    if count <= sample:
        # The sample is everything, but its distances are rounded.
        sample, slack = max(power_of_two(count), 16), 2 + count // 64
        rank = found = min(wanted + slack, count)
        most = float(min(found + slack, count))
    else:
        # Without replacement, which makes less of a spread.
        rank = min(math.ceil(expected + MARGIN * spread * math.sqrt(expected)) + 1, sample)
        found = rank * count // sample
        most = found * (1 + ROOM * spread / math.sqrt(rank))
    capacity = -(-math.ceil(most) // 16) * 16
    keep = max(power_of_two(wanted), min(power_of_two(found), MOST_SORTED), 16)
    return Plan(wanted, sample, max(count // sample, 1), rank, capacity, keep)


@triton.jit
def _centred(points, mean, row, channel, present, count, channels):
    inside = present[:, None] & (channel < channels)[None, :]
    x = tl.load(points + row[:, None] * channels + channel[None, :], mask=inside, other=0.0)
    return x - tl.load(mean + (row // count)[:, None] * channels + channel[None, :], mask=inside, other=0.0)


@triton.jit
def _split(
    points, mean, mask, high, low, units, norms, total, count, channels, width,
    MASKED: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Centred points as ``unit * (high + low)``, and their squared lengths.

    In its unit a point's largest coordinate is between 2^14 and 2^15: what both parts leave out of any is at most 2^-23
    of that.
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
    # As float32 stores exponents, 127 more than they are. From 15 on the unit is no zero.
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
    return tl.load(x + row[:, None] * width + channel[None, :], mask=inside[:, None], other=0.0)


@triton.jit
def _add_products(sums, left_high, left_low, right_high, right_low):
    right_high, right_low = tl.trans(right_high), tl.trans(right_low)
    sums = tl.dot(left_low, right_high, sums)
    sums = tl.dot(left_high, right_low, sums)
    return tl.dot(left_high, right_high, sums)


@triton.jit
def _products(
    high, low, left, left_inside, right, right_inside, width,
    EXACT: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Products of the points ``left`` with the points ``right``, (ROWS, COLUMNS); to three digits if not exact."""
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
    """From products of points in their units; less the row's own norm, which its ranks do not need."""
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
    """A value that at least ``rank`` of the sampled distances of a row do not exceed, and hardly more."""
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
    """Distances up to each row's threshold, and their columns, in the order of the columns; and how many there are."""
    block = (first_block + tl.program_id(1)).to(tl.int64)
    tile = tl.program_id(0) * ROWS
    high += block * count * width
    low += block * count * width
    units += block * count
    norms += block * count
    lists += (tl.program_id(1).to(tl.int64) * rows + tile) * capacity
    row = first_row + tile + tl.arange(0, ROWS)
    # A chunk's last tile may reach into the next chunk.
    here = row < first_row + rows
    threshold = tl.load(thresholds + block * count + row, mask=here, other=-float("inf"))
    row_units = tl.load(units + row, mask=here, other=0.0)
    channel = tl.arange(0, CHANNELS)
    # Of few channels the rows' part is loaded once.
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
        # Running counts as a product too: it has its result where the distances are, other sums move it around.
        counts = tl.dot(tl.where(kept, 1.0, 0.0).to(tl.float16), up_to, out_dtype=tl.float32)
        # With 2^23 added a small integer is a float's last bits, which is faster than a conversion.
        place = (counts + (written + 8388607.0)[:, None]).to(tl.int32, bitcast=True)
        if PTX:
            # A plain store would first move addresses, values and masks between threads, for neighbours' sake.
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
    return (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _leave_out(lists, value, place, count, threshold, wanted, KEEP: tl.constexpr):
    """Move the nearest candidates, at least as many as wanted, to the front of their list; how many they are."""
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
def _order(
    lists, found, thresholds, order, missed, misses, ranks, out,
    first_point, first_row, rows, columns, capacity, wanted, number,
    WIDTH: tl.constexpr, KEEP: tl.constexpr, BITS: tl.constexpr, CODED: tl.constexpr, RANKS: tl.constexpr,
):  # fmt: skip
    """Columns of the candidates at the given ranks; one program a row. Rows without all candidates are noted."""
    program = tl.program_id(0)
    lists += program.to(tl.int64) * capacity
    order += program.to(tl.int64) * KEEP
    # Points are counted through all blocks, rows of the lists through those searched at a time.
    row = first_point + program // rows * columns + first_row + program % rows
    count = tl.load(found + row)
    threshold = tl.load(thresholds + row)
    listed = (count >= wanted) & (count <= capacity)
    if KEEP < WIDTH:  # noqa: SIM102 - the outer one is the compiler's
        if listed & (count > KEEP):
            place = tl.arange(0, WIDTH)
            value = _distance_of(tl.load(lists + place, mask=place < count, other=0))
            count = _leave_out(lists, value, place, count, threshold, wanted, KEEP)
            # Not if too many are of the same distance.
            listed = count <= KEEP
    if not listed:
        tl.store(missed + tl.atomic_add(misses, 1), row)
    if listed:
        place = tl.arange(0, KEEP)
        inside = place < count
        value = _distance_of(tl.load(lists + place, mask=inside, other=0))
        misplaced = 1
        if CODED:
            # The distance's leading bits above, the place below, which breaks ties: half of what both take. The order
            # is wrong only where two distances agree in those bits, and not in the others.
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


def search(points: Tensor, mask: Tensor | None, ranks: Tensor, loop: bool, out: Tensor) -> None:
    """See :func:`.distance_rows.search_rows`."""
    batch, count, channels = points.shape
    how = plan(int(ranks[-1]) + 1, count)
    if how.keep > MOST_KEPT:
        neighbor_torch.search(points, mask, ranks, loop, out)
        return
    step = min(CHANNELS, max(power_of_two(channels), 16))
    width = -(-channels // step) * step
    high, low, units, norms = _split_points(points.contiguous(), mask, width)
    thresholds = _sampled_thresholds(high, units, norms, how, loop, step)
    found = torch.empty(batch, count, dtype=torch.int32, device=points.device)
    missed, misses = torch.empty_like(found), torch.zeros(1, dtype=torch.int32, device=points.device)
    # Read by kernels alone: nobody need wait for the copy.
    ranks = ranks.to(points.device, non_blocking=True)
    # Some blocks at a time, or of large ones some rows.
    most = LIST_BYTES // (8 * how.capacity + 2 * how.keep)
    together, chunk = min(max(most // count, 1), batch), min(count, max(most // ROWS, 1) * ROWS)
    lists = torch.empty(together * chunk * how.capacity, dtype=torch.int64, device=points.device)
    order = torch.empty(together * chunk * how.keep, dtype=torch.int16, device=points.device)
    for start in range(0, batch, together):
        blocks = min(together, batch - start)
        for first in range(0, count, chunk):
            rows = min(chunk, count - first)
            _candidates[(-(-rows // ROWS), blocks)](
                high,
                low,
                units,
                norms,
                thresholds,
                lists,
                found,
                start,
                first,
                rows,
                count,
                width,
                how.capacity,
                LOOP=loop,
                WIDE=width > step,
                ROWS=ROWS,
                COLUMNS=COLUMNS,
                CHANNELS=step,
                PTX=NVIDIA and not triton_interpreted(),
                num_warps=4,
                num_stages=1 if width > step else 2,
            )
            _order[(blocks * rows,)](
                lists,
                found,
                thresholds,
                order,
                missed,
                misses,
                ranks,
                out,
                start * count,
                first,
                rows,
                count,
                how.capacity,
                how.wanted,
                len(ranks),
                WIDTH=max(power_of_two(how.capacity), how.keep),
                KEEP=how.keep,
                BITS=how.keep.bit_length() - 1,
                CODED=how.keep <= MOST_CODED,
                RANKS=power_of_two(len(ranks)),
                num_warps=min(max(how.keep // 256, 1), 16),
            )
    search_missed(high, low, units, norms, missed, misses, how.wanted, ranks, loop, out)


def _sampled_thresholds(high: Tensor, units: Tensor, norms: Tensor, how: Plan, loop: bool, step: int) -> Tensor:
    """Of the distances of each row, (B, N); see :class:`Plan`."""
    batch, count, width = high.shape
    thresholds = torch.empty_like(norms)
    rows = min((1 << 15) // how.sample, 64)
    _thresholds[(-(-count // rows), batch)](
        high,
        units,
        norms,
        thresholds,
        count,
        width,
        how.stride,
        how.rank,
        LOOP=loop,
        SAMPLE=how.sample,
        ROWS=rows,
        CHANNELS=min(step, 32),
        num_warps=8,
        num_stages=1,
    )
    return thresholds


def _split_points(points: Tensor, mask: Tensor | None, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See :func:`_split`: two parts (B, N, width), filled up with zeros, units (B, N) and squared lengths (B, N), which
    are infinite of absent points."""
    batch, count, channels = points.shape
    mean = mean_of_present(points, mask)
    high, low = points.new_empty(2, batch, count, width, dtype=torch.float16)
    units, norms = points.new_empty(2, batch, count)
    _split[(-(-batch * count // SPLIT_ROWS),)](
        points,
        mean,
        points if mask is None else mask.contiguous().view(torch.uint8),
        high,
        low,
        units,
        norms,
        batch * count,
        count,
        channels,
        width,
        MASKED=mask is not None,
        ROWS=SPLIT_ROWS,
        CHANNELS=min(CHANNELS, power_of_two(width)),
        num_warps=4,
    )
    return high, low, units, norms


def suits(points: Tensor) -> bool:
    """Whether the kernels take points of that type."""
    return points.dtype == torch.float32
