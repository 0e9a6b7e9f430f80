"""The operations in which a dynamic graph network spends its time.

There are two kinds: neighbour search (:mod:`.neighbors`) and edge aggregation (:mod:`.edges`). Each has a plain PyTorch
formulation (:mod:`.reference`), which is the place to see what it computes, and compiled kernels that compute the same
faster, for CPUs (``cpu/``, numba) and for GPUs (``gpu/``, Triton). :mod:`.backend` chooses which of them runs.
"""

from .backend import BACKENDS, backend, set_backend
from .edges import edge_extremum, neighbor_max
from .neighbors import nearest_ranks
from .reference import gather_neighbors

__all__ = [
    "BACKENDS",
    "backend",
    "edge_extremum",
    "gather_neighbors",
    "nearest_ranks",
    "neighbor_max",
    "set_backend",
]
