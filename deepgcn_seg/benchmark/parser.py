"""``measure=parser``: the parser of raw S3DIS files beside ``numpy.loadtxt`` and pandas, in turn on one thread."""

import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from ..data.annotation_file import read_points
from .output import publish, spread

log = logging.getLogger(__name__)


def measure_parser(config: DictConfig) -> None:
    """Measure the rows a second of each parser on an annotation file of ``config.rows`` rows."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-30, 30, (config.rows, 3)), rng.integers(0, 256, (config.rows, 3))
    speeds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "wall_1.txt"
        np.savetxt(file, np.column_stack(points), fmt=["%.3f"] * 3 + ["%d"] * 3)
        parsers = _parsers(file)
        read_points(file, [])
        for _ in range(config.repeats):
            for name, parse in parsers.items():
                started = time.perf_counter()
                rows = parse()
                speeds.setdefault(name, []).append(config.rows / (time.perf_counter() - started))
                assert rows.shape == (config.rows, 6)
    slowest = statistics.median(speeds["numpy.loadtxt"])
    table = []
    for name, values in speeds.items():
        middle = statistics.median(values)
        table.append([name, spread([value / 1e6 for value in values], 2), f"{middle / slowest:.1f}"])
    publish(
        "parser",
        f"{config.rows:,} rows",
        ["parser", "million rows/s", "times numpy.loadtxt"],
        table,
        f"one thread; medians of {config.repeats}, (lowest to highest)",
        {"rows": config.rows, "rows_per_second": speeds},
    )


def _parsers(file: Path) -> dict[str, Callable[[], np.ndarray]]:
    parsers: dict[str, Callable[[], np.ndarray]] = {"numpy.loadtxt": lambda: np.loadtxt(file)}
    try:
        import pandas
    except ImportError:
        log.info("pandas is not installed, so it is not in the table")
    else:
        parsers["pandas.read_csv"] = lambda: pandas.read_csv(file, sep=" ", header=None).to_numpy()
    return {**parsers, "deepgcn_seg": lambda: read_points(file, [])}
