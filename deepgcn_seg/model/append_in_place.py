"""Append features to those of the layers before, without copying these: a dense backbone in training and inference."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..ops import Differentiable


def preallocate(x: Tensor, channels: int) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]:
    """Copy x (B, N, C) to the front of a new tensor (B, N, channels); return that front, and a function that appends.

    ``append(x, h)`` returns [x ; h]. If x is the front of that tensor, x is not copied, so that a dense backbone holds
    each layer's features once, and not again in the input of every later layer.
    """
    buffer = x.new_empty(*x.shape[:2], channels)
    return _Append.of(x.detach()[..., :0], x, buffer), lambda x, h: _append(x, h, buffer)


def _append(x: Tensor, h: Tensor, buffer: Tensor) -> Tensor:
    # A block that is compiled by itself cannot compare the place of tensors, or write past autograd.
    if torch.compiler.is_compiling():
        return torch.cat([x, h], -1)
    fits = buffer.data_ptr() == x.data_ptr() and buffer.stride() == x.stride()
    fits = fits and buffer.dtype == h.dtype and x.shape[-1] + h.shape[-1] <= buffer.shape[-1]
    return _Append.of(x, h, buffer) if fits else torch.cat([x, h], -1)


class _Append(Differentiable):
    """Write h behind x, which is the front of the buffer, and return the front that has both."""

    @staticmethod
    def forward(ctx, x: Tensor, h: Tensor, buffer: Tensor) -> Tensor:
        ctx.width = x.shape[-1]
        both = ctx.width + h.shape[-1]
        # The write bypasses autograd. It changes no value that autograd has saved, because nothing has read these
        # channels so far.
        buffer.data[..., ctx.width : both] = h
        return buffer.data[..., :both]

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad[..., : ctx.width], grad[..., ctx.width :], None
