"""What launching Triton kernels needs to know. Imported without Triton."""

import os

# Launch options: products and sums are fused, as in all that was measured, also where that is no longer Triton's
# default (3.10, as 3.9 warns).
FUSED = {"enable_fp_fusion": True}


def interpreted() -> bool:
    """Return whether Triton runs kernels step by step on the CPU, as tests without a GPU do."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def power_of_two(size: int) -> int:
    """Return the least power of two that is not below a positive ``size``.

    Triton's own function is for use inside kernels: outside it takes microseconds a call, and a search makes a dozen.
    """
    return 1 << (size - 1).bit_length()
