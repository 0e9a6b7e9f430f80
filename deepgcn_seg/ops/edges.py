"""Edge aggregation: what EdgeConv and the other convolutions need of their edges, without storing any edge.

EdgeConv (DGCNN, section 3.1), the paper's main convolution, takes ``max_j act(norm(e_ij))`` of the edges
``e_ij = W [x_i ; x_j - x_i] + b``. Two identities make that cheap:

- The linear part splits into ``e_ij = center_i + neighbor_j``, with ``center_i = (W1 - W2) x_i + b`` and
  ``neighbor_j = W2 x_j``: two linear maps of points.
- Norm and activation are monotone in each channel, so the maximum of their output needs only ``max_j neighbor_j``
  (``min_j neighbor_j`` where the norm's scale is negative).

In training the norm also needs the mean and the variance of its input over all edges. Its input is ``e_ij`` in the
order norm-act, and ``act(e_ij)`` in the order act-norm. Both are ``phi(e_ij)``, where ``phi(e) = e`` for ``e > 0`` and
``slope * e`` elsewhere: with slope 1, phi is the identity. The sums go over the edges one by one, and memory is that of
the points. This file has the functions and their gradients; :mod:`.reference` says in plain PyTorch
what each computes, and :mod:`.backends` which implementation runs.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .backends import Operations, operations_for
from .calls import Differentiable, as_autocast, operation


def neighbor_max(x: Tensor, index: Tensor, mask: Tensor | None = None, sign: Tensor | None = None) -> Tensor:
    """Return the largest value among each point's neighbours, per channel: ``out_i = max_j x_j``.

    Args:
        x: (B, N, C) features. index: (B, N, k) neighbours.
        mask: (B, N) bool, False where a point is absent; its row of the result is zero.
        sign: (C,) +1 or -1; where it is -1 the smallest value is taken.

    Returns:
        (B, N, C). Of equal values the first in ``index`` receives the gradient.

    Raises:
        ValueError: the index has another shape or type.
        IndexError: a neighbour is none of 0..N-1; the backend ``torch`` raises PyTorch's RuntimeError, also for those
            of absent points, and on a GPU the result is undefined.
    """
    require_neighbors(x, index)
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
    """Return each point's largest edge ``max_j e_ij``, ``e_ij = W [x_i ; x_j - x_i] + b``, and the moments of phi(e).

    For the backward pass it keeps x, the index and the place of the largest edge. Products with the weights are made
    again there.

    Args:
        x: (B, N, C) features. weight: W, (C', 2 C). bias: b, (C',), or None.
        index, mask: as in :func:`neighbor_max`.
        sign: (C',) +1 or -1; where it is -1 the smallest edge is taken.
        slope: (C',), may require a gradient: phi(e) = e for e > 0 and slope * e elsewhere, which is the identity
            (slope 1), ReLU (0), leaky ReLU or PReLU. None if the norm does not need moments.

    Returns:
        (B, N, C'), and mean and biased variance of phi over the edges of each block of points, (B, C') each in float32
        at least; or None and None without slope.

    Raises:
        ValueError, IndexError: as :func:`neighbor_max`.
    """
    require_neighbors(x, index)
    x, weight, bias = as_autocast(x, weight, bias)
    if sign is None:
        sign = weight.new_ones(len(weight))
    slope = None if slope is None else slope.to(x.dtype)
    return _EdgeExtremum.of(x, weight, bias, index, mask, sign.detach().to(x.dtype), slope)


def center_and_neighbor(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return center = (W1 - W2) x + b and neighbor = W2 x; center_i + neighbor_j is W [x_i ; x_j - x_i] + b."""
    w1, w2 = weight.chunk(2, 1)
    return F.linear(x, w1 - w2, bias), F.linear(x, w2)


def require_neighbors(x: Tensor, index: Tensor, source: str = "index") -> None:
    """Check that an index has the shape and the type of neighbours of points x (B, N, C): int64 (B, N, k).

    Raises:
        ValueError: it has not, or k is not from 1 to 32767; the message begins with ``source``.
    """
    if index.dim() != 3 or index.shape[:2] != x.shape[:2] or index.dtype != torch.int64:
        raise ValueError(
            f"{source}: {tuple(index.shape)} of {index.dtype}; the neighbours of points {tuple(x.shape)} must be int64 "
            f"of shape ({x.shape[0]}, {x.shape[1]}, k)"
        )
    # The place of the extreme among the neighbours is kept in 16 bits.
    if not 1 <= index.shape[2] <= torch.iinfo(torch.int16).max:
        raise ValueError(f"{source}: {index.shape[2]} neighbours of each point; must be from 1 to 32767")


# -- operations that compilers see, with the shapes of their results, which are contiguous ----------


@operation
def _neighbor_extremum(x: Tensor, index: Tensor, mask: Tensor | None, sign: Tensor) -> tuple[Tensor, Tensor]:
    return operations_for(x).neighbor_extremum(x, index, mask, sign)


@_neighbor_extremum.register_fake
def _(x, index, mask, sign):
    return x.new_empty(x.shape), x.new_empty(x.shape, dtype=torch.int16)


@operation
def _neighbor_extremum_backward(grad: Tensor, index: Tensor, mask: Tensor | None, place: Tensor) -> Tensor:
    return _backward_operations_for(grad).neighbor_extremum_backward(grad, index, mask, place)


@_neighbor_extremum_backward.register_fake
def _(grad, index, mask, place):
    return grad.new_empty(grad.shape)


@operation
def _edge_moments(
    center: Tensor, neighbor: Tensor, index: Tensor, slope: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    return operations_for(center).edge_moments(center, neighbor, index, slope, mask)


@_edge_moments.register_fake
def _(center, neighbor, index, slope, mask):
    dtype = torch.promote_types(center.dtype, torch.float32)
    mean = center.new_empty(center.shape[0], center.shape[2], dtype=dtype)
    return mean, torch.empty_like(mean)


@operation
def _edge_moments_backward(
    center: Tensor, neighbor: Tensor, index: Tensor, slope: Tensor, mask: Tensor | None, offset: Tensor, factor: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    operations = _backward_operations_for(center)
    return operations.edge_moments_backward(center, neighbor, index, slope, mask, offset, factor)


@_edge_moments_backward.register_fake
def _(center, neighbor, index, slope, mask, offset, factor):
    return center.new_empty(center.shape), neighbor.new_empty(neighbor.shape), slope.new_empty(slope.shape)


def _backward_operations_for(x: Tensor) -> Operations:
    """Return what runs a backward pass: where results must be deterministic, not the GPU kernels' atomic sums."""
    return operations_for(x, deterministic=x.is_cuda and torch.are_deterministic_algorithms_enabled())


# -- gradients --------------------------------------------------------------------------------


class _NeighborExtremum(Differentiable):
    @staticmethod
    def forward(ctx, x, index, mask, sign):
        extreme, place = _neighbor_extremum(x, index, mask, sign)
        ctx.save_for_backward(index, mask, place)
        return extreme

    @staticmethod
    def backward(ctx, grad):
        return _neighbor_extremum_backward(grad, *ctx.saved_tensors), None, None, None


class _EdgeExtremum(Differentiable):
    @staticmethod
    def forward(ctx, x, weight, bias, index, mask, sign, slope):
        center, neighbor = center_and_neighbor(x, weight, bias)
        extreme, place = _neighbor_extremum(neighbor, index, mask, sign)
        mean = var = None
        if slope is not None:
            mean, var = _edge_moments(center, neighbor, index, slope, mask)
        # Within a checkpoint, PyTorch 2.8 forgets the hooks of a parameter that is saved itself.
        x, weight, bias, slope = (None if given is None else given.detach() for given in (x, weight, bias, slope))
        ctx.save_for_backward(x, weight, bias, index, mask, slope, place, mean)
        # Compiled by PyTorch 2.11, what an in-place operation returns from here has no gradient.
        edge = extreme + center if torch.compiler.is_compiling() else extreme.add_(center)
        return edge, mean, var

    @staticmethod
    def backward(ctx, grad, grad_mean, grad_var):
        x, weight, bias, index, mask, slope, place, mean = ctx.saved_tensors
        grad_center, grad_slope = grad, None
        grad_neighbor = _neighbor_extremum_backward(grad, index, mask, place)
        if slope is not None:
            center, neighbor = center_and_neighbor(x, weight, bias)
            # d mean / d phi = 1 / M and d var / d phi = 2 (phi - mean) / M over the M edges of a block of points.
            edges = index.shape[2] * (index.shape[1] if mask is None else mask.sum(1)[:, None])
            factor = 2 * grad_var / edges
            offset = grad_mean / edges - factor * mean
            of_center, of_neighbor, grad_slope = _edge_moments_backward(
                center, neighbor, index, slope, mask, offset, factor
            )
            grad_center, grad_neighbor = of_center.add_(grad), of_neighbor.add_(grad_neighbor)
        grads = _gradients_of_linear(x, weight, grad_center, grad_neighbor, ctx.needs_input_grad)
        return *grads, None, None, None, grad_slope


def _gradients_of_linear(
    x: Tensor, weight: Tensor, grad_center: Tensor, grad_neighbor: Tensor, needed: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of x, weight and bias, as far as needed, from those of center and neighbor."""
    w1, w2 = weight.chunk(2, 1)
    grad_x = grad_weight = grad_bias = None
    if needed[0]:
        grad_x = grad_center @ (w1 - w2) + grad_neighbor @ w2
    if needed[1]:
        points = x.flatten(0, 1)
        # W1 is in center alone, and W2 in both.
        by_center, by_neighbor = (part.flatten(0, 1).t() @ points for part in (grad_center, grad_neighbor))
        grad_weight = torch.cat([by_center, by_neighbor - by_center], 1)
    if needed[2]:
        grad_bias = grad_center.sum((0, 1))
    return grad_x, grad_weight, grad_bias
