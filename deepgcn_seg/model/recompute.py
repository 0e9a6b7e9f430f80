"""Activations that the backward pass computes again, so that they are not kept: what that takes, and checkpointing."""

from contextlib import nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Recorded:
    """How a module runs at this moment; as a context manager, it lets the module run like that again.

    Inside, the module has the parameters, buffers and training modes that it had when it was recorded, even if others
    have taken their place: after ``torch.func.functional_call`` it has its own parameters again. Buffers are copies,
    because a pass may change them and depend on them, as on the vectors of a spectral norm. So each second pass begins
    with the values that the first one began with, and after it the module has the buffers that the first one left: a
    batch does not count twice.

    Attributes:
        leaves: for each parameter that requires a gradient, the detached tensor that takes its place inside. Gradients
            with respect to it are those of the second pass alone: without the parameter's own hooks, and without what
            the parameter was computed from.

    Raises:
        RuntimeError: when entered, a recorded parameter has been modified in place, by the step of an optimiser for
            example. The second pass would then compute the gradients of another network.
    """

    def __init__(self, module: nn.Module):
        self.module = module
        self.states = _copied(_states(module))
        self.versions = self._versions()
        self.leaves: dict[Tensor, Tensor] = {}

    def __enter__(self) -> Self:
        if self.versions != self._versions():
            raise RuntimeError(
                f"a parameter of {type(self.module).__name__} was modified in place after the forward pass, "
                "and the backward pass computes activations again from it: call backward() before it is modified, "
                "for example by optimizer.step()"
            )
        self.before = _states(self.module)
        self.leaves = {}
        for part, training, parameters, _ in self.states:
            part.training = training
            part._parameters.update({name: self._leaf(parameter) for name, parameter in parameters.items()})
        self.begin()
        return self

    def begin(self) -> None:
        """Give the module the recorded buffers again. A second pass inside that is not the first needs this before."""
        for part, _, _, buffers in _copied(self.states):
            part._buffers.update(buffers)

    def __exit__(self, *error: Any) -> None:
        for part, training, parameters, buffers in self.before:
            part.training = training
            part._parameters.update(parameters)
            part._buffers.update(buffers)

    def _versions(self) -> list[int]:
        """Return how often each parameter has been modified in place."""
        return [p._version for _, _, parameters, _ in self.states for p in parameters.values() if p is not None]

    def _leaf(self, parameter: Any) -> Any:
        if parameter is None or not parameter.requires_grad:
            return parameter
        if parameter not in self.leaves:
            self.leaves[parameter] = parameter.detach().requires_grad_()
        return self.leaves[parameter]


# Each part of a module with its training mode, its parameters and its buffers.
_States = list[tuple[nn.Module, bool, dict[str, Any], dict[str, Any]]]


def _states(module: nn.Module) -> _States:
    return [(part, part.training, dict(part._parameters), dict(part._buffers)) for part in module.modules()]


def _copied(states: _States) -> _States:
    """Return the states with copies of the buffers. Parts that share a buffer share its copy."""
    copies: dict[Any, Any] = {None: None}
    for _, _, _, buffers in states:
        copies.update((buffer, buffer.clone()) for buffer in buffers.values() if buffer not in copies)
    return [
        (part, training, parameters, {name: copies[buffer] for name, buffer in buffers.items()})
        for part, training, parameters, buffers in states
    ]


def recomputed(module: nn.Module, *inputs: Tensor | None) -> Tensor:
    """Return ``module(*inputs)``; the backward pass calls the module again instead of keeping what it needs.

    Raises:
        RuntimeError: in the backward pass, the module's parameters have been modified (:class:`Recorded`).
    """
    # The compiler decides itself what to keep. It cannot trace a context for the second pass.
    if torch.compiler.is_compiling():
        return module(*inputs)
    again = Recorded(module)
    return checkpoint(module, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), again))
