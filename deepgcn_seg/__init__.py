"""DeepGCNs for point-cloud semantic segmentation (Li et al., ICCV 2019)."""

import importlib
import os
from typing import TYPE_CHECKING, Any

# By default, idle OpenMP threads spin, and so take cores from the threads of the compiled kernels: on two cores this
# costs a third of a neighbour search. With "passive" they sleep at once and must be woken for every operation, which
# costs half of a training step on a hundred points. The spin count lets GNU's threads spin for some microseconds before
# they sleep. OpenMP reads these variables once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from .version import __version__

if TYPE_CHECKING:
    from .commands.from_python import Run, evaluate, predict, train
    from .errors import UserError
    from .inference.segmenter import Segmenter
    from .model import DeepGCN, load_model, load_official

__all__ = [
    "DeepGCN",
    "Run",
    "Segmenter",
    "UserError",
    "__version__",
    "evaluate",
    "load_model",
    "load_official",
    "predict",
    "train",
]

# Where each name is. It is imported when it is first used: PyTorch and the kernels take seconds.
_PLACES = {
    **dict.fromkeys(("DeepGCN", "load_model", "load_official"), ".model"),
    **dict.fromkeys(("Run", "evaluate", "predict", "train"), ".commands.from_python"),
    "Segmenter": ".inference.segmenter",
    "UserError": ".errors",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PLACES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
