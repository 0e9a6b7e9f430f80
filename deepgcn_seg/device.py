"""The device that a setting names."""

import torch

from .distributed import declared
from .errors import UserError, first_line


def device(name: str | torch.device) -> torch.device:
    """Return the device that a setting names; ``auto`` is CUDA if there is a GPU, else the CPU.

    Of several processes on a machine, each has a GPU of its own.

    Raises:
        UserError: there is no such device, or PyTorch cannot use it.
    """
    try:
        found = torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
        if found.type not in ("cpu", "cuda"):
            raise UserError(f"device={name}: must be auto, cpu, cuda or cuda:1, ...; other devices are not supported")
        if found.type == "cuda" and (world := declared()).size > 1:
            found = torch.device("cuda", world.local % max(torch.cuda.device_count(), 1))
        # Only a kernel shows that a card is too old for this PyTorch. A meta tensor has no values.
        torch.ones(1, device=found).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        hint = "; device=cpu needs no GPU" if name == "auto" else ""
        raise UserError(f"device={name}: {first_line(error)}{hint}") from None
    return found
