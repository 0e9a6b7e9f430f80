"""The fusion block: one global vector per block of points out of every layer's features."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import LayerSpec, Pointwise


def join_layers(features: Sequence[Tensor], nested: bool) -> Tensor:
    """All layers' features side by side, each once: (B, N, sum of widths), or the last's if nested."""
    return features[-1] if nested else torch.cat(list(features), -1)


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

    def forward(self, x: Tensor, mask: Tensor | None = None, shared: Tensor | None = None) -> Tensor:
        """x (B, N, ·) from :func:`join_layers`, shared (B, shared) -> (B, N, out_channels)."""
        front, weight = self.linear.weight.split([self.shared, sum(self.widths)], 1)
        if self.nested:
            folded = weight.new_zeros(len(weight), self.widths[-1])
            for part in weight.split(self.widths, 1):
                folded = folded + F.pad(part, (0, self.widths[-1] - part.shape[1]))
            weight = folded
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
        fused = self.layer(features, mask)
        if mask is not None:
            fused = fused.masked_fill(~mask[:, :, None], -torch.inf)
        return fused.amax(1)
