"""The confusion matrix, and the scores that follow from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import first_line


def confusion_matrix(truth: Any, predicted: Any, num_classes: int) -> Tensor:
    """Return the number of points (C, C) int64 of each true class (rows) and predicted class (columns).

    Args:
        truth, predicted: labels of one shape on one device: tensors, arrays or lists of integers.

    Raises:
        ValueError: the labels are not of this kind, or one is outside 0..num_classes-1.
    """
    truth, predicted = _labels("truth", truth), _labels("prediction", predicted)
    if truth.shape != predicted.shape or truth.device != predicted.device:
        described = [f"{tuple(labels.shape)} on {labels.device}" for labels in (truth, predicted)]
        raise ValueError(f"truth and prediction must be of one shape on one device, got {' and '.join(described)}")
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


@dataclass(frozen=True)
class Scores:
    """The scores of a confusion matrix.

    Attributes:
        iou: for each class TP / (truth + predicted - TP); NaN if neither truth nor prediction has the class.
        accuracy: for each class the share of its points with the right label; NaN if the truth lacks the class.
        miou, macc: means of these over the classes that are not NaN. oa: share of all points with the right label.
    """

    iou: list[float]
    accuracy: list[float]
    miou: float
    macc: float
    oa: float

    @classmethod
    def of(cls, confusion: Tensor) -> "Scores":
        """Return the scores of a confusion matrix (C, C), rows truth; all are NaN if it has no points."""
        counts = confusion.double()
        hits, truth, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
        iou, accuracy = hits / (truth + predicted - hits), hits / truth
        return cls(
            iou.tolist(),
            accuracy.tolist(),
            float(iou.nanmean()),
            float(accuracy.nanmean()),
            float(hits.sum() / counts.sum()),
        )

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
