"""``tools/report.py``: runs as tables, figures and a page."""

import sys
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from ..errors import UserError
from ..escaping import markdown, terminal
from ..files import replacing
from ..reporting.cost import cost_table
from ..reporting.figures import draw_confusion, draw_curves, draw_scores
from ..reporting.page import write_page
from ..reporting.reading import LeftOut
from ..reporting.results import comparable
from ..reporting.run import Run
from ..reporting.runs import describe_unfinished, find_runs
from ..reporting.six_folds import six_folds
from ..reporting.tables import class_tables, comparisons, published_tables

# The first line of report.tex.
PACKAGES = "% Needs \\usepackage{booktabs}.\n\n"
# Column of history.csv, and title and file of its figure.
CURVES = (
    ("train_loss", "Training loss", "report-loss.png"),
    ("validation_loss", "Validation loss", "report-validation-loss.png"),
    ("mIoU", "Validation mIoU", "report-miou.png"),
)


def report(config: DictConfig) -> None:
    """Write tables and figures of all runs below ``runs`` to the terminal and, as files, into ``output``.

    The files are HTML, Markdown, CSV and LaTeX, and for each figure PNG, PDF and SVG. What cannot be read of a run is
    left out, and listed with the reason.

    Raises:
        UserError: there are no runs.
    """
    if config.runs is None:
        raise UserError("runs is not set: give runs=DIR, a folder of run directories")
    left_out = LeftOut()
    runs, unfinished = find_runs(config.runs, left_out)
    folder, palette = Path(config.output or config.runs), config.get("palette") or "screen"
    tables = [*comparisons(runs), *six_folds(runs), *class_tables(runs)]
    if runs:
        tables.append(cost_table(runs, left_out))
    tables += published_tables(runs)
    # Redirected output has no width of its own: wide tables must not be cut to 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 160)
    for table in tables:
        console.print(table.terminal())
    figures, confusions = {}, _draw_confusions(runs, folder, palette)
    if runs:
        draw_scores(runs, folder / "report.png", palette)
        figures["Scores, each panel measured alike"] = folder / "report.png"
        for column, title, file in CURVES:
            if draw_curves(runs, folder / file, left_out, column, palette):
                figures[f"{title} over steps"] = folder / file
    write_page(folder / "report.html", runs, unfinished, tables, figures, left_out)
    text = "# Report\n\n" + "".join(table.markdown() for table in tables)
    if unfinished:
        states = describe_unfinished(unfinished, left_out)
        console.print(terminal(f"{len(unfinished)} unfinished: {', '.join(states)}"))
        text += f"\n{len(unfinished)} unfinished:\n\n" + "".join(f"- {markdown(state)}\n" for state in states)
    if left_out.reasons:
        text += "\nLeft out:\n\n" + "".join(f"- {markdown(reason)}\n" for reason in left_out.reasons)
    _write(folder / "report.md", text)
    _write(folder / "report.tex", PACKAGES + "\n".join(table.latex() for table in tables))
    names = [table.file for table in tables]
    numbered = iter(["report.csv", *(f"report-{number}.csv" for number in range(1, len(tables)))])
    for table in tables:
        _write(folder / (f"report-{table.file}.csv" if table.file else next(numbered)), table.csv())
    drawn = [f"{file.name}, .pdf, .svg" for file in sorted([*figures.values(), *confusions])]
    written = ["report.html", ".md", ".tex", ".csv", *(f"report-{name}.csv" for name in names if name), *drawn]
    console.print(terminal(f"Written: {folder}/{', '.join(written)}"))


def _draw_confusions(runs: list[Run], folder: Path, palette: str) -> list[Path]:
    """Draw the confusion matrix of the network with the highest mIoU on each rooms, and return the files."""
    files = []
    for number, ((data, *_), found) in enumerate(comparable(runs).items()):
        best = max(found, key=lambda result: result.order)
        files.append(folder / ("report-confusion.png" if number == 0 else f"report-confusion-{number}.png"))
        draw_confusion(best, data, files[-1], palette)
    return files


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
