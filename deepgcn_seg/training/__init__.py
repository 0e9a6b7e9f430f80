"""Training: the loop (:class:`Trainer`), its settings, losses, schedules of the learning rate, TensorBoard's events.

A trainer needs no config: give it a model, an optimiser and blocks of points. ``tools/train.py`` builds one from a
config, with :func:`.build.build_trainer`.
"""

from .loop import Trainer, TrainingSettings
from .losses import CrossEntropy, Focal, LovaszSoftmax, Objective, WeightedSum
from .schedules import Clock, HalveByEpochs, HalveBySamples, WarmupCosine
from .tensorboard import RunLog

__all__ = [
    "Clock",
    "CrossEntropy",
    "Focal",
    "HalveByEpochs",
    "HalveBySamples",
    "LovaszSoftmax",
    "Objective",
    "RunLog",
    "Trainer",
    "TrainingSettings",
    "WarmupCosine",
    "WeightedSum",
]
