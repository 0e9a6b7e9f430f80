"""A threshold for each query of a search on a GPU, from its distances to a sample of the points (Triton).

::

    for each tile of queries:
        distances to the sampled points, by the high parts of the coordinates alone
        halve the interval of each query's distances until a value is found that Plan.rank of them do not exceed
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import FUSED
from .plan import Plan
from .split import SplitPoints, distances, products

# Halvings of the interval of a row's sampled distances. Derived, not measured: 2^-12 of the interval is left, which is
# about the error of a product of high parts, as these have 11 bits.
STEPS = tl.constexpr(12)


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
    # The high parts alone, with three digits, are enough for a threshold, and take a third of the products.
    sums = products(high, high, row, here, sampled, inside, width, False, CHANNELS, ROWS, SAMPLE)
    row_units = tl.load(units + row, mask=here, other=0.0)
    value = distances(sums, row_units, units, norms, row, sampled, inside, LOOP)
    # A bisection only counts, which a program does for all its rows at once: the sample need not be sorted.
    below = tl.min(value, 1)
    above = tl.max(tl.where(value < float("inf"), value, -float("inf")), 1)
    for _ in range(STEPS):
        middle = 0.5 * below + 0.5 * above
        enough = tl.sum((value <= middle[:, None]).to(tl.int32), 1) >= rank
        above = tl.where(enough, middle, above)
        below = tl.where(enough, below, middle)
    tl.store(thresholds + block * count + row, above, mask=here)


def sampled_thresholds(split: SplitPoints, plan: Plan, loop: bool, channel_step: int) -> Tensor:
    """Return the threshold of each row, (B, N): of its distances to the sample the one at ``Plan.rank``.

    Args:
        channel_step: channels that a program multiplies at a time, at most.
    """
    batch, count, width = split.high.shape
    thresholds = torch.empty_like(split.norms)
    # Sums of 2^15 distances are in a program's registers at a time.
    rows = min((1 << 15) // plan.sample, 64)
    _thresholds[(-(-count // rows), batch)](
        split.high, split.units, split.norms, thresholds, count, width, plan.stride, plan.rank,
        LOOP=loop, SAMPLE=plan.sample, ROWS=rows, CHANNELS=min(channel_step, 32), num_warps=8, num_stages=1, **FUSED,
    )  # fmt: skip
    return thresholds
