"""Sizes of kernels' tiles."""


def power_of_two(size: int) -> int:
    """The least one that is not below ``size``, which is positive.

    Triton's own is for use inside kernels: outside it takes microseconds a call, and a search makes a dozen.
    """
    return 1 << (size - 1).bit_length()
