"""The fusion block: one global vector per block of points out of every layer's features."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops.calls import Differentiable, as_autocast
from .layers import LayerSpec, Pointwise, sliced, slices


class JointPointwise(Pointwise):
    """A pointwise layer over the concatenation of every layer's features, made without repeats.

    A dense backbone's layer l outputs [x_0 ; ... ; x_l], so the concatenation over layers holds x_0
    L times, x_1 L - 1 times and so on. Its product with the weights equals the product of the last
    layer's output with the columns of equal features added up. A vector shared by all points
    of a block is multiplied once per block.

    Args:
        widths: channels of each layer's output. out_channels: of the result.
        nested: whether each output begins with the one before it (dense).
        shared: channels of the vector in front of the features, 0 for none.
    """

    def __init__(
        self,
        widths: Sequence[int],
        out_channels: int,
        spec: LayerSpec,
        nested: bool = False,
        shared: int = 0,
    ):
        super().__init__(shared + sum(widths), out_channels, spec)
        self.widths, self.nested, self.shared = list(widths), nested, shared

    def weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the shared vector (out, shared), and of each channel of x (out, ·)."""
        return _each_once(self.linear.weight, self.shared, self.parts(x))

    def parts(self, x: Tensor) -> list[int]:
        """Widths of the weights' columns that are for the same channels of x, from the first on.

        A dense backbone gives the last layer's output alone, whose first channels all layers repeat, or all outputs
        (:meth:`.Backbone.joint`).
        """
        return self.widths if self.nested and x.shape[-1] == self.widths[-1] else [sum(self.widths)]

    def forward(self, x: Tensor, mask: Tensor | None = None, shared: Tensor | None = None) -> Tensor:
        """x (B, N, ·) from :meth:`.Backbone.joint`, shared (B, shared) -> (B, N, out_channels)."""
        if shared is None:
            shared = x.new_empty(len(x), 0)
        operands = as_autocast(x, shared, self.linear.weight, self.linear.bias)
        return self.finish(_JointLinear.of(*operands, self.parts(x)), mask)


def _each_once(weight: Tensor, shared: int, widths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Columns of the shared vector, and the others with those of equal features added up."""
    front, rest = weight[:, :shared], weight[:, shared:]
    *parts, folded = rest.split(widths, 1)
    if parts:
        folded = folded.clone()
        for part in parts:
            folded[:, : part.shape[1]] += part
    return front, folded


class _JointLinear(Differentiable):
    """The linear map of :class:`JointPointwise`; its weights' gradient is written once, each product in its place.

    Left to autograd, every slice of the weights would get a gradient of its own, which are then concatenated.
    """

    @staticmethod
    def forward(ctx, x: Tensor, shared: Tensor, weight: Tensor, bias: Tensor | None, parts: Sequence[int]) -> Tensor:
        front, folded = _each_once(weight, shared.shape[-1], parts)
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
            # The last part is all features, whose front the others are.
            *others, once = grad_weight[:, width:].split(ctx.parts, 1)
            torch.mm(grad.flatten(0, 1).t(), x.flatten(0, 1), out=once)
            for part, columns in zip(others, ctx.parts):
                part.copy_(once[:, :columns])
        grad_bias = per_block.sum(0) if ctx.needs_input_grad[3] else None
        return grad_x, per_block @ front, grad_weight, grad_bias, None


class FusionBlock(nn.Module):
    """max over points of layer(W F): DeepGCNs, section 4.1 (1024 channels there).

    Args:
        widths, nested: as :class:`JointPointwise`. channels: width of the global vector.

    Shape: F (B, N, ·) -> (B, channels).
    """

    def __init__(self, widths: Sequence[int], channels: int, spec: LayerSpec, nested: bool = False):
        super().__init__()
        self.layer = JointPointwise(widths, channels, spec, nested)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Fuse; absent points never win the maximum."""
        if sliced(features) and self.layer.sliceable:
            return self._fuse_in_slices(features, mask)
        fused = self.layer(features, mask)
        if mask is not None:
            fused = fused.masked_fill(~mask[:, :, None], -torch.inf)
        return fused.amax(1)

    def _fuse_in_slices(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Some points at a time, so that their channels are never whole; norm and activation only of the maximum."""
        layer = self.layer
        weight, bias = layer.weights(features)[1], layer.linear.bias
        sign = layer.monotone_sign()
        fused = torch.empty(0)
        for blocks, points in slices(features):
            product = F.linear(features[blocks, points], weight, bias)
            # The maximum of what a negative scale turns over is that of the negative.
            product = layer.finish(product) if sign is None else product.mul_(sign)
            if mask is not None:
                product = product.masked_fill(~mask[blocks, points, None], -torch.inf)
            if not len(fused):
                fused = product.new_full((len(features), product.shape[-1]), -torch.inf)
            fused[blocks] = torch.maximum(fused[blocks], product.amax(1))
        if sign is None:
            return fused
        return layer.finish((sign * fused)[:, None])[:, 0]
