"""Losses: cross-entropy, focal, Lovasz-softmax and weighted sums of them, over the points that are not ignored.

A loss is called with logits (n, C) float32, labels (n,) of 0..C-1, and a weight (C,) of each class or None; it returns
a scalar. A loss of your own has no other duties: :class:`Objective` leaves out ignored points before it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import torch
from hydra.utils import instantiate
from torch import Tensor
from torch.nn import functional as F

from ..errors import UserError, first_line
from ..settings import Part, Validated, number


class Loss(Protocol):
    """A loss of points."""

    def __call__(self, logits: Tensor, labels: Tensor, class_weights: Tensor | None, /) -> Tensor:
        """Return the loss of logits (n, C) and labels (n,), a scalar; n is at least 1."""


@dataclass(frozen=True)
class CrossEntropy(Validated):
    """Cross-entropy: the mean over points of ``-log p_y``, where p = softmax(logits) and y is the label.

    Attributes:
        smoothing: share of the target that is spread over all classes (Szegedy et al., Rethinking the Inception
            Architecture for Computer Vision, CVPR 2016, section 7).
    """

    smoothing: Part = 0.0

    def __call__(self, logits: Tensor, labels: Tensor, class_weights: Tensor | None) -> Tensor:
        """Return the mean loss; a point counts as much as the weight of its class."""
        # The weights are not given to PyTorch: it would also weight the smoothed target, so that every point would be
        # drawn towards the rarest class.
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.smoothing)
        return _mean(losses, labels, class_weights)


@dataclass(frozen=True)
class Focal(Validated):
    """Focal loss: the mean over points of ``-(1 - p_y)^gamma log p_y`` (Lin et al., ICCV 2017, equations 4 and 5).

    Attributes:
        gamma: how much less a point counts that is labelled right with confidence; 0 is cross-entropy.
    """

    gamma: Annotated[float, number(0, 100)] = 2.0

    def __call__(self, logits: Tensor, labels: Tensor, class_weights: Tensor | None) -> Tensor:
        """Return the mean loss; a point counts as much as the weight of its class."""
        cross_entropy = F.cross_entropy(logits, labels, reduction="none")
        # 1 - p_y without cancellation. Where it is 0, a power below 1 would have an infinite slope.
        error = (-torch.expm1(-cross_entropy)).clamp_min(torch.finfo(logits.dtype).tiny)
        return _mean(error**self.gamma * cross_entropy, labels, class_weights)


@dataclass(frozen=True)
class LovaszSoftmax:
    """Lovasz-softmax: 1 - IoU extended to probabilities, the mean over the classes that the points have.

    Berman et al., The Lovasz-Softmax loss, CVPR 2018. IoU is that of all points of the pass together. Every class
    counts the same, whatever its number of points, so that class weights are not used.
    """

    def __call__(self, logits: Tensor, labels: Tensor, class_weights: Tensor | None) -> Tensor:
        """Return the mean over classes of the Lovasz extension at the points' errors."""
        present = labels.unique()
        foreground = labels[:, None] == present
        errors = (foreground.float() - logits.softmax(-1)[:, present]).abs()
        errors, order = errors.sort(dim=0, descending=True, stable=True)
        return (errors * jaccard_gradient(foreground.gather(0, order))).sum(0).mean()


def jaccard_gradient(foreground: Tensor) -> Tensor:
    """Return the gradient of the Jaccard loss's Lovasz extension by the errors (Algorithm 1 of the paper).

    The algorithm takes the difference of 1 - I/U before and after each point. The differences stand here in closed
    form, because numbers near 1 subtracted in float32 would lose digits with many points: a foreground point takes 1
    from the intersection I, another adds 1 to the union U.

    Args:
        foreground: (n, classes) bool, whether each point is of the class, sorted by falling error; each class has one.

    Returns:
        (n, classes) float32.
    """
    intersection = foreground.sum(0) - foreground.cumsum(0)
    union = foreground.sum(0) + (~foreground).cumsum(0)
    union, intersection = union.float(), intersection.float()
    return torch.where(foreground, 1 / union, intersection / (union * (union - 1)))


@dataclass(frozen=True)
class WeightedSum:
    """A weighted sum of losses. terms: weight and loss of each."""

    terms: tuple[tuple[float, Loss], ...]

    def __call__(self, logits: Tensor, labels: Tensor, class_weights: Tensor | None) -> Tensor:
        """Return the sum."""
        return torch.stack([weight * loss(logits, labels, class_weights) for weight, loss in self.terms]).sum()


@dataclass(frozen=True)
class Objective:
    """What a training minimises: a loss over the points of a pass that are not ignored.

    Attributes:
        loss: of the points. class_weights: (C,) float32, or None.
        ignore: label of points that count in no loss, or None if every point counts.
    """

    loss: Loss = CrossEntropy()
    class_weights: Tensor | None = None
    ignore: int | None = None

    def counts(self, labels: Tensor) -> bool:
        """Return whether one of the points with labels (B, N) is not ignored."""
        return self.ignore is None or bool((labels != self.ignore).any())

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of logits (B, N, C) and labels (B, N), computed in float32; 0 if every point is ignored.

        Which points count is found where the labels are: with labels on the CPU, this does not wait for a GPU.
        """
        logits, labels = logits.float().flatten(0, 1), labels.flatten()
        if self.ignore is not None:
            (counted,) = (labels != self.ignore).nonzero(as_tuple=True)
            if not len(counted):
                return 0 * logits.sum()
            if len(counted) < len(labels):
                logits, labels = logits[counted.to(logits.device, non_blocking=True)], labels[counted]
        return self.loss(logits, labels.to(logits.device, non_blocking=True), self.class_weights)


NAMES = ("cross_entropy", "focal", "lovasz")


def build_loss(given: str | Mapping[str, Any], label_smoothing: float = 0.0, focal_gamma: float = 2.0) -> Loss:
    """Return the loss that ``recipe.loss`` stands for.

    Args:
        given: one of :data:`NAMES`; a mapping of such names to weights, for their sum; or settings with a ``_target_``.
        label_smoothing: of the cross-entropy. focal_gamma: of the focal loss.
    """
    if not isinstance(given, str) and "_target_" in given:
        return instantiate(given)
    losses: dict[str, Loss] = {
        "cross_entropy": CrossEntropy(label_smoothing),
        "focal": Focal(focal_gamma),
        "lovasz": LovaszSoftmax(),
    }
    if isinstance(given, str):
        return losses[given]
    return WeightedSum(tuple((weight, losses[name]) for name, weight in given.items()))


def require_loss(loss: Loss, num_classes: int, class_weights: Tensor | None, device: torch.device) -> None:
    """Call a loss once for a few points, so that one that does not fit is known before the training begins.

    Raises:
        UserError: it cannot be called as :class:`Loss` says, or does not return a scalar with a gradient.
    """
    name, points = type(loss).__name__, 8
    logits = torch.zeros(points, num_classes, device=device, requires_grad=True)
    labels = torch.arange(points, device=device) % num_classes
    try:
        value = loss(logits, labels, class_weights)
    # Losses raise all kinds of errors for what they do not expect.
    except Exception as error:
        raise UserError(
            f"recipe.loss: {name} cannot be called with logits {tuple(logits.shape)}, labels ({points},) and class "
            f"weights, which may be None: {first_line(error, 200)}"
        ) from error
    if not isinstance(value, Tensor) or value.dim() or not value.requires_grad:
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        without = " without a gradient" if isinstance(value, Tensor) and not value.requires_grad else ""
        raise UserError(f"recipe.loss: {name} must return a scalar that depends on the logits, not {what}{without}")


def _mean(losses: Tensor, labels: Tensor, class_weights: Tensor | None) -> Tensor:
    """Return the mean of the points' losses, each multiplied by the weight of its class.

    It is divided by the number of points, not by the sum of their weights: so a pass with a few points of a rare class
    weighs less than one with many. The mean over passes of as many labelled points is the loss of the whole batch. With
    unlabelled points, each pass that has a labelled one counts the same, however many those are.
    """
    return losses.mean() if class_weights is None else (class_weights[labels] * losses).mean()
