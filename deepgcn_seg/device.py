"""Which device a setting names."""

import torch

from .errors import UserError, first_line


def device(name: str | torch.device) -> torch.device:
    """The device a setting names; ``auto`` is CUDA where there is some, else the CPU.

    Raises:
        UserError: unknown, or not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
        # A meta tensor has no values.
        torch.empty(1, device=chosen).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        raise UserError(f"device={name}: {first_line(error)}") from None
    return chosen
