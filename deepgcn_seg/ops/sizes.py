"""Sizes of kernels' grids and tiles. Triton's functions of that kind are for use inside kernels: outside they take
microseconds a call, and a search makes twenty."""


def power_of_two(size: int) -> int:
    """The least one that is not below ``size``, which is positive."""
    return 1 << (size - 1).bit_length()


def parts(size: int, most: int) -> int:
    """How many parts of at most ``most`` make up ``size``."""
    return -(-size // most)
