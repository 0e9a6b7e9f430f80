"""The output of every measurement: a table on the terminal, and JSON, Markdown and a figure in the run directory."""

import logging
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from ..files import replacing, write_json
from ..provenance import versions

log = logging.getLogger(__name__)


def machine(device: torch.device) -> str:
    """Return processor, threads and GPU, for captions."""
    card = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {device}{card}"


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Return the median, and in brackets the lowest and highest value."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def publish(
    name: str,
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    caption: str,
    report: dict[str, Any],
    figure: Figure | None = None,
) -> None:
    """Print the table, and write ``name.json``, ``name.md`` and, with a figure, ``name.png``."""
    table = Table(title=title, caption=caption)
    for column in header:
        table.add_column(column, justify="left" if column == header[0] else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    folder = Path(HydraConfig.get().runtime.output_dir)
    write_json(folder / f"{name}.json", {**report, "measured": caption, "versions": versions()})
    with replacing(folder / f"{name}.md") as temporary:
        cells = [header, ["---:"] * len(header), *rows]
        lines = "".join("| " + " | ".join(line) + " |\n" for line in cells)
        temporary.write_text(f"{title}\n\n{lines}\n{caption}\n", "utf-8")
    if figure is not None:
        with replacing(folder / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=110)
    log.info("Written: %s/%s.json, .md%s", folder, name, "" if figure is None else ", .png")
