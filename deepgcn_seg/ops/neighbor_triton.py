"""GPU kernel (Triton) behind :func:`deepgcn_seg.ops.nearest_ranks`.

Products of points are cuBLAS's, a tile of rows at a time that stays in the GPU's cache. One program searches a row:
bisection finds a threshold that lets through all wanted candidates and few more (for k d = 432 of 4096 points at most
512), and these alone are written down and sorted. Of a row longer than :data:`BLOCK` the rest is read in every pass.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .distance_rows import LEAST_ROWS, centred

# Products held at a time: 32 MiB, which the cache of a data-centre GPU has room for.
TILE_ENTRIES = 1 << 23
# Distances a program holds in registers.
BLOCK = 4096
# Columns at a time while candidates are written down, which takes more registers for each.
PIECE = 1024
# So many steps of a bisection halve an interval of distances, the others one of bit patterns, which always ends.
STEPS_BY_VALUE = tl.constexpr(12)
# More candidates leave too few of 32 bits for the distance, when their number takes the others.
MOST_CODED = 512


@triton.jit
def _key(value):
    """Integers in the order of the floats."""
    bits = value.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _value(key):
    return tl.where(key < 0, key ^ 0x7FFFFFFF, key).to(tl.float32, bitcast=True)


@triton.jit
def _distances(products, norms, column, columns, itself):
    """Squared distances less the row's own norm, which its ranks do not need."""
    inside = column < columns
    norm = tl.load(norms + column, mask=inside, other=float("inf"))
    value = tl.load(products + column, mask=inside, other=0.0) + norm
    return tl.where(column == itself, float("inf"), value)


@triton.jit
def _count(
    first, limit, products, norms, columns, itself, BELOW: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr
):
    """How many distances are at most ``limit``, or below it; ``first`` are those held."""
    counted = first < limit if BELOW else first <= limit
    total = tl.sum(counted.to(tl.int32), 0)
    for block in range(1, BLOCKS):
        value = _distances(products, norms, block * BLOCK + tl.arange(0, BLOCK), columns, itself)
        counted = value < limit if BELOW else value <= limit
        total += tl.sum(counted.to(tl.int32), 0)
    return total


@triton.jit
def _keep(value, column, limit, below, equal, ties, values, places, KEEP: tl.constexpr):
    """Write down candidates below the limit from ``below`` on, those equal to it from ``ties`` + ``equal`` on."""
    # Two counts in one sum, those of equals in its upper half.
    kinds = (value < limit).to(tl.int32) + ((value == limit).to(tl.int32) << 16)
    sums = tl.cumsum(kinds, 0)
    place = tl.where(value < limit, below + (sums & 0xFFFF), ties + equal + (sums >> 16)) - 1
    kept = (value <= limit) & (place < KEEP)
    tl.store(values + place, value, mask=kept)
    tl.store(places + place, column, mask=kept)
    added = tl.sum(kinds, 0)
    return below + (added & 0xFFFF), equal + (added >> 16)


@triton.jit
def _select_ranks(
    products, norms, ranks, out, values, places, order, first_row, rows, columns, wanted, count,
    LOOP: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr, PIECE: tl.constexpr,
    KEEP: tl.constexpr, CODED: tl.constexpr, BITS: tl.constexpr, RANKS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    itself = -1
    if not LOOP:
        itself = first_row + (program % rows).to(tl.int32)
    products += program * columns
    norms += program // rows * columns
    values += program * KEEP
    places += program * KEEP
    order += program * KEEP

    column = tl.arange(0, BLOCK)
    first = _distances(products, norms, column, columns, itself)
    lowest = tl.min(first, 0)
    highest = tl.max(tl.where(first < float("inf"), first, -float("inf")), 0)
    for block in range(1, BLOCKS):
        value = _distances(products, norms, block * BLOCK + column, columns, itself)
        lowest = tl.minimum(lowest, tl.min(value, 0))
        highest = tl.maximum(highest, tl.max(tl.where(value < float("inf"), value, -float("inf")), 0))

    # At least as many as wanted are at most high, and fewer below low.
    low = _key(lowest)
    high = _key(highest)
    within = columns
    step = 0
    while (low < high) & (within > KEEP):
        middle = (low >> 1) + (high >> 1) + (low & high & 1)
        if step < STEPS_BY_VALUE:
            middle = _key(0.5 * _value(low) + 0.5 * _value(high))
        middle = tl.minimum(tl.maximum(middle, low), high - 1)
        found = _count(first, _value(middle), products, norms, columns, itself, False, BLOCK, BLOCKS)
        high = tl.where(found >= wanted, middle, high)
        low = tl.where(found >= wanted, low, middle + 1)
        within = tl.where(found >= wanted, found, within)
        step += 1

    # All below the limit; of those equal to it the first, as many as there is room for.
    limit = _value(high)
    ties = _count(first, limit, products, norms, columns, itself, True, BLOCK, BLOCKS)
    below = 0
    equal = 0
    for start in range(0, columns, PIECE):
        place = start + tl.arange(0, PIECE)
        value = _distances(products, norms, place, columns, itself)
        below, equal = _keep(value, place, limit, below, equal, ties, values, places, KEEP)
    kept = tl.minimum(below + equal, KEEP)
    tl.debug_barrier()

    # Places among the kept break ties as columns do.
    place = tl.arange(0, KEEP)
    value = tl.load(values + place, mask=place < kept, other=float("inf"))
    misplaced = 1
    if CODED:
        # The distance's leading bits above, the place below: half of what distance and place take. Only where
        # two distances agree in those bits, and not in the others, can the order be wrong.
        span = limit - lowest
        scale = tl.where(span > 0, ((1 << (31 - BITS)) - 1) / span, 0.0)
        code = tl.minimum(((value - lowest) * scale).to(tl.int32), (1 << (31 - BITS)) - 1)
        code = tl.sort(tl.where(place < kept, (code << BITS) | place, 0x7FFFFFFF))
        sorted_place = code & (KEEP - 1)
        tl.store(order + place, sorted_place)
        tl.debug_barrier()
        following = tl.load(order + place + 1, mask=place + 1 < kept, other=0)
        here = tl.load(values + sorted_place, mask=place + 1 < kept, other=0.0)
        misplaced = tl.max((here > tl.load(values + following, mask=place + 1 < kept, other=0.0)).to(tl.int32), 0)
        tl.debug_barrier()
    if misplaced != 0:
        pairs = tl.where(place < kept, (_key(value).to(tl.int64) << 32) | place, 0x7FFFFFFFFFFFFFFF)
        tl.store(order + place, (tl.sort(pairs) & 0xFFFFFFFF).to(tl.int32))
    tl.debug_barrier()

    number = tl.arange(0, RANKS)
    rank = tl.load(ranks + number, mask=number < count, other=0)
    # Distances that are no numbers have no order: whatever is found must be a column all the same.
    chosen = tl.load(order + rank, mask=(number < count) & (rank < kept), other=0)
    chosen = tl.load(places + chosen, mask=(number < count) & (rank < kept), other=0)
    tl.store(out + program * count + number, chosen, mask=number < count)


def search(points: Tensor, mask: Tensor | None, ranks: Tensor, loop: bool, out: Tensor) -> None:
    """See :func:`.distance_rows.search_rows`."""
    batch, count, _ = points.shape
    points = centred(points, mask)
    norms = points.square().sum(-1)
    if mask is not None:
        norms.masked_fill_(~mask, torch.inf)
    together = max(min(batch, TILE_ENTRIES // count**2), 1)
    rows = min(count, max(LEAST_ROWS, TILE_ENTRIES // count))
    buffer = points.new_empty(together * rows * count)
    select = RankSelection(ranks, together * rows, count, points.device)
    left, right = -2 * points, points.transpose(1, 2)
    for block in range(0, batch, together):
        blocks = slice(block, block + together)
        for start in range(0, count, rows):
            part = left[blocks, start : start + rows]
            products = buffer[: part.shape[0] * part.shape[1] * count].view(*part.shape[:2], count)
            torch.bmm(part, right[blocks], out=products)
            select(products, norms[blocks], out[blocks, start : start + rows], start, loop)


class RankSelection:
    """Selects the same ranks from tile after tile of distances.

    Args:
        ranks: (m,) ascending. rows, columns: the most rows of a tile, and what each has.
    """

    def __init__(self, ranks: Tensor, rows: int, columns: int, device: torch.device):
        self.wanted = int(ranks[-1]) + 1
        self.keep = triton.next_power_of_2(self.wanted)
        self.block = min(triton.next_power_of_2(columns), BLOCK)
        self.warps = min(max(self.block // 1024, self.keep // 128, 1), 16)
        # Read by kernels alone: nobody need wait for the copy.
        self.ranks = ranks.to(device, non_blocking=True)
        self.values = torch.empty(rows * self.keep, device=device)
        self.places, self.order = torch.empty(2, rows * self.keep, dtype=torch.int32, device=device)

    def __call__(self, products: Tensor, norms: Tensor, out: Tensor, first_row: int = 0, loop: bool = True) -> None:
        """``out[g, r] = argsort(products[g, r] + norms[g], stable)[ranks]``.

        Args:
            products: (G, R, N) float32, contiguous. norms: (G, N), ``inf`` where a point may not be chosen; contiguous.
            out: (G, R, m) int64, contiguous, written.
            first_row: the point that row 0 is of. loop: whether a point may be chosen for itself.
        """
        blocks, rows, columns = products.shape
        _select_ranks[(blocks * rows,)](
            products,
            norms,
            self.ranks,
            out,
            self.values,
            self.places,
            self.order,
            first_row,
            rows,
            columns,
            self.wanted,
            len(self.ranks),
            LOOP=loop,
            BLOCK=self.block,
            BLOCKS=triton.cdiv(columns, self.block),
            PIECE=min(self.block, PIECE),
            KEEP=self.keep,
            CODED=self.keep <= MOST_CODED,
            BITS=self.keep.bit_length() - 1,
            RANKS=triton.next_power_of_2(len(self.ranks)),
            num_warps=self.warps,
        )


def suits(points: Tensor) -> bool:
    """Whether the kernel takes points of that type."""
    return points.dtype == torch.float32
