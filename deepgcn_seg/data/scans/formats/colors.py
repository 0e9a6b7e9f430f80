"""Colours of any depth as bytes."""

from typing import NamedTuple

import numpy as np

# The largest numbers that a file without a declared range may mean by full colour: fractions, 8 and 16 bits.
FRACTIONS, BYTES, WORDS = 1, 255, 65535
# A full fraction after rounding, such as 255 times a scale of 0.0039215686.
ONE = 1 + 1e-4
# The lightest point of a scan in bytes is lighter than this.
_BLACK = 16


class Colors(NamedTuple):
    """Colours in three fields of a scan.

    Attributes:
        fields: the names of red, green and blue. values: (N, 3), finite and not negative. full: the number that means
            full colour.
    """

    fields: tuple[str, ...]
    values: np.ndarray
    full: int

    @property
    def bytes(self) -> np.ndarray:
        """The colours (N, 3) uint8."""
        return self.values if self.values.dtype == np.uint8 else as_bytes(self.values, 0, self.full)

    @property
    def words(self) -> np.ndarray:
        """The colours (N, 3) uint16, of which 65535 is full colour."""
        return np.clip(np.rint(self.values * (WORDS / self.full)), 0, WORDS).astype(np.uint16)


def guessed_full(largest: float, fractions: bool) -> int:
    """Return the number that means full colour in a file that declares none.

    Args:
        largest: of the colours. fractions: whether colours in 0..1 are fractions; else they are almost black bytes.
    """
    if fractions and largest <= ONE:
        return FRACTIONS
    return BYTES if largest <= BYTES else WORDS


def exceed_one(values: np.ndarray) -> bool:
    """Return whether colours are fractions of 1 of which some are too light: as bytes they would all be black.

    Args:
        values: finite numbers, of any shape.
    """
    return ONE < values.max(initial=0) < _BLACK and not np.array_equal(values, np.rint(values))


def as_bytes(values: np.ndarray, low: float, full: float) -> np.ndarray:
    """Return colours as uint8: ``low`` becomes 0, and ``full`` becomes 255.

    Args:
        values: finite numbers, of any shape.
    """
    if (low, full) == (0, WORDS):
        # Writers widen bytes by a factor of 256 or of 257. The high byte is the same.
        return np.clip(np.floor(values / 256), 0, BYTES).astype(np.uint8)
    return np.clip(np.rint((values - low) * (BYTES / (full - low))), 0, BYTES).astype(np.uint8)
