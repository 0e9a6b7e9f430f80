"""What the tools would load: done once by the process that :mod:`forked` forks them from. Nothing here starts a thread."""

import io

import numba
import torch._dynamo  # noqa: F401 - with the first optimizer
from matplotlib.figure import Figure
from torch.utils import tensorboard  # noqa: F401

from deepgcn_seg import cli  # noqa: F401
from deepgcn_seg.evaluation import run as _  # noqa: F401
from deepgcn_seg.training import run  # noqa: F401

# Both load more with the first function and the first picture.
numba.njit("int64(int64)")(lambda x: x)
Figure().savefig(io.BytesIO())
