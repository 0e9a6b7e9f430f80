"""The GCN backbone: a head graph convolution on positions, then blocks, each over a graph of its own."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from .connection import Connection
from .gcn_block import Block
from .graph import Graph, find_neighbors
from .layers import LayerSpec, apply_norm
from .neighborhood import Geometry, Neighborhood

ConvFactory = Callable[[int, int, LayerSpec], nn.Module]


class Backbone(nn.Module):
    """The GCN backbone block: layers 0 (the head) to depth - 1 (DeepGCNs, "Methodology").

    ``head`` is the head graph convolution here, as in the official code; ``DeepGCN.head`` is the prediction head.

    Args:
        in_channels: channels of the points. channels: channels that each layer computes; the growth rate if dense.
        conv: called as ``conv(in_channels, out_channels, spec)`` for each graph convolution.
        spec: norm and activation after their linear maps.
        graph: finds the neighbours in each layer; it has one dilation for each layer.
        connection: how layers are connected.
        dropout: probability inside the blocks. recompute: recompute convolutions in the backward pass.

    Shape: (B, N, in_channels) -> one (B, N, width) per layer that the fusion block sees (:meth:`layer_widths`).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        conv: ConvFactory,
        spec: LayerSpec,
        graph: Graph,
        connection: Connection,
        dropout: float = 0.0,
        recompute: bool = False,
    ):
        super().__init__()
        self.channels, self.connection, self.graph, self.dropout = channels, connection, graph, dropout
        self.positions = list(graph.positions)
        self.graphs = graph.knn_graphs()
        pre_activated = connection.pre_activated
        inner = spec.linear_only() if pre_activated else spec

        def block(width: int, out: int) -> Block:
            norm, act = (spec.make_norm(width), spec.make_act()) if pre_activated else (None, None)
            return Block(conv(width, out, inner), norm, act, connection, dropout, recompute)

        self.head = conv(in_channels, channels, inner)
        self.blocks = connection.blocks(block, len(self.graphs), channels)
        # The last sum of pre-activated layers still needs norm and activation, as in DeeperGCN and RevGNN.
        self.last_norm = spec.make_norm(self.layer_widths()[-1]) if pre_activated else None
        self.last_act = spec.make_act() if pre_activated else None
        if len(self.positions) != 3 and any(getattr(part, "reads_geometry", False) for part in self.modules()):
            raise ValueError(f"positions={self.positions}: the graph convolution reads three coordinates")

    def layer_widths(self) -> list[int]:
        """Return the channels of each feature map that :meth:`forward` returns."""
        return self.connection.fused_widths(len(self.graphs), self.channels)

    def forward(self, points: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Return the features (B, N, width) of every layer that the fusion block sees.

        Args:
            points: (B, N, in_channels). mask: (B, N) bool, False where a point is absent.
        """
        return list(self.layers(points, mask))

    def layers(self, points: Tensor, mask: Tensor | None = None) -> Iterator[Tensor]:
        """Yield what :meth:`forward` returns, each layer's features as soon as they are computed."""
        positions = points[..., self.positions]
        neighbors = find_neighbors(self.graph, self.graphs, positions, mask)
        geometry = Geometry(positions, mask)
        # Neighbours are searched when a layer asks for them. ``of_layer(i, x)`` returns those of layer i, whose input
        # is x, with what else a convolution may know of them; the connection calls it once before each block. Blocks
        # are counted from 0, layers from the head on: block i is layer i + 1. A block hands the convolution its
        # neighbours' indices and the mask, and the geometry only if the convolution reads that
        # (``Neighborhood.arguments``).
        of_layer = lambda i, x: Neighborhood(neighbors(i, x), mask, geometry)
        x = self.head(points, *of_layer(0, positions).arguments(self.head))
        widths, dropout = self.layer_widths(), self.dropout if self.training else 0.0
        outputs = self.connection.run(self.blocks, x, lambda i, y: of_layer(i + 1, y), widths[-1], dropout)
        # Free the head's features here; the connection holds them as long as it needs them.
        del x
        for i, output in enumerate(outputs, 1):
            yield self._finish(output, mask) if i == len(widths) else output

    def concatenate(self, features: list[Tensor]) -> Tensor:
        """Return the layers' features side by side, (B, N, sum of their channels).

        In a dense backbone the last layer's output contains those of all earlier ones, so that it alone is returned.
        With dropout in training it does not contain them, because each layer also drops features of earlier ones.
        """
        drops = self.dropout > 0 and self.training
        if len(features) == 1 or (self.connection.last_has_all and not drops):
            return features[-1]
        return torch.cat(features, -1)

    def _finish(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = apply_norm(self.last_norm, x, mask)
        return x if self.last_act is None else self.last_act(x)
