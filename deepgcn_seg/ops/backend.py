"""Which implementation of an operation runs: ``auto``, ``torch`` or ``numba``.

``auto`` takes the compiled CPU kernels when the tensors are on the CPU and numba can be
imported, and the PyTorch formulation otherwise. Both compute the same function.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch

BACKENDS = ("auto", "torch", "numba")
_chosen = "auto"

log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def numba_available() -> bool:
    """Whether the compiled CPU kernels can run; says so once in the log when they cannot."""
    try:
        import numba  # noqa: F401
    except ImportError as error:
        log.warning("compiled CPU kernels unavailable (%s): using PyTorch, slower", error)
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

    Raises:
        ValueError: unknown name, or ``numba`` where it cannot be imported.
    """
    global _chosen
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}: choose one of {', '.join(BACKENDS)}")
    if name == "numba" and not numba_available():
        raise ValueError("backend 'numba' was asked for, but numba cannot be imported")
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


def uses_numba(tensor: torch.Tensor) -> bool:
    """Whether an operation on ``tensor`` runs in the compiled CPU kernels."""
    compiled = tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64)
    return compiled and _chosen != "torch" and numba_available()
