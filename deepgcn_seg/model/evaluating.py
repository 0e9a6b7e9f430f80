"""The mode in which a network is used: evaluation, without gradients, whatever mode it was left in."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a model in evaluation inside the context, without gradients; every part has its own mode back afterwards.

    A network that was trained further may still be in training mode, or some of its parts. Its labels would then depend
    on the other points of a batch, and its running statistics would change with every scan.
    """
    modes = [(module, module.training) for module in model.modules()]
    if any(training for _, training in modes):
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        # Parents come before their children. train() is called, because a part of a user's own may do more in it.
        for module, training in modes:
            if module.training != training:
                module.train(training)
