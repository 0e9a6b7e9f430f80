"""The networks that are measured: this one, the official formulation and an assembly of library parts."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn
from torch.nn import functional as F

from ..errors import UserError
from ..memory import peak_memory_mb, resident_mb
from ..model import DeepGCN, EdgeConv, MRConv
from ..model.official import conv_name
from ..ops import nearest_ranks
from ..processes import end_with_parent
from .reference import ReferenceDeepGCN

TASKS = ("step", "inference")
# Of the official code.
CONNECTIONS, CONVS = ("plain", "res", "dense"), ("edge", "mr")
NETWORKS = ("reference", "assembly", "ours")

log = logging.getLogger(__name__)


def network_settings(config: DictConfig) -> dict[str, Any]:
    """Connection, convolution and sizes.

    Raises:
        UserError: settings that the official formulation does not have.
    """
    conv = conv_name(config.conv)
    if config.connection not in CONNECTIONS or conv not in CONVS:
        raise UserError(
            f"connection={config.connection}, conv={conv}: the official code has plain, res, dense and edge, mr"
        )
    if config.points < config.k * max(config.depth - 1, 1):
        raise UserError(f"points={config.points}: k x dilation needs {config.k * (config.depth - 1)}")
    if config.precision not in ("fp32", "bf16"):
        raise UserError(f"precision={config.precision}: must be fp32 or bf16")
    return {"conv": conv, **{key: config[key] for key in ("connection", "depth", "channels", "k", "precision")}}


def described(settings: dict[str, Any]) -> str:
    """Settings in one line, for titles."""
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def build(name: str, settings: dict[str, Any], device: torch.device) -> nn.Module:
    """One of :data:`NETWORKS`, the same function each; in bf16 under autocast."""
    # In float32 all are: cuDNN would take TF32 for the reference's convolutions.
    torch.backends.cudnn.allow_tf32 = False
    network = _network(name, settings).to(device)
    if settings.get("precision") == "bf16":
        network.forward = torch.autocast(device.type, torch.bfloat16)(network.forward)
    return network


def _network(name: str, settings: dict[str, Any]) -> nn.Module:
    conv, block = settings["conv"], settings["connection"]
    common = {key: settings[key] for key in ("depth", "channels", "k")}
    if name == "reference":
        return ReferenceDeepGCN(block, conv, order="act-norm", **common)
    if name == "assembly":
        from .assembly import AssembledDeepGCN

        return AssembledDeepGCN(block, conv, **common)
    plain = {"dilation": "none", "stochastic": False} if block == "plain" else {}
    operator = {"edge": EdgeConv, "mr": MRConv}[conv]
    return DeepGCN(connection=block, conv=operator, order="act-norm", positions=(0, 1, 2), **common, **plain)


def run(model: nn.Module, task: str, points: torch.Tensor, labels: torch.Tensor) -> None:
    """One training step's forward and backward pass, or one evaluation forward pass."""
    if model.training != (task == "step"):
        model.train(task == "step")
    if task == "inference":
        with torch.inference_mode():
            model(points)
    else:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(points).flatten(0, 1), labels.flatten()).backward()
    if points.is_cuda:
        torch.cuda.synchronize()


def batch(size: int, points: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Random blocks and labels, the same each time."""
    generator = torch.Generator().manual_seed(0)
    cloud = torch.rand(size, points, 9, generator=generator)
    return cloud.to(device), torch.randint(13, (size, points), generator=generator).to(device)


def seconds(action: Callable[..., None], *arguments: Any) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - started


def interleaved(
    models: dict[str, nn.Module],
    task: str,
    data: tuple[torch.Tensor, torch.Tensor],
    repeats: int,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of each network's passes, in turn, since a noisy machine is noisy for all; after one that does not count.

    Args:
        advance: called after each round.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    for count in range(repeats + 1):
        for name, model in models.items():
            spent = seconds(run, model, task, *data)
            if count:
                times[name].append(spent)
        advance()
    return times


def alone(
    name: str, settings: dict[str, Any], task: str, size: int, points: int, device: str, repeats: int = 1
) -> tuple[list[float], float]:
    """Passes in a fresh process: their seconds, and the peak memory above what it held with the model built, in MiB.

    Returns:
        No seconds and NaN where the process ran out of memory.
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
    name: str, settings: dict[str, Any], task: str, size: int, points: int, device: str, repeats: int
) -> tuple[list[float], float]:
    chosen = torch.device(device)
    model = build(name, settings, chosen)
    data = batch(size, points, chosen)
    # Compiled kernels load and libraries start outside the measurement, those for few near points and for many.
    small = max(settings["k"] * settings["depth"], 64)
    run(build(name, settings, chosen), task, *batch(1, small, chosen))
    for ranks in (torch.arange(4), torch.arange(400)):
        nearest_ranks(torch.rand(1, 1024, 3, device=chosen), ranks)
    if chosen.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
    else:
        before = resident_mb()
    times = [seconds(run, model, task, *data) for _ in range(repeats)]
    return times, peak_memory_mb(chosen) - before
