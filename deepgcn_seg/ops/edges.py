"""Edge aggregation: what EdgeConv needs of its edges, without making them.

EdgeConv's linear part splits, W [x_i ; x_j - x_i] = (W1 - W2) x_i + W2 x_j = a_i + b_j, and norm
and activation are monotone per channel, so the maximum over neighbours of the layer's output
needs only max_j b_j (min_j b_j where the norm's scale is negative) and, in training, the mean
and variance over all edges of phi(a_i + b_j). Both stream; memory is that of the nodes.
"""

from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from .backend import kernels
from .calls import Differentiable, as_autocast, operation


def gather_neighbors(x: Tensor, index: Tensor) -> Tensor:
    """Neighbours' features: x (B, N, C), index (B, N, k) -> (B, N, k, C)."""
    batch, count, k = index.shape
    flat = index.reshape(batch, count * k, 1).expand(-1, -1, x.shape[-1])
    return x.gather(1, flat).view(batch, count, k, x.shape[-1])


def neighbor_max(x: Tensor, index: Tensor, mask: Tensor | None = None, sign: Tensor | None = None) -> Tensor:
    """Per channel the largest value among a point's neighbours.

    Args:
        x: (B, N, C) features. index: (B, N, k) neighbours.
        mask: (B, N) bool, False where a point is absent; its row of the result is zero.
        sign: (C,) +1 or -1; where it is -1 the smallest value is taken.

    Returns:
        (B, N, C). Of equal values the first in ``index`` receives the gradient.
    """
    if sign is None:
        sign = torch.ones(x.shape[-1], device=x.device, dtype=x.dtype)
    return _NeighborExtremum.of(x, index, mask, sign.detach().to(x.dtype))


def edge_extremum(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    index: Tensor,
    mask: Tensor | None = None,
    sign: Tensor | None = None,
    slope: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Largest of the edges e_ij = W [x_i ; x_j - x_i] + b of each point, and the moments of phi(e) over all of a block.

    For backward it keeps x and which neighbour was chosen; the products with the weights are made again there.

    Args:
        x: (B, N, C) features. weight: W, (C', 2 C). bias: b, (C',), or None.
        index, mask: as in :func:`neighbor_max`.
        sign: (C',) +1 or -1; where it is -1 the smallest edge is taken.
        slope: (C',), may require a gradient: phi(e) = e for e > 0 and slope * e elsewhere, which is the identity
            (slope 1), ReLU (0), leaky ReLU or PReLU. None where moments are not wanted.

    Returns:
        (B, N, C'), and mean and biased variance of phi, (B, C') each in float32 at least; or None and None.
    """
    x, weight, bias = as_autocast(x, weight, bias)
    if sign is None:
        sign = weight.new_ones(len(weight))
    slope = None if slope is None else slope.to(x.dtype)
    return _EdgeExtremum.of(x, weight, bias, index, mask, sign.detach().to(x.dtype), slope)


# -- neighbor_extremum ------------------------------------------------------------------------


@operation
def _neighbor_extremum(x: Tensor, index: Tensor, mask: Tensor | None, sign: Tensor) -> tuple[Tensor, Tensor]:
    if compiled := kernels("edge", x):
        return compiled.neighbor_extremum(x, index, mask, sign)
    signed, chosen = (gather_neighbors(x, index) * sign).max(2)
    extreme = signed * sign
    if mask is not None:
        extreme = torch.where(mask[:, :, None], extreme, 0)
    return extreme, chosen.to(torch.int16)


@_neighbor_extremum.register_fake
def _(x, index, mask, sign):
    return torch.empty_like(x), x.new_empty(x.shape, dtype=torch.int16)


@operation
def _neighbor_extremum_backward(grad: Tensor, index: Tensor, mask: Tensor | None, chosen: Tensor) -> Tensor:
    if compiled := _backward_kernels(grad):
        return compiled.neighbor_extremum_backward(grad, index, mask, chosen)
    if mask is not None:
        grad = torch.where(mask[:, :, None], grad, 0)
    return torch.zeros_like(grad).scatter_add_(1, index.gather(2, chosen.long()), grad)


@_neighbor_extremum_backward.register_fake
def _(grad, index, mask, chosen):
    return torch.empty_like(grad)


class _NeighborExtremum(Differentiable):
    @staticmethod
    def forward(ctx, x, index, mask, sign):
        extreme, chosen = _neighbor_extremum(x, index, mask, sign)
        ctx.save_for_backward(index, mask, chosen)
        return extreme

    @staticmethod
    def backward(ctx, grad):
        return _neighbor_extremum_backward(grad, *ctx.saved_tensors), None, None, None


# -- edge_moments -----------------------------------------------------------------------------


@operation
def _edge_moments(
    center: Tensor, neighbor: Tensor, index: Tensor, slope: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, (B, C), of phi(center_i + neighbor_j) over the edges of each block."""
    if compiled := kernels("edge", center):
        return compiled.edge_moments(center, neighbor, index, slope, mask)
    value = _phi(center, neighbor, index, slope).to(torch.promote_types(center.dtype, torch.float32))
    if mask is None:
        var, mean = torch.var_mean(value, (1, 2), correction=0)
        return mean, var
    weight = mask[:, :, None, None].to(value.dtype) / (mask.sum(1) * index.shape[2])[:, None, None, None]
    mean = (value * weight).sum((1, 2))
    return mean, ((value - mean[:, None, None]).square() * weight).sum((1, 2))


def _phi(center: Tensor, neighbor: Tensor, index: Tensor, slope: Tensor) -> Tensor:
    edge = center[:, :, None] + gather_neighbors(neighbor, index)
    return torch.where(edge > 0, edge, slope * edge)


@_edge_moments.register_fake
def _(center, neighbor, index, slope, mask):
    dtype = torch.promote_types(center.dtype, torch.float32)
    mean = center.new_empty(center.shape[0], center.shape[2], dtype=dtype)
    return mean, torch.empty_like(mean)


@operation
def _edge_moments_backward(
    center: Tensor,
    neighbor: Tensor,
    index: Tensor,
    slope: Tensor,
    mask: Tensor | None,
    offset: Tensor,
    factor: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    # offset + factor * phi(e) is the gradient of phi(e); both (B, C).
    if compiled := _backward_kernels(center):
        return compiled.edge_moments_backward(center, neighbor, index, slope, mask, offset, factor)
    offset, factor = offset.to(center.dtype), factor.to(center.dtype)
    edge = center[:, :, None] + gather_neighbors(neighbor, index)
    steep = torch.where(edge > 0, torch.ones_like(slope), slope)
    grad = offset[:, None, None] + factor[:, None, None] * (steep * edge)
    if mask is not None:
        grad = torch.where(mask[:, :, None, None], grad, 0)
    grad_slope = torch.where(edge > 0, 0, grad * edge).sum((0, 1, 2))
    grad = grad * steep
    batch, count, k = index.shape
    flat = index.reshape(batch, count * k, 1).expand(-1, -1, center.shape[-1])
    grad_neighbor = torch.zeros_like(neighbor).scatter_add_(1, flat, grad.view(batch, count * k, -1))
    return grad.sum(2), grad_neighbor, grad_slope


@_edge_moments_backward.register_fake
def _(center, neighbor, index, slope, mask, offset, factor):
    return torch.empty_like(center), torch.empty_like(neighbor), torch.empty_like(slope)


def _moments_gradients(
    center: Tensor,
    neighbor: Tensor,
    index: Tensor,
    slope: Tensor,
    mask: Tensor | None,
    mean: Tensor,
    grad_mean: Tensor,
    grad_var: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of center, neighbor and slope."""
    points = index.shape[1] if mask is None else mask.sum(1)[:, None]
    edges = points * index.shape[2]
    # d mean / d phi = 1 / M and d var / d phi = 2 (phi - mean) / M.
    factor = 2 * grad_var / edges
    offset = grad_mean / edges - factor * mean
    return _edge_moments_backward(center, neighbor, index, slope, mask, offset, factor)


# -- edge_extremum ----------------------------------------------------------------------------


class _EdgeExtremum(Differentiable):
    @staticmethod
    def forward(ctx, x, weight, bias, index, mask, sign, slope):
        center, neighbor = center_and_neighbor(x, weight, bias)
        extreme, chosen = _neighbor_extremum(neighbor, index, mask, sign)
        mean = var = None
        if slope is not None:
            mean, var = _edge_moments(center, neighbor, index, slope, mask)
        ctx.save_for_backward(x, weight, bias, index, mask, slope, chosen, mean)
        return extreme.add_(center), mean, var

    @staticmethod
    def backward(ctx, grad, grad_mean, grad_var):
        x, weight, bias, index, mask, slope, chosen, mean = ctx.saved_tensors
        grad_center, grad_slope = grad, None
        grad_neighbor = _neighbor_extremum_backward(grad, index, mask, chosen)
        if slope is not None:
            center, neighbor = center_and_neighbor(x, weight, bias)
            of_center, of_neighbor, grad_slope = _moments_gradients(
                center, neighbor, index, slope, mask, mean, grad_mean, grad_var
            )
            grad_center, grad_neighbor = of_center.add_(grad), of_neighbor.add_(grad_neighbor)
        own, relative = weight.chunk(2, 1)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = grad_center @ (own - relative) + grad_neighbor @ relative
        if ctx.needs_input_grad[1]:
            points = x.flatten(0, 1)
            of_own, of_relative = (part.flatten(0, 1).t() @ points for part in (grad_center, grad_neighbor))
            grad_weight = torch.cat([of_own, of_relative - of_own], 1)
        if ctx.needs_input_grad[2]:
            grad_bias = grad_center.sum((0, 1))
        return grad_x, grad_weight, grad_bias, None, None, None, grad_slope


def center_and_neighbor(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """(W1 - W2) x + b and W2 x, whose sums center_i + neighbor_j are the edges W [x_i ; x_j - x_i] + b."""
    own, relative = weight.chunk(2, 1)
    return F.linear(x, own - relative, bias), F.linear(x, relative)


# -- shared -----------------------------------------------------------------------------------


def _backward_kernels(x: Tensor) -> ModuleType | None:
    """Compiled kernels for a backward pass; atomic sums on a GPU are not deterministic, PyTorch's can be."""
    if x.is_cuda and torch.are_deterministic_algorithms_enabled():
        return None
    return kernels("edge", x)
