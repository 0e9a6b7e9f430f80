"""The state of a training that a checkpoint restores: weights, optimiser, counts and random state."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ..distributed import World
from ..errors import UserError, first_line
from ..model.checkpoint import load_weights, save_checkpoint
from ..schema import Schema
from ..settings import integer, number

Tensors = list[torch.Tensor] | tuple[torch.Tensor, ...]


class Counts(Schema):
    """The counts in a checkpoint; each field is an attribute of :class:`TrainingState`."""

    step: Annotated[int, integer(0, 2**62)]
    best: Annotated[float, number(-1, 1)]
    seconds: Annotated[float, number(0)]
    skipped: Annotated[int, integer(0)]
    waited: Annotated[float, number(0)] = 0.0
    validated_step: Annotated[int, integer(0, 2**62)] = 0
    bad_steps: Annotated[int, integer(0)] = 0
    peak_memory_mb: Annotated[float, number(0)] = 0.0
    loss_sum: Annotated[float, number(-math.inf)] = 0.0
    losses: Annotated[int, integer(0)] = 0


class TrainingState:
    """The part of a training that changes with every step and that a checkpoint restores.

    Args:
        model: the network that is trained. optimizer: updates its parameters.
        ema: decay of the averaged weights; None for no average.

    Attributes:
        step: optimiser steps done. validated_step: step of the last validation. best: highest validation mIoU so far.
        seconds: time spent in steps. waited: the part of it in which they waited for their blocks.
        skipped: number of all skipped steps. bad_steps: number of the latest steps that were skipped in a row.
        peak_memory_mb: highest memory that was measured, before a resume too.
        loss_sum, losses: sum and number of the losses since the last row of the history, without skipped steps.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, ema: float | None = None):
        self.model, self.optimizer = model, optimizer
        self.averaged = None if ema is None else average_of(model, ema)
        self.step, self.validated_step, self.best = 0, 0, -1.0
        self.seconds, self.waited, self.skipped, self.bad_steps = 0.0, 0.0, 0, 0
        self.peak_memory_mb, self.loss_sum, self.losses = 0.0, 0.0, 0

    @property
    def network_to_use(self) -> nn.Module:
        """The network to validate and to use: the one with averaged weights, if there is one."""
        return self.model if self.averaged is None else self.averaged.module

    def save(self, path: Path, description: dict[str, Any], device: torch.device, world: World) -> None:
        """Write a checkpoint. Every process must call this, and the first one writes.

        Args:
            description: what the checkpoint says about network, classes and data, as ``save_checkpoint`` takes it.

        Raises:
            UserError: it cannot be written; the previous one is intact.
        """
        random = world.collect(_random_state(device))
        if not world.first:
            return
        training = None
        if self.averaged is not None:
            training = {"model": self.model.state_dict(), "steps_averaged": int(self.averaged.n_averaged)}
        counts = {name: getattr(self, name) for name in Counts.model_fields}
        optimizer = self.optimizer.state_dict()
        try:
            state = {"optimizer": optimizer, "random": random, "training": training, **counts}
            save_checkpoint(path, self.network_to_use, **description, **state)
        except (OSError, RuntimeError) as error:
            raise UserError(f"cannot write {path} ({error}); the previous checkpoint is intact") from None

    def load(self, path: Path, content: Mapping[str, Any], device: torch.device, world: World) -> None:
        """Restore what :meth:`save` wrote. A process that did not exist then keeps its own random state.

        Args:
            path: the file, for messages. content: of it.

        Raises:
            UserError: it is damaged, or of another model.
        """
        where = f"checkpoint {path}"
        counts = Counts.of({name: content[name] for name in Counts.model_fields if name in content}, where)
        if self.averaged is None and content.get("training") is not None:
            raise UserError(f"{where}: has averaged weights beside those of the optimiser; recipe.ema must be set")
        load_weights(self.network_to_use, content["model"], where)
        try:
            if self.averaged is not None:
                self.averaged.n_averaged.fill_(content["training"]["steps_averaged"])
                load_weights(self.model, content["training"]["model"], where)
            load_optimizer(self.optimizer, content["optimizer"])
            if world.rank < len(content["random"]):
                _set_random_state(content["random"][world.rank], device)
        except (RuntimeError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise UserError(f"{where}: not the state of this training ({first_line(error)})") from None
        for name, count in counts:
            setattr(self, name, count)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore an optimiser's state from a checkpoint; its settings stay those of the config.

    Raises:
        ValueError: the state is of another optimiser, or has values that are not finite.
    """
    # The learning rate is left out, because it is set in every step.
    settings = [{k: v for k, v in group.items() if k not in ("params", "lr")} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings):
        group.update(own)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.ndim and value.shape != parameter.shape:
                raise ValueError(f"{name} of a parameter {tuple(parameter.shape)} is {tuple(value.shape)}")
            if not torch.isfinite(torch.as_tensor(value)).all():
                raise ValueError(f"{name} of the optimiser is not finite")


def average_of(model: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average (EMA) of a model's weights and running statistics.

    The decay begins low and rises to ``decay``, so that the average soon forgets the first steps, whose weights are
    far from the later ones. Integers, such as counts of batches, are copied.
    """

    def average(averaged: Tensors, current: Tensors, count: torch.Tensor | int) -> None:
        # All tensors of a type together: for each of hundreds alone, a GPU would wait longer than it computes.
        if averaged[0].is_floating_point():
            done = int(count)
            torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + done) / (10 + done)))
        else:
            torch._foreach_copy_(averaged, current)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


def _random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the state of this process's random generators."""
    state = {"torch": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
