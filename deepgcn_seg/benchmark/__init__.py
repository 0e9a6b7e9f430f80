"""Measurements: one file for each value of ``measure``, on :mod:`.build`, :mod:`.timing` and :mod:`.output`."""

import warnings

# It scripts functions when it is imported, of which PyTorch warns visibly since 2.15.
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated")
    import torch_geometric.nn  # noqa: F401
