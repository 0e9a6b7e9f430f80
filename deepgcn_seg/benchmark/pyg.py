"""``measure=pyg``: torch_geometric's ``DynamicEdgeConv`` beside ours, in the same network."""

import statistics
from typing import Any

from omegaconf import DictConfig

from ..device import device as device_of
from ..progress import Meter
from .build import build
from .output import machine, publish, spread
from .timing import TASKS, alone, batch, interleaved, passes

NETWORKS = ("torch_geometric", "ours")


def measure_pyg(config: DictConfig) -> None:
    """Measure a step and an inference with one and with two linear maps in each edge's network.

    Raises:
        UserError: torch_cluster is not installed.
    """
    device = device_of(config.device)
    sizes = {key: config[key] for key in ("depth", "channels", "k")}
    cases = [(layers, size, task) for layers in (1, 2) for size in config.batch_sizes for task in TASKS]
    rows: list[dict[str, Any]] = []
    with Meter("Measuring", len(cases)) as meter:
        for layers, size, task in cases:
            settings = {"conv": "dynamic-edge", "layers": layers, **sizes}
            models = {name: build(name, settings, device) for name in NETWORKS}
            times = interleaved(passes(models, task, batch(size, config.points, device)), config.repeats)
            del models
            memory = {name: alone(name, settings, task, size, config.points, str(device))[1] for name in NETWORKS}
            rows.append({"layers": layers, "batch": size, "task": task, "seconds": times, "peak_mb": memory})
            meter.advance(f"{layers} linear maps, {task}, B = {size}")
    header = [
        "linear maps",
        "B",
        "task",
        "torch_geometric s",
        "ours s",
        "times",
        "torch_geometric MB",
        "ours MB",
        "share",
    ]
    publish(
        "pyg",
        f"DGCNN, {', '.join(f'{key} {value}' for key, value in sizes.items())}, {config.points} points",
        header,
        [_cells(row) for row in rows],
        f"{machine(device)}; medians of {config.repeats}, (lowest to highest)",
        {"settings": {**sizes, "points": config.points, "repeats": config.repeats}, "rows": rows},
    )


def _cells(row: dict[str, Any]) -> list[str]:
    theirs, ours = (row["seconds"][name] for name in NETWORKS)
    their_memory, our_memory = (row["peak_mb"][name] for name in NETWORKS)
    return [
        *(str(row[key]) for key in ("layers", "batch", "task")),
        *(spread(times) for times in (theirs, ours)),
        f"{statistics.median(theirs) / statistics.median(ours):.1f}",
        *(f"{memory:.0f}" for memory in (their_memory, our_memory)),
        f"1/{their_memory / max(our_memory, 1e-9):.1f}",
    ]
