"""Weights of classes in the loss, from the numbers of labelled points of the rooms to train on."""

import logging
from collections.abc import Sequence

import numpy as np

from ..data.classes import no_label
from ..data.room import RoomEntry
from ..data.store import Store
from ..distributed import World
from ..errors import UserError
from ..progress import track
from ..settings import counted

log = logging.getLogger(__name__)

RULES = ("none", "inverse", "sqrt", "effective")


def class_weights(
    given: str | Sequence[float],
    store: Store,
    rooms: Sequence[RoomEntry],
    beta: float | None = None,
    world: World = World(),
) -> np.ndarray | None:
    """Return the weight (C,) of each class, the same in every process, and log it; None if classes have none.

    Args:
        given: one of :data:`RULES`, or a weight for each class, which is used as it is.
        rooms: those to train on. beta: of :func:`weights_of_counts`.

    Raises:
        UserError: a list of another length.
    """
    classes = store.classes
    if isinstance(given, str):
        if given == "none":
            return None
        # The first process counts for all: they agree, and the labels are read once.
        counts = world.share(count_labels(store, rooms) if world.first else None)
        weights = weights_of_counts(given, counts, beta)
        source = f"{given}, from {counts.sum():,} points of {counted(len(rooms), 'room')}"
    else:
        weights, source = np.array(given, float), "as given"
        if len(weights) != len(classes):
            raise UserError(
                f"recipe.class_weights: {len(weights)} weights, must be one for each of the {len(classes)} classes: "
                f"{', '.join(classes)}"
            )
    log.info("Class weights (%s): %s", source, ", ".join(f"{name} {w:.4g}" for name, w in zip(classes, weights)))
    return weights


def count_labels(store: Store, rooms: Sequence[RoomEntry]) -> np.ndarray:
    """Return the number of points (C,) of each class in some rooms; points without a label are not counted."""
    counts = np.zeros(len(store.classes), np.int64)
    for room in track(rooms, len(rooms), "Counting labels"):
        labels = store.labels(room)
        counts += np.bincount(labels[labels != no_label(store.classes)], minlength=len(counts))
    return counts


def weights_of_counts(rule: str, counts: np.ndarray, beta: float | None = None) -> np.ndarray:
    """Return the weight (C,) of each class from its number of points.

    A weight is proportional to 1/n (``inverse``), to 1/sqrt(n) (``sqrt``), or to (1 - beta) / (1 - beta^n)
    (``effective``: the effective number of samples; Cui et al., Class-Balanced Loss Based on Effective Number of
    Samples, CVPR 2019, equation 2). They are scaled so that their mean over the points is 1, which keeps the scale of
    the loss, and so the meaning of the learning rate. A class without points has weight 0.

    Args:
        counts: (C,) number of points n, some above 0.
        beta: from 0, which weights every class the same, to below 1, which approaches ``inverse``. By default it is
            1 - 1/m, where m is the mean n of the classes that have points: classes with many more points than that
            hardly differ, those with far fewer have weights as in ``inverse``.
    """
    present = counts > 0
    n = counts[present].astype(float)
    if rule == "effective":
        beta = 1 - 1 / n.mean() if beta is None else beta
        # 1 - beta^n without cancellation, without the factor 1 - beta. With beta = 0, the logarithm is -infinity.
        with np.errstate(divide="ignore"):
            raw = -1 / np.expm1(n * np.log(beta))
    else:
        raw = 1 / n if rule == "inverse" else 1 / np.sqrt(n)
    weights = np.zeros(len(counts))
    weights[present] = raw * n.sum() / (raw * n).sum()
    return weights
