"""The MLP prediction block: class scores of each point from the global vector and every layer's features."""

from collections.abc import Sequence

from torch import Tensor, nn

from .fusion import JointPointwise
from .layers import LayerSpec, Pointwise


class PredictionHead(nn.Module):
    """The MLP prediction block, W dropout(layer(...layer([g ; F_i]))) for each point i (DeepGCNs, figure 2).

    g is the fusion block's global vector, F_i the features of point i in every layer.

    Args:
        widths, last_has_all: those of the features F, as :class:`~.fusion.JointPointwise` takes them.
        fused: width of the fusion block's vector.
        hidden: widths of the hidden layers (512, 256 in both official codes).
        dropout: probability of dropping a feature before the last linear map.

    Shape: F as for :class:`~.fusion.JointPointwise`, g (B, fused) -> (B, N, num_classes).
    """

    def __init__(
        self,
        widths: Sequence[int],
        fused: int,
        num_classes: int,
        spec: LayerSpec,
        last_has_all: bool = False,
        hidden: Sequence[int] = (512, 256),
        dropout: float = 0.3,
    ):
        super().__init__()
        self.first = JointPointwise(widths, hidden[0], spec, last_has_all, fused)
        self.rest = nn.ModuleList(Pointwise(*pair, spec) for pair in zip(hidden[:-1], hidden[1:]))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden[-1], num_classes, spec.bias)

    def forward(self, features: Tensor, fused: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the logits (B, N, num_classes)."""
        return self.classify(self.first(features, mask, fused), mask)

    def classify(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return the logits, given the features x of the first hidden layer."""
        for layer in self.rest:
            x = layer(x, mask)
        return self.classifier(self.dropout(x))
