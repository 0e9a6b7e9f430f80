"""How own operations are called: without PyTorch's bookkeeping where no compiler, profiler or gradient asks for it.

On a hundred points that bookkeeping takes longer than the operations.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def operation(function: Callable) -> Any:
    """Make a function of tensors one that compilers take whole, as ``torch.ops.deepgcn_seg.<its name>``.

    Its results for tensors without values are given by ``register_fake``. It is called through PyTorch's registry only
    while something compiles, or profiles, which then shows it under that name.
    """
    registered = torch.library.custom_op(f"deepgcn_seg::{function.__name__.lstrip('_')}", function, mutates_args=())

    @wraps(function)
    def call(*arguments: Any) -> Any:
        watched = torch.compiler.is_compiling() or torch.autograd._profiler_enabled()
        return (registered if watched else function)(*arguments)

    vars(call)["register_fake"] = registered.register_fake
    return call


class _NoContext:
    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Save nothing."""


class Differentiable(torch.autograd.Function):
    """An autograd function whose forward is merely called where gradients are off."""

    @classmethod
    def of(cls, *arguments: Any) -> Any:
        """Its result."""
        return cls.apply(*arguments) if torch.is_grad_enabled() else cls.forward(_NoContext(), *arguments)


def as_autocast(*operands: Tensor | None) -> tuple[Tensor | None, ...]:
    """Tensors in the type that products have here: an autograd function's backward pass does not see autocast."""
    device = next(operand.device.type for operand in operands if operand is not None)
    if not torch.is_autocast_enabled(device):
        return operands
    dtype = torch.get_autocast_dtype(device)
    return tuple(None if operand is None else operand.to(dtype) for operand in operands)
