"""The prediction head: a pointwise MLP on the global vector and every layer's features."""

from collections.abc import Sequence

from torch import Tensor, nn

from .fusion import JointPointwise
from .layers import LayerSpec, Pointwise


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
        x = self.first(features, mask, fused)
        for layer in self.rest:
            x = layer(x, mask)
        return self.classifier(self.dropout(x))
