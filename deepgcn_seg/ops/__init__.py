"""The operations a dynamic graph network spends its time in, each with a plain PyTorch
formulation and compiled kernels that compute the same function."""

from .backend import BACKENDS, backend, set_backend
from .edges import edge_extremum, gather_neighbors, neighbor_max
from .neighbors import nearest_ranks

__all__ = [
    "BACKENDS",
    "backend",
    "edge_extremum",
    "gather_neighbors",
    "nearest_ranks",
    "neighbor_max",
    "set_backend",
]
