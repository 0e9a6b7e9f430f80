"""Count a model's layers, parameters, FLOPs and edges, for a block of N points."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from rich.table import Table
from torch import Tensor, nn

from ..settings import three_digits
from .deepgcn import DeepGCN
from .fusion import JointPointwise


@dataclass(frozen=True)
class Part:
    """A part of a model: its numbers of layers and parameters, and the FLOPs of a forward pass of one block."""

    name: str
    layers: int
    parameters: int
    flops: int


@dataclass(frozen=True)
class Summary:
    """A model's parts, for blocks of ``points`` points.

    FLOPs are two for each multiplication in linear maps and in the distance products of the neighbour search.
    Element-wise operations are not counted. A linear map inside an operator of torch_geometric counts once per point,
    although some operators apply it to every edge. ``edges`` is the number of edges in the graphs of all layers.
    """

    parts: list[Part]
    points: int
    edges: int

    @property
    def parameters(self) -> int:
        """Number of parameters of the whole model."""
        return sum(part.parameters for part in self.parts)

    @property
    def flops(self) -> int:
        """Number of FLOPs in the forward pass of one block."""
        return sum(part.flops for part in self.parts)

    def table(self) -> Table:
        """Return the summary as a table for the terminal."""
        table = Table(
            title=f"Model, for a block of {self.points} points", caption=f"{self.edges:,} edges in all graphs"
        )
        for name in ("part", "layers", "parameters", "GFLOP"):
            table.add_column(name, justify="left" if name == "part" else "right")
        for part in self.parts:
            table.add_row(part.name, str(part.layers), f"{part.parameters:,}", three_digits(part.flops / 1e9))
        table.add_section()
        table.add_row("all", "", f"{self.parameters:,}", three_digits(self.flops / 1e9), style="bold")
        return table


def summarize(model: DeepGCN, points: int = 4096) -> Summary:
    """Return the summary of a model without running it."""
    backbone = model.backbone
    last = nn.ModuleList(m for m in (backbone.last_norm, backbone.last_act) if m is not None)
    parts = [
        _part("head graph convolution", 1, [backbone.head], points),
        _part("blocks", len(backbone.graphs) - 1, [backbone.blocks, last], points),
        Part("neighbour search", len(backbone.graphs), 0, _search_flops(model, points)),
        _part("fusion block", 1, [model.fusion], points),
        _part("prediction head", len(model.head.rest) + 2, [model.head], points),
    ]
    return Summary(parts, points, points * backbone.graph.k * len(backbone.graphs))


def _part(name: str, layers: int, modules: Iterable[nn.Module], points: int) -> Part:
    parameters = sum(p.numel() for module in modules for p in module.parameters())
    inside = [m for module in modules for m in module.modules()]
    joint: dict[nn.Module, JointPointwise] = {m.linear: m for m in inside if isinstance(m, JointPointwise)}
    linear = [m for m in inside if isinstance(m, _linear_classes())]
    return Part(name, layers, parameters, sum(_linear_flops(m, joint.get(m), points) for m in linear))


def _linear_classes() -> tuple[type[nn.Module], ...]:
    """Return the classes of linear maps: PyTorch's, and the one of PyTorch Geometric's operators."""
    # Importing torch_geometric.nn takes seconds. Where nothing has imported it, no module is of its classes.
    geometric = sys.modules.get("torch_geometric.nn")
    return (nn.Linear,) if geometric is None else (nn.Linear, geometric.Linear)


def _linear_flops(linear: nn.Module, joint: JointPointwise | None, points: int) -> int:
    outputs, inputs = cast(Tensor, linear.weight).shape
    if joint is None:
        return 2 * points * inputs * outputs
    width = joint.widths[-1] if joint.last_has_all else sum(joint.widths)
    return 2 * outputs * (points * width + joint.shared)


def _search_flops(model: DeepGCN, points: int) -> int:
    """Return the FLOPs of the products of all pairs of points, in every search of a pass."""
    backbone = model.backbone
    widths = [backbone.connection.width(i, backbone.channels) for i in range(len(backbone.graphs) - 1)]
    return 2 * points**2 * sum(backbone.graph.search_widths(widths))
