"""Tensors as arrays, which compiled kernels take."""

import numpy as np
from torch import Tensor


def as_arrays(*tensors: Tensor) -> list[np.ndarray]:
    """Return contiguous arrays, which share the memory of contiguous tensors."""
    return [tensor.detach().contiguous().numpy() for tensor in tensors]


def present_points(x: Tensor, mask: Tensor | None) -> np.ndarray:
    """Return the mask (B, N) of points x (B, N, C) as an array; all points are present if there is none."""
    return np.ones(x.shape[:2], bool) if mask is None else mask.contiguous().numpy()
