"""Products of float32 matrices in float32, whatever lower precision the program has set for them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# PyTorch has a setting for all products (``torch.set_float32_matmul_precision``), and since 2.9 one for GPUs and one
# for CPUs (``fp32_precision``). Where a program sets one of these, asking for the former is an error.
_BY_DEVICE = hasattr(torch.backends, "fp32_precision")
_FULL = frozenset({"highest", "ieee", "none"})

_turn = threading.Lock()
# How many contexts need float32 now, and the settings that the process had before the first of them.
_needed: int = 0
_before: tuple[str, ...] = ()


def products_are_full() -> bool:
    """Return whether PyTorch multiplies float32 matrices in float32."""
    return _FULL.issuperset(_settings())


@contextmanager
def full_products() -> Iterator[None]:
    """Multiply float32 matrices in float32 inside the context.

    The precision is that of all threads of a process, which may leave in another order than they came.
    """
    global _needed, _before
    with _turn:
        joins = _needed > 0 or not products_are_full()
        if joins and not _needed:
            _before = _own_settings()
            _set(("ieee", "ieee") if _BY_DEVICE else ("highest",))
        _needed += joins
    try:
        yield
    finally:
        with _turn:
            _needed -= joins
            if joins and not _needed:
                _set(_before)


def _matmuls() -> tuple[Any, Any]:
    backends: Any = torch.backends
    return backends.cuda.matmul, backends.mkldnn.matmul


def _settings() -> tuple[str, ...]:
    """Return the precisions that count now, of which some may be those of a backend or of all backends."""
    if not _BY_DEVICE:
        return (torch.get_float32_matmul_precision(),)
    on_gpu, on_cpu = _matmuls()
    return on_gpu.fp32_precision, on_cpu.fp32_precision


def _own_settings() -> tuple[str, ...]:
    """Return the settings to go back to: ``none`` where products have the precision of their backend.

    PyTorch does not tell whether they have it from there, or have the same one themselves.
    """
    if not _BY_DEVICE:
        return _settings()
    backends: Any = torch.backends
    parents = backends.cudnn.fp32_precision, backends.mkldnn.fp32_precision
    return tuple("none" if own == parent else own for own, parent in zip(_settings(), parents))


def _set(settings: tuple[str, ...]) -> None:
    if not _BY_DEVICE:
        torch.set_float32_matmul_precision(settings[0])
        return
    for matmul, setting in zip(_matmuls(), settings):
        matmul.fp32_precision = setting
