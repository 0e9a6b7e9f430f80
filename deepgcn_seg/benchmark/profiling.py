"""The time of a pass by kind of kernel, as PyTorch's profiler sees it.

Names are beginnings of the names of kernels on a GPU, and of operations on a CPU, where an operation of this package
counts with all that it calls.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from ..errors import UserError

# Kind -> beginnings of its names. A kind belongs to one of PARTS, which is its name up to the colon.
KINDS = {
    "neighbour search: split": ("_split",),
    "neighbour search: thresholds": ("_thresholds",),
    "neighbour search: candidates": ("_candidates",),
    "neighbour search: order": ("_select_listed",),
    "neighbour search: rows": ("_make_first_rows", "_search_missed"),
    "neighbour search": ("deepgcn_seg::nearest_ranks",),
    "edge aggregation": ("_extremum", "_moments", "deepgcn_seg::neighbor_extremum", "deepgcn_seg::edge_moments"),
    "linear maps": ("aten::addmm", "aten::mm", "aten::bmm"),
}
OTHER = "norm, activation, sums, copies"
PARTS = (*dict.fromkeys(kind.partition(":")[0] for kind in KINDS), OTHER)
# Parts of the names of cuBLAS's kernels.
PRODUCTS = ("gemm", "gemv", "cutlass", "splitK", "nvjet")


def seconds_by_kind(action: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Return the seconds of each kind of kernel in a call, without the kinds that do not occur.

    Raises:
        UserError: the profiler sees no kernel.
    """
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        action()
        if on_gpu:
            torch.cuda.synchronize(device)
    spent = dict.fromkeys((*KINDS, OTHER), 0.0)
    for event in profiler.key_averages():
        if on_gpu:
            own = event.self_device_time_total
        else:
            ours = event.key.startswith("deepgcn_seg::")
            own = event.cpu_time_total if ours else event.self_cpu_time_total
        spent[_kind_of(event.key)] += own / 1e6
    if not any(spent.values()):
        raise UserError("the profiler saw no kernel: CUPTI, which it needs, may not be there")
    return {kind: value for kind, value in spent.items() if value > 0}


def seconds_by_part(by_kind: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds of each of :data:`PARTS`, given those of :func:`seconds_by_kind`."""
    spent = dict.fromkeys(PARTS, 0.0)
    for kind, value in by_kind.items():
        spent[kind.partition(":")[0]] += value
    return spent


def _kind_of(name: str) -> str:
    if any(part in name for part in PRODUCTS):
        return "linear maps"
    return next((kind for kind, starts in KINDS.items() if name.startswith(starts)), OTHER)
