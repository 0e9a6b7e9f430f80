"""Figures of several runs: their scores as bars, their training curves, and confusion matrices.

Each is written as PNG, as PDF and as SVG.
"""

import logging
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..escaping import figure as escaped
from ..files import replacing
from .naming import kind_of
from .reading import LeftOut, read_curve
from .results import Experiment, Result, by_repeat, comparable, distinct, experiments
from .run import Run

FORMATS = (".png", ".pdf", ".svg")
# Lines that one can tell apart in one set of axes; of more networks, those with the highest mIoU are drawn.
MAX_LINES = 16
# Classes whose shares can be read in a confusion matrix.
MAX_WRITTEN = 25
# Column of history.csv -> name and factor of its values in a figure.
CURVES = {
    "train_loss": ("Training loss", 1),
    "validation_loss": ("Validation loss", 1),
    "mIoU": ("Validation mIoU (%)", 100),
}
_DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
_MARKERS = "osD^vPX*"
# A hue for each kind of network, whose shades are its lines; all have a lightness that white paper shows.
_HUES = ("Blues", "Oranges", "Greens", "Purples", "Greys")


def smoothed(values: np.ndarray, share: float = 0.1) -> np.ndarray:
    """Return running means over a window of ``share`` of all values, shorter at the start."""
    window = max(int(share * len(values)), 1)
    total = np.concatenate([[0], np.cumsum(values)])
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(stop - window, 0)
    return (total[stop] - total[start]) / (stop - start)


def draw_curves(
    runs: Sequence[Run], path: Path, left_out: LeftOut, column: str = "train_loss", palette: str = "screen"
) -> dict[str, float]:
    """Draw a curve over steps, with a line for each network in one set of axes; axes for each data.

    A line is the mean over runs that differ in seed and fold alone, each smoothed; a band spans from the lowest of them
    to the highest. If a seed was run several times with different scores, each run has a line.

    Args:
        path: of the PNG; files with the other endings are written beside it.
        left_out: runs whose curves cannot be read are added to it. column: a key of :data:`CURVES`.
        palette: ``screen``, or ``print`` for lines that differ in grey print too.

    Returns:
        The last smoothed value of each run, by folder name. If there is none, nothing is drawn.
    """
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.data].append(run)
    last: dict[str, float] = {}
    panels = {}
    for data, group in groups.items():
        found = {each.label: (each, _read_curves(each, column, left_out, last)) for each in experiments(group)}
        if lines := {label: (each, curves) for label, (each, curves) in found.items() if curves}:
            panels[data] = lines
    if not panels:
        return last
    heights = [max(3.4, 0.6 + 0.19 * min(len(lines), MAX_LINES)) for lines in panels.values()]
    width = 5.8 + _width([label for lines in panels.values() for label in lines], 8)
    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (data, lines) in zip(axes, panels.items()):
        _draw_lines(axis, lines, column, palette)
        if len(panels) > 1:
            axis.set_title(escaped(data), fontsize=9, loc="left")
    save(figure, path)
    return last


def _width(labels: Sequence[str], size: int) -> float:
    """Return about the width in inches of the longest of some labels, for letters of ``size`` points."""
    return max(map(len, labels)) * 0.56 * size / 72


def _read_curves(
    experiment: Experiment, column: str, left_out: LeftOut, last: dict[str, float]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return steps and smoothed values of the runs of an experiment that have any, and add their last values.

    A run that repeats another one, with the same scores, is left out.
    """
    curves = []
    for run in distinct(experiment.runs):
        steps = values = np.empty(0)
        with left_out.noting():
            steps, values = read_curve(run.folder, column)
        if len(values):
            curves.append((steps, smoothed(values)))
            last[run.name] = float(curves[-1][1][-1])
    return curves


def _draw_lines(axis: Axes, lines: dict[str, tuple[Experiment, list]], column: str, palette: str) -> None:
    title, factor = CURVES[column]
    score = lambda label: max(run.order for run in lines[label][0].runs)
    drawn = sorted(lines, key=score, reverse=True)[:MAX_LINES]
    styles = line_styles([kind_of(lines[label][0].runs[0]) for label in lines if label in drawn], palette)
    for (label, (each, curves)), style in zip(((k, v) for k, v in lines.items() if k in drawn), styles):
        alike = len(distinct(each.runs)) == len(by_repeat(each.runs))
        _draw_line(axis, [(steps, factor * values) for steps, values in curves], style, label, alike)
    if column != "mIoU":
        _leave_out_the_start(axis)
    axis.set_xlabel("Step")
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.set_ylabel(title)
    axis.margins(x=0.02)
    axis.grid(color="0.92")
    axis.set_axisbelow(True)
    left = f"{len(lines) - len(drawn)} more with a lower mIoU are not drawn" if len(lines) > len(drawn) else None
    axis.legend(
        frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, title=left,
        title_fontsize=8, alignment="left",
    )  # fmt: skip


def _draw_line(
    axis: Axes, curves: list[tuple[np.ndarray, np.ndarray]], style: dict[str, Any], label: str, mean: bool
) -> None:
    """Draw the mean of curves, and a band from the lowest to the highest.

    If they share no step, or not ``mean``, each is drawn by itself.
    """
    name = escaped(label if len(curves) == 1 else f"{label} ({len(curves)} runs)", 110)
    if mean and len(curves) > 1 and max(steps[0] for steps, _ in curves) < min(steps[-1] for steps, _ in curves):
        steps, values = _on_common_steps(curves)
        axis.fill_between(steps, values.min(0), values.max(0), color=style["color"], alpha=0.15, linewidth=0)
        curves = [(steps, values.mean(0))]
    for number, (steps, values) in enumerate(curves):
        few = len(steps) < 20
        marked: dict[str, Any] = {"marker": "."} if few and "marker" not in style else {}
        every = 1 if few else max(len(steps) // 8, 1)
        axis.plot(steps, values, label="" if number else name, markevery=every, **style, **marked)


def _on_common_steps(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps (S,) that all curves cover and their values there (R, S), interpolated between their points."""
    first, end = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    every = np.unique(np.concatenate([steps for steps, _ in curves]))
    common = every[(every >= first) & (every <= end)]
    return common, np.stack([np.interp(common, steps, values) for steps, values in curves])


def _leave_out_the_start(axis: Axes) -> None:
    """End an axis of losses above the values that follow the first tenth of the steps; losses before are far higher."""
    points = [np.asarray(line.get_xydata()) for line in axis.lines]
    start = max(line[-1, 0] for line in points) / 10
    later = [line[line[:, 0] >= start, 1] for line in points]
    values = np.concatenate([part if len(part) else line[:, 1] for part, line in zip(later, points)])
    margin = 0.05 * max(np.ptp(values), 1e-6)
    axis.set_ylim(values.min() - margin, values.max() + margin)


def line_styles(kinds: Sequence[str], palette: str) -> list[dict[str, Any]]:
    """Return a colour, dash and marker for each line of a figure; no two are the same.

    Args:
        kinds: of the line's network; of several kinds, each has a hue of its own.
        palette: ``screen``, or ``print``: lightness, dash and marker tell lines apart without hues.
    """
    names = list(dict.fromkeys(kinds))
    places = [kinds[:i].count(kind) for i, kind in enumerate(kinds)]
    if palette == "print":
        shades = colormaps["cividis"](np.linspace(0, 0.8, len(kinds)))
        return [
            {"color": shade, "linestyle": _DASHES[i % 4], "marker": _MARKERS[i % 8], "markersize": 4}
            for i, shade in enumerate(shades)
        ]
    if 1 < len(names) <= len(_HUES):
        shade = lambda kind, place: 0.9 - 0.5 * place / max(kinds.count(kind) - 1, 1)
        colors = [colormaps[_HUES[names.index(kind)]](shade(kind, place)) for kind, place in zip(kinds, places)]
        return [{"color": color, "linestyle": _DASHES[names.index(kind) % 4]} for color, kind in zip(colors, kinds)]
    return [{"color": colormaps["tab10"](i % 10), "linestyle": _DASHES[i // 10]} for i in range(len(kinds))]


def draw_scores(runs: Sequence[Run], path: Path, palette: str = "screen") -> None:
    """Draw the mIoU of every network as a bar, in axes for each data, protocol and rooms: only these can be compared.

    A bar is the mean over seeds, with the standard deviation as a line and each seed as a point. A network without a
    mIoU has a dash. Axes begin below the lowest value, not at 0.

    Args:
        path: of the PNG; files with the other endings are written beside it. palette: ``screen`` or ``print``.
    """
    panels = comparable(runs)
    bars = [len(found) for found in panels.values()]
    width = 5.2 + _width([each.label for found in panels.values() for each in found], 9)
    figure = Figure(figsize=(width, sum(1.2 + 0.28 * count for count in bars)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[0.4 + count for count in bars])[:, 0]
    for axis, ((data, protocol, rooms), found) in zip(axes, panels.items()):
        _draw_bars(axis, found, "0.7" if palette == "print" else "#4878a8")
        axis.set_xlabel("mIoU (%)")
        axis.set_title(f"{escaped(f'{data}, {rooms}', 75)}\n{escaped(protocol, 75)}", fontsize=9, loc="left")
    save(figure, path)


def _draw_bars(axis: Axes, found: Sequence[Result], color: str) -> None:
    ends = [end for place, each in enumerate(found) for end in _draw_bar(axis, place, each, color)]
    left, right = _limits(min(ends), max(ends)) if ends else (0, 100)
    for place, each in enumerate(found):
        if each.miou is None:
            axis.annotate("-", (left, place), (5, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set_yticks(range(len(found)), [escaped(each.label) for each in found], fontsize=9)
    axis.set_ylim(len(found) - 0.3, -0.7)
    axis.set_xlim(left, right)
    axis.grid(axis="x", color="0.9", zorder=0)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_bar(axis: Axes, place: int, result: Result, color: str) -> list[float]:
    """Draw a bar with its text, and return its lowest and highest value; nothing for a result without a mIoU."""
    spread, seeds = result.miou, result.mious
    if spread is None:
        return []
    deviation = spread.deviation or 0
    axis.barh(place, spread.mean, color=color, height=0.7, zorder=2)
    if len(seeds) > 1:
        axis.errorbar(spread.mean, place, xerr=deviation, fmt="none", color="k", capsize=3, zorder=4)
        axis.plot(seeds, [place] * len(seeds), ".", color="k", markersize=4, alpha=0.6, zorder=3)
    lowest, highest = min(spread.mean - deviation, *seeds), max(spread.mean + deviation, *seeds)
    text = f"{spread.mean:.1f}" + ("" if spread.deviation is None else f" ± {spread.deviation:.1f}")
    axis.annotate(text, (highest, place), (5, 0), textcoords="offset points", va="center", fontsize=8)
    return [lowest, highest]


def _limits(lowest: float, highest: float) -> tuple[float, float]:
    """Return the ends of an axis in percent: a little beyond the values, with room for a number behind the bars."""
    span = max(highest - lowest, 5)
    low = max(lowest - 0.35 * span, 0)
    return 5 * np.floor(low / 5) if span > 20 else np.floor(low), highest + 0.22 * span


def draw_confusion(result: Result, data: str, path: Path, palette: str = "screen") -> None:
    """Draw a confusion matrix: the share of each true class (rows) that was labelled as each class (columns).

    The row of a class that the rooms do not have is grey and says so.

    Args:
        data: what the rooms are of, for the title.
        path: of the PNG; files with the other endings are written beside it. palette: ``screen`` or ``print``.
    """
    counts = result.confusion.double().numpy()
    points = counts.sum(1, keepdims=True)
    shares = np.where(points > 0, 100 * counts / np.maximum(points, 1), np.nan)
    number = len(result.classes)
    side = min(max(0.42 * number, 2.4), 40)
    figure = Figure(figsize=(side + 2.4, side + 1.6), layout="constrained")
    axis = figure.subplots()
    colors = colormaps["Greys" if palette == "print" else "Blues"].with_extremes(bad="0.93")
    image = axis.imshow(shares, cmap=colors, vmin=0, vmax=100)
    figure.colorbar(image, ax=axis, shrink=0.8, label="Share of the true class (%)")
    names = [escaped(name, 40) for name in result.classes]
    axis.set_xticks(range(number), names, rotation=90)
    axis.set_yticks(range(number), names)
    axis.set_xlabel("Prediction")
    axis.set_ylabel("Truth")
    for row in np.flatnonzero(points == 0).tolist():
        axis.text((number - 1) / 2, row, "no points", ha="center", va="center", color="0.4", fontsize=8)
    summed = f", sum over {len(result.scores)} seeds" if len(result.scores) > 1 else ""
    title = [escaped(result.label, 80), f"{escaped(f'{data}, {result.rooms}', 80)}{summed}"]
    # Over the whole figure, in lines that are no longer than it is wide.
    wide = int((side + 2.4) / _width(["x"], 9))
    figure.suptitle("\n".join(line for part in title for line in textwrap.wrap(part, wide)), fontsize=9)
    if number <= MAX_WRITTEN:
        for (row, line), share in np.ndenumerate(shares):
            if share >= 0.5:
                color = "w" if share > 55 else "k"
                axis.text(line, row, f"{share:.0f}", ha="center", va="center", color=color, fontsize=8)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG to ``path``, and as PDF and SVG beside it."""
    # Text stays text, which other programs can find and change; the same figure gives the same file.
    kept: Any = {"svg.fonttype": "none", "svg.hashsalt": "deepgcn_seg", "pdf.fonttype": 42}
    # It logs what it leaves out of each font.
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    for suffix in FORMATS:
        about = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(suffix)
        with replacing(path.with_suffix(suffix)) as temporary, matplotlib.rc_context(kept):
            # Lower the resolution for thousands of runs, because Matplotlib cannot draw a taller picture.
            dpi = min(150, 2**15 / figure.get_figheight())
            figure.savefig(temporary, format=suffix[1:], dpi=dpi, metadata=about)
        # The places of all parts are known now: they are the same in every format.
        figure.set_layout_engine("none")
