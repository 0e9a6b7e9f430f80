"""DeepGCNs for point-cloud semantic segmentation (Li et al., ICCV 2019)."""

import os

# By default, idle OpenMP threads spin, and so take cores from the threads of the compiled kernels: on two cores this
# costs a third of a neighbour search. With "passive" they sleep at once and must be woken for every operation, which
# costs half of a training step on a hundred points. The spin count lets GNU's threads spin for some microseconds before
# they sleep. OpenMP reads these variables once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from .inference.segmenter import Segmenter
from .model import DeepGCN, load_model, load_official
from .version import __version__

__all__ = ["DeepGCN", "Segmenter", "__version__", "load_model", "load_official"]
