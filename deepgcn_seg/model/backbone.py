"""The GCN backbone: a head graph convolution on positions, then blocks over dynamic graphs."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ..ops import nearest_ranks
from .block import Block, with_room
from .graph import DilatedKnnGraph
from .layers import LayerSpec, hooked, sliced
from .reversible import ReversibleBlock, ReversibleSequence

ConvFactory = Callable[[int, int, LayerSpec], nn.Module]


class Backbone(nn.Module):
    """Layers 0 (the head) to depth - 1 (DeepGCNs, section 3).

    Args:
        in_channels, channels: features per point, and of every layer; for ``dense`` the growth rate.
        connection: plain, res, dense, res+ or rev.
        conv: called as ``conv(in_channels, out_channels, spec)`` for each graph convolution.
        spec: what follows their linear maps.
        k: neighbours. dilations: one per layer.
        dynamic: neighbours in each layer's own feature space; else at the input positions.
        stochastic, epsilon: stochastic dilation. loop: a point may be its own neighbour.
        positions: input channels whose distance makes the head's graph.
        dropout: probability inside the blocks. checkpoint: recompute convolutions in backward.
        groups: channel groups of ``rev``.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        connection: str,
        conv: ConvFactory,
        spec: LayerSpec,
        k: int,
        dilations: Sequence[int],
        dynamic: bool = True,
        stochastic: bool = True,
        epsilon: float = 0.2,
        loop: bool = True,
        positions: Sequence[int] = (6, 7, 8),
        dropout: float = 0.0,
        checkpoint: bool = False,
        groups: int = 2,
    ):
        super().__init__()
        self.channels, self.connection, self.dynamic, self.dropout = channels, connection, dynamic, dropout
        self.positions = list(positions)
        self.graphs = nn.ModuleList(DilatedKnnGraph(k, d, stochastic, epsilon, loop) for d in dilations)
        pre_activated = connection in ("res+", "rev")
        inner = spec.linear_only() if pre_activated else spec
        self.head = conv(in_channels, channels, inner)
        rest = len(dilations) - 1

        def block(width: int, style: str, out: int) -> Block:
            norm, act = (spec.make_norm(width), spec.make_act()) if pre_activated else (None, None)
            return Block(conv(width, out, inner), norm, act, style, dropout, checkpoint)

        if connection == "rev":
            width = channels // groups
            self.blocks = ReversibleSequence(
                ReversibleBlock([block(width, "res+", width) for _ in range(groups)]) for _ in range(rest)
            )
        else:
            grows = connection == "dense"
            self.blocks = nn.ModuleList(
                block(channels * (i + 1) if grows else channels, connection, channels) for i in range(rest)
            )
        # Pre-activated sums end raw: one last norm and activation, as DeeperGCN and RevGNN.
        self.last_norm = spec.make_norm(channels) if pre_activated else None
        self.last_act = spec.make_act() if pre_activated else None

    def layer_widths(self) -> list[int]:
        """Channels of each feature map :meth:`forward` returns."""
        if self.connection == "rev":
            return [self.channels]
        grows = self.connection == "dense"
        return [self.channels * (i + 1) if grows else self.channels for i in range(len(self.graphs))]

    def forward(self, points: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Features of every layer the fusion block reads.

        Args:
            points: (B, N, in_channels). mask: (B, N) bool, False where a point is absent.

        Returns:
            One (B, N, width) per layer (:meth:`layer_widths`); for rev only the last layer's,
            since keeping the others would undo what reversibility saves.
        """
        return list(self._layers(points, mask))

    def joint(self, points: Tensor, mask: Tensor | None = None) -> Tensor:
        """All layers' features side by side, each once: (B, N, sum of their channels).

        A dense backbone's last layer holds those of all layers, unless dropout has since changed them: then each
        layer's output is there in full, with what it repeats of earlier ones.

        Where no gradient is wanted of many, each is put in its place as it is made: it exists once, not in a list too;
        but for hooks, which are to see :meth:`forward`.
        """
        dropped = self.connection == "dense" and self.dropout > 0 and self.training
        if self.connection in ("dense", "rev") and not dropped:
            return self(points, mask)[-1]
        if dropped or hooked(self) or not sliced(points):
            return torch.cat(self(points, mask), -1)
        joint, start = points.new_empty(0), 0
        for x in self._layers(points, mask):
            stop = start + x.shape[-1]
            if not start:
                joint = x.new_empty(*x.shape[:2], sum(self.layer_widths()))
            joint[..., start:stop] = x
            start = stop
        return joint

    def _layers(self, points: Tensor, mask: Tensor | None) -> Iterator[Tensor]:
        positions = points[..., self.positions]
        graph = self._graphs(positions, mask)
        x = self.head(points, self.graphs[0](positions, mask), mask)
        if self.connection == "rev":
            yield self._finish(self.blocks(x, lambda i, y: graph(i + 1, y), mask, self.dropout), mask)
            return
        buffer = None
        # In-place writes behind autograd's back are not for a tracing compiler, and dropout changes every channel.
        if self.connection == "dense" and not torch.compiler.is_compiling() and not (self.dropout and self.training):
            x, buffer = with_room(x, self.layer_widths()[-1])
        for i, block in enumerate(self.blocks):
            yield x
            x = block(x, graph(i + 1, x), mask, buffer)
        yield self._finish(x, mask)

    def _graphs(self, positions: Tensor, mask: Tensor | None) -> Callable[[int, Tensor], Tensor]:
        """What gives layer i its neighbours."""
        if self.dynamic:
            return lambda i, x: self.graphs[i](x, mask)
        furthest = max(graph.k * graph.dilation for graph in self.graphs)
        ordered = nearest_ranks(positions, torch.arange(furthest), mask, self.graphs[0].loop)
        return lambda i, x: ordered[:, :, self.graphs[i].ranks().to(ordered.device)]

    def _finish(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.last_norm is not None:
            x = self.last_norm(x, mask)
        return x if self.last_act is None else self.last_act(x)
