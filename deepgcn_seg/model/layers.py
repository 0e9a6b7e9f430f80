"""Norms, activations and the pointwise layer (a 1x1 convolution), from which all other parts are made.

In all tensors (B, N, C) the channels come last. An optional ``mask`` (B, N) is True where a point is present.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from typing import Annotated, Any, cast

import torch
from torch import Tensor, nn

from ..distributed import SummedOverAll
from ..settings import Flag, Validated, choice, number, require
from .own_layers import (
    TORCH_NORMS,
    Factory,
    TorchNorm,
    apply_torch_norm,
    build_act,
    build_norm,
    is_exactly,
    is_linear,
    is_torch_act,
    name_or_factory,
    require_features,
)

NORMS = ("batch", "instance", "layer", "none")
ACTS = ("relu", "leakyrelu", "prelu", "gelu", "none")
ORDERS = ("norm-act", "act-norm")
INITS = ("xavier", "kaiming")


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over points (or edges) and blocks; absent points do not count.

    Attributes:
        synced: whether statistics in training are taken over all processes (:func:`sync_norms`).
    """

    synced = False

    @classmethod
    def view(cls, norm: nn.BatchNorm1d) -> "BatchNorm":
        """Return a norm of this class that shares the parameters and running statistics of one of PyTorch's."""
        shared: Any = copy(norm)
        shared.__class__ = cls
        return shared

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether a call normalises by the statistics of its batch: in training, and without running statistics."""
        return self.training or self.running_mean is None

    def forward(self, x: Tensor, mask: Tensor | None = None, counts: Tensor | None = None) -> Tensor:
        """Normalise x (B, N, C).

        Args:
            mask: (B, N), True where a point is present. counts: (B, N), how often each point counts in the batch
                statistics, for example as a neighbour of several points; None if each counts once.
        """
        if not self.uses_batch_statistics:
            scale, shift = self.fixed_scale_shift()
            return torch.addcmul(shift, x, scale).to(x.dtype)
        if self.synced or counts is not None:
            counts = mask if counts is None else counts
            mean, var = moments(x, counts)
            scale, shift = self.scale_shift(mean, var, x.shape[1] if counts is None else counts.sum(1))
            out = torch.addcmul(shift, x, scale).to(x.dtype)
            return out if mask is None else torch.where(mask[:, :, None], out, 0)
        if mask is None:
            return super().forward(x.reshape(-1, x.shape[-1])).view(x.shape)
        out = torch.zeros_like(x)
        out[mask] = super().forward(x[mask])
        return out

    def scale_shift(self, mean: Tensor, var: Tensor, counts: Tensor | int) -> tuple[Tensor, Tensor]:
        """Return the norm as an affine map, given the mean and variance of each block of points.

        In training, also update the running statistics.

        Args:
            mean, var: (B, C); the variance is biased. counts: (B,), the number of values in each block, or one number
                for all blocks.

        Returns:
            scale and shift, broadcastable to (B, N, C): ``norm(e) = scale * e + shift``.

        Raises:
            ValueError: there is only one value per channel, which has no variance (PyTorch's layer raises the same).
        """
        summed = SummedOverAll.apply if self.synced else lambda values: values
        # If this process alone has several values, there is no need to wait for the sum over processes or for the GPU.
        several = not isinstance(counts, Tensor) and counts * len(mean) > 1
        if self.synced or isinstance(counts, Tensor):
            counts = torch.as_tensor(counts, dtype=mean.dtype, device=mean.device).expand(len(mean))
            total = summed(counts.sum())
            share = (counts / total)[:, None]
        else:
            total, share = counts * len(mean), 1 / len(mean)
        if not several and not torch.compiler.is_compiling() and total <= 1:
            size = list(mean.shape)
            raise ValueError(
                f"Expected more than 1 value per channel when training, got 1 in all of blocks and channels {size}"
            )
        pooled = summed((share * mean).sum(0))
        spread = summed((share * (var + (mean - pooled).square())).sum(0))
        if self.training and self.track_running_stats:
            with torch.no_grad():
                self._track(pooled, spread * (total / (total - 1)))
        return self._affine(pooled, spread)

    def _track(self, mean: Tensor, var: Tensor) -> None:
        """Update the running statistics, as far as there are any, by mean and unbiased variance of a batch (C,)."""
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            # The average over all batches.
            momentum = 0.0 if self.num_batches_tracked is None else 1 / float(self.num_batches_tracked)
        for running, value in ((self.running_mean, mean), (self.running_var, var)):
            if running is not None:
                running.lerp_(value.to(running.dtype), momentum)

    def fixed_scale_shift(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift (C,), computed from the running statistics."""
        return self._affine(cast(Tensor, self.running_mean), cast(Tensor, self.running_var))

    def _affine(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.weight * torch.rsqrt(var + self.eps)
        return scale, torch.addcmul(self.bias, mean, scale, value=-1)


def uses_batch_statistics(norm: nn.Module | None) -> bool:
    """Return whether a layer is a batch norm that normalises by the statistics of its batch, not by running ones."""
    return isinstance(norm, BatchNorm) and norm.uses_batch_statistics


def separates_blocks(norm: nn.Module | None, act: nn.Module | None) -> bool:
    """Return whether in evaluation norm and activation give each block of points a result that depends on it alone.

    Of a user's own parts, that is unknown.
    """
    known = norm is None or is_exactly(norm, BatchNorm, InstanceNorm, LayerNorm, TorchNorm)
    return known and (act is None or is_torch_act(act))


def apply_norm(norm: nn.Module | None, x: Tensor, mask: Tensor | None, counts: Tensor | None = None) -> Tensor:
    """Return norm(x) of points or edges x (B, N, C); x if there is no norm.

    Raises:
        ValueError: the norm is a batch norm of torch.nn, which does not know absent points.
    """
    if norm is None:
        return x
    if type(norm) in (nn.SyncBatchNorm, nn.BatchNorm1d):
        raise ValueError(
            f"torch.nn.{type(norm).__name__} cannot stand in the place of this package's batch norm, which knows "
            "absent points and edges: for statistics over all processes leave out convert_sync_batchnorm(model), and "
            "call deepgcn_seg.model.layers.sync_norms(model)"
        )
    if type(norm) in (*TORCH_NORMS.values(), nn.Identity):
        # One that was put in the place of ours, in a network that was built.
        return apply_torch_norm(norm, x, mask)
    normalised = norm(x, mask) if counts is None else norm(x, mask, counts)
    return require_features(normalised, x, x.shape[-1], "norm", norm)


def apply_act(act: nn.Module | None, x: Tensor) -> Tensor:
    """Return act(x); x if there is no activation."""
    return x if act is None else require_features(act(x), x, x.shape[-1], "act", act)


def sync_norms(module: nn.Module) -> None:
    """Let every batch norm below ``module`` take its training statistics over all processes."""
    for child in module.modules():
        if isinstance(child, BatchNorm):
            child.synced = True


def unsynced_norms(module: nn.Module) -> list[str]:
    """Return the names of batch norms below ``module`` that take their training statistics of one process alone."""
    return [
        name
        for name, child in module.named_modules()
        if isinstance(child, nn.modules.batchnorm._BatchNorm)
        and not isinstance(child, nn.SyncBatchNorm)
        and not getattr(child, "synced", False)
    ]


class InstanceNorm(nn.Module):
    """Normalisation of each channel over the points (or edges) of one block, without parameters."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.channels, self.eps = channels, eps

    def forward(self, x: Tensor, mask: Tensor | None = None, counts: Tensor | None = None) -> Tensor:
        """Normalise x (B, N, C); mask and counts as in :meth:`BatchNorm.forward`."""
        mean, var = moments(x, mask if counts is None else counts)
        scale, shift = self.scale_shift(mean, var, None)
        return torch.addcmul(shift, x, scale).to(x.dtype)

    def scale_shift(self, mean: Tensor, var: Tensor, counts: Tensor | int | None) -> tuple[Tensor, Tensor]:
        """Return scale and shift as :meth:`BatchNorm.scale_shift`, per block: (B, 1, C) each."""
        scale = torch.rsqrt(var + self.eps)
        return scale[:, None], (-mean * scale)[:, None]

    def extra_repr(self) -> str:
        """Return the settings for print."""
        return f"{self.channels}, eps={self.eps}"


class LayerNorm(nn.LayerNorm):
    """Normalisation over the channels of each point."""

    def forward(self, x: Tensor, mask: Tensor | None = None, counts: Tensor | None = None) -> Tensor:
        """Normalise x (..., C), each point by itself."""
        return super().forward(x)


def moments(x: Tensor, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance over the points of each block, each (B, C) and in float32 at least.

    Args:
        x: (B, N, C). counts: (B, N), how often each point counts, or a bool mask; None if each counts once.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if counts is None:
        var, mean = torch.var_mean(x, 1, correction=0)
        return mean, var
    share = (counts.to(x.dtype) / counts.sum(1, keepdim=True))[:, :, None]
    mean = (x * share).sum(1)
    return mean, ((x - mean[:, None]).square() * share).sum(1)


def make_norm(name: str | Factory, channels: int, eps: float = 1e-5) -> nn.Module | None:
    """Return a norm layer by its name in :data:`NORMS`, or what builds it (:mod:`.own_layers`); None for ``none``."""
    if not isinstance(name, str):
        return build_norm(name, channels, eps)
    if name == "batch":
        return BatchNorm(channels, eps=eps)
    if name == "instance":
        return InstanceNorm(channels, eps=eps)
    if name == "layer":
        return LayerNorm(channels, eps=eps)
    if name == "none":
        return None
    raise ValueError(f"unknown norm {name!r}: choose one of {', '.join(NORMS)}")


def make_act(name: str | Factory) -> nn.Module | None:
    """Return an activation by its name in :data:`ACTS`, or what builds it (:mod:`.own_layers`); None for ``none``.

    ``leakyrelu`` and ``prelu`` have the slope 0.2 below zero (official code).
    """
    if not isinstance(name, str):
        return build_act(name)
    if name == "relu":
        return nn.ReLU()
    if name == "leakyrelu":
        return nn.LeakyReLU(0.2)
    if name == "prelu":
        return nn.PReLU(init=0.2)
    if name == "gelu":
        return nn.GELU()
    if name == "none":
        return None
    raise ValueError(f"unknown act {name!r}: choose one of {', '.join(ACTS)}")


def is_nondecreasing(act: nn.Module | None) -> bool:
    """Return whether an activation is known to be nondecreasing: none, ReLU, or leaky with a slope of 0 or more.

    Those of a class derived from these, or with hooks, are not known.
    """
    if act is not None and not is_exactly(act, nn.ReLU, nn.LeakyReLU, nn.PReLU):
        return False
    if type(act) is nn.PReLU:
        return not bool((act.weight < 0).any())
    if type(act) is nn.LeakyReLU:
        return act.negative_slope >= 0
    return True


def negative_slope(act: nn.Module | None, like: Tensor) -> Tensor:
    """Return the slope (C,) below zero of an activation for which :func:`is_nondecreasing` holds; 1 if there is none.

    Args:
        like: a tensor (..., C) with the dtype and device of the result.
    """
    if isinstance(act, nn.PReLU):
        return act.weight.to(like.dtype).expand(like.shape[-1])
    if isinstance(act, nn.LeakyReLU):
        return like.new_full((like.shape[-1],), act.negative_slope)
    return like.new_zeros(like.shape[-1]) if isinstance(act, nn.ReLU) else like.new_ones(like.shape[-1])


@dataclass(frozen=True)
class LayerSpec(Validated):
    """The norm and activation that follow a linear map, and their order.

    Attributes:
        order: ``norm-act`` (TensorFlow, sparse PyTorch) or ``act-norm`` (dense PyTorch).
        norm: one of :data:`NORMS`. act: one of :data:`ACTS`. Or what builds them (:mod:`.own_layers`).
        bias: whether linear maps have a bias. eps: the norm's epsilon.
    """

    order: Annotated[str, choice(*ORDERS)] = "norm-act"
    norm: Annotated[str | Factory, name_or_factory(choice(*NORMS))] = "batch"
    act: Annotated[str | Factory, name_or_factory(choice(*ACTS))] = "relu"
    bias: Flag = True
    eps: Annotated[float, number(0, above=True)] = 1e-5

    def linear_only(self) -> "LayerSpec":
        """Return this spec without norm and activation, for a convolution that comes after them."""
        return replace(self, norm="none", act="none")

    def make_norm(self, channels: int) -> nn.Module | None:
        """Return a new norm layer, or None."""
        return make_norm(self.norm, channels, self.eps)

    def make_act(self) -> nn.Module | None:
        """Return a new activation, or None."""
        return make_act(self.act)


class Pointwise(nn.Module):
    """act(norm(W x_i + b)) of each point i, or norm(act(W x_i + b)), as ``spec.order`` says.

    A class derived from this one may compute something else: it is always called (:attr:`unchanged`).

    Shape: x (B, N, in_channels) -> (B, N, out_channels).
    """

    def __init__(self, in_channels: int, out_channels: int, spec: LayerSpec = LayerSpec()):
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels, spec.bias)
        self.norm = spec.make_norm(out_channels)
        self.act = spec.make_act()
        self.order = spec.order

    @classmethod
    def of(cls, linear: nn.Module, norm: nn.Module | None, act: nn.Module | None, order: str) -> "Pointwise":
        """Return a layer that uses these modules."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer.linear, layer.norm, layer.act, layer.order = cast(nn.Linear, linear), norm, act, order
        return layer

    def forward(self, x: Tensor, mask: Tensor | None = None, counts: Tensor | None = None) -> Tensor:
        """Apply the layer; counts as in :meth:`BatchNorm.forward`."""
        return self.finish(self.linear(x), mask, counts)

    @property
    def sliceable(self) -> bool:
        """Whether each point's result depends on its own features alone, so that points can be computed in slices."""
        norm = self.norm
        each = norm is None or is_exactly(norm, BatchNorm, LayerNorm)
        return each and not uses_batch_statistics(norm) and separates_blocks(norm, self.act)

    @property
    def unchanged(self) -> bool:
        """Whether the layer and its linear map are those of this package (:func:`is_exactly`).

        The linear map may then be computed from its weights, and :meth:`finish` applied to the result. Otherwise the
        layer must be called: its class, or a linear map that an adapter put in the place of ours, is a user's own, or
        one of the two has hooks. Each class that is derived from this one in this package says so for itself.
        """
        return is_exactly(self, Pointwise) and is_linear(self.linear)

    def monotone_sign(self) -> Tensor | None:
        """Return (C,) with +1 for channels whose order norm and activation keep, and -1 for those they reverse.

        Returns None if they do neither, or if that is not known, so that they cannot be applied to the maximum of
        values alone. It is not known of parts with hooks, which must see every value.
        """
        weight = self.linear.weight
        known = self.norm is None or is_exactly(self.norm, BatchNorm, InstanceNorm)
        if not known or not is_nondecreasing(self.act):
            return None
        ones = weight.new_ones(len(weight))
        return ones.copysign_(self.norm.weight.detach()) if isinstance(self.norm, BatchNorm) else ones

    def finish(self: Any, x: Tensor, mask: Tensor | None = None, counts: Tensor | None = None) -> Tensor:
        """Apply norm and activation to x, a result of the linear map that was computed elsewhere."""
        if self.order == "act-norm":
            return apply_norm(self.norm, apply_act(self.act, x), mask, counts)
        return apply_act(self.act, apply_norm(self.norm, x, mask, counts))

    @property
    def counts_points(self) -> bool:
        """Whether the norm can count points several times, or needs no counts."""
        return self.norm is None or is_exactly(self.norm, BatchNorm, InstanceNorm, LayerNorm)


def on_edges(layer: Callable[[Tensor, Tensor | None], Tensor], edges: Tensor, mask: Tensor | None) -> Tensor:
    """Apply a layer of points to edges (B, N, k, C); the mask (B, N) says which points are present."""
    batch, count, k, _ = edges.shape
    if mask is not None:
        mask = mask.repeat_interleave(k, 1)
    return layer(edges.flatten(1, 2), mask).view(batch, count, k, -1)


def hide_absent(x: Tensor, mask: Tensor | None, value: float) -> Tensor:
    """Return x (B, N, C) with ``value`` at the points that are absent."""
    return x if mask is None else x.masked_fill(~mask[:, :, None], value)


def initialise(module: nn.Module, method: str) -> None:
    """Initialise every linear map below ``module``: biases 0, weights by ``method``.

    ``xavier`` is uniform, as in the TensorFlow code. ``kaiming`` is normal with fan-in, as in the PyTorch code.
    """
    require("init", method, choice(*INITS))
    for child in module.modules():
        if isinstance(child, nn.Linear):
            if method == "xavier":
                nn.init.xavier_uniform_(child.weight)
            else:
                nn.init.kaiming_normal_(child.weight)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
