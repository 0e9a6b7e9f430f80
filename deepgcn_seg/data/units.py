"""Units and orientation of coordinates: which axis points up, and whether units can be metres."""

import math

import numpy as np

from ..errors import UserError

# For each axis that may point up, the order of the scan's axes that makes it the third. Each order is a rotation: a
# swap of two axes would mirror the scan.
UP = {"z": (0, 1, 2), "y": (2, 0, 1), "x": (1, 2, 0)}

# No building is higher than MAX_HEIGHT metres. A scan wider than MAX_WIDTH metres shows a landscape, which has at least
# MIN_DENSITY points per square metre.
MAX_HEIGHT, MAX_WIDTH, MIN_DENSITY = 1000.0, 100.0, 1.0
# Metres per unit, and the unit.
_UNITS = {0.001: "millimetres", 0.01: "centimetres"}
# Height and width of a usual room in metres, from which the unit is guessed.
_HEIGHT, _WIDTH = 3.0, 6.0
# Share of the points that are ignored at either end of an axis, because they may be stray; and the number of points to
# sample.
_STRAY, _SAMPLED = 0.05, 100_000


def require_metres(xyz: np.ndarray, where: str = "") -> None:
    """Raise an error for coordinates that cannot be metres, which would give very many blocks with hardly any points.

    They cannot be metres if nine tenths of the points extend over more than :data:`MAX_HEIGHT` in height, or over more
    than :data:`MAX_WIDTH` along the floor with fewer than :data:`MIN_DENSITY` points per square metre.

    Args:
        xyz: (N, 3), the third axis up. where: what the message begins with, such as "FILE: ".

    Raises:
        UserError: they cannot be metres; the message gives the scale that would make a room of usual size.
    """
    sample = xyz[:: max(len(xyz) // _SAMPLED, 1)]
    low, high = np.quantile(sample, [_STRAY, 1 - _STRAY], axis=0)
    extent = high - low
    wide = max(extent[:2]) > MAX_WIDTH and len(xyz) < MIN_DENSITY * extent[0] * extent[1]
    if not wide and extent[2] <= MAX_HEIGHT:
        return
    size, usual = (extent[2], _HEIGHT) if extent[2] > max(extent[:2]) / 20 else (max(extent[:2]), _WIDTH)
    scale = min(_UNITS, key=lambda unit: abs(math.log(size * unit / usual)))
    raise UserError(
        f"{where}{len(xyz):,} points over {extent[0]:,.0f} x {extent[1]:,.0f} x {extent[2]:,.0f} m are no building; "
        f"are they in {_UNITS[scale]}? Give scale={scale:g} (metres per unit), or scale=1 if they are in metres"
    )
