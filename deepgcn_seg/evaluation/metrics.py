"""Scores from one confusion matrix, summed over everything a protocol covers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import first_line


def confusion_matrix(truth: Any, predicted: Any, num_classes: int) -> Tensor:
    """Counts (C, C) int64, rows truth and columns prediction.

    Args:
        truth, predicted: labels, integers of one shape on one device: tensors, arrays or lists.

    Raises:
        ValueError: they are not, or one is outside 0..num_classes-1.
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
    """What a confusion matrix says.

    Attributes:
        iou: per class TP / (truth + predicted - TP); NaN where the class is in neither.
        accuracy: per class recall; NaN where the truth has none.
        miou, macc: means over the classes that are not NaN. oa: share of points that are right.
    """

    iou: list[float]
    accuracy: list[float]
    miou: float
    macc: float
    oa: float

    @classmethod
    def of(cls, confusion: Tensor) -> "Scores":
        """Scores of a (C, C) matrix, rows truth; all NaN if it is empty."""
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

    def as_dict(self, names: Sequence[str]) -> dict:
        """For JSON: NaN becomes null."""
        clean = lambda value: None if value != value else value
        return {
            "mIoU": clean(self.miou),
            "mAcc": clean(self.macc),
            "OA": clean(self.oa),
            "IoU": {name: clean(value) for name, value in zip(names, self.iou)},
            "accuracy": {name: clean(value) for name, value in zip(names, self.accuracy)},
        }
