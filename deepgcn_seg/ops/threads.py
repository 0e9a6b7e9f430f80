"""Run a compiled kernel over slices of its work, one thread each."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch


@lru_cache(maxsize=1)
def _pool(pid: int, threads: int) -> ThreadPoolExecutor:
    # Keyed by process: a pool does not survive a fork.
    return ThreadPoolExecutor(threads, thread_name_prefix="deepgcn_seg")


def run_sliced(kernel, size: int, *args) -> None:
    """Call ``kernel(start, stop, *args)`` over slices that cover ``range(size)``.

    The kernel must release the GIL and write only what its own slice owns, so that the
    result does not depend on the number of threads (:func:`torch.get_num_threads`).
    """
    threads = min(torch.get_num_threads(), size)
    if threads <= 1:
        kernel(0, size, *args)
        return
    bounds = [size * t // threads for t in range(threads + 1)]
    pool = _pool(os.getpid(), torch.get_num_threads())
    pending = [pool.submit(kernel, *pair, *args) for pair in zip(bounds[1:-1], bounds[2:])]
    kernel(bounds[0], bounds[1], *args)
    for future in pending:
        future.result()
