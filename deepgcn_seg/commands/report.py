"""``tools/report.py``: runs as tables, figures and a page."""

import sys
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from ..errors import UserError
from ..escaping import markdown, one_line, terminal
from ..files import replacing
from ..reporting.figures import draw_curves, draw_scores
from ..reporting.page import write_page
from ..reporting.published import AREA_5, SIX_FOLD
from ..reporting.reading import LeftOut
from ..reporting.runs import find_runs
from ..reporting.tables import comparisons, published_table, six_folds

# Column of history.csv, and title and file of its figure.
CURVES = (
    ("train_loss", "Training loss", "report-loss.png"),
    ("validation_loss", "Validation loss", "report-validation-loss.png"),
    ("mIoU", "Validation mIoU", "report-miou.png"),
)


def report(config: DictConfig) -> None:
    """Write tables and figures of all runs below ``runs`` to the terminal and, as files, into ``output``.

    The files are HTML, Markdown, CSV, LaTeX and PNG. What cannot be read of a run is left out, and listed with the
    reason.

    Raises:
        UserError: there are no runs.
    """
    if config.runs is None:
        raise UserError("runs is not set: give runs=DIR, a folder of run directories")
    left_out = LeftOut()
    runs, unfinished = find_runs(config.runs, left_out)
    folder = Path(config.output or config.runs)
    folds = six_folds(runs)
    tables = [*comparisons(runs), *folds]
    if any(run.test.dataset == "S3DIS" for run in runs):
        tables.append(published_table("Published, S3DIS Area 5 (not comparable with six-fold)", AREA_5))
        if any("six-fold, pooled" in table.header for table in folds):
            tables.append(published_table("Published, S3DIS six-fold (not comparable with Area 5)", SIX_FOLD))
    # Redirected output has no width of its own: wide tables must not be cut to 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 160)
    for table in tables:
        console.print(table.terminal())
    figures = {}
    if runs:
        draw_scores(runs, folder / "report.png")
        figures["Scores, each panel measured alike"] = folder / "report.png"
        for column, title, file in CURVES:
            if draw_curves(runs, folder / file, left_out, column):
                figures[f"{title} over steps"] = folder / file
    write_page(folder / "report.html", runs, unfinished, tables, figures, left_out)
    text = "# Report\n\n" + "".join(table.markdown() for table in tables)
    if unfinished:
        note = f"{len(unfinished)} unfinished: " + ", ".join(one_line(path) for path in unfinished)
        console.print(terminal(note))
        text += markdown(note) + "\n"
    if left_out.reasons:
        text += "\nLeft out:\n\n" + "".join(f"- {markdown(reason)}\n" for reason in left_out.reasons)
    _write(folder / "report.md", text)
    _write(folder / "report.tex", "\n".join(table.latex() for table in tables))
    for number, table in enumerate(tables):
        _write(folder / ("report.csv" if number == 0 else f"report-{number}.csv"), table.csv())
    written = ["report.html", ".md", ".tex", ".csv", *sorted(file.name for file in figures.values())]
    console.print(terminal(f"Written: {folder}/{', '.join(written)}"))


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
