"""The operations in which a dynamic graph network spends its time.

There are two kinds: neighbour search (:mod:`.neighbors`) and edge aggregation (:mod:`.edges`). Each has a plain PyTorch
formulation (:mod:`.reference`), which is the place to see what it computes, and compiled kernels that compute the same
faster, for CPUs (``cpu/``, numba) and for GPUs (``gpu/``, Triton). :mod:`.backends` chooses which of them runs.

Other packages import what is listed here, and none of the files behind it:

- ``nearest_ranks``: the neighbours of each point. ``gather_neighbors``: their features. ``require_neighbors``: checks
  the shape of neighbours.
- ``neighbor_max``, ``edge_extremum``: the largest value over neighbours or edges. ``center_and_neighbor``: the two maps
  of points whose sums are the edges. ``edge_moments``: mean and variance over edges, in plain PyTorch.
- ``backend``, ``set_backend``, ``BACKENDS``: which implementation runs.
- ``Differentiable``, ``as_autocast``: for autograd functions that other packages write.
- ``require_no_transform``: refuses the transforms of ``torch.func``.
- ``map_on_threads``: calls of a function side by side, on a thread each.
"""

from .backends import BACKENDS, backend, set_backend
from .calls import Differentiable, as_autocast, require_no_transform
from .cpu.threads import map_on_threads
from .edges import center_and_neighbor, edge_extremum, neighbor_max, require_neighbors
from .neighbors import nearest_ranks
from .reference import edge_moments, gather_neighbors

__all__ = [
    "BACKENDS",
    "Differentiable",
    "as_autocast",
    "backend",
    "center_and_neighbor",
    "edge_extremum",
    "edge_moments",
    "gather_neighbors",
    "map_on_threads",
    "nearest_ranks",
    "neighbor_max",
    "require_neighbors",
    "require_no_transform",
    "set_backend",
]
