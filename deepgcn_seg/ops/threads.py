"""Run compiled kernels, and products of matrices, on threads of their own."""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch

# Arrays of fewer numbers, all of a kernel's together, are not worth waking a thread for.
SMALL = 1 << 16


@lru_cache(maxsize=1)
def _pool(pid: int, threads: int) -> ThreadPoolExecutor:
    # Keyed by process: a pool does not survive a fork.
    pool = ThreadPoolExecutor(threads, thread_name_prefix="deepgcn_seg")
    all_started = threading.Barrier(threads)

    def start() -> None:
        # What PyTorch does inside a worker stays on that worker.
        torch.set_num_threads(1)
        all_started.wait()

    for started in [pool.submit(start) for _ in range(threads)]:
        started.result()
    # The number is each thread's own, but new threads begin with the last one that any set.
    torch.set_num_threads(threads)
    return pool


def run_sliced(kernel: Callable[..., None], size: int, *args: np.ndarray) -> None:
    """Call ``kernel(start, stop, *args)`` over slices that cover ``range(size)``.

    The kernel must release the GIL and write only what its own slice owns, so that the
    result does not depend on the number of threads (:func:`torch.get_num_threads`).
    """
    threads = min(torch.get_num_threads(), size)
    if threads <= 1 or sum(array.size for array in args) < SMALL:
        kernel(0, size, *args)
        return
    bounds = [size * t // threads for t in range(threads + 1)]
    pool = _pool(os.getpid(), torch.get_num_threads())
    pending = [pool.submit(kernel, *pair, *args) for pair in zip(bounds[1:-1], bounds[2:])]
    kernel(bounds[0], bounds[1], *args)
    for future in pending:
        future.result()


def run_in_order(work: Callable[[Any], None], pieces: Iterable[Any]) -> None:
    """Call ``work(piece)`` for each piece."""
    for piece in pieces:
        work(piece)


def for_each_thread(make: Callable[[], Any]) -> Callable[[], Any]:
    """What gives each thread an own object of that make, the same each time."""
    own = threading.local()

    def of_this_thread() -> Any:
        if not hasattr(own, "value"):
            own.value = make()
        return own.value

    return of_this_thread


def run_each(work: Callable[[Any], None], pieces: Iterable[Any]) -> None:
    """Call ``work(piece)`` for each piece, on as many threads as PyTorch uses; each works alone."""
    threads = torch.get_num_threads()
    if threads <= 1:
        return run_in_order(work, pieces)
    shared = iter(list(pieces))
    pool = _pool(os.getpid(), threads)
    for finished in [pool.submit(run_in_order, work, shared) for _ in range(threads)]:
        finished.result()
    return None
