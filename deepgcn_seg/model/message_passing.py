"""Any message-passing operator of torch_geometric as a graph convolution."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from ..schema import Schema
from ..settings import Share, shown
from .arguments import Width
from .convolution import Number
from .layers import LayerSpec, Pointwise, make_norm
from .neighborhood import Geometry
from .operators import BuildOperator, Network, OperatorSettingError, build_operator, operate, require_fit


class MessagePassing(nn.Module):
    """A message-passing operator of torch_geometric, applied to the neighbours that the layer's graph found.

    It works on one flat graph of the M points that are present in the blocks of a batch. Of the following tensors, its
    ``forward`` gets those that it has an argument for:

    ========== ====== ==================================================================
    x          (M, C) features
    edge_index (2, E) edges from neighbour j to point i (:func:`edge_index`)
    pos        (M, 3) positions (:class:`.Geometry`)
    normal     (M, 3) normals, estimated from the positions
    edge_attr  (E, 3) with ``edge_positions``: p_j - p_i, where neighbour j lies seen from i
    ========== ====== ==================================================================

    Args:
        operator: builds the operator, for example ``functools.partial(torch_geometric.nn.GATv2Conv, heads=4,
            concat=False)``; called as :func:`~.operators.build_operator` says. It must return out_channels features
            per point.
        networks: for each argument of the operator that is a network, the widths of its linear maps, as
            ``{"nn": ["2*in", 64, "out"]}``, or a function that builds it (:func:`~.operators.make_network`).
        edge_positions: whether the operator gets ``edge_attr``.

    Shape: x (B, N, in_channels), index (B, N, k) -> (B, N, out_channels).

    Raises:
        ValueError: the operator cannot be built for these channels, or does not take or return them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        spec: LayerSpec = LayerSpec(),
        *,
        operator: BuildOperator,
        networks: Mapping[str, Network] | None = None,
        edge_positions: bool = False,
    ):
        super().__init__()
        if not isinstance(edge_positions, bool):
            raise OperatorSettingError(f"edge_positions={shown(edge_positions)}: must be true or false")
        channels = in_channels, out_channels
        build = partial(build_operator, operator, *channels, networks or {})
        self.inputs = require_fit(build, operator, channels, edge_positions)
        self.reads_geometry = not {"pos", "normal", "edge_attr"}.isdisjoint(self.inputs)
        self.operator = build()
        self.norm, self.act, self.order = make_norm(spec.norm, out_channels, spec.eps), spec.make_act(), spec.order

    def forward(self, x: Tensor, index: Tensor, mask: Tensor | None = None, geometry: Geometry | None = None) -> Tensor:
        """Return the operator's output after norm and activation, in the order of the spec."""
        # Absent points are not in the graph, so that they count in no degree and in no norm of the operator.
        flat: Callable[[Tensor], Tensor] = lambda values: values.flatten(0, 1) if mask is None else values[mask]
        edges = edge_index(index, mask)
        if mask is not None:
            edges = (mask.flatten().cumsum(0) - 1)[edges]
        values = {"x": flat(x), "edge_index": edges, **self._geometric(edges, flat, geometry)}
        found = operate(self.operator, self.inputs, values)
        if mask is None:
            out = found.view(*x.shape[:2], -1)
        else:
            out = found.new_zeros(*x.shape[:2], found.shape[-1])
            out[mask] = found
        return Pointwise.finish(self, out, mask)

    def _geometric(
        self, edges: Tensor, flat: Callable[[Tensor], Tensor], geometry: Geometry | None
    ) -> dict[str, Tensor]:
        """Return the values that the operator takes of the geometry."""
        if not self.reads_geometry:
            return {}
        if geometry is None:
            raise ValueError(f"{type(self.operator).__name__} reads positions: call it with a geometry")
        pos = flat(geometry.positions)
        values = {"pos": pos, "edge_attr": pos[edges[0]] - pos[edges[1]]}
        return {**values, "normal": flat(geometry.normals)} if "normal" in self.inputs else values


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
