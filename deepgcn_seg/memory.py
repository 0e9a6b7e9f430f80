"""The memory that this process uses, and errors of too little memory."""

import gc
import math
import resource
import sys
from pathlib import Path

import torch

# A process that writes 5 into this file sets the peak of its resident memory to what is resident now.
_RESET = Path("/proc/self/clear_refs")
# What other errors say: of the CPU's allocator, of CUDA and Triton apart from PyTorch's allocator, of cuBLAS.
_NO_MEMORY = ("allocate memory", "DefaultCPU", "out of memory", "STATUS_ALLOC_FAILED")
# Pieces of work that the peak of the resident memory may be of: each calls reset_peak at its beginning.
_works = 0


def resident_mb() -> float:
    """Return the resident memory in MiB, or the peak so far if the system does not tell."""
    return _status("VmRSS") or peak_resident_mb()


def peak_resident_mb() -> float:
    """Return the peak of the resident memory so far, in MiB."""
    # ru_maxrss of a new process starts at its parent's peak; the kernel's own counter does not.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _status(name: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 2**10 for line in lines if line.startswith(f"{name}:")), None)


def reset_peak(device: torch.device) -> None:
    """Begin to measure the peak of the memory anew, as for a training that follows another in the same process."""
    global _works
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        _RESET.write_text("5", "utf-8")
        _works = 1
    except OSError:
        _works += 1


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak in MiB since :func:`reset_peak`: of allocations on a CUDA device, or of the resident memory.

    NaN if the system cannot reset the latter and this is not the first work of the process.
    """
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return math.nan if _works > 1 else round(peak_resident_mb(), 1)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed, on a device or on the CPU."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(sign in str(error) for sign in _NO_MEMORY)
