"""For networks of PyTorch Geometric: dynamic graphs and EdgeConv on flat features (N, C) with a ``batch`` vector.

``batch`` gives the cloud of every point, ascending, as in all of torch_geometric; clouds may differ in size. The
search and the edges run on the operations of this package (:mod:`deepgcn_seg.ops`). :class:`DynamicEdgeConv` takes the
place of ``torch_geometric.nn.DynamicEdgeConv``, with the same arguments, parameters, values and first derivatives.
:class:`DynamicConv` puts any convolution of :mod:`deepgcn_seg.model.convolution` into a network of torch_geometric, for
instance into its ``DeepGCNLayer``.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor
from torch_geometric.nn import MLP
from torch_geometric.nn import BatchNorm as PygBatchNorm
from torch_geometric.nn import Linear as PygLinear
from torch_geometric.nn.inits import reset
from torch_geometric.utils import scatter, to_dense_batch

from .model.convolution import EdgeConv
from .model.graph import DilatedKnnGraph
from .model.layers import BatchNorm, Pointwise, is_nondecreasing
from .model.own_layers import is_exactly, is_linear
from .ops import center_and_neighbor, nearest_ranks

LINEAR = (torch.nn.Linear, PygLinear)
# How the messages of a point's edges can be joined, as torch_geometric names it.
AGGREGATIONS = ("max", "min", "mean", "sum", "add")


class DilatedKNNGraph(torch.nn.Module):
    """The dilated k-NN graph of each cloud, as edges: neighbours at ranks 0, d, 2d, ..., (k-1)d of distance.

    In training, stochastic dilation takes k random ranks below k*d instead, with probability ``epsilon``. A cloud with
    fewer points has fewer edges, as in ``torch_geometric.nn.knn_graph``.

    Args:
        k: neighbours per point, the point itself among them if ``loop``. dilation: d.
        stochastic: whether stochastic dilation is on. epsilon: its probability.

    Shape: x (N, C), batch (N,) -> edges (2, E) from neighbours (row 0) to points (row 1), in order of the points.
    """

    def __init__(self, k: int, dilation: int = 1, stochastic: bool = False, epsilon: float = 0.2, loop: bool = True):
        super().__init__()
        self.graph = DilatedKnnGraph(k, dilation, stochastic, epsilon, loop)

    def forward(self, x: Tensor, batch: Tensor | None = None) -> Tensor:
        """Return the edges of points with coordinates or features x."""
        points, mask = _dense(x, batch)
        if not len(x):
            return torch.empty(2, 0, dtype=torch.int64, device=x.device)
        index, exists = _neighbors(self.graph, points, mask)
        return _edges(index, exists, mask)


class DynamicConv(torch.nn.Module):
    """A convolution of this package over the dilated k-NN graph of its own input.

    Args:
        conv: called with x (B, N, C), index (B, N, k) and a mask (B, N) or None, for example
            :class:`~deepgcn_seg.model.convolution.MRConv`.
        k, dilation, stochastic, epsilon, loop: of the graph, as in :class:`DilatedKNNGraph`.

    Raises:
        ValueError: when called, a cloud has too few points for the furthest rank, (k - 1) * dilation.

    Shape: x (N, C), batch (N,) -> (N, C').
    """

    def __init__(
        self,
        conv: torch.nn.Module,
        k: int,
        dilation: int = 1,
        stochastic: bool = False,
        epsilon: float = 0.2,
        loop: bool = True,
    ):
        super().__init__()
        self.conv = conv
        self.graph = DilatedKnnGraph(k, dilation, stochastic, epsilon, loop)

    def forward(self, x: Tensor, batch: Tensor | None = None) -> Tensor:
        """Return the convolution of x with its neighbours in its own feature space."""
        points, mask = _dense(x, batch)
        if not len(x):
            # Norms have no statistics of no points.
            index = torch.empty(1, 0, self.graph.k, dtype=torch.int64, device=x.device)
            return deepcopy(self.conv).eval()(x[None], index, None)[0]
        return _flat(self.conv(points, self.graph(points, mask), mask), mask)


class DynamicEdgeConv(torch.nn.Module):
    """EdgeConv over the k-NN graph of its own input (DGCNN, 1801.07829), in place of torch_geometric's.

    h_i = max_j nn([x_i ; x_j - x_i])

    No tensor of all edges is made if ``nn`` is a linear map, with a batch norm and an activation that keeps the order
    of values (ReLU, leaky ReLU) after it or without them, and the aggregation is ``max``. Otherwise the first linear
    map is computed once per point, and the rest of ``nn`` once per edge. A module of another class, of one derived from
    these or with hooks is called with the tensor of all edges.

    Args:
        nn: from 2 C to C' channels: a linear map, a ``torch.nn.Sequential``, ``torch_geometric.nn.MLP``, or any module
            or function.
        k: neighbours per point, the point itself among them. aggr: one of :data:`AGGREGATIONS`.
        dilation, stochastic, epsilon: of the graph, as in :class:`DilatedKNNGraph`; torch_geometric has none.

    Shape: x (N, C), batch (N,) -> (N, C').
    """

    def __init__(
        self,
        nn: Callable[[Tensor], Tensor],
        k: int,
        aggr: str = "max",
        *,
        dilation: int = 1,
        stochastic: bool = False,
        epsilon: float = 0.2,
    ):
        super().__init__()
        if aggr not in AGGREGATIONS:
            raise ValueError(f"aggr={aggr!r}: must be one of {', '.join(AGGREGATIONS)}")
        self.nn, self.aggr = nn, aggr
        self.graph = DilatedKnnGraph(k, dilation, stochastic, epsilon)

    def reset_parameters(self) -> None:
        """Draw the weights of the network anew."""
        reset(self.nn)

    def forward(self, x: Tensor, batch: Tensor | None = None) -> Tensor:
        """Return h."""
        points, mask = _dense(x, batch)
        if not len(x):
            return self.nn(x.new_empty(0, 2 * x.shape[1]))
        index, exists = _neighbors(self.graph, points, mask)
        layers = _layers(self.nn)
        conv = _edge_conv(layers) if self.aggr == "max" and exists is None else None
        if conv is not None:
            return _flat(conv(points, index, mask), mask)
        source, target = _edges(index, exists, mask)
        first: Any = layers[0]
        if is_linear(first, *LINEAR):
            center, neighbor = center_and_neighbor(x, first.weight, first.bias)
            edges, rest = center[target] + neighbor[source], layers[1:]
        else:
            edges, rest = torch.cat([x[target], x[source] - x[target]], -1), layers
        for layer in rest:
            edges = layer(edges)
        return scatter(edges, target, 0, len(x), self.aggr)


def _dense(x: Tensor, batch: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return the clouds side by side, (B, N, C), and a mask (B, N) of the points present; None if all are.

    Raises:
        ValueError: x or batch is of another shape, or batch is not ascending.
    """
    if not isinstance(x, Tensor):
        raise ValueError(
            f"x must be one tensor (points, channels), got {type(x).__name__}: neighbours are searched among the same "
            "points; for those of a second set use torch_geometric's own class"
        )
    if x.dim() != 2:
        raise ValueError(f"x must be (points, channels), got {tuple(x.shape)}")
    if batch is None:
        return x[None], None
    if not isinstance(batch, Tensor):
        raise ValueError(f"batch must be one tensor (points,), got {type(batch).__name__}")
    if batch.shape != x.shape[:1]:
        raise ValueError(f"batch must give the cloud of each of {len(x)} points, got {tuple(batch.shape)}")
    if bool((batch[1:] < batch[:-1]).any()):
        raise ValueError("batch must be ascending: the points of each cloud together")
    if not len(x):
        return x[None], None
    # Numbers that no point has stand for no cloud.
    points, mask = to_dense_batch(x, torch.unique_consecutive(batch, return_inverse=True)[1])
    return points, None if bool(mask.all()) else mask


def _flat(points: Tensor, mask: Tensor | None) -> Tensor:
    """Return the points (B, N, C) that are present, (points, C)."""
    return points.flatten(0, 1) if mask is None else points[mask]


def _neighbors(graph: DilatedKnnGraph, points: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return the neighbours (B, N, k), and which of them exist, (B, N, k) bool.

    The latter is None where all do: every cloud has as many points as the ranks ask for.
    """
    ranks = graph.ranks()
    counts = [points.shape[1]] * len(points) if mask is None else mask.sum(1).tolist()
    least = int(ranks.max()) + 1 + (not graph.loop)
    if min(counts) >= least:
        return nearest_ranks(points, ranks, mask, graph.loop), None
    index = torch.zeros(*points.shape[:2], len(ranks), dtype=torch.int64, device=points.device)
    exists = torch.zeros_like(index, dtype=torch.bool)
    for block, count in enumerate(counts):
        found = ranks[ranks < count - (not graph.loop)]
        if len(found):
            cloud = points[block : block + 1, :count]
            index[block, :count, : len(found)] = nearest_ranks(cloud, found, None, graph.loop)[0]
            exists[block, :count, : len(found)] = True
    return index, exists


def _edges(index: Tensor, exists: Tensor | None, mask: Tensor | None) -> Tensor:
    """Return the edges (2, E), from source to target, among the flat points of all clouds."""
    if mask is None:
        mask = torch.ones(index.shape[:2], dtype=torch.bool, device=index.device)
    if exists is None:
        exists = mask[:, :, None].expand_as(index)
    counts = mask.sum(1)
    source = index + (counts.cumsum(0) - counts)[:, None, None]
    target = (mask.flatten().cumsum(0) - 1).view(*mask.shape, 1).expand_as(index)
    return torch.stack([source[exists], target[exists]])


class _Layer(Pointwise):
    """A layer whose linear map may be torch_geometric's."""

    @property
    def unchanged(self) -> bool:
        """As :attr:`Pointwise.unchanged`."""
        return is_exactly(self, _Layer) and is_linear(self.linear, *LINEAR)


def _layers(network: Any) -> list[torch.nn.Module]:
    """Return the layers that a network applies one after the other.

    A network of another class than those known here, or with hooks, is one layer: it is called as it is.
    """
    if is_exactly(network, torch.nn.Sequential):
        return [layer for child in network for layer in _layers(child)]
    if is_exactly(network, PygBatchNorm) and not network.allow_single_element:
        return [network.module]
    if not is_exactly(network, MLP) or any(network.dropout) or network.supports_norm_batch:
        return [network]
    layers: list[torch.nn.Module] = []
    for i, linear in enumerate(network.lins):
        layers.append(linear)
        if i < len(network.norms):
            after = [network.norms[i]] if network.act is None else [network.norms[i], network.act]
            layers += after[::-1] if network.act_first else after
    return [part for layer in layers for part in _layers(layer) if not is_exactly(part, torch.nn.Identity)]


def _edge_conv(layers: Sequence[torch.nn.Module]) -> EdgeConv | None:
    """Return an EdgeConv of these very layers; None if they are of other kinds or in another order than it has."""
    linear, *rest = layers
    norms = [layer for layer in rest if _is_known_norm(layer)]
    acts = [layer for layer in rest if is_nondecreasing(layer)]
    if not is_linear(linear, *LINEAR) or len(norms) > 1 or len(acts) > 1 or len(norms) + len(acts) < len(rest):
        return None
    if acts and isinstance(acts[0], torch.nn.PReLU) and acts[0].num_parameters > 1:
        # PyTorch's layer wants its channels in the second dimension, which are points here.
        return None
    norm = BatchNorm.view(cast(torch.nn.BatchNorm1d, norms[0])) if norms else None
    order = "act-norm" if rest and acts and rest[0] is acts[0] else "norm-act"
    return EdgeConv.of(_Layer.of(linear, norm, acts[0] if acts else None, order))


def _is_known_norm(layer: Any) -> bool:
    """Return whether a layer is a batch norm whose statistics :func:`~deepgcn_seg.ops.edge_extremum` can give."""
    return is_exactly(layer, torch.nn.BatchNorm1d, BatchNorm) and layer.affine
