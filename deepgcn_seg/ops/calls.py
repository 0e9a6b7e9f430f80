"""How PyTorch sees our operations: the kernels as custom operators, and what is differentiated as autograd functions.

The kernels are custom operators while PyTorch compiles or profiles. With gradients on, autograd functions call them.
Each costs some ten microseconds a call, which on a hundred points is longer than the operation takes. So the plain
function is called where nothing compiles, profiles or differentiates.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def operation(function: Callable) -> Any:
    """Register a function of tensors as ``torch.ops.deepgcn_seg.<its name>``; ``torch.compile`` does not trace into it.

    ``register_fake`` of the returned function takes a function that returns empty results of the right shapes. The
    operation is called through PyTorch's registry only while PyTorch compiles or profiles; a profile then
    shows it under that name.
    """
    registered = torch.library.custom_op(f"deepgcn_seg::{function.__name__.lstrip('_')}", function, mutates_args=())

    @wraps(function)
    def call(*arguments: Any) -> Any:
        require_no_transform()
        visible = torch.compiler.is_compiling() or torch.autograd._profiler_enabled()
        return (registered if visible else function)(*arguments)

    vars(call)["register_fake"] = registered.register_fake
    return call


def require_no_transform() -> None:
    """Refuse tensors of ``torch.func``, whose values kernels cannot read.

    Raises:
        RuntimeError: it is called inside a transform, as ``vmap`` or ``torch.func.grad``.
    """
    if torch._C._functorch.peek_interpreter_stack() is not None and not torch.compiler.is_compiling():
        raise RuntimeError(
            "the operations of deepgcn_seg do not work inside transforms of torch.func (vmap, grad, jacrev, jvp and "
            "others): call the network for one batch at a time, and take gradients by backward() or torch.autograd.grad"
        )


class _NoContext:
    """What ``forward`` gets for ``ctx`` where no backward pass will follow."""

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Save nothing."""


def _first_derivative_only(backward: Callable) -> Callable:
    """Return a backward pass that refuses to be recorded, as it is with ``create_graph=True``.

    ``once_differentiable`` of PyTorch refuses later, when its results are differentiated, and not if the second
    derivative is asked for with respect to certain tensors (``autograd.grad``, ``backward(inputs=...)``): a graph that
    does not lead to these is not followed.
    """

    @wraps(backward)
    def call(ctx: Any, *gradients: Tensor) -> Any:
        # Compiled functions have first derivatives only, and PyTorch says so.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError(
                "the operations of deepgcn_seg have first derivatives only, so their gradients cannot be computed with "
                "create_graph=True; docs/model.md says how to have PyTorch compute layers instead"
            )
        return backward(ctx, *gradients)

    return call


class Differentiable(torch.autograd.Function):
    """An autograd function whose ``forward`` is called directly where gradients are off.

    Its ``backward`` returns a tuple. It calls kernels that autograd does not record, so it is a RuntimeError to ask for
    derivatives of its gradients, or for derivatives in forward mode.
    """

    def __init_subclass__(cls, **settings: Any):
        super().__init_subclass__(**settings)
        cls.backward = staticmethod(_first_derivative_only(cls.backward))  # type: ignore[method-assign]

    @classmethod
    def of(cls, *arguments: Any) -> Any:
        """Return the result of the function, as ``apply`` does."""
        require_no_transform()
        # In forward mode ``apply`` refuses, and ``forward`` would drop the tangents.
        recorded = torch.is_grad_enabled() or forward_ad._current_level >= 0
        return cls.apply(*arguments) if recorded else cls.forward(_NoContext(), *arguments)


def as_autocast(*operands: Tensor | None) -> tuple[Any, ...]:
    """Return tensors in the type that autocast gives matrix products.

    The backward pass of an autograd function runs outside autocast, so that its operands must have one type already.
    """
    device = next(operand.device.type for operand in operands if operand is not None)
    if not torch.is_autocast_enabled(device):
        return operands
    dtype = torch.get_autocast_dtype(device)
    return tuple(None if operand is None else operand.to(dtype) for operand in operands)
