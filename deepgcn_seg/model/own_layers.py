"""Norms and activations that are not this package's: those of torch.nn, and a user's own.

A norm is given as what builds it: ``functools.partial(torch.nn.GroupNorm, num_groups=4)``, or a class of a user's own,
called as ``Norm(channels)``, whose layers are called as ``norm(x, mask)`` with x (B, M, C) of points or edges. An
activation is given as its class or a partial of it; its layers are called with one tensor, and treat each value by
itself.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from pydantic import PlainValidator
from torch import Tensor, nn

from ..errors import PartError
from ..settings import FLAG, require

Factory = Callable[..., nn.Module]

# Norm of torch.nn -> its argument for the number of channels. Its batch norms are left out: ``batch`` is batch norm
# that knows absent points and other processes.
_CHANNELS: dict[Any, str] = {
    nn.GroupNorm: "num_channels",
    nn.InstanceNorm1d: "num_features",
    nn.LayerNorm: "normalized_shape",
    nn.RMSNorm: "normalized_shape",
}
TORCH_NORMS: dict[str, type[nn.Module]] = {kind.__name__: kind for kind in _CHANNELS}
# Those that treat each value by itself.
TORCH_ACTS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        nn.CELU,
        nn.ELU,
        nn.GELU,
        nn.Hardshrink,
        nn.Hardsigmoid,
        nn.Hardswish,
        nn.Hardtanh,
        nn.LeakyReLU,
        nn.LogSigmoid,
        nn.Mish,
        nn.PReLU,
        nn.ReLU,
        nn.ReLU6,
        nn.RReLU,
        nn.SELU,
        nn.SiLU,
        nn.Sigmoid,
        nn.Softplus,
        nn.Softshrink,
        nn.Softsign,
        nn.Tanh,
        nn.Tanhshrink,
        nn.Threshold,
    )
}


def is_exactly(module: nn.Module | None, *kinds: type[nn.Module]) -> bool:
    """Return whether a call of a module runs the ``forward`` of one of some classes, and nothing else.

    This is not so of a class derived from them, as those of a user's own and of parametrizations are, of a module whose
    call runs hooks, and of one with a ``forward`` of its own. Only the call of such a module gives its result: the
    result must not be computed from its weights. So this is asked, of each module in question, by all that computes a
    result in another way than by a call:

    - :attr:`.Pointwise.unchanged`, of a layer and its linear map (:func:`is_unchanged`): graph convolutions, the fusion
      block and the head may then multiply with its weights themselves;
    - :meth:`.Pointwise.monotone_sign`, of its norm and activation: they may then be applied to a maximum alone;
    - :attr:`.Pointwise.counts_points`, of its norm: points may then stand for edges, each counted several times;
    - :attr:`.Pointwise.sliceable` and :func:`~.layers.separates_blocks`, of norm and activation: points, or blocks
      of points, may then be computed in parts;
    - :func:`.fast_inference.applies`, of backbone, fusion block and head: what they do may then be done in parts;
    - :meth:`~.backbone.Backbone.concatenate` and :meth:`.Connection.run`, of backbone and layers: the last output of a
      dense backbone may then stand for all;
    - the backward pass of :class:`~.reversible.ReversibleSequence`, of its blocks: their inputs may then be computed
      from their outputs;
    - :mod:`deepgcn_seg.pyg`, of the layers of a network that it was given.
    """
    return type(module) in kinds and not is_hooked(cast(nn.Module, module))


def is_hooked(module: nn.Module) -> bool:
    """Return whether a call of a module runs more than the ``forward`` of its class.

    That is its hooks, or a ``forward`` that was set on the instance. Hooks for all modules of a process do not count:
    they are those of tools that count and trace, which are to see what is computed without them.
    """
    return bool(
        "forward" in module.__dict__
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def is_linear(module: nn.Module | None, *kinds: type[nn.Module]) -> bool:
    """Return whether a call of a module multiplies with its weights, as a linear map of one of some classes does.

    Args:
        kinds: classes of linear maps; ``torch.nn.Linear`` if none are given.
    """
    if not is_exactly(module, *(kinds or (nn.Linear,))):
        return False
    # Quantised and distributed weights are tensors of a class of their own, whose numbers are in other tensors. They
    # define what a linear map computes with them, and few other operations.
    return not hasattr(cast(nn.Linear, module).weight, "__tensor_flatten__")


def is_unchanged(part: nn.Module) -> bool:
    """Return whether a part of the network is one of this package that says so of itself, by ``unchanged``.

    A wrapper of a user's own is none, even if it hands on the attributes of the part in it: it must be called.
    """
    return hasattr(type(part), "unchanged") and bool(cast(Any, part).unchanged)


def require_layer(built: Any, setting: str, factory: Any) -> nn.Module:
    """Return what builds a layer of a user's own has returned.

    Raises:
        PartError: it is no layer.
    """
    if isinstance(built, nn.Module):
        return built
    raise PartError.of(setting, built_by(factory), type(built).__name__, "a layer (torch.nn.Module)")


def require_features(out: Any, like: Tensor, channels: int | None, setting: str, part: Any) -> Tensor:
    """Return what a part of a user's own has returned for the points of ``like`` (..., C).

    Args:
        channels: that it must have; None for any number.

    Raises:
        PartError: it is no tensor of features, or of another shape.
    """
    fits = isinstance(out, Tensor) and out.is_floating_point() and out.shape[:-1] == like.shape[:-1]
    if fits and channels in (None, out.shape[-1]):
        return out
    returned = f"{out.dtype} {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
    width = "channels" if channels is None else str(channels)
    must = f"a floating-point tensor ({', '.join([*map(str, like.shape[:-1]), width])})"
    raise PartError.of(setting, part, returned, must)


class TorchNorm(nn.Module):
    """A norm of torch.nn over blocks of points, channels last.

    GroupNorm and InstanceNorm1d take the statistics of each block over its present points; LayerNorm and RMSNorm those
    of each point over its channels.

    Shape: x (B, N, C), points or edges -> (B, N, C).
    """

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise x; mask (B, N) is False where a point is absent."""
        return apply_torch_norm(self.norm, x, mask)


def apply_torch_norm(norm: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """Return x (B, N, C), normalised as in :class:`TorchNorm` by a norm of torch.nn; ``nn.Identity`` is none."""
    if isinstance(norm, nn.LayerNorm | nn.RMSNorm | nn.Identity):
        return norm(x).to(x.dtype)
    # torch.nn has the channels before the points.
    normalised: Callable[[Tensor], Tensor] = lambda values: norm(values.mT).mT.to(x.dtype)
    if mask is None:
        return normalised(x).contiguous()
    out = torch.zeros_like(x)
    for block, present in enumerate(mask):
        out[block, present] = normalised(x[block, present][None])[0]
    return out


def is_torch_act(act: nn.Module | None) -> bool:
    """Return whether a layer is an activation of torch.nn, which treats each value by itself."""
    return is_exactly(act, *TORCH_ACTS.values())


def build_norm(factory: Factory, channels: int, eps: float) -> nn.Module:
    """Return a norm layer.

    Args:
        eps: of a norm of torch.nn that does not say its own.

    Raises:
        ValueError: a norm of torch.nn that cannot stand here, or not with these settings.
    """
    kind = built_by(factory)
    _require_known(kind, TORCH_NORMS, "norm")
    require_flags(factory, "norm.")
    if kind not in _CHANNELS:
        return require_layer(factory(channels), "norm", factory)
    given = factory.keywords if isinstance(factory, partial) else {}
    norm = factory(**{"eps": eps, **given, _CHANNELS[kind]: channels})
    if getattr(norm, "track_running_stats", False):
        raise ValueError("norm: track_running_stats=true cannot be used: blocks are normalised one by one")
    return TorchNorm(norm)


def build_act(factory: Factory) -> nn.Module:
    """Return an activation.

    Raises:
        ValueError: one of torch.nn that does not treat each value by itself, or works in place.
    """
    _require_known(built_by(factory), TORCH_ACTS, "act")
    require_flags(factory, "act.")
    act = require_layer(factory(), "act", factory)
    if getattr(act, "inplace", False):
        raise ValueError("act: inplace=true would overwrite features that other parts still read; leave it out")
    if type(act) is nn.PReLU and act.num_parameters != 1:
        raise ValueError(f"act: num_parameters={act.num_parameters}: a PReLU has one slope here; leave it out")
    return act


def require_flags(factory: Callable[..., Any], before: str = "") -> None:
    """Refuse a value that is not true or false for an argument that is: other values count as true, as ``no`` does.

    Args:
        before: what a message puts before the argument's name.

    Raises:
        SettingError: names the argument.
    """
    if not isinstance(factory, partial):
        return
    parameters = inspect.signature(factory.func).parameters
    for name, value in factory.keywords.items():
        if name in parameters and isinstance(parameters[name].default, bool):
            require(f"{before}{name}", value, FLAG)


def built_by(factory: Any) -> Any:
    """Return the class or function that builds a part: that of a ``functools.partial``, or what is given itself."""
    return factory.func if isinstance(factory, partial) else factory


def _require_known(kind: Any, known: dict[str, type[nn.Module]], setting: str) -> None:
    """Refuse classes of torch.nn that are not among those known."""
    if str(getattr(kind, "__module__", "")).startswith("torch.nn.") and kind not in known.values():
        raise ValueError(f"{setting}: torch.nn.{kind.__name__} cannot stand here; known are {', '.join(known)}")


def options_of(kind: type[nn.Module]) -> set[str]:
    """Return the names of the options that a class of torch.nn has here; each layer sets its channels itself."""
    return set(inspect.signature(kind).parameters) - {_CHANNELS.get(kind), "device", "dtype"}


def name_or_factory(names: PlainValidator) -> PlainValidator:
    """Return a validator of some names, and of what builds a layer: a class, a partial or a function."""

    def check(value: Any) -> Any:
        if isinstance(value, nn.Module):
            raise ValueError(f"is one layer for all places; give what builds one: {type(value).__name__}, without ()")
        return value if callable(value) else names.func(value)  # type: ignore[call-arg]

    return PlainValidator(check)
