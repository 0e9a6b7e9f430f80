"""Neighbour search by rows of distances: a tile of them as one product of matrices, then the ranks of each row."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from .cpu.threads import for_each_thread

# Rows of a tile: fewer would make a slow product, however long they are.
LEAST_ROWS = 32


def search_rows(
    points: Tensor,
    mask: Tensor | None,
    ranks: Tensor,
    loop: bool,
    out: Tensor,
    select: Callable[[Tensor, Tensor, Tensor], None],
    entries: int,
    run: Callable[[Callable, Iterable], None],
) -> None:
    """Write the points at the given ranks of distance to each point.

    Args:
        points: (B, N, C). mask: (B, N) bool, False where a point may not be chosen.
        ranks: (m,) ascending, each below the number of points that may be chosen.
        loop: whether a point may be chosen for itself. out: (B, N, m) int64, written.
        select: ``select(distances (R, N), ranks, out (R, m))``, which writes ``argsort(distances[r])[ranks]``.
        entries: distances of a tile. run: ``run(work, tiles)`` does the work of every tile.
    """
    batch, count, _ = points.shape
    points = _centred(points, mask)
    # |x|^2 is the same for a whole row, so its ranks need only |y|^2 - 2 x.y: one product.
    norms = points.square().sum(-1, keepdim=True)
    if mask is not None:
        norms = norms.masked_fill(~mask[:, :, None], torch.inf)
    rows_side = torch.cat([-2 * points, torch.ones_like(norms)], -1)
    columns_side = torch.cat([points, norms], -1).transpose(1, 2).contiguous()
    rows = min(count, max(LEAST_ROWS, entries // count))
    buffer = for_each_thread(lambda: rows_side.new_empty(rows, count))

    def work(tile: tuple[int, int]) -> None:
        block, start = tile
        part = rows_side[block, start : start + rows]
        distances = torch.mm(part, columns_side[block], out=buffer()[: len(part)])
        if not loop:
            distances.diagonal(start).fill_(torch.inf)
        select(distances, ranks, out[block, start : start + rows])

    run(work, [(block, start) for block in range(batch) for start in range(0, count, rows)])


def _centred(points: Tensor, mask: Tensor | None) -> Tensor:
    """Move the mean to the origin: the expansion |y|^2 - 2xy cancels badly far from it."""
    points = points - mean_of_present(points, mask)[:, None]
    return points if mask is None else torch.where(mask[:, :, None], points, 0)


def mean_of_present(points: Tensor, mask: Tensor | None) -> Tensor:
    """(B, C) of points (B, N, C), whatever those hold that are not in the mask (B, N)."""
    if mask is None:
        return points.mean(1)
    return torch.where(mask[:, :, None], points, 0).sum(1) / mask.sum(1, keepdim=True)
