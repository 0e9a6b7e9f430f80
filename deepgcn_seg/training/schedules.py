"""Schedules: a value as a function of the step, with no state to save."""

import math
from dataclasses import dataclass
from typing import Annotated

from ..settings import Count, Share, integer, number, validate


@dataclass(frozen=True)
class Clock:
    """Where training is. step: optimiser steps done; steps_per_epoch, total_steps: in all."""

    step: int
    steps_per_epoch: int
    total_steps: int


@dataclass(frozen=True)
class HalveBySamples:
    """``start`` halved every ``samples`` samples, counted ``samples_per_step`` a step, never below ``floor``."""

    samples: Annotated[int, integer(1)]
    samples_per_step: Count
    floor: Share
    start: Annotated[float, number(0, 1, above=True)] = 1.0

    def __post_init__(self):
        validate(self)

    def __call__(self, clock: Clock) -> float:
        """The value at a step."""
        return max(self.start * 0.5 ** (clock.step * self.samples_per_step // self.samples), self.floor)


@dataclass(frozen=True)
class HalveByEpochs:
    """1 halved every ``epochs`` epochs."""

    epochs: Count

    def __post_init__(self):
        validate(self)

    def __call__(self, clock: Clock) -> float:
        """The value at a step."""
        return 0.5 ** (clock.step // clock.steps_per_epoch // self.epochs)


@dataclass(frozen=True)
class WarmupCosine:
    """Linear from 0 to 1 over the first share ``warmup`` of all steps, then a cosine down to ``floor``."""

    warmup: Share = 0.1
    floor: Share = 0.0

    def __post_init__(self):
        validate(self)

    def __call__(self, clock: Clock) -> float:
        """The value at a step."""
        rise = max(self.warmup * clock.total_steps, 1)
        if clock.step < rise:
            return (clock.step + 1) / (rise + 1)
        along = (clock.step - rise) / max(clock.total_steps - rise, 1)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(along, 1)))
