"""Run compiled kernels, products of matrices, and whole networks in inference, on threads of their own."""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Arrays of fewer numbers, all of a kernel's together, are not worth waking a thread for.
SMALL = 1 << 16


@lru_cache(maxsize=1)
def _pool(pid: int, threads: int) -> ThreadPoolExecutor:
    # Keyed by process: a pool does not survive a fork.
    pool = ThreadPoolExecutor(threads, thread_name_prefix="deepgcn_seg")
    all_started = threading.Barrier(threads)

    def start() -> None:
        # What PyTorch does inside a worker stays on that worker. Asked first, as the first question sets the number.
        torch.get_num_threads()
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


def each_alone(function: Callable[..., Tensor], arguments: Sequence[tuple]) -> list[Tensor]:
    """``[function(*some) for some in arguments]`` in inference, each on one of the threads that PyTorch uses.

    So none waits for another at every operation. What is left over when the threads do not divide them, all
    threads do together.
    """
    threads = torch.get_num_threads()
    alone = len(arguments) // threads * threads if threads > 1 and not _watched() else 0
    results: list[Any] = [None] * len(arguments)
    inference = torch.is_inference_mode_enabled()
    autocast = {"dtype": torch.get_autocast_dtype("cpu"), "enabled": torch.is_autocast_enabled("cpu")}

    def work(place: int) -> None:
        # Modes are each thread's own.
        with torch.no_grad(), torch.inference_mode(inference), torch.autocast("cpu", **autocast):
            results[place] = function(*arguments[place])

    run_each(work, range(alone))
    for place in range(alone, len(arguments)):
        results[place] = function(*arguments[place])
    return results


def _watched() -> bool:
    """Whether something observes this thread's operations, or the process's precision is about to be changed."""
    modes = torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack()
    return bool(modes or torch.autograd._profiler_enabled() or torch.get_float32_matmul_precision() != "highest")
