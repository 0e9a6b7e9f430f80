"""Connections between graph convolutions: plain, res, dense, res+ and rev."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as recompute

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

    def forward(self, x: Tensor, index: Tensor, mask: Tensor | None = None) -> Tensor:
        """Convolve and connect."""
        if self.connection == "res+":
            h = F.dropout(self._activate(x, mask), self.dropout, self.training)
            return x + self._convolve(h, index, mask)
        h = self._activate(self._convolve(x, index, mask), mask)
        if self.connection == "res":
            h = x + h
        elif self.connection == "dense":
            h = torch.cat([x, h], -1)
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
