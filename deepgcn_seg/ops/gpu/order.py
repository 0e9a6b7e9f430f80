"""The wanted ranks of each query's list of candidates, in a search on a GPU (Triton).

::

    for each query:                                      a program
        if its list is shorter than wanted or was full:  add the query to those that :mod:`.rows` searches again
        if its list is longer than Plan.keep:            move the nearest candidates to its front, by bisection
        sort the places in the list by distance          as 32-bit codes, which shorten distances; as 64-bit pairs
                                                         where two different distances have the same code
        write the columns of the wanted ranks
"""

import triton
import triton.language as tl
from torch import Tensor

from .candidates import Lists
from .keys import key_of, middle_key, value_of
from .launch import FUSED, power_of_two
from .plan import Plan


@triton.jit
def _distance_of(pair):
    """Return the distance of a list's entry, (distance << 32) | column."""
    return (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _keep_nearest(lists, value, place, count, threshold, wanted, KEEP: tl.constexpr):
    """Move the nearest candidates, at least as many as wanted, to the front of their list; return how many they are."""
    # Halve the interval of distances until KEEP or fewer candidates, but enough, are within it.
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
    # All are read before any is written, and written before any is read again: the list is moved within itself.
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
    # The order in which rows are noted does not matter: each writes its own result.
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
            # All bits of the distance above, the place below: exact, at twice the work.
            pairs = tl.where(inside, (key_of(value).to(tl.int64) << 32) | place, 0x7FFFFFFFFFFFFFFF)
            tl.store(order + place, (tl.sort(pairs) & 0xFFFF).to(tl.int16))
        tl.debug_barrier()
        # A rank leads to a place in the list, and that to the column.
        which = tl.arange(0, RANKS)
        rank = tl.load(ranks + which, mask=which < number, other=0)
        entry = tl.load(order + rank, mask=which < number, other=0).to(tl.int32)
        pair = tl.load(lists + entry, mask=which < number, other=0)
        tl.store(out + row.to(tl.int64) * number + which, pair & 0xFFFFFFFF, mask=which < number)


def select_from_lists(
    thresholds: Tensor,
    lists: Lists,
    plan: Plan,
    ranks: Tensor,
    out: Tensor,
    blocks: tuple[int, int],
    rows: tuple[int, int],
) -> None:
    """Write the wanted ranks of some rows of some blocks from their lists; ``blocks`` and ``rows``: (first, number)."""
    count = out.shape[1]
    _select_listed[(blocks[1] * rows[1],)](
        lists.entries, lists.found, thresholds, lists.order, lists.missed, lists.misses, ranks, out,
        blocks[0] * count, *rows, count, plan.capacity, plan.wanted, len(ranks),
        WIDTH=max(power_of_two(plan.capacity), plan.keep), KEEP=plan.keep, BITS=plan.keep.bit_length() - 1,
        CODED=plan.coded, RANKS=power_of_two(len(ranks)), num_warps=min(max(plan.keep // 256, 1), 16), **FUSED,
    )  # fmt: skip
