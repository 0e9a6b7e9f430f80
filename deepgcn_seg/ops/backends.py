"""The choice of the implementation that runs the operations.

=========  =====================================  =============================  ==========================
backend    for tensors                            neighbour search               edge aggregation
=========  =====================================  =============================  ==========================
torch      anywhere, of any type                  :mod:`.reference`              :mod:`.reference`
numba      on the CPU                             ``cpu/search.py``              ``cpu/edges.py``
triton     on a GPU                               ``gpu/search.py``              ``gpu/edges.py``
auto only  large 3-D clouds on the CPU            ``cpu/tree.py``                as the rows above
=========  =====================================  =============================  ==========================

``auto`` takes the search tree for the clouds of the last row if torch-cluster is installed, the compiled kernels where
they can run, and ``torch`` elsewhere. All compute the same functions of finite numbers, and differ in which of equally
near points comes first. (NaN in the features of a neighbour need not reach the largest value that a compiled kernel
finds; NaN in a point's own features stays.)
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cache_folder import cache_folder
from . import reference
from .cpu import tree
from .gpu.launch import interpreted

# Types that the kernels take. Half precision is summed up in float32. The search on a GPU takes float32 alone, and
# leaves float64 to PyTorch; half precision is made float32 before.
TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
BACKENDS = ("auto", "torch", "numba", "triton")
_requested = "auto"

log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def numba_available() -> bool:
    """Return whether the compiled CPU kernels can run; log once if not."""
    try:
        from ..kernel_cache import config
    # numba raises ValueError if its environment variables have invalid values.
    except (ImportError, ValueError) as error:
        log.warning("compiled CPU kernels unavailable (%s): using PyTorch, slower", error)
        return False
    if config.DISABLE_JIT:
        log.warning("compiled CPU kernels unavailable (NUMBA_DISABLE_JIT is set): using PyTorch, slower")
    return not config.DISABLE_JIT


@lru_cache
def triton_available(device: torch.device | None = None) -> bool:
    """Return whether the GPU kernels can run on a device, by one call of a small one; log once if not.

    Args:
        device: a GPU; None for the current one, or for the CPU if Triton's interpreter is on.
    """
    # By default Triton keeps kernels below HOME, and fails if it cannot write there.
    if "TRITON_HOME" not in os.environ and (folder := cache_folder("triton")):
        os.environ.setdefault("TRITON_CACHE_DIR", str(folder))
    try:
        from .gpu.edges import neighbor_extremum

        ones = torch.ones(1, 2, 1, device=device or ("cpu" if interpreted() else "cuda"))
        index = torch.zeros_like(ones, dtype=torch.int64)
        with torch.cuda.device_of(ones):
            neighbor_extremum(ones, index, None, ones[0, 0])
    # Anything may fail: Triton's compiler, the driver, a missing C compiler. PyTorch computes the same without them.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        log.warning("GPU kernels unavailable (%s): using PyTorch, slower", reason)
        return False
    return True


@lru_cache(maxsize=1)
def cluster_available() -> bool:
    """Return whether torch-cluster can be imported; log once if not, with what is used instead."""
    try:
        import torch_cluster  # noqa: F401
    except (ImportError, OSError):
        log.info("torch-cluster is not installed: large 3-D clouds by exhaustive search (`make cluster` builds it)")
        return False
    return True


def set_backend(name: str) -> None:
    """Force the implementation of every operation in this process.

    PyTorch runs the operation for tensors that the backend cannot take (those on a GPU under ``numba``).

    Raises:
        ValueError: unknown name, or one that cannot run here.
    """
    global _requested
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}: choose one of {', '.join(BACKENDS)}")
    if name == "numba" and not numba_available():
        raise ValueError("backend 'numba' was asked for, but its kernels cannot run here (the log says why)")
    if name == "triton" and not triton_available():
        raise ValueError("backend 'triton' was asked for, but its kernels cannot run here (the log says why)")
    _requested = name


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Force the implementation inside a ``with`` block (see :func:`set_backend`)."""
    before = _requested
    set_backend(name)
    try:
        yield
    finally:
        set_backend(before)


def implementation(tensor: Tensor) -> str:
    """Return the backend that runs operations on ``tensor``: ``torch``, ``numba`` or ``triton``."""
    if tensor.dtype not in TYPES:
        return "torch"
    if tensor.device.type == "cpu" and _requested in ("auto", "numba") and numba_available():
        return "numba"
    on_gpu = tensor.is_cuda or (_requested == "triton" and interpreted())
    return "triton" if on_gpu and _requested in ("auto", "triton") and triton_available(tensor.device) else "torch"


class Operations(NamedTuple):
    """One implementation of every operation; :mod:`.reference` says what each computes."""

    search: Callable[..., None]
    neighbor_extremum: Callable[..., tuple[Tensor, Tensor]]
    neighbor_extremum_backward: Callable[..., Tensor]
    edge_moments: Callable[..., tuple[Tensor, Tensor]]
    edge_moments_backward: Callable[..., tuple[Tensor, Tensor, Tensor]]


@lru_cache(maxsize=3)
def _operations(name: str) -> Operations:
    # Imported when first used: a machine may have neither numba nor Triton.
    search: ModuleType
    edges: ModuleType
    if name == "numba":
        from .cpu import edges, search
    elif name == "triton":
        from .gpu import edges, search
    else:
        search = edges = reference
    operations = Operations(
        search.search,
        edges.neighbor_extremum,
        edges.neighbor_extremum_backward,
        edges.edge_moments,
        edges.edge_moments_backward,
    )
    return Operations(*map(_on_card, operations, _operations("torch"))) if name == "triton" else operations


def _on_card(kernels: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """Return an operation whose kernels run on the GPU of its tensors: Triton takes the current one.

    A card may be too small for a kernel, or too old for Triton's compiler. The backend ``auto`` then takes PyTorch's
    formulation, and tries the kernels of this operation on this card no more.
    """
    from triton import CompilationError, OutOfResources
    from triton.runtime.errors import PTXASError

    unsuited: set[torch.device] = set()

    @wraps(kernels)
    def call(*arguments: Any) -> Any:
        device = arguments[0].device
        if _requested == "auto" and device in unsuited:
            return plain(*arguments)
        try:
            with torch.cuda.device_of(arguments[0]):
                return kernels(*arguments)
        except (CompilationError, OutOfResources, PTXASError) as error:
            if _requested != "auto":
                raise
            unsuited.add(device)
            log.warning("%s cannot run kernels of %s (%s): using PyTorch, slower", device, kernels.__name__, error)
            return plain(*arguments)

    return call


def search_for(points: Tensor, mask: Tensor | None, furthest: int, loop: bool) -> Callable[..., None]:
    """Return the search for neighbours up to the rank ``furthest``: by the table above, the last row first."""
    if _requested == "auto" and tree.suits(points, mask, furthest, loop) and cluster_available():
        return tree.search
    return operations_for(points).search


def operations_for(tensor: Tensor, deterministic: bool = False) -> Operations:
    """Return the implementation for a tensor: by the table above, or PyTorch's if it must be deterministic."""
    return _operations("torch" if deterministic else implementation(tensor))
