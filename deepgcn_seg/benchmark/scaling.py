"""``measure=scaling``: how time and memory of a pass grow with points, batch, depth and k, beside the official form."""

import statistics
from typing import Any, cast

from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from ..device import device as device_of
from ..errors import UserError
from ..progress import Meter
from .build import described, network_settings
from .output import machine, publish, spread
from .timing import TASKS, alone

# The largest distance matrix, in entries, for which the official formulation is measured. Three of them are 3 GB.
MOST_PAIRS = 1 << 28


def measure_scaling(config: DictConfig) -> None:
    """Measure along one axis of ``config.axes`` at a time, with everything else as configured.

    Raises:
        UserError: an axis or the task is unknown.
    """
    if config.task not in TASKS:
        raise UserError(f"task={config.task}: must be one of {', '.join(TASKS)}")
    axes = {str(axis): list(values) for axis, values in config.axes.items()}
    if unknown := [axis for axis in axes if axis not in ("points", "batch", "depth", "k")]:
        raise UserError(f"axes: {', '.join(unknown)} is none of points, batch, depth, k")
    device = device_of(config.device)
    measured: list[dict[str, Any]] = []
    with Meter("Measuring", sum(len(values) for values in axes.values())) as meter:
        for axis, values in axes.items():
            for value in values:
                changed = cast(DictConfig, OmegaConf.merge(config, {axis: value} if axis != "batch" else {}))
                settings = network_settings(changed)
                size = value if axis == "batch" else config.batch_sizes[0]
                fits = size * changed.points**2 <= MOST_PAIRS
                entry: dict[str, Any] = {"axis": axis, "value": value, "seconds": {}, "peak_mb": {}}
                for name in ("reference", "ours") if fits else ("ours",):
                    # Each in a process of its own: what one network leaves behind would be the next one's memory.
                    case = name, settings, config.task, size, changed.points, str(device), config.repeats
                    times, peak = alone(*case)
                    if times:
                        entry["seconds"][name], entry["peak_mb"][name] = times, peak
                measured.append(entry)
                meter.advance(f"{axis} = {value}")
    settings = network_settings(config)
    title = (
        f"{config.task}; unless varied: {described(settings)}, points {config.points}, batch {config.batch_sizes[0]}"
    )
    publish(
        "scaling",
        title,
        ["axis", "value", "reference s", "ours s", "times faster", "reference MB", "ours MB"],
        [_cells(entry) for entry in measured],
        f"{machine(device)}; medians of {config.repeats}; -: more than {MOST_PAIRS:,} distances, or out of memory",
        {"settings": settings, "points": config.points, "task": config.task, "rows": measured},
        _figure(measured, config.task),
    )


def _cells(entry: dict[str, Any]) -> list[str]:
    times, memory = entry["seconds"], entry["peak_mb"]
    reference = statistics.median(times["reference"]) if "reference" in times else None
    ours = statistics.median(times["ours"]) if "ours" in times else None
    return [
        entry["axis"],
        f"{entry['value']:,}",
        spread(times["reference"], 2) if reference else "-",
        spread(times["ours"], 2) if ours else "-",
        f"{reference / ours:.1f}" if reference and ours else "-",
        f"{memory['reference']:.0f}" if reference else "-",
        f"{memory['ours']:.0f}" if ours else "-",
    ]


def _figure(measured: list[dict[str, Any]], task: str) -> Figure:
    axes = list(dict.fromkeys(entry["axis"] for entry in measured))
    figure = Figure(figsize=(3.6 * len(axes), 6), layout="constrained")
    for row, key in zip(figure.subplots(2, len(axes), squeeze=False), ("seconds", "peak_mb")):
        for panel, axis in zip(row, axes):
            for name in ("reference", "ours"):
                entries = [entry for entry in measured if entry["axis"] == axis and name in entry[key]]
                heights = [statistics.median(e[key][name]) if key == "seconds" else e[key][name] for e in entries]
                panel.loglog([entry["value"] for entry in entries], heights, marker="o", label=name)
            values = [entry["value"] for entry in measured if entry["axis"] == axis]
            panel.set_xticks(values, [f"{value:,}" for value in values])
            panel.minorticks_off()
            panel.yaxis.set_major_formatter("{x:,g}")
            panel.set_xlabel(axis)
            panel.grid(alpha=0.3)
            panel.legend(frameon=False, fontsize=8)
        row[0].set_ylabel({"seconds": f"seconds a {task}", "peak_mb": "peak MB above the process"}[key])
    return figure
