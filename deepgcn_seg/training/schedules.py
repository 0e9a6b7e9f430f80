"""Schedules: a value as a function of the step, with no state to save."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """Where training is. step: optimiser steps done; steps_per_epoch, total_steps: in all."""

    step: int
    steps_per_epoch: int
    total_steps: int


@dataclass(frozen=True)
class HalveBySamples:
    """``start`` halved every ``samples`` samples, counted ``samples_per_step`` a step, never below ``floor``."""

    samples: int
    samples_per_step: int
    floor: float
    start: float = 1.0

    def __call__(self, clock: Clock) -> float:
        """The value at a step."""
        return max(self.start * 0.5 ** (clock.step * self.samples_per_step // self.samples), self.floor)


@dataclass(frozen=True)
class HalveByEpochs:
    """1 halved every ``epochs`` epochs."""

    epochs: int

    def __call__(self, clock: Clock) -> float:
        """The value at a step."""
        return 0.5 ** (clock.step // clock.steps_per_epoch // self.epochs)


@dataclass(frozen=True)
class WarmupCosine:
    """Linear from 0 to 1 over the first share ``warmup`` of all steps, then a cosine down to ``floor``."""

    warmup: float = 0.1
    floor: float = 0.0

    def __call__(self, clock: Clock) -> float:
        """The value at a step."""
        rise = max(self.warmup * clock.total_steps, 1)
        if clock.step < rise:
            return (clock.step + 1) / (rise + 1)
        along = (clock.step - rise) / max(clock.total_steps - rise, 1)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(along, 1)))
