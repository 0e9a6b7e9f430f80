"""Kernels for CPUs, compiled by numba.

To read the neighbour search, begin with :mod:`.search`, which has the whole algorithm. Then read :mod:`.tiles`
(distances of a tile), :mod:`.ranks` (thresholds, and ranks from a list of candidates), :mod:`.simd` (vectors in
compiled code) and :mod:`.threads`. :mod:`.tree` searches large three-dimensional clouds by torch-cluster, if that is
installed. :mod:`.edges` is the edge aggregation.
"""
