"""A layer of the backbone: one graph convolution, its norm and activation, and its connection."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .connection import Combine, Connection, find_connection
from .layers import apply_act, apply_norm
from .neighborhood import Neighborhood
from .own_layers import is_exactly, require_features
from .recompute import recomputed


class Block(nn.Module):
    """One graph convolution and its skip connection, as torch_geometric's ``DeepGCNLayer``.

    The output is dropout(combine(x, act(norm(conv(x))))), where ``combine`` is the connection's, as x + h
    (:meth:`.Connection.combine`). A pre-activated block puts out combine(x, conv(dropout(act(norm(x)))))
    (:attr:`.Connection.pre_activated`; DeeperGCN).

    The official models' convolutions hold norm and activation themselves (they act on edges),
    so their blocks have none here.

    Args:
        conv: called as ``conv(x, index, mask)``, and with the geometry if it reads that (:class:`.Neighborhood`).
        norm: called as ``norm(x, mask)``. act: ``act(x)``.
        connection: a name in :data:`.CONNECTIONS`, or a :class:`.Connection`.
        dropout: probability of dropping a feature.
        recompute: recompute the convolution in the backward pass instead of keeping what it needs.
        channels: that the convolution must return; None for any number.

    Shape: x (B, N, C) -> (B, N, C), or (B, N, C + C_out) for dense.
    """

    def __init__(
        self,
        conv: nn.Module,
        norm: nn.Module | None = None,
        act: nn.Module | None = None,
        connection: str | Connection = "res",
        dropout: float = 0.0,
        recompute: bool = False,
        channels: int | None = None,
    ):
        super().__init__()
        self.conv, self.norm, self.act, self.channels = conv, norm, act, channels
        self.connection, self.dropout, self.recompute = find_connection(connection), dropout, recompute

    def forward(self, x: Tensor, neighborhood: Neighborhood, combine: Combine | None = None) -> Tensor:
        """Return the layer's output; ``combine`` replaces that of the connection (:meth:`.Connection.start`)."""
        if combine is None:
            combine = self.connection.combine
        if self.connection.pre_activated:
            h = F.dropout(self.activate(x, neighborhood.mask), self.dropout, self.training)
            return self._combined(combine, x, self._convolve(h, neighborhood))
        h = self.activate(self._convolve(x, neighborhood), neighborhood.mask)
        return F.dropout(self._combined(combine, x, h), self.dropout, self.training)

    @property
    def unchanged(self) -> bool:
        """Whether a call gives what ``combine`` does: no dropout, hook or class of a user's own changes it after it."""
        return is_exactly(self, Block) and not (self.dropout and self.training)

    def activate(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return act(norm(x)), leaving out norm or activation if the block has none."""
        return apply_act(self.act, apply_norm(self.norm, x, mask))

    def convolved(self, h: Tensor, x: Tensor) -> Tensor:
        """Return what the convolution gave for x, if it is features of these points."""
        return require_features(h, x, self.channels, "conv", self.conv)

    def _convolve(self, x: Tensor, neighborhood: Neighborhood) -> Tensor:
        arguments = neighborhood.arguments(self.conv)
        if self.recompute and self.training and torch.is_grad_enabled():
            return self.convolved(recomputed(self.conv, x, *arguments), x)
        return self.convolved(self.conv(x, *arguments), x)

    def _combined(self, combine: Combine, x: Tensor, h: Tensor) -> Tensor:
        return require_features(combine(x, h), x, None, "connection", self.connection)

    def extra_repr(self) -> str:
        """Return the settings for print."""
        dropout = f", dropout={self.dropout}" if self.dropout else ""
        return self.connection.name + dropout + (", recompute" if self.recompute else "")
