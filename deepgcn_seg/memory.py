"""The memory that this process uses, and errors of too little memory."""

import resource
import sys
from pathlib import Path

import torch


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
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 2**10 for line in lines if line.startswith(f"{name}:")), None)


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak so far in MiB: of allocations on a CUDA device, or of resident memory on the CPU."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return round(peak_resident_mb(), 1)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed, on a device or on the CPU."""
    text = str(error)
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in text or "DefaultCPU" in text
