"""The device that a setting names."""

import torch

from .errors import UserError, first_line


def device(name: str | torch.device) -> torch.device:
    """Return the device that a setting names; ``auto`` is CUDA if there is a GPU, else the CPU.

    Raises:
        UserError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        # A meta tensor has no values.
        torch.empty(1, device=found).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        raise UserError(f"device={name}: {first_line(error)}") from None
    return found
