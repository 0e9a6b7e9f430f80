"""The fusion block: one global vector per block of points out of every layer's features."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import LayerSpec, Pointwise, slices


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

    def weights(self) -> tuple[Tensor, Tensor]:
        """Those of the shared vector (out, shared), and of each feature once (out, ·)."""
        front, weight = self.linear.weight[:, :0], self.linear.weight
        if self.shared:
            front, weight = weight.split([self.shared, sum(self.widths)], 1)
        if self.nested:
            folded = weight.new_zeros(len(weight), self.widths[-1])
            for part in weight.split(self.widths, 1):
                folded = folded + F.pad(part, (0, self.widths[-1] - part.shape[1]))
            weight = folded
        return front, weight

    def forward(self, x: Tensor, mask: Tensor | None = None, shared: Tensor | None = None) -> Tensor:
        """x (B, N, ·) from :meth:`.Backbone.joint`, shared (B, shared) -> (B, N, out_channels)."""
        front, weight = self.weights()
        if shared is None:
            return self.finish(F.linear(x, weight, self.linear.bias), mask)
        return self.finish(F.linear(x, weight) + F.linear(shared, front, self.linear.bias)[:, None], mask)


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
        if not torch.is_grad_enabled() and self.layer.sliceable:
            return self._fuse_in_slices(features, mask)
        fused = self.layer(features, mask)
        if mask is not None:
            fused = fused.masked_fill(~mask[:, :, None], -torch.inf)
        return fused.amax(1)

    def _fuse_in_slices(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Some points at a time, so that their channels are never whole; norm and activation only of the maximum."""
        layer = self.layer
        weight, bias = layer.weights()[1], layer.linear.bias
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
