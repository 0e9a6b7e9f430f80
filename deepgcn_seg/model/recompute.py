"""Gradient checkpointing: the backward pass computes a module's activations again, so that they are not kept."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import cast

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of every batch norm below ``module`` as they are.

    A second forward pass over the same batch, made to save memory, must not count twice.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, cast(Tensor, norm.num_batches_tracked).clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before):
            norm.momentum = momentum
            cast(Tensor, norm.num_batches_tracked).copy_(batches)


def recomputed(module: nn.Module, *inputs: Tensor | None) -> Tensor:
    """Return ``module(*inputs)``; the backward pass calls the module again instead of keeping what it needs."""
    contexts = lambda: (nullcontext(), frozen_statistics(module))
    return checkpoint(module, *inputs, use_reentrant=False, context_fn=contexts)
