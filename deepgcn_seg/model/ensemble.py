"""Several networks as one, by the average of their class probabilities."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..data.classes import ClassList


class Ensemble(nn.Module):
    """An ensemble: networks that each see the same points, and whose class probabilities are averaged.

    Args:
        models: of the same input channels and classes; each may be built in its own way.

    Attributes:
        classes: as those of a :class:`~.deepgcn.DeepGCN`.

    Shape: points (B, N, in_channels), mask (B, N) -> (B, N, C), logarithms of the averaged probabilities. Like a
    network's logits, they become these probabilities by softmax.
    """

    classes: ClassList

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, points: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the logarithms of the averaged class probabilities; NaN where a network's logit is not finite."""
        total = None
        for model in self.models:
            logits = (model(points) if mask is None else model(points, mask)).float()
            # Of -inf, which an ensemble of others would hide, a network by itself is refused.
            scores = logits.log_softmax(-1).masked_fill(~torch.isfinite(logits), torch.nan)
            total = scores if total is None else torch.logaddexp(total, scores)
        assert total is not None
        return total - math.log(len(self.models))
