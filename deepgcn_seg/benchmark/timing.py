"""Time and memory of a pass: a training step without its optimiser, or an inference."""

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..memory import peak_memory_mb, resident_mb
from ..ops import nearest_ranks
from ..processes import end_with_parent
from .build import build

TASKS = ("step", "inference")

log = logging.getLogger(__name__)


def run(model: nn.Module, task: str, points: torch.Tensor, labels: torch.Tensor) -> None:
    """Do the forward and backward pass of a training step, or a forward pass of inference."""
    if model.training != (task == "step"):
        model.train(task == "step")
    if task == "inference":
        with torch.inference_mode():
            model(points)
    else:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(points).flatten(0, 1), labels.flatten()).backward()
    if points.is_cuda:
        torch.cuda.synchronize(points.device)


def batch(size: int, points: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random blocks of points (size, points, 9) and labels, the same each time."""
    generator = torch.Generator().manual_seed(0)
    cloud = torch.rand(size, points, 9, generator=generator)
    return cloud.to(device), torch.randint(13, (size, points), generator=generator).to(device)


def seconds(action: Callable[..., Any], *arguments: Any) -> float:
    """Return the wall time of a call."""
    started = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - started


def passes(
    models: dict[str, nn.Module], task: str, data: tuple[torch.Tensor, torch.Tensor]
) -> dict[str, Callable[[], None]]:
    """Return for each network the function that does a pass of it (:func:`run`)."""
    return {name: partial(run, model, task, *data) for name, model in models.items()}


def interleaved(
    actions: Mapping[str, Callable[[], Any]],
    repeats: int,
    advance: Callable[[], None] = lambda: None,
    clock: Callable[[Callable[[], Any]], float] = seconds,
) -> dict[str, list[float]]:
    """Return the seconds of each action's calls.

    The actions take turns, so that a noisy machine slows all of them. The first round, in which kernels are compiled,
    does not count.

    Args:
        advance: called after each round. clock: calls an action and returns the seconds that it took.
    """
    times: dict[str, list[float]] = {name: [] for name in actions}
    for count in range(repeats + 1):
        for name, action in actions.items():
            spent = clock(action)
            if count:
                times[name].append(spent)
        advance()
    return times


def alone(
    name: str, settings: dict[str, Any], task: str, size: int, points: int, device: str, repeats: int = 1
) -> tuple[list[float], float]:
    """Run passes in a fresh process.

    Returns:
        Their seconds, and the peak memory in MiB above what the process held with the model built. If the process ran
        out of memory: no seconds and NaN.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), end_with_parent) as process:
        try:
            return process.submit(_alone, name, settings, task, size, points, device, repeats).result()
        except (BrokenProcessPool, MemoryError, RuntimeError) as error:
            if not isinstance(error, BrokenProcessPool) and "memory" not in str(error):
                raise
            log.warning("%s, %s, %d blocks of %d points: out of memory", name, task, size, points)
            return [], float("nan")


def _alone(
    name: str, settings: dict[str, Any], task: str, size: int, points: int, device_name: str, repeats: int
) -> tuple[list[float], float]:
    device = torch.device(device_name)
    model = build(name, settings, device)
    data = batch(size, points, device)
    # Load compiled kernels and libraries before the measurement, those for few neighbours and those for many.
    small = max(settings["k"] * settings["depth"], 64)
    run(build(name, settings, device), task, *batch(1, small, device))
    for ranks in (torch.arange(4), torch.arange(400)):
        nearest_ranks(torch.rand(1, 1024, 3, device=device), ranks)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device) / 2**20
    else:
        before = resident_mb()
    times = [seconds(run, model, task, *data) for _ in range(repeats)]
    return times, peak_memory_mb(device) - before
