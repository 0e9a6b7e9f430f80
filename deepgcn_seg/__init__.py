"""DeepGCNs for point-cloud semantic segmentation (Li et al., ICCV 2019)."""

import os

# Idle OpenMP threads would spin on the cores that the compiled kernels' threads need next: a third of the time of
# a neighbour search on two cores. Put to sleep at once they must be woken for every operation, half the time of a
# training step on a hundred points; so GNU's spin for some microseconds first. Read once, when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from .inference.segmenter import Segmenter
from .model import DeepGCN, load_model, load_official
from .version import __version__

__all__ = ["DeepGCN", "Segmenter", "__version__", "load_model", "load_official"]
