"""The GCN backbone: a head graph convolution on positions, then blocks, each over a graph of its own."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from .connection import Connection, all_unchanged
from .gcn_block import Block
from .graph import Graph, find_neighbors
from .layers import LayerSpec, apply_act, apply_norm
from .neighborhood import Geometry, Neighborhood
from .own_layers import is_exactly, require_features, require_layer

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

        def convolution(width: int, out: int) -> nn.Module:
            return require_layer(conv(width, out, inner), "conv", conv)

        def block(width: int, out: int) -> Block:
            norm, act = (spec.make_norm(width), spec.make_act()) if pre_activated else (None, None)
            return Block(convolution(width, out), norm, act, connection, dropout, recompute, out)

        self.head = convolution(in_channels, channels)
        self.blocks = connection.blocks(block, len(self.graphs), channels)
        # The last sum of pre-activated layers still needs norm and activation, as in DeeperGCN and RevGNN.
        self.last_norm = spec.make_norm(self.layer_widths()[-1]) if pre_activated else None
        self.last_act = spec.make_act() if pre_activated else None
        if len(self.positions) != 3 and any(getattr(part, "reads_geometry", False) for part in self.modules()):
            raise ValueError(f"positions={self.positions}: the graph convolution reads three coordinates")

    @property
    def unchanged(self) -> bool:
        """Whether the features are what the connection yields, which no hook and no derived class has changed."""
        return is_exactly(self, Backbone)

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

        def around(layer: int, x: Tensor) -> Neighborhood:
            """Search the neighbours of a layer's points in its input x. The head is layer 0, block i is layer i + 1."""
            return Neighborhood(neighbors(layer, x), mask, geometry)

        x = self.head(points, *around(0, positions).arguments(self.head))
        x = require_features(x, points, self.channels, "conv", self.head)
        widths, dropout = self.layer_widths(), self.dropout if self.training else 0.0
        # The connection searches once before each block.
        outputs = self.connection.run(self.blocks, x, lambda i, y: around(i + 1, y), widths[-1], dropout)
        # Free the head's features here; the connection holds them as long as it needs them.
        del x
        for i, output in enumerate(outputs, 1):
            width = widths[i - 1] if i <= len(widths) else None
            output = require_features(output, points, width, "connection", self.connection)
            yield self._finish(output, mask) if i == len(widths) else output

    def concatenate(self, features: list[Tensor]) -> Tensor:
        """Return the layers' features side by side, (B, N, sum of their channels).

        In a dense backbone the last layer's output contains those of all earlier ones, so that it alone is returned.
        With dropout in training it does not contain them, because each layer also drops features of earlier ones. Nor
        is that known if a hook, or a backbone or block of a user's own, may have changed a layer's features.
        """
        nested = self.connection.last_has_all and self.unchanged and all_unchanged(self.blocks)
        return features[-1] if nested or len(features) == 1 else torch.cat(features, -1)

    def _finish(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return apply_act(self.last_act, apply_norm(self.last_norm, x, mask))
