"""Labels for whole scans: voting over blocks of points, and what is shown of the result.

:class:`Segmenter` labels points with a checkpoint and returns a :class:`Prediction`. :class:`Voting` does the same with
a network and rooms that are in memory or in a store. Pictures are drawn by :mod:`deepgcn_seg.inference.picture`, and
pages to turn a scan in 3-D by :mod:`deepgcn_seg.inference.viewer`. These two are imported by their own names, because
they need Matplotlib.
"""

from ..data.classes import no_label
from .segmenter import Prediction, Segmenter
from .voting import BadScoresError, Voting

__all__ = ["BadScoresError", "Prediction", "Segmenter", "Voting", "no_label"]
