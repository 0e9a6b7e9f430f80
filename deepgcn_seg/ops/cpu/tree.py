"""Neighbour search in large three-dimensional clouds on the CPU, by the k-d tree of torch-cluster if it is installed.

torch-cluster is optional. Its search on GPUs has no tree and compares all pairs, as the kernels of this package do.
"""

import torch
from torch import Tensor

# The tree is quicker from this number of points on if at most this number of neighbours is asked for, and from
# proportionally more points on with more neighbours: its time grows with points times neighbours, that of all pairs
# with the square of the points. The number of threads does not count, because it must not decide between ties. Measured
# on two cores with points on the walls of a box, in milliseconds: all pairs with one thread, with two, and the tree,
# which has one thread.
#
#     points           16,384             32,768               65,536
#     k = 16           50, 37, 30         175, 113, 80         689, 423, 214
#     k = 32           56, 37, 53         172, 127, 152        714, 520, 386
#
# With points all over the box and k = 16: 55, 42, 49; 165, 107, 107; 628, 404, 215.
TREE_POINTS, TREE_NEIGHBORS = 32768, 16


def suits(points: Tensor, mask: Tensor | None, furthest: int, loop: bool) -> bool:
    """Return whether the tree can search these points for neighbours up to the rank ``furthest``, and is quicker."""
    if points.device.type != "cpu" or points.shape[-1] != 3 or mask is not None or not loop:
        return False
    return TREE_NEIGHBORS * points.shape[1] >= TREE_POINTS * max(furthest + 1, TREE_NEIGHBORS)


def search(points: Tensor, mask: None, ranks: Tensor, loop: bool, out: Tensor) -> None:
    """Write the points at the given ranks of distance from each point; ties are broken in any order.

    Args:
        points: (B, N, 3). mask: must be None. loop: must be True.
        ranks: (m,) ascending, each below N. out: (B, N, m) int64, written.
    """
    import torch_cluster

    batch, count, _ = points.shape
    nearest = int(ranks[-1]) + 1
    flat = points.reshape(batch * count, 3).contiguous()
    block = torch.arange(batch, device="cpu").repeat_interleave(count)
    _, found = torch_cluster.knn(flat, flat, nearest, block, block)
    first = torch.arange(batch, device="cpu")[:, None, None] * count
    out.copy_((found.view(batch, count, nearest) - first)[:, :, ranks])
