"""``measure=small``: small networks beside the official formulation; starting kernels is most of their time."""

import itertools
import statistics
from typing import Any

from omegaconf import DictConfig

from ..device import device as device_of
from ..errors import UserError
from ..model.connection import PAPER_CONNECTIONS
from ..model.official import CONVS
from ..progress import Meter
from .build import build
from .output import machine, publish
from .timing import TASKS, batch, interleaved, passes


def measure_small(config: DictConfig) -> None:
    """Measure a step and an inference of every connection and convolution of the official code, at ``config.sizes``.

    Raises:
        UserError: a size is not five numbers, or has too few points.
    """
    for size in config.sizes:
        if len(size) != 5 or size[1] < size[3] * max(size[0] - 1, 1):
            raise UserError(
                f"sizes: {list(size)} is not depth, points, blocks, k, channels with points >= k x dilation"
            )
    device = device_of(config.device)
    rows: list[dict[str, Any]] = []
    cases = list(itertools.product(PAPER_CONNECTIONS, CONVS, config.sizes))
    with Meter("Measuring", len(cases)) as meter:
        for connection, conv, (depth, points, blocks, k, channels) in cases:
            settings = {"connection": connection, "conv": conv, "depth": depth, "channels": channels, "k": k}
            models = {name: build(name, settings, device) for name in ("reference", "ours")}
            data = batch(blocks, points, device)
            times = {task: interleaved(passes(models, task, data), config.repeats) for task in TASKS}
            rows.append({**settings, "points": points, "blocks": blocks, "seconds": times})
            meter.advance(f"{connection}, {conv}, {points} points")
    header = ["network", "depth", "points", "blocks", "k", "channels"]
    header += [f"{task} {what}" for task in TASKS for what in ("reference ms", "ours ms", "times")]
    slowest = {task: min(_times_faster(row, task) for row in rows) for task in TASKS}
    publish(
        "small",
        "Least: " + ", ".join(f"{task} {times:.2f} times" for task, times in slowest.items()),
        header,
        [_cells(row) for row in rows],
        f"{machine(device)}; medians of {config.repeats}",
        {"rows": rows, "least_times_faster": slowest},
    )


def _median(row: dict[str, Any], task: str, name: str) -> float:
    return statistics.median(row["seconds"][task][name])


def _times_faster(row: dict[str, Any], task: str) -> float:
    return _median(row, task, "reference") / _median(row, task, "ours")


def _cells(row: dict[str, Any]) -> list[str]:
    cells = [
        f"{row['connection']}, {row['conv']}",
        *(str(row[key]) for key in ("depth", "points", "blocks", "k", "channels")),
    ]
    for task in TASKS:
        cells += [f"{1000 * _median(row, task, name):.1f}" for name in ("reference", "ours")]
        cells.append(f"{_times_faster(row, task):.2f}")
    return cells
