"""The fusion block: one global vector for each block of points, from the features of every layer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops import Differentiable, as_autocast
from .layers import LayerSpec, Pointwise, hide_absent
from .own_layers import is_exactly, is_linear


class JointPointwise(Pointwise):
    """A pointwise layer over the concatenation of every layer's features, computed without repetition.

    In a dense backbone layer l puts out [x_0 ; ... ; x_l], so that the concatenation holds x_0 L times, x_1 L - 1
    times and so on. Its product with the weights is the product of the last layer's output with other weights: the
    sums of those columns that belong to the same features. A vector that all points of a block share is multiplied
    once per block.

    Args:
        widths: channels of each layer's output. out_channels: channels of the result.
        last_has_all: whether the last layer's output begins with those of all others, as in a dense backbone
            (:attr:`.Connection.last_has_all`).
        shared: channels of the shared vector, which stands in front of the features; 0 for none.

    Shape: x (B, N, sum of widths, or the last of them if it has all), shared (B, shared) -> (B, N, out_channels).
    """

    def __init__(
        self,
        widths: Sequence[int],
        out_channels: int,
        spec: LayerSpec,
        last_has_all: bool = False,
        shared: int = 0,
    ):
        super().__init__(shared + sum(widths), out_channels, spec)
        self.widths, self.last_has_all, self.shared = list(widths), last_has_all, shared

    @property
    def unchanged(self) -> bool:
        """As :attr:`Pointwise.unchanged`."""
        return is_exactly(self, JointPointwise) and is_linear(self.linear)

    def weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights of the shared vector (out, shared), and of each channel of x (out, channels of x)."""
        return _sum_repeated(self.linear.weight, self.shared, self.parts(x))

    def parts(self, x: Tensor) -> list[int]:
        """Return how many columns of the weights belong to each part of the features.

        There is one part per layer if x is the last output of a dense backbone, which has all; otherwise x is all
        outputs side by side (:meth:`~.backbone.Backbone.concatenate`), and one part has all columns.
        """
        return self.widths if self.last_has_all and x.shape[-1] == self.widths[-1] else [sum(self.widths)]

    def forward(self, x: Tensor, mask: Tensor | None = None, shared: Tensor | None = None) -> Tensor:
        """Apply the layer to [shared ; x], or to x alone; x is what :meth:`~.backbone.Backbone.concatenate` returns."""
        if shared is None:
            shared = x.new_empty(x.shape[0], 0)
        if not self.unchanged:
            # In a dense backbone each layer's output is the front of the last one.
            parts = [x[..., :width] for width in self.parts(x)]
            everywhere = shared[:, None].expand(*x.shape[:2], -1)
            return super().forward(torch.cat([everywhere, *parts], -1), mask)
        operands = as_autocast(x, shared, self.linear.weight, self.linear.bias)
        return self.finish(_JointLinear.of(*operands, self.parts(x)), mask)


def _sum_repeated(weight: Tensor, shared: int, widths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the columns of the shared vector, and the sum over layers of those that belong to the same features."""
    front, rest = weight[:, :shared], weight[:, shared:]
    *parts, folded = rest.split(widths, 1)
    if parts:
        folded = folded.clone()
        for part in parts:
            folded[:, : part.shape[1]] += part
    return front, folded


class _JointLinear(Differentiable):
    """The linear map of :class:`JointPointwise`, with a backward pass that writes the weights' gradient in place.

    Autograd would compute a gradient for every slice of the weights, and then concatenate them.
    """

    @staticmethod
    def forward(ctx, x: Tensor, shared: Tensor, weight: Tensor, bias: Tensor | None, parts: Sequence[int]) -> Tensor:
        front, folded = _sum_repeated(weight, shared.shape[-1], parts)
        ctx.save_for_backward(x, shared, front, folded)
        ctx.parts = parts
        if not shared.shape[-1]:
            return F.linear(x, folded, bias)
        return F.linear(x, folded) + F.linear(shared, front, bias)[:, None]

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, shared, front, folded = ctx.saved_tensors
        grad_x = grad_weight = None
        per_block = grad.sum(1)
        if ctx.needs_input_grad[0]:
            grad_x = grad @ folded
        if ctx.needs_input_grad[2]:
            width = shared.shape[-1]
            grad_weight = grad.new_empty(grad.shape[-1], width + sum(ctx.parts))
            torch.mm(per_block.t(), shared, out=grad_weight[:, :width])
            # The last layer's output contains all earlier ones as its first channels, and so does its gradient.
            *others, once = grad_weight[:, width:].split(ctx.parts, 1)
            torch.mm(grad.flatten(0, 1).t(), x.flatten(0, 1), out=once)
            for part, columns in zip(others, ctx.parts):
                part.copy_(once[:, :columns])
        grad_bias = per_block.sum(0) if ctx.needs_input_grad[3] else None
        return grad_x, per_block @ front, grad_weight, grad_bias, None


class FusionBlock(nn.Module):
    """The fusion block, max over points of layer(W F), of 1024 channels in the paper (its figure 2).

    Args:
        widths, last_has_all: those of the features F, as :class:`JointPointwise` takes them.
        channels: width of the global vector.

    Shape: F as for :class:`JointPointwise` -> (B, channels).
    """

    def __init__(self, widths: Sequence[int], channels: int, spec: LayerSpec, last_has_all: bool = False):
        super().__init__()
        self.layer = JointPointwise(widths, channels, spec, last_has_all)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the global vector (B, channels): the maximum over the points that are present."""
        return hide_absent(self.layer(features, mask), mask, -torch.inf).amax(1)
