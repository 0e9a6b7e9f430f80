"""PyTorch as it is when a process begins, whatever the program that calls this package has set."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_turn = threading.Lock()
# How many contexts need float32 now, and the default dtype that the process had before the first of them.
_needed, _before = 0, torch.float32


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Make float32 tensors on the CPU inside the context, with gradients and without autocast.

    So a network is built as its checkpoint describes it, and a training from Python is that of the command line, even
    if the program has another default dtype or device, or calls under ``torch.inference_mode``. The default dtype is
    that of all threads of a process; the others are the thread's own.
    """
    with ExitStack() as stack:
        stack.enter_context(_float32())
        # The context of a device costs time in every call of PyTorch.
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def _float32() -> Iterator[None]:
    """Set the default dtype for as long as a context needs it: threads may leave in another order than they came."""
    global _needed, _before
    with _turn:
        if not _needed:
            _before = torch.get_default_dtype()
            torch.set_default_dtype(torch.float32)
        _needed += 1
    try:
        yield
    finally:
        with _turn:
            _needed -= 1
            if not _needed:
                torch.set_default_dtype(_before)
