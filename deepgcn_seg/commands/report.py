"""Runs into tables, files and a figure: what ``tools/report.py`` does."""

import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from omegaconf import DictConfig
from rich.console import Console

from ..errors import UserError
from ..escaping import figure as escaped
from ..escaping import markdown, one_line, terminal
from ..files import replacing
from ..reporting.curves import draw_curves
from ..reporting.page import write_page
from ..reporting.published import AREA_5, SIX_FOLD, Published
from ..reporting.run_files import LeftOut
from ..reporting.runs import Report, Run, comparisons, find_runs, six_folds, varied


def report(config: DictConfig) -> None:
    """Tables of all runs below ``runs``, on the terminal and in ``output`` (HTML, Markdown, CSV, LaTeX, PNG).

    What of a run cannot be read is left out, and listed with the reason.

    Raises:
        UserError: no runs.
    """
    if config.runs is None:
        raise UserError("runs is not set: give runs=DIR, a folder of run directories")
    left_out = LeftOut()
    runs, unfinished = find_runs(config.runs, left_out)
    folder = Path(config.output or config.runs)
    folds = six_folds(runs)
    reports = [*comparisons(runs), *folds]
    if any(run.test.dataset == "S3DIS" for run in runs):
        reports.append(_published("Published, S3DIS Area 5 (not comparable with six-fold)", AREA_5))
        if any("six-fold, pooled" in table.header for table in folds):
            reports.append(_published("Published, S3DIS six-fold (not comparable with Area 5)", SIX_FOLD))
    # Redirected output has no width of its own: wide tables must not be cut to 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 160)
    for table in reports:
        console.print(table.terminal())
    figures = {}
    if runs:
        draw(runs, folder / "report.png")
        figures["Scores, each panel measured alike"] = folder / "report.png"
        for name, file in (("train/loss", "report-loss.png"), ("validation/mIoU", "report-miou.png")):
            if draw_curves(runs, folder / file, left_out, name):
                figures[f"{name} over steps"] = folder / file
    write_page(folder / "report.html", runs, unfinished, reports, figures, left_out)
    text = "# Report\n\n" + "".join(table.markdown() for table in reports)
    if unfinished:
        note = f"{len(unfinished)} unfinished: " + ", ".join(one_line(path) for path in unfinished)
        console.print(terminal(note))
        text += markdown(note) + "\n"
    if left_out.reasons:
        text += "\nLeft out:\n\n" + "".join(f"- {markdown(reason)}\n" for reason in left_out.reasons)
    _write(folder / "report.md", text)
    _write(folder / "report.tex", "\n".join(table.latex() for table in reports))
    for number, table in enumerate(reports):
        _write(folder / ("report.csv" if number == 0 else f"report-{number}.csv"), table.csv())
    written = ["report.html", ".md", ".tex", ".csv", *sorted(file.name for file in figures.values())]
    console.print(terminal(f"Written: {folder}/{', '.join(written)}"))


def _published(title: str, rows: Sequence[Published]) -> Report:
    cells = [[r.method, "-" if r.oa is None else f"{r.oa}", f"{r.miou}", r.source] for r in rows]
    return Report(title, ["method", "OA", "mIoU", "source"], cells, ["As published; protocols differ."])


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def draw(runs: Sequence[Run], path: Path) -> None:
    """mIoU of every run as bars, one panel for each data and protocol; runs measured differently
    never share a panel."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault(run.measured, []).append(run)
    height = sum(len(group) for group in groups.values())
    figure = Figure(figsize=(9, 1.2 * len(groups) + 0.35 * height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
    for axis, ((data, protocol), group) in zip(axes, groups.items()):
        keys = varied(group)
        names = [", ".join(f"{key}={run.settings.get(key, '-')}" for key in keys) or run.name for run in group]
        values = [100 * (run.test.mIoU or 0) for run in group]
        bars = axis.barh(range(len(group)), values, color="#4878a8")
        axis.bar_label(bars, fmt="%.1f", padding=3)
        axis.set_yticks(range(len(group)), map(escaped, names))
        axis.invert_yaxis()
        axis.set_xlim(0, 100)
        axis.set_xlabel(escaped(f"mIoU (%), {protocol}"))
        axis.set_title(escaped(data), fontsize=10)
    with replacing(path) as temporary:
        # Of thousands of runs, no taller than the library can draw.
        figure.savefig(temporary, format="png", dpi=min(110, 2**15 / figure.get_figheight()))
