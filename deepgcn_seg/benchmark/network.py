"""``measure=network``: time and memory of the network beside the official formulation, in one run."""

import statistics
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig

from ..device import device as device_of
from ..errors import UserError
from ..progress import Meter
from .build import NETWORKS, build, described, network_settings
from .output import machine, publish, spread
from .timing import TASKS, alone, batch, interleaved, passes


def measure_network(config: DictConfig) -> None:
    """Measure a step and an inference of ``config.networks`` for each batch size.

    Raises:
        UserError: the official formulation does not have these settings, or a network is unknown.
    """
    settings = network_settings(config)
    names = list(config.networks)
    if unknown := [name for name in names if name not in NETWORKS]:
        raise UserError(f"networks={names}: {', '.join(unknown)} is none of {', '.join(NETWORKS)}")
    if not {"reference", "ours"} <= set(names):
        raise UserError(f"networks={names}: reference and ours must be among them, to be compared")
    device = device_of(config.device)
    rows: list[dict[str, Any]] = []
    cases = [(task, size) for size in config.batch_sizes for task in TASKS]
    # Memory on a CPU is noisy too: now and then, a process holds half as much again.
    processes = 1 if device.type == "cuda" else config.repeats
    with Meter("Measuring", len(cases) * (config.repeats + 1 + processes)) as meter:
        for task, size in cases:
            models = {name: build(name, settings, device) for name in names}
            data = batch(size, config.points, device)
            advance = partial(meter.advance, f"{task}, B = {size}")
            times = interleaved(passes(models, task, data), config.repeats, advance)
            del models
            # On a GPU the allocator keeps what the official formulation took, with 16 blocks half of a large one. The
            # process that measures memory needs as much again.
            torch.cuda.empty_cache()
            memory: dict[str, list[float]] = {name: [] for name in times}
            for _ in range(processes):
                for name, peaks in memory.items():
                    peaks.append(alone(name, settings, task, size, config.points, str(device))[1])
                advance()
            rows.append({"task": task, "batch": size, "seconds": times, "peak_mb": memory})
    others = [name for name in names if name != "ours"]
    header = ["task", "B", *(f"{name} s" for name in names), *(f"times {name}" for name in others)]
    header += [*(f"{name} MB" for name in names), *(f"share of {name}" for name in others)]
    title = f"{described(settings)}, {config.points} points"
    publish(
        "benchmark",
        title,
        header,
        [_cells(row, names, others) for row in rows],
        f"{machine(device)}; medians of {config.repeats}, (lowest to highest)",
        {"settings": {**settings, "points": config.points, "repeats": config.repeats}, "rows": rows},
        _figure(rows, names, title),
    )


def _cells(row: dict[str, Any], names: list[str], others: list[str]) -> list[str]:
    middle = {name: statistics.median(values) for name, values in row["seconds"].items()}
    memory = {name: statistics.median(values) for name, values in row["peak_mb"].items()}
    return [
        row["task"],
        str(row["batch"]),
        *(spread(row["seconds"][name]) for name in names),
        *(f"{middle[name] / middle['ours']:.1f}" for name in others),
        *(spread(row["peak_mb"][name], 0) for name in names),
        *(f"1/{memory[name] / max(memory['ours'], 1e-9):.1f}" for name in others),
    ]


def _figure(rows: list[dict[str, Any]], names: list[str], title: str) -> Figure:
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    for axis, (key, unit) in zip(figure.subplots(1, 2), (("seconds", "s"), ("peak_mb", "MB"))):
        for number, name in enumerate(names):
            heights = [statistics.median(row[key][name]) for row in rows]
            places = [place + 0.8 * (number + 0.5) / len(names) - 0.4 for place in range(len(rows))]
            bars = axis.bar(places, heights, 0.8 / len(names), label=name)
            axis.bar_label(bars, fmt="%.2f" if unit == "s" else "%.0f", fontsize=7)
        axis.set_xticks(range(len(rows)), [f"{row['task']}\nB = {row['batch']}" for row in rows])
        axis.set_ylabel({"s": "seconds", "MB": "peak MB above the process"}[unit])
        axis.legend(frameon=False)
    figure.suptitle(title, fontsize=10)
    return figure
