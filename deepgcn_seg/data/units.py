"""Coordinates of any unit and orientation: which axes a scan has, and whether they can be metres."""

import math

import numpy as np

from ..errors import UserError

# The axis that points up -> the scan's axes in the order along, across, up.
UP = {"z": (0, 1, 2), "y": (0, 2, 1), "x": (1, 2, 0)}

# Metres: nothing built is higher; scans that reach further along the floor are of landscapes, at so many points a
# square metre or more.
HIGHEST, WIDEST, SPARSEST = 1000.0, 100.0, 1.0
# Millimetres, centimetres.
_UNITS = (0.001, 0.01)
# A room is about so high, and about so wide.
_HEIGHT, _WIDTH = 3.0, 6.0
# The share of points at either end of an axis that do not count, as they may be stray, and how many are looked at.
_STRAY, _LOOKED_AT = 0.05, 100_000


def require_metres(xyz: np.ndarray, where: str) -> None:
    """Stop at coordinates that cannot be metres, which would be cut into very many blocks of hardly any points.

    They cannot if nine tenths of the points extend over more than ``HIGHEST`` in height, or over more than ``WIDEST``
    along the floor with fewer than ``SPARSEST`` points a square metre.

    Args:
        xyz: (N, 3), the third axis up. where: what the message begins with.

    Raises:
        UserError: gives the scale that would make a room of them.
    """
    looked_at = xyz[:: max(len(xyz) // _LOOKED_AT, 1)]
    low, high = np.quantile(looked_at, [_STRAY, 1 - _STRAY], axis=0)
    extent = high - low
    wide = max(extent[:2]) > WIDEST and len(xyz) < SPARSEST * extent[0] * extent[1]
    if not wide and extent[2] <= HIGHEST:
        return
    size, usual = (extent[2], _HEIGHT) if extent[2] > max(extent[:2]) / 20 else (max(extent[:2]), _WIDTH)
    scale = min(_UNITS, key=lambda unit: abs(math.log(size * unit / usual)))
    unit = {0.001: "millimetres", 0.01: "centimetres"}[scale]
    raise UserError(
        f"{where}: {len(xyz):,} points over {extent[0]:,.0f} x {extent[1]:,.0f} x {extent[2]:,.0f} m are no building; "
        f"are they in {unit}? Give scale={scale:g} (metres per unit), or scale=1 if they are in metres"
    )
