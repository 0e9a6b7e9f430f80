"""The lists of candidates of a search on a GPU: all distances are compared, and the small ones written down (Triton).

::

    for each tile of 64 queries:                         a program
        for each tile of 64 points:
            distances of the tile, in registers
            kept = distances <= threshold of the query
            place = running count of kept along each row, plus the length of the query's list
            write the kept ones at their places, as (distance << 32) | column
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import FUSED, interpreted
from .plan import Plan
from .split import SplitPoints, add_products, distances, operand, products

# Queries and points of a tile of distances: 64 x 64 float32 sums are 32 registers of each of 128 threads.
ROWS, COLUMNS = 64, 64
# Inline assembly is for NVIDIA's GPUs, not for AMD's.
NVIDIA = torch.version.hip is None


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
        left_high = operand(high, row, here, channel, width)
        left_low = operand(low, row, here, channel, width)
    # Length of each row's list. In float32, like the counts below: whole numbers up to 2^24 are exact.
    written = tl.zeros((ROWS,), tl.float32)
    # 0x4B000000 are the bits of 2^23 as float32, which places below begin with; see there.
    start_of_list = lists.to(tl.int64) + 8 * (tl.arange(0, ROWS) * capacity - 0x4B000000).to(tl.int64)
    number = tl.arange(0, COLUMNS)
    up_to = tl.where(number[:, None] <= number[None, :], 1.0, 0.0).to(tl.float16)
    for start in range(0, count, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < count
        if WIDE:
            sums = products(high, low, row, here, column, inside, width, True, CHANNELS, ROWS, COLUMNS)
        else:
            right_high = operand(high, column, inside, channel, width)
            right_low = operand(low, column, inside, channel, width)
            sums = tl.zeros((ROWS, COLUMNS), tl.float32)
            sums = add_products(sums, left_high, left_low, right_high, right_low)
        value = distances(sums, row_units, units, norms, row, column, inside, LOOP)
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
        # The last running count of a row is its largest. Candidates beyond the list's room are counted, not written.
        written += tl.max(counts, 1)
    tl.store(found + block * count + row, written.to(tl.int32), mask=here)


def list_candidates(
    split: SplitPoints,
    thresholds: Tensor,
    lists: Lists,
    plan: Plan,
    loop: bool,
    channel_step: int,
    blocks: tuple[int, int],
    rows: tuple[int, int],
) -> None:
    """Fill the lists of some rows of some blocks; ``blocks`` and ``rows`` are each (first, number).

    Args:
        channel_step: channels that a program multiplies at a time.
    """
    _, count, width = split.high.shape
    wide = width > channel_step
    _candidates[(-(-rows[1] // ROWS), blocks[1])](
        *split, thresholds, lists.entries, lists.found, blocks[0], *rows, count, width, plan.capacity,
        LOOP=loop, WIDE=wide, ROWS=ROWS, COLUMNS=COLUMNS, CHANNELS=channel_step, PTX=NVIDIA and not interpreted(),
        num_warps=4, num_stages=1 if wide else 2, **FUSED,
    )  # fmt: skip
