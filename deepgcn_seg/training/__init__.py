"""Training: the loop (:class:`Trainer`), its settings, schedules of the learning rate, and TensorBoard's events.

A trainer needs no config: give it a model, an optimiser and blocks of points. ``tools/train.py`` builds one from a
config, with :func:`.build.build_trainer`.
"""

from .loop import Trainer, TrainingSettings
from .schedules import Clock, HalveByEpochs, HalveBySamples, WarmupCosine
from .tensorboard import RunLog

__all__ = ["Clock", "HalveByEpochs", "HalveBySamples", "RunLog", "Trainer", "TrainingSettings", "WarmupCosine"]
