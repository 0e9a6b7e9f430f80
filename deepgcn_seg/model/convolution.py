"""Graph convolutions over a dense neighbour index: EdgeConv, MRGCN, GraphSAGE, GIN and GENConv.

Each takes features x (B, N, C_in), neighbours index (B, N, k) and an optional mask (B, N) of
the points present, and returns (B, N, C_out). Each is built as ``Conv(in_channels,
out_channels, spec)``; :class:`LayerSpec` says which norm and activation follow its linear map: "layer" in the formulas.
After each class come its options, with the ranges that a checkpoint may give. The table of all by name is at the end.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops import center_and_neighbor, edge_extremum, gather_neighbors, neighbor_max
from ..schema import Schema
from ..settings import FLAG, Share, choice, integer, number, require, rule
from .layers import NORMS, BatchNorm, LayerSpec, Pointwise, negative_slope, on_edges
from .own_layers import is_unchanged

Number = Annotated[float, number(-1e6, 1e6)]
# GENConv's power mean clamps messages and their mean to this range, as the authors' code does.
POWER_RANGE = (1e-7, 1e1)


class EdgeConv(nn.Module):
    """EdgeConv (DGCNN, 1801.07829, section 3.1), the paper's main one; its norm takes statistics over all edges.

    h_i = max_j layer(W [x_i ; x_j - x_i] + b)

    No edge tensors are needed if norm and activation are monotone per channel (:func:`~deepgcn_seg.ops.edge_extremum`).
    Layer norm, GELU and a PReLU whose slope has become negative are not monotone, and those of torch.nn or a user's own
    are not known to be: they need a tensor of all edges.

    Shape: x (B, N, in_channels), index (B, N, k) -> (B, N, out_channels).
    """

    def __init__(self, in_channels: int, out_channels: int, spec: LayerSpec = LayerSpec()):
        super().__init__()
        self.layer = Pointwise(2 * in_channels, out_channels, spec)

    @classmethod
    def of(cls, layer: Pointwise) -> "EdgeConv":
        """Return a convolution that uses this layer, which maps from 2 C channels."""
        conv = cls.__new__(cls)
        nn.Module.__init__(conv)
        conv.layer = layer
        return conv

    def forward(self, x: Tensor, index: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return h."""
        layer = self.layer
        if not is_unchanged(layer):
            center = x[:, :, None].expand(*index.shape, -1)
            return on_edges(layer, torch.cat([center, gather_neighbors(x, index) - center], -1), mask).amax(2)
        linear, sign = layer.linear, layer.monotone_sign()
        if sign is None:
            return on_edges(layer.finish, self._edges(x, index), mask).amax(2)
        extreme, mean, var = edge_extremum(x, linear.weight, linear.bias, index, mask, sign, self._slope())
        norm, act = self._norm(mean, var, index, mask), layer.act or nn.Identity()
        return act(norm(extreme)) if layer.order == "norm-act" else norm(act(extreme))

    def _slope(self) -> Tensor | None:
        """Return the slope below zero of the activation that comes before the norm.

        Returns None if the norm does not need statistics of the edges.
        """
        layer = self.layer
        if layer.norm is None or _fixed(layer.norm):
            return None
        return negative_slope(None if layer.order == "norm-act" else layer.act, layer.linear.weight[:, 0])

    def _norm(
        self, mean: Tensor | None, var: Tensor | None, index: Tensor, mask: Tensor | None
    ) -> Callable[[Tensor], Tensor]:
        """Return the norm with the statistics of the edges."""
        norm: Any = self.layer.norm
        if norm is None:
            return nn.Identity()
        if _fixed(norm):
            scale, shift = norm.fixed_scale_shift()
        else:
            points = index.shape[1] if mask is None else mask.sum(1)
            scale, shift = norm.scale_shift(mean, var, points * index.shape[2])
        # The statistics have float32 at least. Weights of half precision have features of half precision.
        return lambda x: torch.addcmul(shift, x, scale).to(self.layer.linear.weight.dtype)

    def _edges(self, x: Tensor, index: Tensor) -> Tensor:
        """Return W [x_i ; x_j - x_i] + b for every edge, (B, N, k, C)."""
        linear = self.layer.linear
        center, neighbor = center_and_neighbor(x, linear.weight, linear.bias)
        return center[:, :, None] + gather_neighbors(neighbor, index)


class EdgeConvOptions(Schema):
    """:class:`EdgeConv`, which has no options."""

    name: Literal["edge"]


def _fixed(norm: nn.Module) -> bool:
    """Return whether a norm uses its running statistics."""
    return isinstance(norm, BatchNorm) and not norm.uses_batch_statistics


class MRConv(nn.Module):
    """Max-relative graph convolution, MRGCN (DeepGCNs, journal version): one product per point.

    h_i = layer(W [x_i ; max_j (x_j - x_i)] + b)

    Shape: x (B, N, in_channels), index (B, N, k) -> (B, N, out_channels).
    """

    def __init__(self, in_channels: int, out_channels: int, spec: LayerSpec = LayerSpec()):
        super().__init__()
        self.layer = Pointwise(2 * in_channels, out_channels, spec)

    def forward(self, x: Tensor, index: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return h."""
        if not is_unchanged(self.layer):
            return self.layer(torch.cat([x, neighbor_max(x, index, mask) - x], -1), mask)
        # W [x ; m - x] = (W1 - W2) x + W2 m needs neither the difference nor the concatenation.
        linear = self.layer.linear
        own, relative = linear.weight.chunk(2, 1)
        product = F.linear(x, own - relative, linear.bias) + F.linear(neighbor_max(x, index, mask), relative)
        return self.layer.finish(product, mask)


class MRConvOptions(Schema):
    """:class:`MRConv`, which has no options."""

    name: Literal["mr"]


class GraphSAGE(nn.Module):
    """GraphSAGE with max-pooling (1706.02216, equation 3), as the authors' TensorFlow code of DeepGCNs.

    h_i = layer(W [x_i ; max_j layer(W' x_j + b')] + b)

    There, the inner layer is computed for every edge, so that its norm has statistics over edges: a point counts as
    often as it is a neighbour. Here, it is computed once per point, and the statistics are weighted by that number,
    unless the norm cannot weight points or the inner layer must be called.

    Args:
        normalize: divide each output by its L2 norm (``--normalize_sage``, off there too).

    Shape: x (B, N, in_channels), index (B, N, k) -> (B, N, out_channels).
    """

    def __init__(self, in_channels: int, out_channels: int, spec: LayerSpec = LayerSpec(), normalize: bool = False):
        super().__init__()
        require("normalize", normalize, FLAG)
        self.pool = Pointwise(in_channels, in_channels, spec)
        self.layer = Pointwise(2 * in_channels, out_channels, spec)
        self.normalize = normalize

    def forward(self, x: Tensor, index: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return h."""
        out = self.layer(torch.cat([x, self._pooled(x, index, mask)], -1), mask)
        # tf.nn.l2_normalize takes 1e-12 if the square of the norm is smaller.
        return F.normalize(out, dim=-1, eps=1e-6) if self.normalize else out

    def _pooled(self, x: Tensor, index: Tensor, mask: Tensor | None) -> Tensor:
        """Return the maximum over neighbours of the inner layer's features."""
        if not is_unchanged(self.pool):
            return on_edges(self.pool, gather_neighbors(x, index), mask).amax(2)
        if not self.pool.counts_points:
            return on_edges(self.pool.finish, gather_neighbors(self.pool.linear(x), index), mask).amax(2)
        counts = None if self.pool.sliceable else in_degree(index, mask)
        return neighbor_max(self.pool(x, mask, counts), index, mask)


class GraphSAGEOptions(Schema):
    """Options of :class:`GraphSAGE`."""

    name: Literal["sage"]
    normalize: bool = False


def in_degree(index: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return how many present points have each point as neighbour, (B, N) float32, of an index (B, N, k)."""
    batch, count, k = index.shape
    edges = index.new_ones(1, 1, 1, dtype=torch.float32) if mask is None else mask[:, :, None].float()
    zeros = index.new_zeros(batch, count, dtype=torch.float32)
    return zeros.scatter_add_(1, index.flatten(1), edges.expand(batch, count, k).flatten(1))


class GIN(nn.Module):
    """Graph isomorphism network (1810.00826, equation 4.1), with one linear map as the TensorFlow code of DeepGCNs.

    h_i = layer(W ((1 + eps) x_i + sum_j x_j) + b)

    Args:
        learn_eps: whether eps, which starts at 0, is learned (``--zero_epsilon_gin`` fixes it).

    Shape: x (B, N, in_channels), index (B, N, k) -> (B, N, out_channels).
    """

    def __init__(self, in_channels: int, out_channels: int, spec: LayerSpec = LayerSpec(), learn_eps: bool = True):
        super().__init__()
        require("learn_eps", learn_eps, FLAG)
        self.layer = Pointwise(in_channels, out_channels, spec)
        self.eps = nn.Parameter(torch.zeros(()), requires_grad=learn_eps)

    def reset_parameters(self) -> None:
        """Set the parameters of this module alone to their first values, as PyTorch's method of this name does."""
        nn.init.zeros_(self.eps)

    def forward(self, x: Tensor, index: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return h."""
        return self.layer((1 + self.eps) * x + gather_neighbors(x, index).sum(2), mask)


class GINOptions(Schema):
    """Options of :class:`GIN`."""

    name: Literal["gin"]
    learn_eps: bool = True


class GENConv(nn.Module):
    """Generalised graph convolution of DeeperGCN (2006.07739, section 3).

    h_i = MLP(x_i + aggr_j(relu(x_j) + eps))

    Details are those of the authors' code (deep_gcns_torch, ``torch_message.py``), where torch_geometric's ``GENConv``
    differs: the power mean clamps messages, and their mean, to 1e-7..10 (there 1e-4..100), and the weights of a
    softmax whose temperature is not learned have no gradient (there they have one).

    Args:
        aggregation: ``softmax`` (equation 5) or ``power`` (power mean, equation 6).
        temperature: softmax's inverse temperature beta, or the power p.
        learn_temperature: whether it is learned.
        message_norm: scale the aggregate to the point's own norm (section 3.4).
        learn_message_scale: whether that scale is learned.
        mlp_layers: linear maps of the MLP. All but the last are twice as wide and end in norm and
            activation; the last ends in what ``spec`` says.
        hidden_norm: norm inside the MLP.
        eps: keeps messages positive.

    Shape: x (B, N, in_channels), index (B, N, k) -> (B, N, out_channels).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        spec: LayerSpec = LayerSpec(),
        aggregation: str = "softmax",
        temperature: float = 1.0,
        learn_temperature: bool = True,
        message_norm: bool = False,
        learn_message_scale: bool = False,
        mlp_layers: int = 1,
        hidden_norm: str = "batch",
        eps: float = 1e-7,
    ):
        super().__init__()
        require("aggregation", aggregation, choice("softmax", "power"))
        require("mlp_layers", mlp_layers, integer(1))
        require("temperature", temperature, number(-1e6, 1e6))
        if aggregation == "power":
            require("temperature", temperature, rule("not 0 for the power mean", lambda power: power != 0))
        require("learn_temperature", learn_temperature, FLAG)
        require("message_norm", message_norm, FLAG)
        require("learn_message_scale", learn_message_scale, FLAG)
        require("hidden_norm", hidden_norm, choice(*NORMS))
        require("eps", eps, number(0, 1))
        self.aggregation, self.learn_temperature, self.eps = aggregation, learn_temperature, eps
        self.first_temperature = float(temperature)
        self.temperature = nn.Parameter(torch.tensor(self.first_temperature), requires_grad=learn_temperature)
        self.message_scale = None
        if message_norm:
            self.message_scale = nn.Parameter(torch.ones(()), requires_grad=learn_message_scale)
        # The point's own features are added to the aggregate, so they must have its width.
        same = in_channels == out_channels
        self.project = None if same else nn.Linear(in_channels, out_channels, spec.bias)
        hidden = LayerSpec(norm=hidden_norm, act="relu", bias=spec.bias, eps=spec.eps)
        widths = [out_channels] + [2 * out_channels] * (mlp_layers - 1) + [out_channels]
        specs = [hidden] * (mlp_layers - 1) + [spec]
        self.mlp = nn.ModuleList(Pointwise(*layer) for layer in zip(widths[:-1], widths[1:], specs))

    def reset_parameters(self) -> None:
        """As :meth:`GIN.reset_parameters`."""
        nn.init.constant_(self.temperature, self.first_temperature)
        if self.message_scale is not None:
            nn.init.ones_(self.message_scale)

    def forward(self, x: Tensor, index: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return h."""
        if self.project is not None:
            x = self.project(x)
        message = gather_neighbors(x.relu() + self.eps, index)
        if self.aggregation == "softmax":
            weight = (self.temperature * message).softmax(2)
            pooled = ((weight if self.learn_temperature else weight.detach()) * message).sum(2)
        else:
            pooled = message.clamp(*POWER_RANGE).pow(self.temperature).mean(2)
            pooled = pooled.clamp(*POWER_RANGE).pow(1 / self.temperature)
        if self.message_scale is not None:
            pooled = F.normalize(pooled, dim=-1) * x.norm(dim=-1, keepdim=True) * self.message_scale
        x = x + pooled
        for layer in self.mlp:
            x = layer(x, mask)
        return x


class GENConvOptions(Schema):
    """Options of :class:`GENConv`."""

    name: Literal["gen"]
    aggregation: Literal["softmax", "power"] = "softmax"
    temperature: Number = 1.0
    learn_temperature: bool = True
    message_norm: bool = False
    learn_message_scale: bool = False
    mlp_layers: Annotated[int, integer(1, 64)] = 1
    hidden_norm: Literal["batch", "instance", "layer", "none"] = "batch"
    eps: Share = 1e-7


# For each name in a description, the convolution and its options.
CONVOLUTIONS: dict[str, tuple[type[nn.Module], type[Schema]]] = {
    "edge": (EdgeConv, EdgeConvOptions),
    "mr": (MRConv, MRConvOptions),
    "sage": (GraphSAGE, GraphSAGEOptions),
    "gin": (GIN, GINOptions),
    "gen": (GENConv, GENConvOptions),
}
