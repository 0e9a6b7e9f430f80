"""Scores of a network: how they are measured (:class:`Protocol`) and what they are (:class:`Scores`).

``Protocol("rooms").run(model, store, rooms, device)`` returns a :class:`Result` with a confusion matrix for each room.
``Scores.of(result.confusion)`` has the mIoU and the other scores. :mod:`deepgcn_seg.evaluation.evaluate` also prints
the table and draws rooms. It is imported separately, because it needs Matplotlib.
"""

from .metrics import Scores, confusion_matrix
from .protocols import PROTOCOLS, Protocol, Result

__all__ = ["PROTOCOLS", "Protocol", "Result", "Scores", "confusion_matrix"]
