"""Kernels for GPUs, written in Triton.

To read the neighbour search, begin with :mod:`.search`, which has the whole algorithm. :mod:`.rows` repeats the search
for the few queries whose list of candidates failed. :mod:`.edges` is the edge aggregation.
"""
