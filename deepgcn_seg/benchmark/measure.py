"""Time and memory of the network beside the official formulation, in one run."""

import json
import logging
import platform
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F

from ..config import device as device_of
from ..data.files import replacing
from ..errors import UserError
from ..memory import peak_resident_mb, resident_mb
from ..model import DeepGCN, EdgeConv, MRConv
from ..model.checkpoint import versions
from ..model.official import conv_name
from ..progress import Meter
from .parser import benchmark_parser
from .reference import ReferenceDeepGCN

log = logging.getLogger(__name__)
TASKS = ("step", "inference")


def build(name: str, settings: dict[str, Any], device: torch.device) -> nn.Module:
    """The network (``ours``) or the official formulation of it (``reference``)."""
    conv, block = settings["conv"], settings["connection"]
    common = {key: settings[key] for key in ("depth", "channels", "k")}
    if name == "reference":
        return ReferenceDeepGCN(block, conv, order="act-norm", **common).to(device)
    plain = {"dilation": "none", "stochastic": False} if block == "plain" else {}
    operator = {"edge": EdgeConv, "mr": MRConv}[conv]
    return DeepGCN(connection=block, conv=operator, order="act-norm", positions=(0, 1, 2), **common, **plain).to(device)


def run(model: nn.Module, task: str, points: torch.Tensor, labels: torch.Tensor) -> None:
    """One training step's forward and backward pass, or one evaluation forward pass."""
    if task == "inference":
        model.eval()
        with torch.inference_mode():
            model(points)
    else:
        model.train()
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


def peak_mb(name: str, settings: dict[str, Any], task: str, size: int, points: int, device: str) -> float:
    """Peak memory of one pass in a fresh process, above what it held with the model built."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_here, (name, settings, task, size, points, device))


def _peak_here(name: str, settings: dict[str, Any], task: str, size: int, points: int, device: str) -> float:
    chosen = torch.device(device)
    model = build(name, settings, chosen)
    cloud, labels = batch(size, points, chosen)
    # Compiled kernels load and libraries start outside the measurement.
    small = max(settings["k"] * settings["depth"], 64)
    run(build(name, settings, chosen), task, *batch(1, small, chosen))
    if chosen.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(model, task, cloud, labels)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = resident_mb()
    run(model, task, cloud, labels)
    return peak_resident_mb() - before


def benchmark(config: DictConfig) -> None:
    """What ``tools/benchmark.py`` does: a table on the terminal, ``benchmark.json`` and ``.md``.

    Raises:
        UserError: settings that the official formulation does not have.
    """
    if config.measure == "parser":
        return benchmark_parser(config)
    if config.measure != "network":
        raise UserError(f"measure={config.measure}: must be one of network, parser")
    conv = conv_name(config.conv)
    if config.connection not in ("plain", "res", "dense") or conv not in ("edge", "mr"):
        raise UserError(
            f"connection={config.connection}, conv={conv}: the official code has plain, res, dense and edge, mr"
        )
    if config.points < config.k * max(config.depth - 1, 1):
        raise UserError(f"points={config.points}: k x dilation needs {config.k * (config.depth - 1)}")
    settings = {"conv": conv, **{key: config[key] for key in ("connection", "depth", "channels", "k")}}
    chosen = device_of(config.device)
    rows = []
    cases = [(task, size) for size in config.batch_sizes for task in TASKS]
    with Meter("Measuring", len(cases) * (config.repeats + 2)) as meter:
        for task, size in cases:
            models = {name: build(name, settings, chosen) for name in ("reference", "ours")}
            data = batch(size, config.points, chosen)
            for model in models.values():
                run(model, task, *data)
            meter.advance(f"{task}, B = {size}")
            times: dict[str, list[float]] = {name: [] for name in models}
            for _ in range(config.repeats):
                # Interleaved: a noisy machine is noisy for both.
                for name, model in models.items():
                    times[name].append(seconds(run, model, task, *data))
                meter.advance(f"{task}, B = {size}")
            del models
            memory = {n: peak_mb(n, settings, task, size, config.points, str(chosen)) for n in times}
            meter.advance(f"{task}, B = {size}")
            rows.append({"task": task, "batch": size, "seconds": times, "peak_mb": memory})
    report = {
        "settings": {**settings, "points": config.points, "repeats": config.repeats},
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {chosen}"
        + (f" ({torch.cuda.get_device_name(chosen)})" if chosen.type == "cuda" else ""),
        "versions": versions(),
        "rows": rows,
    }
    folder = Path(HydraConfig.get().runtime.output_dir)
    lines = [_row(row) for row in rows]
    network = ", ".join(f"{key} {value}" for key, value in settings.items())
    title = f"{network}, {config.points} points"
    header = ["task", "B", "reference s", "ours s", "times faster", "reference MB", "ours MB", "share of memory"]
    table = Table(title=title, caption=f"{report['machine']}; medians of {config.repeats}, (lowest to highest)")
    for name in header:
        table.add_column(name, justify="right")
    for line in lines:
        table.add_row(*line)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    with replacing(folder / "benchmark.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1))
    with replacing(folder / "benchmark.md") as temporary:
        cells = [header, ["---:"] * len(header), *lines]
        temporary.write_text("\n".join("| " + " | ".join(line) + " |" for line in cells) + "\n")
    log.info("Written: %s/benchmark.json, .md", folder)
    return None


def _row(row: dict[str, Any]) -> list[str]:
    middle = {name: statistics.median(values) for name, values in row["seconds"].items()}
    spans = {n: f"{middle[n]:.3f} ({min(v):.3f} to {max(v):.3f})" for n, v in row["seconds"].items()}
    memory = row["peak_mb"]
    return [
        row["task"],
        str(row["batch"]),
        spans["reference"],
        spans["ours"],
        f"{middle['reference'] / middle['ours']:.1f}",
        f"{memory['reference']:.0f}",
        f"{memory['ours']:.0f}",
        f"1/{memory['reference'] / max(memory['ours'], 1e-9):.1f}",
    ]
