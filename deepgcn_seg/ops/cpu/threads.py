"""Threads of this package: they run compiled kernels, and in inference whole networks, side by side.

PyTorch's own threads cannot be used for that, because they run only PyTorch's operations. The pool here has as many
threads as PyTorch would use (:func:`torch.get_num_threads`), and inside each of them PyTorch uses one thread, so that
there are never more threads than processors. :func:`run_each` hands out pieces of work; the others are built on it:

- :func:`run_sliced` for a kernel that works on ``start <= i < stop`` of something,
- :func:`map_on_threads` for a function of tensors, called once for each block of points.
"""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ...precision import products_are_full

# Work of fewer steps than these runs on the calling thread, because to hand work to two threads and wait for them takes
# 20 to 30 microseconds. A step is one number of an edge kernel; `search` says how many a distance counts for. Measured
# with one and with two threads in alternation (two cores, 64 channels, the least of 150 calls, in milliseconds):
#
#     steps                            2^20             2^21             2^22
#     largest neighbour                0.060, 0.078     0.110, 0.113     0.232, 0.174
#     moments over edges               0.110, 0.140     0.174, 0.177     0.337, 0.269
#     gradient of the moments          0.123, 0.132     0.230, 0.189     0.480, 0.313
#     gradient of the largest          0.098, 0.099     0.202, 0.157     0.463, 0.291
SMALL = 1 << 21
# Slices for each thread. A thread that another program holds up delays the others by one slice at most, which is a
# quarter of its share. Measured: one slice more costs 1 to 2 microseconds, the call of a kernel.
SLICES = 4


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Return the pool of threads of a process. A forked process makes its own, because it does not inherit threads."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="deepgcn_seg")
    all_started = threading.Barrier(threads)

    def start() -> None:
        # Let PyTorch use only this thread here. The first call of get_num_threads resets the number, so make it before.
        torch.get_num_threads()
        torch.set_num_threads(1)
        # Otherwise one thread could start twice and another not at all.
        all_started.wait()

    for started in [pool.submit(start) for _ in range(threads)]:
        started.result()
    # The number is each thread's own, but new threads begin with the last one that any thread set.
    torch.set_num_threads(threads)
    return pool


def run_each(work: Callable[[Any], None], pieces: Iterable[Any]) -> None:
    """Call ``work(piece)`` for each piece on all threads: whichever is free takes the next piece."""
    # All threads draw from one iterator. That of a list gives each piece to one thread only.
    remaining = iter(list(pieces))

    def work_on() -> None:
        for piece in remaining:
            work(piece)

    threads = torch.get_num_threads()
    if threads <= 1:
        work_on()
        return
    pool = _pool(os.getpid(), threads)
    for finished in [pool.submit(work_on) for _ in range(threads)]:
        # This also raises here what `work` raised there.
        finished.result()


def run_sliced(kernel: Callable[..., None], size: int, steps: int, *arguments: Any) -> None:
    """Call ``kernel(start, stop, *arguments)`` for slices that cover ``range(size)``, on all threads.

    The kernel must release the GIL. It must write only what belongs to its slice, and the result for a slice must not
    depend on where slices begin and end: then no result depends on the number of threads.

    Args:
        steps: about how many numbers are computed in all. Below :data:`SMALL` this thread computes them alone.
    """
    threads = torch.get_num_threads()
    if threads <= 1 or steps < SMALL:
        kernel(0, size, *arguments)
        return
    slices = min(SLICES * threads, size)
    bounds = [size * i // slices for i in range(slices + 1)]
    run_each(lambda bound: kernel(*bound, *arguments), zip(bounds, bounds[1:]))


def map_on_threads(function: Callable[..., Tensor], arguments: Sequence[tuple]) -> list[Tensor]:
    """Return ``[function(*some) for some in arguments]``, each call on one thread.

    Call it with gradients off. Threads that share one call wait for each other at every operation; threads that have a
    call each do not. Calls left over after each thread has had the same number are computed one by one, each on all
    threads.
    """
    threads = torch.get_num_threads()
    alone = 0 if threads <= 1 or _bound_to_this_thread() else len(arguments) // threads * threads
    results: list[Any] = [None] * len(arguments)
    inference = torch.is_inference_mode_enabled()
    autocast_dtype, autocast = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")

    def work(i: int) -> None:
        # These modes are each thread's own: set those of the caller.
        with torch.no_grad(), torch.inference_mode(inference), torch.autocast("cpu", autocast_dtype, autocast):
            results[i] = function(*arguments[i])

    run_each(work, range(alone))
    for i in range(alone, len(arguments)):
        results[i] = function(*arguments[i])
    return results


def _bound_to_this_thread() -> bool:
    """Return whether operations on other threads would be missed or go wrong.

    A profiler and PyTorch's dispatch modes (such as ``FakeTensorMode``) see their own thread's operations only. And the
    search sets the precision of products for the whole process while it runs, if it is not the highest already, which
    calls side by side must not do.
    """
    modes = torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack()
    return bool(modes or torch.autograd._profiler_enabled() or not products_are_full())
