"""The dilated k-NN graph (DeepGCNs, section 3.3) and its schedule over depth."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ops import nearest_ranks
from .arguments import require_integer, require_integers, require_probability

SCHEDULES = ("linear", "none")


def dilation_schedule(dilation: str | int | Sequence[int], depth: int, period: int | None = None) -> list[int]:
    """Dilation of every graph convolution, the head (always 1) included.

    Args:
        dilation: ``linear`` for the paper's 1, 1, 2, ..., depth - 1; ``none`` for 1 everywhere; an
            integer for that dilation in every layer after the head; or an explicit list of at most
            ``depth``, cycled over the layers from the head on, as the TensorFlow code's ``--dilations``.
        depth: number of graph convolutions.
        period: with ``linear``, start again at 1 after this many layers.

    Raises:
        ValueError: anything else, or a dilation below 1.
    """
    if period is not None:
        require_integer("dilation_period", period)
    if dilation == "linear":
        cycle = period or depth
        schedule = [1] + [1 + i % cycle for i in range(depth - 1)]
    elif dilation == "none":
        schedule = [1] * depth
    elif isinstance(dilation, str):
        raise ValueError(f"unknown dilation {dilation!r}: linear, none, an integer or a list of integers")
    elif isinstance(dilation, Sequence):
        require_integers("dilation", dilation)
        if len(dilation) > depth:
            raise ValueError(f"dilation must be a list of at most depth={depth} integers, got {len(dilation)}")
        schedule = [dilation[i % len(dilation)] for i in range(depth)]
    else:
        require_integer("dilation", dilation)
        schedule = [1] + [dilation] * (depth - 1)
    return schedule


class DilatedKnnGraph(nn.Module):
    """Neighbours at ranks 0, d, 2d, ..., (k-1)d of distance; k random ones of k*d at times.

    In training, with probability ``epsilon``, one coin and one draw per call replace the regular
    ranks by k of the k*d, uniformly and without replacement (stochastic dilation). Evaluation is
    always regular.

    Args:
        k: neighbours per point, the point itself among them if ``loop``.
        dilation: d.
        stochastic: whether stochastic dilation is on. epsilon: its probability.
        loop: whether a point may be its own neighbour (both official codes: yes).
    """

    def __init__(
        self, k: int = 16, dilation: int = 1, stochastic: bool = True, epsilon: float = 0.2, loop: bool = True
    ):
        super().__init__()
        require_integer("k", k)
        require_probability("epsilon", epsilon)
        self.k, self.dilation = k, dilation
        self.stochastic, self.epsilon, self.loop = stochastic, epsilon, loop

    def ranks(self) -> Tensor:
        """The ranks (k,) this call selects, ascending; random in training."""
        if self.training and self.stochastic and torch.rand(1).item() < self.epsilon:
            return torch.randperm(self.k * self.dilation)[: self.k].sort().values
        return torch.arange(0, self.k * self.dilation, self.dilation)

    def forward(self, points: Tensor, mask: Tensor | None = None) -> Tensor:
        """points: (B, N, C) coordinates or features -> (B, N, k) neighbours."""
        return nearest_ranks(points, self.ranks(), mask, self.loop)

    def extra_repr(self) -> str:
        """Settings for print."""
        stochastic = f", epsilon={self.epsilon}" if self.stochastic else ""
        return f"k={self.k}, dilation={self.dilation}{stochastic}{'' if self.loop else ', loop=False'}"
