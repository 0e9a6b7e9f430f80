"""The graphs of all layers: dilated k-NN, dynamic or fixed, and the schedule of dilations.

Source: DeepGCNs, "Representation Learning on Graphs" (dynamic edges) and "Dilated Aggregation in GCNs".

The receptive field of a layer is the part of the room that its features can depend on. Every layer enlarges it by the
distance to its furthest neighbours. A dilated layer takes its k neighbours from among the k * d nearest points, so
that the receptive field grows faster with the same number of neighbours, edges and weights. That is what dilation is
for.

:data:`GRAPHS` has the graphs of this package by name. One of your own is a subclass of :class:`Graph`, given as
``DeepGCN(graph=MyGraph)``, or as ``DeepGCN(graph=functools.partial(MyGraph, radius=0.2))`` with settings of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import PartError
from ..ops import nearest_ranks, require_neighbors
from ..settings import FLAG, integer, listed, number, require
from .own_layers import built_by, require_flags

SCHEDULES = ("linear", "none")
# A function of the layer's number i and its input features x (B, N, C), which returns the neighbours (B, N, k).
Neighbors = Callable[[int, Tensor], Tensor]


def dilation_schedule(dilation: str | int | Sequence[int], depth: int, period: int | None = None) -> list[int]:
    """Return the dilation of every layer, the head included (1, unless a list is given).

    Args:
        dilation: ``linear`` for the paper's 1, 1, 2, ..., depth - 1; ``none`` for 1 everywhere; an
            integer for that dilation in every layer after the head; or an explicit list of at most
            ``depth``, cycled over the layers from the head on, as the TensorFlow code's ``--dilations``.
        depth: number of layers, the head included.
        period: for ``linear``, the number of layers after which dilations start again at 1.

    Raises:
        ValueError: the dilation is none of these, or below 1.
    """
    require("dilation_period", period, integer(1, null=True))
    if dilation == "linear":
        cycle = period or depth
        return [1] + [1 + i % cycle for i in range(depth - 1)]
    if dilation == "none":
        return [1] * depth
    if isinstance(dilation, str):
        raise ValueError(f"unknown dilation {dilation!r}: linear, none, an integer or a list of integers")
    if isinstance(dilation, Sequence):
        require("dilation", dilation, listed(integer(1), 1, depth))
        return [int(dilation[i % len(dilation)]) for i in range(depth)]
    require("dilation", dilation, integer(1))
    return [1] + [dilation] * (depth - 1)


class DilatedKnnGraph(nn.Module):
    """The graph of one layer: neighbours at ranks 0, d, 2d, ..., (k-1)d of distance (dilated k-NN).

    Stochastic dilation, in training only: each call uses, with probability ``epsilon``, k ranks drawn uniformly without
    replacement from the k*d nearest instead. The draw is the same for all points. Evaluation uses the regular ranks.

    Args:
        k: neighbours per point, the point itself among them if ``loop``.
        dilation: d.
        stochastic: whether stochastic dilation is on. epsilon: its probability.
        loop: whether a point may be its own neighbour (both official codes: yes).

    Shape: points (B, N, C) -> (B, N, k) indices.
    """

    def __init__(
        self, k: int = 16, dilation: int = 1, stochastic: bool = True, epsilon: float = 0.2, loop: bool = True
    ):
        super().__init__()
        require("k", k, integer(1))
        require("dilation", dilation, integer(1))
        require("stochastic", stochastic, FLAG)
        require("epsilon", epsilon, number(0, 1))
        require("loop", loop, FLAG)
        self.k, self.dilation = k, dilation
        self.stochastic, self.epsilon, self.loop = stochastic, epsilon, loop

    def ranks(self) -> Tensor:
        """Return the ranks (k,) that this call selects, ascending; random in training."""
        if self.training and self.stochastic and torch.rand(1, dtype=torch.float32, device="cpu").item() < self.epsilon:
            return torch.randperm(self.k * self.dilation, device="cpu")[: self.k].sort().values
        return torch.arange(0, self.k * self.dilation, self.dilation, device="cpu")

    def forward(self, points: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the neighbours (B, N, k) of points (B, N, C), which are coordinates or features."""
        return nearest_ranks(points, self.ranks(), mask, self.loop)

    def extra_repr(self) -> str:
        """Return the settings for print."""
        stochastic = f", epsilon={self.epsilon}" if self.stochastic else ""
        return f"k={self.k}, dilation={self.dilation}{stochastic}{'' if self.loop else ', loop=False'}"


@dataclass(frozen=True, kw_only=True)
class Graph:
    """The graphs of a backbone: how each layer finds the neighbours of its points.

    :class:`~.deepgcn.DeepGCN` builds it once, and the backbone has it whole. A graph of your own is a subclass. It must
    have :meth:`neighbors`; the other methods fit a graph that searches once in each layer, with ranks that
    :class:`DilatedKnnGraph` selects. If it is a dataclass of the same kind, its further fields are settings of its own.

    Attributes:
        k: neighbours per point. dilations: one per layer.
        stochastic, epsilon: whether stochastic dilation is on, and its probability.
        loop: whether a point may be its own neighbour.
        positions: input channels with the coordinates in which the head's neighbours are searched, and in a
            :class:`FixedGraph` those of every layer.
    """

    k: int = 16
    dilations: Sequence[int] = (1,)
    stochastic: bool = True
    epsilon: float = 0.2
    loop: bool = True
    positions: Sequence[int] = (6, 7, 8)

    def knn_graphs(self) -> nn.ModuleList:
        """Return the dilated k-NN graph of each layer, from the head on."""
        same: dict[str, Any] = {name: getattr(self, name) for name in ("k", "stochastic", "epsilon", "loop")}
        return nn.ModuleList(DilatedKnnGraph(dilation=dilation, **same) for dilation in self.dilations)

    def neighbors(self, graphs: nn.ModuleList, positions: Tensor, mask: Tensor | None) -> Neighbors:
        """Return, for one forward pass, the function that gives layer i the neighbours of its points.

        Args:
            graphs: what :meth:`knn_graphs` returned. positions: (B, N, len(self.positions)), which is also the head's
                x. mask: (B, N) bool, False where a point is absent.
        """
        raise NotImplementedError

    def search_widths(self, widths: Sequence[int]) -> list[int]:
        """Return the number of channels of each search in a pass, given the input widths of layers after the head."""
        return [len(self.positions), *widths]

    @property
    def min_points(self) -> int:
        """The fewest points that a block may have: k x the largest dilation (plus one without self-loops)."""
        return int(self.k) * int(max(self.dilations)) + (not self.loop)


class DynamicGraph(Graph):
    """Dynamic edges: each layer's neighbours are those in its own feature space, searched anew in every pass."""

    def neighbors(self, graphs: nn.ModuleList, positions: Tensor, mask: Tensor | None) -> Neighbors:
        """Search in the features of each layer."""
        return lambda i, x: graphs[i](x, mask)


class FixedGraph(Graph):
    """A graph of neighbours by position in every layer: one search for the head, and one for all other layers.

    The head has its own search for two reasons. Between equally near points, PyTorch's ``topk`` decides differently in
    a search up to another rank (in blocks with repeated points, for half of the neighbours), which would change results
    of earlier trainings without compiled kernels. And hooks, as that of TensorBoard's neighbour distances, must see the
    head's module called.
    """

    def neighbors(self, graphs: nn.ModuleList, positions: Tensor, mask: Tensor | None) -> Neighbors:
        """Search once, up to the largest rank of any layer, and select the ranks of each layer after the head."""
        ranks = torch.arange(self.k * max(self.dilations), device="cpu")
        ordered = nearest_ranks(positions, ranks, mask, self.loop)
        selected = lambda i: ordered[:, :, cast(DilatedKnnGraph, graphs[i]).ranks().to(ordered.device)]
        return lambda i, x: selected(i) if i else graphs[0](x, mask)

    def search_widths(self, widths: Sequence[int]) -> list[int]:
        """Return the number of channels of the head's search, and of the search for all other layers."""
        return [len(self.positions)] * 2


# The graph of each name in ``DeepGCN(graph=...)``, in ``graph.name`` and in a checkpoint.
GRAPHS: dict[str, type[Graph]] = {"dynamic": DynamicGraph, "fixed": FixedGraph}


def find_neighbors(graph: Graph, graphs: nn.ModuleList, positions: Tensor, mask: Tensor | None) -> Neighbors:
    """Return :meth:`Graph.neighbors`. What a graph that is none of :data:`GRAPHS` finds is checked in each layer.

    Raises:
        PartError: the graph returned no function, or this returned no tensor.
        ValueError: when called, the neighbours have another shape or type, or are not all from 0 to N - 1.
    """
    neighbors = graph.neighbors(graphs, positions, mask)
    if not callable(neighbors):
        raise PartError.of("graph", graph, type(neighbors).__name__, "a function neighbors(layer, x)")
    # PyTorch 2.8 cannot compile a search in the values of a dictionary.
    if type(graph) in tuple(GRAPHS.values()):
        return neighbors

    def checked(i: int, x: Tensor) -> Tensor:
        index = neighbors(i, x)
        if not isinstance(index, Tensor):
            raise PartError.of(
                "graph", graph, f"{type(index).__name__} for layer {i}", "neighbours, a tensor (B, N, k)"
            )
        source = f"graph: neighbours that {type(graph).__name__} found for layer {i}"
        require_neighbors(x, index, source)
        # The kernels of a GPU do not look: they would read other memory.
        if not torch.compiler.is_compiling() and not bool(((index >= 0) & (index < x.shape[1])).all()):
            low, high = (int(bound) for bound in index.aminmax())
            raise ValueError(f"{source}: from {low} to {high}; must be from 0 to {x.shape[1] - 1}")
        return index

    return checked


def build_graph(graph: str | Callable[..., Graph], **settings: Any) -> Graph:
    """Return the graph of a name in :data:`GRAPHS`, or of a subclass of :class:`Graph` or a partial of one.

    Args:
        settings: fields of :class:`Graph`. A partial may set only fields that the subclass adds.

    Raises:
        ValueError: there is no graph of that name, it is no subclass of Graph, or a partial sets a field of Graph.
    """
    build: Any = GRAPHS.get(graph, graph) if isinstance(graph, str) else graph
    kind = built_by(build)
    if not isinstance(kind, type) or not issubclass(kind, Graph):
        raise ValueError(
            f"unknown graph {graph!r}: choose one of {', '.join(GRAPHS)}, or give a subclass of Graph or a partial"
        )
    given = build.keywords if isinstance(build, partial) else {}
    if taken := sorted(given.keys() & {field.name for field in fields(Graph)}):
        raise ValueError(f"graph: {taken[0]} is an argument of the network; set it there")
    require_flags(build, "graph.")
    return build(**settings)
