"""The prediction head: a pointwise MLP on the global vector and every layer's features."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .fusion import JointPointwise
from .layers import LayerSpec, Pointwise, sliced, slices


class PredictionHead(nn.Module):
    """Per point: [global ; F] -> hidden layers (norm, act) -> dropout -> classes.

    Args:
        widths, nested: the layers' features F, as :class:`JointPointwise`.
        fused: width of the fusion block's vector.
        hidden: widths of the hidden layers (512, 256 in both official codes).
        dropout: probability, before the last linear map.
    """

    def __init__(
        self,
        widths: Sequence[int],
        fused: int,
        num_classes: int,
        spec: LayerSpec,
        nested: bool = False,
        hidden: Sequence[int] = (512, 256),
        dropout: float = 0.3,
    ):
        super().__init__()
        self.first = JointPointwise(widths, hidden[0], spec, nested, fused)
        self.rest = nn.ModuleList(Pointwise(*pair, spec) for pair in zip(hidden[:-1], hidden[1:]))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden[-1], num_classes, spec.bias)

    def forward(self, features: Tensor, fused: Tensor, mask: Tensor | None = None) -> Tensor:
        """features F (B, N, ·), fused (B, ·) -> logits (B, N, num_classes)."""
        if not sliced(features) or not all(layer.sliceable for layer in (self.first, *self.rest)):
            return self._classify(self.first(features, mask, fused), mask)
        # Some points at a time, so that no layer's features are whole.
        front, weight = self.first.weights(features)
        shared = F.linear(fused, front, self.first.linear.bias)
        logits = torch.empty(0)
        for blocks, points in slices(features):
            part, present = features[blocks, points], None if mask is None else mask[blocks, points]
            if len(part) == 1:
                product = F.linear(part, weight, shared[blocks][0])
            else:
                product = F.linear(part, weight) + shared[blocks, None]
            scores = self._classify(self.first.finish(product, present), present)
            if not len(logits):
                logits = scores.new_empty(*features.shape[:2], scores.shape[-1])
            logits[blocks, points] = scores
        return logits

    def _classify(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Layers after the first."""
        for layer in self.rest:
            x = layer(x, mask)
        return self.classifier(self.dropout(x))
