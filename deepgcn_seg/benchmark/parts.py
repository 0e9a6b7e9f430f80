"""``measure=parts``: the time of each part of a pass, and how far it is from what the machine could do.

The roofline: a part that does F operations and moves B bytes takes at least max(F / peak, B / bandwidth). Peak and
bandwidth are measured on this machine. Bytes count every array once, read or written. FLOPs are those of matrix
products and, for aggregation, of edges. The backward pass of a linear map counts as two forward passes.
"""

import statistics
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig

from ..device import device as device_of
from ..progress import Meter
from .build import build, described, network_settings
from .output import machine, publish
from .profiling import PARTS, seconds_by_kind, seconds_by_part
from .timing import TASKS, batch, passes, seconds


def measure_parts(config: DictConfig) -> None:
    """Measure each part of a step and of an inference, beside the roofline."""
    settings, device = network_settings(config), device_of(config.device)
    peak, bandwidth = peak_flops(device), peak_bandwidth(device)
    rows, report = [], []
    cases = [(task, size) for size in config.batch_sizes for task in TASKS]
    with Meter("Measuring", len(cases) * config.repeats) as meter:
        for task, size in cases:
            model, data = build("ours", settings, device), batch(size, config.points, device)
            (action,) = passes({"ours": model}, task, data).values()
            action()
            runs, walls = [], []
            for _ in range(config.repeats):
                walls.append(seconds(action))
                runs.append(seconds_by_part(seconds_by_kind(action, device)))
                meter.advance(f"{task}, B = {size}")
            least = work(settings, task, size, config.points)
            for part in PARTS:
                spent = statistics.median(times[part] for times in runs)
                flops, moved = least.get(part, (0.0, 0.0))
                bound = max(flops / peak, moved / bandwidth)
                rows.append(
                    [
                        f"{task}, B = {size}" if part == PARTS[0] else "",
                        part,
                        f"{1e3 * spent:.1f}",
                        f"{flops / 1e9:.2f}" if flops else "-",
                        f"{moved / 2**20:.0f}" if moved else "-",
                        f"{1e3 * bound:.1f}" if bound else "-",
                        f"{spent / bound:.1f}" if bound else "-",
                    ]
                )
                facts = {"task": task, "batch": size, "part": part, "seconds": spent, "least_seconds": bound}
                report.append({**facts, "flops": flops, "bytes": moved})
            rows.append(["", "whole pass", f"{1e3 * statistics.median(walls):.1f}", "", "", "", ""])
    publish(
        "parts",
        f"{described(settings)}, {config.points} points",
        ["pass", "part", "ms", "GFLOP", "MiB moved", "least ms", "times least"],
        rows,
        f"{machine(device)}: {peak / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.1f} GB/s; medians of {config.repeats}",
        {"settings": settings, "points": config.points, "peak_flops": peak, "bandwidth": bandwidth, "rows": report},
        _figure(report),
    )


def peak_flops(device: torch.device, size: int = 2048, dtype: torch.dtype = torch.float32) -> float:
    """Return the FLOP/s of a product of square matrices, the best of six."""
    a, b = torch.rand(2, size, size, device=device, dtype=dtype).unbind(0)
    return 2 * size**3 / min(seconds(_product, a, b) for _ in range(6))


def _product(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.mm(a, b)
    if a.is_cuda:
        torch.cuda.synchronize(a.device)


def peak_bandwidth(device: torch.device, megabytes: int = 256) -> float:
    """Return the bytes/s that a copy reads and writes, the best of six."""
    source = torch.ones(megabytes * 2**18, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        if source.is_cuda:
            torch.cuda.synchronize(device)

    return 2 * source.numel() * 4 / min(seconds(copy) for _ in range(6))


def work(settings: dict[str, Any], task: str, size: int, points: int) -> dict[str, tuple[float, float]]:
    """Return the least FLOPs and bytes of each of :data:`.profiling.PARTS` that can be counted."""
    depth, channels, k = settings["depth"], settings["channels"], settings["k"]
    dense, edge, training = settings["connection"] == "dense", settings["conv"] == "edge", task == "step"
    widths = [9] + [channels * (i + 1 if dense else 1) for i in range(depth - 1)]
    searched = [3, *widths[1:]]
    nodes = size * points
    search = (
        # Each unordered pair of points takes a multiplication and an addition for each channel.
        sum(nodes * points * (width + 1) for width in searched),
        sum(nodes * (4 * width + 8 * k) for width in searched),
    )
    # A step adds moments (EdgeConv) and two backward passes: more visits to each edge.
    visits = 1 if not training else 4 if edge else 2
    aggregated = [channels] * depth if edge else widths
    aggregation = (
        sum(visits * nodes * k * width for width in aggregated),
        sum(visits * nodes * (4 * 2 * width + 8 * k) for width in aggregated),
    )
    joint = widths[-1] + channels if dense else channels * depth
    maps = [(2 * width, channels) for width in widths]
    maps += [(joint, 1024), (joint, 512), (512, 256), (256, 13)]
    passes = 3 if training else 1
    linear = (
        float(sum(passes * 2 * nodes * a * b for a, b in maps)),
        float(sum(passes * 4 * (nodes * (a + b) + a * b) for a, b in maps)),
    )
    return {"neighbour search": search, "edge aggregation": aggregation, "linear maps": linear}


def _figure(rows: Sequence[dict[str, Any]]) -> Figure:
    cases = list(dict.fromkeys((row["task"], row["batch"]) for row in rows))
    figure = Figure(figsize=(8, 0.7 * len(cases) + 1.4), layout="constrained")
    axis = figure.subplots()
    left = [0.0] * len(cases)
    for part in PARTS:
        values = [1e3 * row["seconds"] for row in rows if row["part"] == part]
        axis.barh(range(len(cases)), values, left=left, label=part)
        left = [a + b for a, b in zip(left, values)]
    axis.set_yticks(range(len(cases)), [f"{task}, B = {size}" for task, size in cases])
    axis.invert_yaxis()
    axis.set_xlabel("ms")
    axis.legend(frameon=False, fontsize=8)
    return figure
