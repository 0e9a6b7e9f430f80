"""Which implementation of an operation runs: ``auto``, ``torch``, ``numba`` or ``triton``.

``auto`` takes the compiled kernels where they can run (numba for tensors on the CPU, Triton for those on a
GPU) and the PyTorch formulation elsewhere. All compute the same function.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType

import torch

from ..cache_folder import cache_folder

# Summed up in float32, and on the CPU widened to it.
HALVES = (torch.float16, torch.bfloat16)
BACKENDS = ("auto", "torch", "numba", "triton")
_chosen = "auto"

log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def numba_available() -> bool:
    """Whether the compiled CPU kernels can run; says so once in the log when they cannot."""
    try:
        from ..kernel_cache import config
    # ValueError: what its settings in the environment cannot be.
    except (ImportError, ValueError) as error:
        log.warning("compiled CPU kernels unavailable (%s): using PyTorch, slower", error)
        return False
    if config.DISABLE_JIT:
        log.warning("compiled CPU kernels unavailable (NUMBA_DISABLE_JIT is set): using PyTorch, slower")
    return not config.DISABLE_JIT


def triton_interpreted() -> bool:
    """Whether Triton runs kernels step by step on the CPU, as tests without a GPU do."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@lru_cache(maxsize=1)
def triton_available() -> bool:
    """Whether the GPU kernels can run, tried once with a small one; says so in the log when they cannot."""
    # Triton alone would keep kernels below HOME, and fail where it cannot.
    if "TRITON_HOME" not in os.environ and (folder := cache_folder("triton")):
        os.environ.setdefault("TRITON_CACHE_DIR", str(folder))
    try:
        from .gpu.edges import neighbor_extremum

        device = "cpu" if triton_interpreted() else "cuda"
        ones = torch.ones(1, 2, 1, device=device)
        index = torch.zeros(1, 2, 1, dtype=torch.int64, device=device)
        neighbor_extremum(ones, index, None, ones[0, 0])
    # Whatever its compiler, the driver or the host's C compiler lacks: PyTorch computes the same.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        log.warning("GPU kernels unavailable (%s): using PyTorch, slower", reason)
        return False
    return True


@lru_cache(maxsize=1)
def cluster_available() -> bool:
    """Whether torch-cluster can be imported; says once in the log what is used when it cannot."""
    try:
        import torch_cluster  # noqa: F401
    except (ImportError, OSError):
        log.info("torch-cluster is not installed: neighbours in 3-D by exhaustive search (`make cluster` builds it)")
        return False
    return True


def set_backend(name: str) -> None:
    """Force the implementation of every operation in this process.

    Tensors that it is not for (those on a GPU under ``numba``) are left to PyTorch.

    Raises:
        ValueError: unknown name, or one that cannot run here.
    """
    global _chosen
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}: choose one of {', '.join(BACKENDS)}")
    if name == "numba" and not numba_available():
        raise ValueError("backend 'numba' was asked for, but numba cannot be imported")
    if name == "triton" and not triton_available():
        raise ValueError("backend 'triton' was asked for, but its kernels cannot run here (the log says why)")
    _chosen = name


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Force the implementation inside a ``with`` block (see :func:`set_backend`)."""
    before = _chosen
    set_backend(name)
    try:
        yield
    finally:
        set_backend(before)


def implementation(tensor: torch.Tensor) -> str:
    """What runs an operation on ``tensor``: ``torch``, ``numba`` or ``triton``."""
    if tensor.dtype not in (torch.float32, torch.float64, *HALVES):
        return "torch"
    if tensor.device.type == "cpu" and _chosen in ("auto", "numba") and numba_available():
        return "numba"
    on_gpu = tensor.is_cuda or (_chosen == "triton" and triton_interpreted())
    return "triton" if on_gpu and _chosen in ("auto", "triton") and triton_available() else "torch"


def kernels(operation: str, tensor: torch.Tensor) -> ModuleType | None:
    """The module of compiled kernels for an operation (``edge``, ``neighbor``) on ``tensor``, or None for PyTorch."""
    name = implementation(tensor)
    if name == "numba":
        from .cpu import edges, search
    elif name == "triton":
        from .gpu import edges, search  # type: ignore[no-redef]
    else:
        return None
    return edges if operation == "edge" else search
