"""Schedules of a learning rate or momentum. They are functions of the step, so that they have no state to save.

The optimiser whose learning rate they set is a setting, ``recipe.optimizer``: Adam in ``conf/recipe/paper.yaml`` and
``port.yaml``, AdamW in ``modern.yaml``. :mod:`deepgcn_seg.training.build` builds it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from torch import nn

from ..errors import PartError
from ..settings import Count, Share, Validated, integer, is_number, number


@dataclass(frozen=True)
class Clock:
    """The progress of a training.

    Attributes:
        step: number of optimiser steps done. total_steps: steps of the whole training.
    """

    step: int
    steps_per_epoch: int
    total_steps: int


Schedule = Callable[[Clock], float]


def value_of(schedule: Schedule, clock: Clock, setting: str) -> float:
    """Return the value of a schedule at a step.

    Raises:
        PartError: one of a user's own returned something else than a finite number.
    """
    value = schedule(clock)
    if not is_number(value):
        raise PartError.of(setting, schedule, str(value), "a finite number")
    return value


@dataclass(frozen=True)
class HalveBySamples(Validated):
    """A value that begins at ``start`` and is halved after every ``samples`` blocks, but is at least ``floor``.

    A step counts as ``samples_per_step`` blocks. In the official code, which trains on two GPUs, these are the blocks
    of one of them: half of the batch.
    """

    samples: Annotated[int, integer(1)]
    samples_per_step: Count
    floor: Share
    start: Annotated[float, number(0, 1, above=True)] = 1.0

    @property
    def made_for(self) -> int:
        """Number of blocks in a step of the official code that counts ``samples_per_step`` of them."""
        return 2 * self.samples_per_step

    def __call__(self, clock: Clock) -> float:
        """Return the value at a step."""
        return max(self.start * 0.5 ** (clock.step * self.samples_per_step // self.samples), self.floor)


@dataclass(frozen=True)
class HalveByEpochs(Validated):
    """A factor that begins at 1 and is halved after every ``epochs`` epochs."""

    epochs: Count

    def __call__(self, clock: Clock) -> float:
        """Return the value at a step."""
        return 0.5 ** (clock.step // clock.steps_per_epoch // self.epochs)


@dataclass(frozen=True)
class WarmupCosine(Validated):
    """A factor that rises to 1 over the first share ``warmup`` of all steps, then falls as a cosine to ``floor``.

    The rise takes one step at least.
    """

    warmup: Share = 0.1
    floor: Share = 0.0

    def __call__(self, clock: Clock) -> float:
        """Return the value at a step."""
        rise = max(self.warmup * clock.total_steps, 1)
        if clock.step < rise:
            return (clock.step + 1) / (rise + 1)
        along = (clock.step - rise) / max(clock.total_steps - rise, 1)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(along, 1)))


def set_norm_momentum(model: nn.Module, momentum: float) -> None:
    """Set the momentum of every batch norm except in the prediction head, where the official code has it constant."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not name.startswith("head."):
            module.momentum = momentum
