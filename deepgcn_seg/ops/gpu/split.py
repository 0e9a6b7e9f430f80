"""Points of a search on a GPU, and products of points, by float16 parts (Triton).

Products run on tensor cores, which multiply float16. A point is written once as ``unit * (high + low)``, and a product
of two points adds three products of parts::

    x.y = unit_x * unit_y * (low_x.high_y + high_x.low_y + high_x.high_y)

What is left out, low times low, is below the precision of float32.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import reference
from .launch import FUSED, power_of_two

# Channels at a time: 64 channels of a tile of 64 points are 32 float16 numbers for each of 128 threads.
CHANNELS = 64
# Points of a program of _split, which keeps 64 channels of each in registers.
SPLIT_ROWS = 32


class SplitPoints(NamedTuple):
    """Centred points as ``units * (high + low)``."""

    # (B, N, C) float16 each, C a multiple of 16.
    high: Tensor
    low: Tensor
    # (B, N) float32 each: units are powers of two, and norms are squared lengths, infinite for absent points.
    units: Tensor
    norms: Tensor


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
    # The first pass finds the unit and the norm, the second reads the point again and writes its parts: its channels
    # may be too many for registers.
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
        # The high part is the number rounded to float16, the low part is the rest, which is exact in float32.
        rounded = x.to(tl.float16)
        place = row[:, None] * width + channel[None, :]
        tl.store(high + place, rounded, mask=here[:, None])
        tl.store(low + place, (x - rounded.to(tl.float32)).to(tl.float16), mask=here[:, None])


@triton.jit
def operand(x, row, inside, channel, width):
    """Load channels of the split points ``row``."""
    return tl.load(x + row[:, None] * width + channel[None, :], mask=inside[:, None], other=0.0)


@triton.jit
def add_products(sums, left_high, left_low, right_high, right_low):
    """Add the products of points in two parts; low times low is below float32's precision."""
    # The smaller products first, as adding a small number to a large one loses digits.
    right_high, right_low = tl.trans(right_high), tl.trans(right_low)
    sums = tl.dot(left_low, right_high, sums)
    sums = tl.dot(left_high, right_low, sums)
    return tl.dot(left_high, right_high, sums)


@triton.jit
def products(
    high, low, left, left_inside, right, right_inside, width,
    EXACT: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Return the products of the points ``left`` with the points ``right``, (ROWS, COLUMNS).

    With EXACT as in float32, otherwise of the high parts alone, to three digits.
    """
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, width, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        left_high = operand(high, left, left_inside, channel, width)
        right_high = operand(high, right, right_inside, channel, width)
        if EXACT:
            left_low = operand(low, left, left_inside, channel, width)
            right_low = operand(low, right, right_inside, channel, width)
            sums = add_products(sums, left_high, left_low, right_high, right_low)
        else:
            sums = tl.dot(left_high, tl.trans(right_high), sums)
    return sums


@triton.jit
def distances(sums, row_units, units, norms, row, column, inside, LOOP: tl.constexpr):
    """Return ``|y|^2 - 2 x.y`` from the products of points in their units; infinite where y may not be a neighbour."""
    # One unit after the other: their product may be below what float32 can hold.
    sums *= tl.load(units + column, mask=inside, other=0.0)[None, :]
    value = tl.load(norms + column, mask=inside, other=float("inf"))[None, :] - 2 * row_units[:, None] * sums
    if not LOOP:
        value = tl.where(column[None, :] == row[:, None], float("inf"), value)
    return value


def split_points(points: Tensor, mask: Tensor | None, width: int) -> SplitPoints:
    """Return points centred and in two parts (see :func:`_split`), their channels filled up with zeros to ``width``."""
    batch, count, channels = points.shape
    mean = reference.mean_of_present(points, mask)
    # float16 takes half the memory of float32, so both parts take as much as the points.
    high, low = points.new_empty(2, batch, count, width, dtype=torch.float16)
    units, norms = points.new_empty(2, batch, count)
    present = points if mask is None else mask.contiguous().view(torch.uint8)
    _split[(-(-batch * count // SPLIT_ROWS),)](
        points, mean, present, high, low, units, norms, batch * count, count, channels, width,
        MASKED=mask is not None, ROWS=SPLIT_ROWS, CHANNELS=min(CHANNELS, power_of_two(width)), num_warps=4, **FUSED,
    )  # fmt: skip
    return SplitPoints(high, low, units, norms)
