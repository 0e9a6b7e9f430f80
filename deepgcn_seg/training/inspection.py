"""Measurements inside a network while it trains: gradients and neighbours of each layer, labels of some blocks."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..model.evaluating import evaluating
from ..model.graph import DilatedKnnGraph

_LAYER = re.compile(r"backbone\.(head|blocks\.(\d+))\.")


def gradient_norms(model: nn.Module) -> dict[int, float]:
    """Return the norm of the gradients of each backbone layer, layer 0 being the head graph convolution.

    In a network without connections, the norms of the first layers and the last differ by orders of magnitude.
    """
    gradients: dict[int, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        match = _LAYER.match(name)
        if match and parameter.grad is not None:
            layer = 0 if match[1] == "head" else int(match[2]) + 1
            gradients.setdefault(layer, []).append(parameter.grad.float())
    return {layer: float(nn.utils.get_total_norm(own)) for layer, own in sorted(gradients.items())}


def neighbor_distances(model: nn.Module, points: Tensor, xyz: Tensor) -> dict[int, float]:
    """Return the mean distance in space between points and their neighbours in each layer's dynamic graph.

    Neighbours in feature space may be far away in the room. The distance grows as features become semantic.

    Args:
        points: (B, N, channels). xyz: (B, N, 3), whose unit is that of the result.
    """
    graphs = [module for module in model.modules() if isinstance(module, DilatedKnnGraph)]
    with _outputs(graphs) as found, evaluating(model):
        model(points)
    batch = torch.arange(len(xyz), device=xyz.device)[:, None, None]
    return {
        layer: float((xyz[batch, found[graph]] - xyz[:, :, None]).norm(dim=-1).mean())
        for layer, graph in enumerate(graphs)
        if graph in found
    }


def predicted_labels(model: nn.Module, points: Tensor) -> Tensor:
    """Return the labels (B, N) that a model gives in evaluation to points (B, N, channels)."""
    with evaluating(model):
        return model(points).argmax(-1)


@contextmanager
def _outputs(modules: list[DilatedKnnGraph]) -> Iterator[dict[nn.Module, Tensor]]:
    """Collect the outputs of some modules in forward passes inside the context."""
    found: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _, output: Tensor) -> None:
        found[module] = output

    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
