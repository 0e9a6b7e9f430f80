"""What networks cost: parameters and FLOPs, and time and memory of their training and scoring."""

from collections.abc import Sequence
from typing import cast

import torch

from ..errors import UserError
from ..model.deepgcn import DeepGCN
from ..model.description import Network, OwnPart
from ..model.from_description import build_network
from ..model.summary import summarize
from ..settings import three_digits
from .reading import LeftOut, read_device
from .result_table import Column, ResultTable, Spread
from .results import distinct, experiments
from .run import Run

# Layers and points of the networks whose FLOPs are counted. A config may ask for far more, which takes minutes.
MAX_DEPTH, MAX_POINTS = 1000, 2**17


def cost_table(runs: Sequence[Run], left_out: LeftOut) -> ResultTable:
    """Return the table of what the runs' networks cost, with means and standard deviations over their runs.

    Args:
        left_out: runs whose ``run.json`` cannot be read are added to it.
    """
    columns = [
        Column("network"),
        Column("runs"),
        Column("parameters", form=","),
        Column("points a block", form=","),
        Column("GFLOP", form=three_digits),
        Column("training", "min", three_digits),
        Column("step", "ms", ",.0f"),
        Column("peak memory", "MB", ",.0f"),
        Column("scoring", "points/s", ",.0f"),
        Column("device"),
    ]
    rows = []
    for experiment in experiments(runs):
        by_device: dict[str, list[Run]] = {}
        for run in experiment.runs:
            device = "-"
            with left_out.noting():
                device = read_device(run.folder)
            by_device.setdefault(device, []).append(run)
        rows += [[experiment.label, *_cost(distinct(group)), device] for device, group in by_device.items()]
    notes = [
        "GFLOP: of the forward pass of one block, counted from the config; - for a network of one's own. "
        "Training: time in steps, without validation.",
    ]
    if any(isinstance(cell, Spread) and cell.deviation is not None for row in rows for cell in row):
        notes.append("Means +- standard deviations over the runs of each network, which differ in seed and fold.")
    return ResultTable("Cost", columns, rows, notes, "cost")


def _cost(runs: Sequence[Run]) -> list:
    """Return the cells of a row between its name and its device."""
    first, training = runs[0], [run.metrics.training for run in runs]
    points = first.settings.get("points")
    points = points if isinstance(points, int) and 0 < points <= MAX_POINTS else None
    flops = None if points is None else count_flops(first.network, points)
    timed = [(each.seconds, each.steps) for each in training if each.seconds is not None]
    return [
        len(runs),
        first.metrics.parameters,
        points,
        None if flops is None else flops / 1e9,
        Spread.of([seconds / 60 for seconds, _ in timed]),
        Spread.of([1000 * seconds / steps for seconds, steps in timed if steps]),
        Spread.of([each.peak_memory_mb for each in training]),
        Spread.of([run.test.points_per_second for run in runs]),
    ]


def count_flops(network: Network | OwnPart | None, points: int) -> int | None:
    """Return the FLOPs of a network's forward pass of one block (:class:`~deepgcn_seg.model.summary.Summary`).

    The network is built without memory for its weights.

    Returns:
        None if it cannot be built from this package's parts, or is deeper than :data:`MAX_DEPTH`.
    """
    if not isinstance(network, Network) or network.has_own_parts or network.depth > MAX_DEPTH:
        return None
    try:
        with torch.device("meta"):
            return summarize(cast(DeepGCN, build_network(network)), points).flops
    # Arguments that are sound one by one may not fit one another, or need an extra that is not installed.
    except (UserError, ValueError, RuntimeError, ImportError):
        return None
