"""Operators of torch_geometric for given channels: how they are built, what they take, and whether they fit."""

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import first_line
from ..settings import SettingError, shown
from .own_layers import built_by, require_flags

# A network that an operator takes: the widths of its linear maps, or a function of in_channels and out_channels.
Network = Sequence[int | str] | Callable[[int, int], nn.Module]
BuildOperator = Callable[..., nn.Module]
# What an operator's forward may ask for.
INPUTS = ("x", "edge_index", "pos", "normal", "edge_attr")
# Enough for an operator that takes several neighbours of a point, each with an edge to every other.
TRIAL_POINTS = 4
_WIDTH = re.compile(r"\w+( *[*+] *\w+)*")


class OperatorError(ValueError):
    """An operator that cannot be built for the channels of a layer, or does not take or return them."""


class OperatorSettingError(SettingError):
    """A setting of an operator that cannot be used. The message begins with its name and value."""


def build_operator(
    operator: BuildOperator, in_channels: int, out_channels: int, networks: Mapping[str, Network]
) -> nn.Module:
    """Build an operator for the channels of a layer.

    Args:
        operator: a class, a ``functools.partial`` of one, or a function. It is called with ``in_channels`` and
            ``out_channels`` by name if it has such arguments, or as its first two if it needs two arguments of other
            names.
        networks: by the operator's arguments.

    Raises:
        ValueError: an argument is missing or unknown, or cannot be given for all layers.
    """
    _require_own_settings(operator)
    if not isinstance(networks, Mapping):
        raise OperatorSettingError(f"networks={shown(networks)}: must be a mapping, as {{nn:[in,out]}}")
    parameters = inspect.signature(operator).parameters
    _require_arguments(operator, parameters, networks)
    made: dict[str, Any] = {
        name: make_network(f"networks.{name}", network, in_channels, out_channels) for name, network in networks.items()
    }
    channels = {"in_channels": in_channels, "out_channels": out_channels}
    named = {name: value for name, value in channels.items() if name in parameters}
    needed = [name for name in _needed(parameters) if name not in {**named, **made}]
    if not named and len(needed) == 2:
        return operator(in_channels, out_channels, **made)
    if needed:
        advice = f"; if that is a network, give its widths: networks={{{needed[0]}:[in,out]}}"
        raise ValueError(f"needs {', '.join(needed)}{advice if _may_be_network(needed[0]) else ''}")
    return operator(**named, **made)


def _needed(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    """Return the names of the arguments that a call must give."""
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [name for name, each in parameters.items() if each.default is each.empty and each.kind not in variable]


def _may_be_network(name: str) -> bool:
    """Return whether an argument of this name may be a network: numbers and sizes are not."""
    return not name.startswith(("num_", "dim")) and not name.endswith(("_size", "_dim", "_channels", "channels"))


def _require_arguments(
    operator: BuildOperator, parameters: Mapping[str, inspect.Parameter], networks: Mapping[str, Network]
) -> None:
    """Refuse networks for arguments that an operator does not have.

    Operators of torch_geometric take further arguments by ``**kwargs``, none of which is a network.
    """
    others = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    if others and not str(getattr(built_by(operator), "__module__", "")).startswith("torch_geometric."):
        return
    for name in networks:
        if name not in parameters:
            known = [each for each in _needed(parameters) if _may_be_network(each)]
            hint = f"did you mean {' or '.join(known)}?" if known else "leave it out"
            raise OperatorSettingError(f"networks.{name}: {name_of(operator)} has no such argument; {hint}")


def _require_own_settings(operator: BuildOperator) -> None:
    """Refuse settings of an operator that every layer has its own of: channels, and modules with weights."""
    if isinstance(operator, nn.Module) or not callable(operator):
        raise OperatorSettingError(
            f"operator={shown(operator)}: must be what builds a layer; a class, or settings with _partial_: true"
        )
    try:
        require_flags(operator, "operator.")
    except SettingError as error:
        raise OperatorSettingError(str(error)) from None
    for name, value in (operator.keywords if isinstance(operator, partial) else {}).items():
        if name in ("in_channels", "out_channels"):
            raise OperatorSettingError(f"operator.{name}={shown(value)}: each layer sets it; leave it out")
        if isinstance(value, nn.Module) and any(True for _ in value.parameters()):
            raise OperatorSettingError(
                f"operator.{name}: is one network, whose weights all layers would share; "
                f"give its widths instead: networks={{{name}:[in,out]}}"
            )


def make_network(name: str, network: Network, in_channels: int, out_channels: int) -> nn.Module:
    """Return a network for an operator: linear maps with ReLU between them, or what a function builds.

    Args:
        name: of the setting, for messages.
        network: widths, each an integer or a sum of products of integers, ``in`` and ``out``, as ``2*in`` or
            ``in+3``; or a function of in_channels and out_channels.

    Raises:
        SettingError: anything else.
    """
    if isinstance(network, nn.Module):
        raise OperatorSettingError(f"{name}: is one network for all layers; with _partial_: true each builds its own")
    if callable(network):
        return network(in_channels, out_channels)
    try:
        widths = [_width(width, {"in": in_channels, "out": out_channels}) for width in network]
    except (ValueError, TypeError):
        widths = []
    if isinstance(network, str) or len(widths) < 2 or min(widths) < 1:
        raise OperatorSettingError(
            f"{name}={shown(network)}: must be a list of at least two widths, each an integer, in, out, or a sum of "
            "products, as 2*in or in+3"
        )
    layers: list[nn.Module] = []
    for pair in pairwise(widths):
        layers += [nn.Linear(*pair), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _width(width: int | str, channels: Mapping[str, int]) -> int:
    if isinstance(width, int) and not isinstance(width, bool):
        return width
    if not isinstance(width, str) or not _WIDTH.fullmatch(width):
        raise ValueError
    products = [[factor.strip() for factor in product.split("*")] for product in width.split("+")]
    return sum(math.prod(channels[f] if f in channels else int(f) for f in factors) for factors in products)


def name_of(operator: BuildOperator) -> str:
    """Return the name of what builds an operator, for messages."""
    return getattr(built_by(operator), "__name__", type(built_by(operator)).__name__)


def inputs_of(operator: nn.Module | type[nn.Module], edge_positions: bool) -> list[str]:
    """Return which of :data:`INPUTS` an operator gets.

    Args:
        operator: built, or its class. edge_positions: whether it gets ``edge_attr`` too, which operators take but need
            not have.

    Raises:
        ValueError: it needs something else, or does not take edges.
    """
    parameters = dict(inspect.signature(operator.forward).parameters)
    parameters.pop("self", None)
    taken = [each for each in INPUTS if each in parameters and (each != "edge_attr" or edge_positions)]
    if "edge_index" not in taken:
        raise ValueError(
            "takes no edge_index, and does not fit: it finds its own neighbours, or works on another kind of graph"
        )
    if edge_positions and "edge_attr" not in taken:
        raise ValueError("takes no edge_attr, which edge_positions=true would give it")
    if foreign := [other for other in _needed(parameters) if other not in INPUTS]:
        raise ValueError(f"needs {foreign[0]}, which points do not have")
    return taken


def operate(operator: nn.Module, inputs: Sequence[str], values: Mapping[str, Any]) -> Tensor:
    """Call an operator with those of some values that it takes."""
    return operator(**{name: values[name] for name in inputs})


def require_fit(
    build: Callable[[], nn.Module], operator: BuildOperator, channels: tuple[int, int], edge_positions: bool
) -> list[str]:
    """Build an operator and try it on four points; return what :func:`inputs_of` does.

    This finds networks of wrong widths before any data are read. The trial takes place on the CPU, also while the
    model is built without memory, and leaves the random state as it is.

    Args:
        build: builds it. operator: a class, partial or function, as the caller gave it. channels: that it takes and
            must return.

    Raises:
        OperatorError: it cannot be built or called, or returns something else.
        OperatorSettingError: a setting of it cannot be used.
    """
    name, kind = name_of(operator), built_by(operator)
    where = f"{name} in a layer from {channels[0]} to {channels[1]} channels"
    with torch.device("cpu"), torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            if isinstance(kind, type) and issubclass(kind, nn.Module):
                # Before it is built: a class that does not fit needs no settings.
                inputs_of(kind, edge_positions)
            built = build().eval()
            inputs = inputs_of(built, edge_positions)
            if any(getattr(module, "cached", False) for module in built.modules()):
                raise ValueError("cached: keeps the graph of the first batch for all others, and each has its own")
            out = _try(built, inputs, channels[0])
        except OperatorSettingError:
            raise
        # Operators raise all kinds of errors for widths that they do not expect.
        except Exception as error:
            raise OperatorError(f"{where}: {first_line(error, 300)}") from error
    shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
    if shape != (TRIAL_POINTS, channels[1]):
        raise OperatorError(f"{where}: for {TRIAL_POINTS} points it returns {shape}, not {(TRIAL_POINTS, channels[1])}")
    return inputs


def _try(operator: nn.Module, inputs: Sequence[str], channels: int) -> Any:
    """Return what an operator makes of some points.

    Raises:
        ValueError: it does not work with these inputs alone; names those that it does not get.
    """
    try:
        return operate(operator, inputs, _trial_values(channels))
    # What an operator does to None in the place of an input, or if it asks for it.
    except (AssertionError, TypeError, AttributeError) as error:
        parameters = inspect.signature(operator.forward).parameters
        missing = [each for each in parameters if each not in (*inputs, "size", "num_nodes")]
        if not missing:
            raise
        advice = "; edge_positions=true gives it edge_attr" if "edge_attr" in missing else ""
        raise ValueError(
            f"does not work with {', '.join(inputs)} alone ({first_line(error, 100)}); "
            f"it takes {', '.join(missing)} too{advice}"
        ) from error


def _trial_values(channels: int) -> dict[str, Tensor]:
    points = torch.arange(TRIAL_POINTS)
    # Neighbour and point, sorted by the point as the edges of a graph are: some aggregations need that.
    edges = torch.cartesian_prod(points, points).T.flip(0)
    pos = torch.rand(TRIAL_POINTS, 3)
    return {
        "x": torch.rand(TRIAL_POINTS, channels),
        "edge_index": edges,
        "pos": pos,
        "normal": F.normalize(torch.rand(TRIAL_POINTS, 3)),
        "edge_attr": pos[edges[0]] - pos[edges[1]],
    }
