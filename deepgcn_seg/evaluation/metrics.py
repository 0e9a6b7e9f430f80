"""The confusion matrix, the scores that follow from it, and how far the choice of rooms moves them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import first_line


def confusion_matrix(truth: Any, predicted: Any, num_classes: int, ignore: int | None = None) -> Tensor:
    """Return the number of points (C, C) int64 of each true class (rows) and predicted class (columns).

    Args:
        truth, predicted: labels of one shape on one device: tensors, arrays or lists of integers.
        ignore: a true label that is no class: its points are counted nowhere.

    Raises:
        ValueError: the labels differ in shape or device, are not integers, or are outside 0..num_classes-1.
    """
    truth, predicted = _labels("truth", truth), _labels("prediction", predicted)
    if truth.shape != predicted.shape or truth.device != predicted.device:
        described = [f"{tuple(labels.shape)} on {labels.device}" for labels in (truth, predicted)]
        raise ValueError(f"truth and prediction must be of one shape on one device, got {' and '.join(described)}")
    if ignore is not None:
        scored = truth != ignore
        truth, predicted = truth[scored], predicted[scored]
    for name, labels in (("truth", truth), ("prediction", predicted)):
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise ValueError(f"{name} must hold integers, got {labels.dtype}")
        lowest, highest = (int(labels.long().min()), int(labels.long().max())) if labels.numel() else (0, 0)
        if lowest < 0 or highest >= num_classes:
            raise ValueError(f"{name} has labels {lowest}..{highest}, but there are {num_classes} classes")
    places = truth.reshape(-1).long() * num_classes + predicted.reshape(-1).long()
    return torch.bincount(places, minlength=num_classes**2).view(num_classes, num_classes)


def _labels(name: str, values: Any) -> Tensor:
    try:
        return torch.as_tensor(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{name} must hold integers ({first_line(error)})") from None


def points_by_class(confusion: Tensor) -> Tensor:
    """Return the numbers of points (..., 3, C) that an IoU needs, of confusion matrices (..., C, C) with rows truth.

    For each class: the points with the right label, those of the truth, and those predicted.
    """
    return torch.stack([confusion.diagonal(dim1=-2, dim2=-1), confusion.sum(-1), confusion.sum(-2)], -2)


def iou_of(points: Tensor) -> Tensor:
    """Return the IoU (..., C) of each class, TP / (truth + predicted - TP); NaN if no point has or gets the class.

    Args:
        points: (..., 3, C), of :func:`points_by_class`.
    """
    hits, truth, predicted = points.unbind(-2)
    return hits / (truth + predicted - hits)


def miou_interval(points: Tensor, level: float = 0.95) -> tuple[float, float] | None:
    """Return the ends of a confidence interval of the mIoU over rooms: what it could be with other rooms of that kind.

    The standard error is that of the jackknife, which leaves out each room in turn and takes the mIoU of the others'
    summed points as :class:`Scores` does (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, equation 11.5).
    It is multiplied by the quantile of Student's t, because few rooms know it badly. Percentiles of a bootstrap are too
    narrow for few rooms (docs/protocols.md, "Interval"). The interval does not hold what another training would change.

    Args:
        points: (R, 3, C), of :func:`points_by_class`. level: share of intervals that hold the expected score.

    Returns:
        None for fewer than two rooms with points.
    """
    counts = points[points.flatten(1).any(1)].double()
    rooms, total = len(counts), counts.sum(0)
    if rooms < 2:
        return None
    error = ((rooms - 1) * iou_of(total - counts).nanmean(-1).var(correction=0)).sqrt()
    reach = student_t(level, rooms - 1) * float(error)
    score = float(iou_of(total).nanmean())
    return max(score - reach, 0.0), min(score + reach, 1.0)


def student_t(level: float, freedom: int) -> float:
    """Return the number that the absolute value of Student's t does not exceed with probability ``level``.

    Args:
        freedom: degrees of freedom v. t is sqrt(v) tan(a), where the angle a has a density proportional to
            cos(a)^(v - 1), which is summed up numerically.
    """
    angle = np.linspace(0, math.pi / 2, 20_001)
    share = np.cumsum(np.cos((angle[1:] + angle[:-1]) / 2) ** (freedom - 1))
    return math.sqrt(freedom) * math.tan(np.interp(level, np.r_[0, share] / share[-1], angle))


@dataclass(frozen=True)
class Scores:
    """The scores of a confusion matrix.

    Attributes:
        iou: of each class (:func:`iou_of`); NaN if neither truth nor prediction has the class.
        accuracy: for each class the share of its points with the right label; NaN if the truth lacks the class.
        miou, macc: means of iou and accuracy, without NaN. oa: share of all points with the right label.
    """

    iou: list[float]
    accuracy: list[float]
    miou: float
    macc: float
    oa: float

    @classmethod
    def of(cls, confusion: Tensor) -> "Scores":
        """Return the scores of a confusion matrix (C, C), rows truth; all are NaN if it has no points."""
        return cls.of_points(points_by_class(confusion))

    @classmethod
    def of_points(cls, points: Tensor) -> "Scores":
        """Return the scores of points (3, C), of :func:`points_by_class`."""
        points = points.double()
        hits, truth, _ = points
        iou, accuracy = iou_of(points), hits / truth
        means = float(iou.nanmean()), float(accuracy.nanmean()), float(hits.sum() / truth.sum())
        return cls(iou.tolist(), accuracy.tolist(), *means)

    @classmethod
    def missing(cls, num_classes: int) -> "Scores":
        """Return scores that are all NaN."""
        return cls([math.nan] * num_classes, [math.nan] * num_classes, math.nan, math.nan, math.nan)

    def as_dict(self, names: Sequence[str]) -> dict:
        """Return the scores for JSON, with null for NaN and the classes by name."""
        clean = lambda value: None if value != value else value
        return {
            "mIoU": clean(self.miou),
            "mAcc": clean(self.macc),
            "OA": clean(self.oa),
            "IoU": {name: clean(value) for name, value in zip(names, self.iou)},
            "accuracy": {name: clean(value) for name, value in zip(names, self.accuracy)},
        }
