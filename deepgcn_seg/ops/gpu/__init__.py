"""Kernels for GPUs, written in Triton.

To read the neighbour search, begin with :mod:`.search`, which has the whole algorithm. Its steps are :mod:`.plan` (how
many are sampled and kept), :mod:`.split` (points, and their products), :mod:`.thresholds`, :mod:`.candidates`,
:mod:`.order` and :mod:`.rows` (the few queries whose list of candidates failed). :mod:`.edges` is the edge aggregation.

Kernels take the tensors of a tuple one by one. As one parameter, which Triton takes since 3.3, they were not tried on a
GPU.
"""
