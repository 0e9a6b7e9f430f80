"""Any message-passing operator of torch_geometric as a graph convolution."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from ..schema import Schema
from ..settings import Share
from .arguments import Width
from .convolution import Number
from .layers import LayerSpec, Pointwise, make_norm


class MessagePassing(nn.Module):
    """A message-passing operator of torch_geometric, applied to the neighbours that the layer's graph found.

    Args:
        operator: called as ``operator(in_channels, out_channels)``, for example
            ``functools.partial(torch_geometric.nn.GATv2Conv, heads=4, concat=False)``. It must
            return out_channels features per point.

    Shape: x (B, N, in_channels), index (B, N, k) -> (B, N, out_channels).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        spec: LayerSpec = LayerSpec(),
        *,
        operator: Callable[[int, int], nn.Module],
    ):
        super().__init__()
        self.operator = operator(in_channels, out_channels)
        self.norm, self.act, self.order = make_norm(spec.norm, out_channels, spec.eps), spec.make_act(), spec.order

    def forward(self, x: Tensor, index: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the operator's output after norm and activation, in the order of the spec."""
        batch, count, channels = x.shape
        out = self.operator(x.reshape(batch * count, channels), edge_index(index, mask))
        out = out.view(batch, count, -1)
        return Pointwise.finish(self, out, mask)


def edge_index(index: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return torch_geometric's edges (2, E), from source neighbour j to target i, of a dense index (B, N, k).

    Point i of block b has the number b * N + i; absent points have no edges.
    """
    batch, count, _ = index.shape
    first = torch.arange(batch, device=index.device)[:, None, None] * count
    target = torch.arange(batch * count, device=index.device).view(batch, count, 1).expand_as(index)
    source = index + first
    if mask is not None:
        source, target = source[mask], target[mask]
    return torch.stack([source.reshape(-1), target.reshape(-1)])


class GATv2Options(Schema):
    """Options of torch_geometric's ``GATv2Conv``, whose heads are averaged."""

    name: Literal["gatv2"]
    heads: Width = 1
    concat: Literal[False] = False
    negative_slope: Number = 0.2
    dropout: Share = 0.0
    add_self_loops: bool = True
    bias: bool = True
    share_weights: bool = False


class TransformerOptions(Schema):
    """Options of torch_geometric's ``TransformerConv``, whose heads are averaged."""

    name: Literal["transformer"]
    heads: Width = 1
    concat: Literal[False] = False
    beta: bool = False
    dropout: Share = 0.0
    bias: bool = True
    root_weight: bool = True


# For each name in a description, the operator's name in torch_geometric, and its options.
OPERATORS: dict[str, tuple[str, type[Schema]]] = {
    "gatv2": ("GATv2Conv", GATv2Options),
    "transformer": ("TransformerConv", TransformerOptions),
}
