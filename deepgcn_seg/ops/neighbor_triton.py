"""GPU kernel (Triton) behind :func:`deepgcn_seg.ops.nearest_ranks`.

One program per row of distances. It holds the row in registers, finds the largest wanted rank's value by
bisection over the floats' bit patterns (exact after at most 32 counts), keeps exactly the wanted entries, ties by
index, and sorts those alone: for k d = 432 of 4096 an eighth of the row.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .distance_rows import search_rows
from .threads import run_in_order

# A longer row does not fit a program's registers.
MOST_COLUMNS = 16384
# Distances held at a time (entries of a row tile): one block of 4096 points.
TILE_ENTRIES = 1 << 24


@triton.jit
def _select_ranks(
    distances, ranks, out, kept, columns, wanted, count, BLOCK: tl.constexpr, KEEP: tl.constexpr, RANKS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < columns
    # Adding zero makes -0.0 the 0.0 that it equals.
    value = tl.load(distances + row * columns + column, mask=inside, other=float("inf")) + 0.0
    bits = value.to(tl.int32, bitcast=True)
    # Integers in the order of the floats; what lies beyond the row comes last.
    key = tl.where(inside, tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits), 0x7FFFFFFF)
    low = tl.min(key, 0).to(tl.int64)
    high = tl.max(key, 0).to(tl.int64)
    while low < high:
        middle = (low + high) >> 1
        enough = tl.sum((key <= middle).to(tl.int32), 0) >= wanted
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, middle + 1)
    below = key < low
    equal = (key == low) & inside
    needed = wanted - tl.sum(below.to(tl.int32), 0)
    keep = below | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= needed))
    place = tl.cumsum(keep.to(tl.int32), 0) - 1
    # Key above, column below: sorting breaks ties towards the smaller column.
    tl.store(kept + row * KEEP + place, (key.to(tl.int64) << 32) | column, mask=keep)
    tl.debug_barrier()
    candidate = tl.arange(0, KEEP)
    pairs = tl.load(kept + row * KEEP + candidate, mask=candidate < wanted, other=0x7FFFFFFFFFFFFFFF)
    tl.debug_barrier()
    tl.store(kept + row * KEEP + candidate, tl.sort(pairs))
    tl.debug_barrier()
    number = tl.arange(0, RANKS)
    rank = tl.load(ranks + number, mask=number < count, other=0)
    pair = tl.load(kept + row * KEEP + rank, mask=number < count, other=0)
    tl.store(out + row * count + number, pair & 0xFFFFFFFF, mask=number < count)


def search(points: Tensor, mask: Tensor | None, ranks: Tensor, loop: bool, out: Tensor) -> None:
    """See :func:`.distance_rows.search_rows`."""
    search_rows(points, mask, ranks, loop, out, select_ranks, TILE_ENTRIES, run_in_order)


def select_ranks(distances: Tensor, ranks: Tensor, out: Tensor) -> None:
    """``out[r] = argsort(distances[r], stable)[ranks]``.

    Args:
        distances: (R, N) float32, N at most :data:`MOST_COLUMNS`; ``inf`` where a point may not be chosen.
        ranks: (m,) ascending. out: (R, m) int64, contiguous, written.
    """
    rows, columns = distances.shape
    wanted = int(ranks[-1]) + 1
    block, keep = triton.next_power_of_2(columns), triton.next_power_of_2(wanted)
    kept = torch.empty(rows, keep, dtype=torch.int64, device=distances.device)
    _select_ranks[(rows,)](
        distances,
        ranks.to(distances.device),
        out,
        kept,
        columns,
        wanted,
        len(ranks),
        BLOCK=block,
        KEEP=keep,
        RANKS=triton.next_power_of_2(len(ranks)),
        num_warps=min(max(block // 512, 4), 16),
    )


def suits(points: Tensor) -> bool:
    """Whether the kernel takes rows of that many points (B, N, C) and their type."""
    return points.dtype == torch.float32 and points.shape[1] <= MOST_COLUMNS
