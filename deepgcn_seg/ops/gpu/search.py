"""Neighbour search on a GPU (Triton): for each query point, the points at given ranks of distance from it.

No matrix of distances is stored. Each step is a file::

    split             each point, centred: unit * (high + low), two float16 vectors; |x|^2
    thresholds        for each query: distances to a sample of the points, by the high parts alone;
                      threshold = a value that Plan.rank of them do not exceed, by bisection
    candidates        for each tile of 64 queries, for each tile of 64 points:
                          distances of the tile, in registers
                          those up to the query's threshold go to the query's list, as (distance, column)
    order             for each query: sort its list; the columns at the wanted ranks are the result
    rows              for each query whose list is too short or full (the sample was not like the whole,
                      or too many distances are equal): search its whole row of distances

Distances are compared as ``|y|^2 - 2 x.y``: the ``|x|^2`` of a query changes no rank. Products run on tensor cores,
which multiply float16: three products of high and low parts are as exact as one of float32.
Of an inference of 55 ms on an H100 (docs/performance.md, "GPU"), 17 were products and comparisons of all pairs, 12 the
ordering of candidates, and 4 thresholds; single kernels were not timed.
"""

import logging
from functools import lru_cache

import torch
from torch import Tensor

from .. import reference
from .candidates import ROWS, Lists, list_candidates
from .launch import power_of_two
from .order import select_from_lists
from .plan import Plan, plan_search
from .rows import WHOLE_ROWS, RowSizes, search_missed
from .split import CHANNELS, split_points
from .thresholds import sampled_thresholds

# A list of more would not fit into a program's registers while it is sorted: PyTorch's topk takes over.
MOST_KEPT = 4096

log = logging.getLogger(__name__)


def search(
    points: Tensor,
    mask: Tensor | None,
    ranks: Tensor,
    loop: bool,
    out: Tensor,
    plan: Plan | None = None,
    sizes: RowSizes = WHOLE_ROWS,
) -> None:
    """Write the points at the given ranks of distance from each point. Ties go to the smaller index.

    Args:
        points: (B, N, C). mask: (B, N) bool, False where a point may not be a neighbour.
        ranks: (m,) ascending, each below the number of points that may be neighbours.
        loop: whether a point may be its own neighbour. out: (B, N, m) int64, written.
        plan, sizes: memory and work, for tests; the default plan is that of :func:`.plan.plan_search`.
    """
    batch, count, channels = points.shape
    plan = plan or plan_search(int(ranks[-1]) + 1, count)
    if points.dtype != torch.float32:
        _log_unsuited(count, str(points.dtype))
    if points.dtype != torch.float32 or plan.keep > MOST_KEPT:
        reference.search(points, mask, ranks, loop, out)
        return
    # Tensor cores multiply 16 channels at a time: fewer are filled up with zeros.
    channel_step = min(CHANNELS, max(power_of_two(channels), 16))
    split = split_points(points.contiguous(), mask, -(-channels // channel_step) * channel_step)
    thresholds = sampled_thresholds(split, plan, loop, channel_step)
    # Only kernels read the ranks: the host need not wait for the copy.
    ranks = ranks.to(points.device, non_blocking=True)
    # Search as many blocks at a time as the lists have room for, or a part of the rows if a block is too large.
    queries = plan.list_bytes // (8 * plan.capacity + 2 * plan.keep)
    most_blocks, most_rows = min(max(queries // count, 1), batch), min(count, max(queries // ROWS, 1) * ROWS)
    lists = Lists(
        points.new_empty(most_blocks * most_rows * plan.capacity, dtype=torch.int64),
        points.new_empty(most_blocks * most_rows * plan.keep, dtype=torch.int16),
        points.new_empty(batch, count, dtype=torch.int32),
        points.new_empty(batch, count, dtype=torch.int32),
        points.new_zeros(1, dtype=torch.int32),
    )
    for block in range(0, batch, most_blocks):
        for row in range(0, count, most_rows):
            blocks, rows = (block, min(most_blocks, batch - block)), (row, min(most_rows, count - row))
            list_candidates(split, thresholds, lists, plan, loop, channel_step, blocks, rows)
            select_from_lists(thresholds, lists, plan, ranks, out, blocks, rows)
    search_missed(split, lists.missed, lists.misses, plan.wanted, ranks, loop, out, sizes)


@lru_cache(maxsize=8)
def _log_unsuited(count: int, dtype: str) -> None:
    log.info("no compiled kernel selects neighbours among %d points in %s: using PyTorch's topk", count, dtype)
