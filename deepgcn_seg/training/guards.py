"""Handle what may stop or skip a training step: signals, too little memory, and values that are not finite."""

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from ..errors import UserError, first_line
from ..files import replacing
from ..memory import is_out_of_memory

log = logging.getLogger(__name__)

# The input of one pass of a step: points (B, N, channels) and labels (B, N).
Batch = tuple[torch.Tensor, torch.Tensor]


@contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether SIGINT or SIGTERM has come. A SIGINT after it stops the process at once.

    A second SIGTERM changes nothing: SLURM sends it to torchrun and to its processes, and torchrun passes it on.
    """
    requested = False

    def request(number, frame):
        nonlocal requested
        if not requested:
            log.info("Stopping after this step (Ctrl-C: at once)")
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        requested = True

    try:
        before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        # Only the main thread may handle signals, and a launcher of several jobs may run this code in another thread.
        yield lambda: False
        return
    try:
        yield lambda: requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def advice_on_memory(model: nn.Module, step: int, blocks: int, points: int, accumulate: int) -> Iterator[None]:
    """Turn a failed allocation inside the context into an error that says which settings save how much memory.

    Args:
        blocks: blocks per pass. points: points per block. accumulate: passes per step.

    Raises:
        UserError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        size = activation_bytes(model, points) * blocks / 2**30
        # The passes share the blocks equally.
        parts = next((n for n in range(2, blocks + 1) if blocks % n == 0), 2)
        smaller = f"accumulate={parts * accumulate}" if blocks > 1 else f"points={points // parts}"
        raise UserError(
            f"out of memory at step {step}, {blocks} blocks of {points} points a pass ({first_line(error)}). "
            f"Try {smaller} (1/{parts} of about {size:.1f} GB of activations); "
            "or model.recompute=true (recomputes convolutions: about a third of them, a third more time); "
            "or backbone=revgcn (hardly grows with depth)"
        ) from None


def activation_bytes(model: nn.Module, points: int) -> int:
    """Return an estimate of the bytes that a training pass keeps for the backward pass, for one block.

    It counts the float32 output of every linear map three times: as computed, normalised, and as the next map's input.
    """
    widths = sum(module.out_features for module in model.modules() if isinstance(module, nn.Linear))
    return 3 * 4 * points * widths


class RunningStatistics:
    """A copy of a model's running statistics, to restore them after a forward pass that is not finite."""

    def __init__(self, model: nn.Module):
        self._buffers = list(model.buffers())
        self._copies = [buffer.clone() for buffer in self._buffers]

    def restore(self) -> None:
        """Restore the statistics to those at the time of the copy."""
        for buffer, copy in zip(self._buffers, self._copies):
            buffer.copy_(copy)


def save_bad_batch(path: Path, step: int, blocks: Sequence[str], passes: Sequence[Batch]) -> None:
    """Write the batch of a step that is not finite, for inspection. If it cannot be written, log a warning."""
    content = {"step": step, "blocks": blocks, "points": [p for p, _ in passes], "labels": [y for _, y in passes]}
    try:
        with replacing(path) as temporary:
            torch.save(content, temporary)
    except (OSError, RuntimeError) as error:
        log.warning("the batch could not be saved (%s)", error)
