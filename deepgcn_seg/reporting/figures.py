"""Figures of several runs: their scores as bars, and their training curves."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..escaping import figure as escaped
from ..files import replacing
from .reading import LeftOut, read_curve
from .runs import Run, varied

# A setting with more values than this is told apart by colour, not by a panel for each value.
MAX_PANELS = 12


def smoothed(values: np.ndarray, share: float = 0.1) -> np.ndarray:
    """Return running means over a window of ``share`` of all values, shorter at the start."""
    window = max(int(share * len(values)), 1)
    total = np.concatenate([[0], np.cumsum(values)])
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(stop - window, 0)
    return (total[stop] - total[start]) / (stop - start)


def draw_curves(runs: Sequence[Run], path: Path, left_out: LeftOut, column: str = "train_loss") -> dict[str, float]:
    """Draw a curve of all runs over steps, smoothed, with a line for each run.

    There is a panel for each value of the first setting that differs and is not a number, such as the backbone.

    Args:
        left_out: runs whose curves cannot be read are added to it. column: of ``history.csv``.

    Returns:
        The last smoothed value of each run, by folder name. If there is none, nothing is drawn.
    """
    keys = varied(runs)
    settings = {key: [run.settings.get(key) for run in runs] for key in keys}
    named = [key for key in keys if not all(isinstance(value, (int, float)) for value in settings[key])]
    split = next((key for key in named if len(set(map(str, settings[key]))) <= MAX_PANELS), None)
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
            steps = values = np.empty(0)
            with left_out.noting():
                steps, values = read_curve(run.folder, column)
            if not len(values):
                continue
            line = smoothed(values)
            last[run.name] = float(line[-1])
            label = ", ".join(f"{key.split('.')[-1]} {run.settings.get(key)}" for key in rest) or run.name
            axis.plot(steps, line, color=color, label=escaped(label), marker="." if len(line) < 20 else None)
        axis.set_title(escaped(title))
        axis.set_xlabel("step")
        if axis.lines:
            axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel(f"{column}, mean over a tenth of the steps")
    if not last:
        return last
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return last


def draw_scores(runs: Sequence[Run], path: Path) -> None:
    """Draw the mIoU of every run as a bar, in a panel for each data and protocol: those of two cannot be compared."""
    panels: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        panels.setdefault(run.measured, []).append(run)
    height = sum(len(members) for members in panels.values())
    figure = Figure(figsize=(9, 1.2 * len(panels) + 0.35 * height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, ((data, protocol), members) in zip(axes, panels.items()):
        keys = varied(members)
        names = [", ".join(f"{key}={run.settings.get(key, '-')}" for key in keys) or run.name for run in members]
        values = [100 * (run.test.mIoU or 0) for run in members]
        bars = axis.barh(range(len(members)), values, color="#4878a8")
        axis.bar_label(bars, fmt="%.1f", padding=3)
        axis.set_yticks(range(len(members)), map(escaped, names))
        axis.invert_yaxis()
        axis.set_xlim(0, 100)
        axis.set_xlabel(escaped(f"mIoU (%), {protocol}"))
        axis.set_title(escaped(data), fontsize=10)
    with replacing(path) as temporary:
        # Lower the resolution for thousands of runs, because Matplotlib cannot draw a taller picture.
        figure.savefig(temporary, format="png", dpi=min(110, 2**15 / figure.get_figheight()))
