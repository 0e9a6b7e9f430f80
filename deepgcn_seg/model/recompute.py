"""Activations that the backward pass computes again, so that they are not kept: what that takes, and checkpointing."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Recorded:
    """How a module runs at this moment; as a context manager, it lets the module run like that again.

    Inside, the module has the parameters, buffers and training modes that it had when it was recorded, even if others
    have taken their place: after ``torch.func.functional_call`` it has its own parameters again. A second pass over the
    same batch must not count twice, so batch norms then update copies of their running statistics.

    Args:
        detached: whether the parameters are detached inside, so that gradients with respect to them are those of the
            second pass alone: without the tensors' own hooks, and without what they were computed from.

    Attributes:
        leaves: for each parameter that requires a gradient, the tensor that takes its place inside.

    Raises:
        RuntimeError: when entered, a recorded tensor has been modified in place, by the step of an optimiser for
            example. The second pass would then compute the gradients of another network.
    """

    def __init__(self, module: nn.Module, detached: bool = False):
        self.module, self.detached = module, detached
        self.states = _states(module)
        self.versions = [tensor._version for tensor in self._read()]
        self.leaves: dict[Tensor, Tensor] = {}

    def __enter__(self) -> Self:
        if self.versions != [tensor._version for tensor in self._read()]:
            raise RuntimeError(
                f"a parameter or buffer of {type(self.module).__name__} was modified in place after the forward pass, "
                "and the backward pass computes activations again from it: call backward() before it is modified, "
                "for example by optimizer.step()"
            )
        self.before = _states(self.module)
        self.leaves = {}
        for part, training, parameters, buffers in self.states:
            part.training = training
            part._parameters.update({name: self._leaf(parameter) for name, parameter in parameters.items()})
            updates = training and isinstance(part, nn.modules.batchnorm._NormBase)
            part._buffers.update({name: x.clone() if updates and x is not None else x for name, x in buffers.items()})
        return self

    def __exit__(self, *error: Any) -> None:
        for part, training, parameters, buffers in self.before:
            part.training = training
            part._parameters.update(parameters)
            part._buffers.update(buffers)

    def _read(self) -> Iterator[Tensor]:
        """Yield the tensors on which results depend. In training mode, buffers are those that each pass updates."""
        for _, training, parameters, buffers in self.states:
            tensors = [*parameters.values(), *([] if training else buffers.values())]
            yield from (tensor for tensor in tensors if tensor is not None)

    def _leaf(self, parameter: Any) -> Any:
        if parameter is None or not parameter.requires_grad:
            return parameter
        if parameter not in self.leaves:
            self.leaves[parameter] = parameter.detach().requires_grad_() if self.detached else parameter
        return self.leaves[parameter]


def _states(module: nn.Module) -> list[tuple[nn.Module, bool, dict[str, Any], dict[str, Any]]]:
    """Return each part of a module with its training mode, its parameters and its buffers."""
    return [(part, part.training, dict(part._parameters), dict(part._buffers)) for part in module.modules()]


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
