"""Training curves of runs side by side, from their TensorBoard events."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..data.files import replacing
from .runs import Run, varied


def scalar(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a scalar that a run wrote; empty if it did not."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # It tells every file that it comes to.
    logging.getLogger("tensorboard").setLevel(logging.WARNING)
    events = EventAccumulator(str(folder), {"scalars": 0})
    events.Reload()
    if name not in events.Tags()["scalars"]:
        return np.empty(0), np.empty(0)
    found = events.Scalars(name)
    return np.array([event.step for event in found]), np.array([event.value for event in found])


def smoothed(values: np.ndarray, share: float = 0.1) -> np.ndarray:
    """Means over a window of ``share`` of all values, shorter at the start."""
    window = max(int(share * len(values)), 1)
    total = np.concatenate([[0], np.cumsum(values)])
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(stop - window, 0)
    return (total[stop] - total[start]) / (stop - start)


def draw_curves(runs: Sequence[Run], path: Path, name: str = "train/loss") -> dict[str, float]:
    """Draw a scalar of all runs over steps, smoothed: a panel for each value of the first setting
    that varied by name (as backbone), in it a line for each run.

    Returns:
        Last smoothed value of each run, by folder name; without any nothing is drawn.
    """
    keys = varied(runs)
    named = [key for key in keys if any(not isinstance(run.settings.get(key), (int, float)) for run in runs)]
    split = next(iter(named), None)
    panels: dict[str, list[Run]] = {}
    for run in runs:
        panels.setdefault(str(run.settings.get(split)) if split else "", []).append(run)
    figure = Figure(figsize=(4.6 * len(panels) + 0.6, 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    last: dict[str, float] = {}
    rest = [key for key in keys if key != split]
    for axis, (title, group) in zip(axes, panels.items()):
        ordered = sorted(group, key=lambda run: [str(run.settings.get(key)).rjust(12) for key in rest])
        colors = colormaps["viridis"](np.linspace(0, 0.85, len(ordered)))
        for run, color in zip(ordered, colors):
            steps, values = scalar(run.folder, name)
            if not len(values):
                continue
            line = smoothed(values)
            last[run.folder.name] = float(line[-1])
            label = ", ".join(f"{key.split('.')[-1]} {run.settings.get(key)}" for key in rest) or run.folder.name
            axis.plot(steps, line, color=color, label=label, marker="." if len(line) < 20 else None)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel(f"{name}, mean over a tenth of the steps")
    if not last:
        return last
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return last
