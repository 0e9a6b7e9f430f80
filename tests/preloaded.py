"""What the tools would load: done once by the process that :mod:`forked` forks them from. Nothing here starts a thread."""

import importlib
import io

import numba
from matplotlib.figure import Figure

for name in (
    "deepgcn_seg.commands.command_line.main",
    "deepgcn_seg.commands.train",
    "deepgcn_seg.commands.evaluate",
    "torch.utils.tensorboard",
    "torch._dynamo",  # with the first optimizer
):
    importlib.import_module(name)

# Both load more with the first function and the first picture.
numba.njit("int64(int64)")(lambda x: x)
Figure().savefig(io.BytesIO())
