"""Connections between graph convolutions: plain, res, dense, res+ and rev."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as recompute

from ..ops.calls import Differentiable

CONNECTIONS = ("plain", "res", "dense", "res+")


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of every batch norm below ``module``: a second forward pass over
    the same batch, made to save memory, must not count twice."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [(m.momentum, m.num_batches_tracked.clone()) for m in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)


class _AppendChannels(Differentiable):
    """Write h behind x's channels in the buffer that x is the front of; the front of both together."""

    @staticmethod
    def forward(ctx, x: Tensor, h: Tensor, buffer: Tensor) -> Tensor:
        ctx.width = x.shape[-1]
        both = ctx.width + h.shape[-1]
        # Past autograd: no value that it saved is overwritten, only channels not read so far.
        buffer.data[..., ctx.width : both] = h
        return buffer.data[..., :both]

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad[..., : ctx.width], grad[..., ctx.width :], None


def with_room(x: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """x (B, N, C) as the front of a buffer (B, N, channels), and the buffer."""
    buffer = x.new_empty(*x.shape[:2], channels)
    return _AppendChannels.of(x.detach()[..., :0], x, buffer), buffer


def append_channels(x: Tensor, h: Tensor, buffer: Tensor | None) -> Tensor:
    """[x ; h], without copying x where ``buffer`` has x in front: a dense backbone so holds each layer's
    features once, not in every later layer's input again.

    Args:
        x: (B, N, C). h: (B, N, C'). buffer: (B, N, at least C + C') whose first C channels are x's memory, or None.
    """
    fits = buffer is not None and buffer.data_ptr() == x.data_ptr() and buffer.stride() == x.stride()
    fits = fits and buffer.dtype == h.dtype and x.shape[-1] + h.shape[-1] <= buffer.shape[-1]
    return _AppendChannels.of(x, h, buffer) if fits else torch.cat([x, h], -1)


class Block(nn.Module):
    """One graph convolution and its skip connection, with torch_geometric's ``DeepGCNLayer`` semantics.

    ====== =====================================================================================
    plain  dropout(act(norm(conv(x))))
    res    dropout(x + act(norm(conv(x)))) (DeepGCNs, equation 3)
    dense  dropout([x ; act(norm(conv(x)))]) (equation 5)
    res+   x + conv(dropout(act(norm(x)))) (DeeperGCN, section 3.2)
    ====== =====================================================================================

    The official models' convolutions hold norm and activation themselves (they act on edges),
    so their blocks have none here.

    Args:
        conv: called as ``conv(x, index, mask)``. norm: called as ``norm(x, mask)``. act: ``act(x)``.
        connection: one of the above.
        dropout: probability.
        checkpoint: recompute the convolution in backward instead of keeping what it needs.

    Shape: x (B, N, C), index (B, N, k) -> (B, N, C), or (B, N, C + C_out) for dense.
    """

    def __init__(
        self,
        conv: nn.Module,
        norm: nn.Module | None = None,
        act: nn.Module | None = None,
        connection: str = "res",
        dropout: float = 0.0,
        checkpoint: bool = False,
    ):
        super().__init__()
        if connection not in CONNECTIONS:
            raise ValueError(f"unknown connection {connection!r}: choose one of {', '.join(CONNECTIONS)}, rev")
        self.conv, self.norm, self.act = conv, norm, act
        self.connection, self.dropout, self.checkpoint = connection, dropout, checkpoint

    def forward(self, x: Tensor, index: Tensor, mask: Tensor | None = None, buffer: Tensor | None = None) -> Tensor:
        """Convolve and connect; ``buffer`` is where dense appends (:func:`append_channels`)."""
        if self.connection == "res+":
            h = F.dropout(self._activate(x, mask), self.dropout, self.training)
            return x + self._convolve(h, index, mask)
        h = self._activate(self._convolve(x, index, mask), mask)
        if self.connection == "res":
            h = x + h
        elif self.connection == "dense":
            h = append_channels(x, h, buffer)
        return F.dropout(h, self.dropout, self.training)

    def _activate(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.norm is not None:
            x = self.norm(x, mask)
        return x if self.act is None else self.act(x)

    def _convolve(self, x: Tensor, index: Tensor, mask: Tensor | None) -> Tensor:
        if self.checkpoint and self.training and torch.is_grad_enabled():
            contexts = lambda: (nullcontext(), frozen_statistics(self.conv))
            return recompute(self.conv, x, index, mask, use_reentrant=False, context_fn=contexts)
        return self.conv(x, index, mask)

    def extra_repr(self) -> str:
        """Settings for print."""
        dropout = f", dropout={self.dropout}" if self.dropout else ""
        return self.connection + dropout + (", checkpoint" if self.checkpoint else "")
