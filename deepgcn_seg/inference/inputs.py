"""Points and colours as users give them: arrays, tensors or lists, checked before they are used."""

import logging
from typing import Any

import numpy as np
import torch

from ..data.scans.formats.colors import FRACTIONS, ONE, as_bytes
from ..errors import UserError, first_line

log = logging.getLogger(__name__)

# Largest distance of two points in metres. Up to it, float64 resolves a tenth of a micrometre.
MAX_EXTENT = 1e9


def _array(values: Any, name: str) -> np.ndarray:
    """Return an array, tensor or nested list of numbers as an array.

    Raises:
        UserError: the values are no numbers of one shape.
    """
    if np.ma.is_masked(values):
        raise UserError(f"{name} has masked values: leave these points out")
    try:
        if isinstance(values, torch.Tensor):
            values = values.detach().cpu()
            # NumPy has no bfloat16, whose values float32 holds exactly.
            values = values.float() if values.dtype == torch.bfloat16 else values
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{name} must be numbers of one shape ({first_line(error)})") from None
    if array.dtype.kind not in "iuf":
        raise UserError(f"{name} must be numbers, got {array.dtype}")
    return array


def coordinates(xyz: Any) -> np.ndarray:
    """Return coordinates as an (N, 3) array, in which at least one point is finite.

    Args:
        xyz: an array, tensor or list.

    Raises:
        UserError: another shape, or no finite coordinates.
    """
    xyz = _array(xyz, "points")
    if xyz.ndim != 2 or xyz.shape[1] != 3 or not len(xyz):
        raise UserError(f"points must be (N, 3), at least one, got {xyz.shape}")
    if not np.isfinite(xyz).all(1).any():
        raise UserError("points have no coordinates: all are NaN or infinite")
    return xyz


def to_metres(xyz: np.ndarray, scale: float) -> np.ndarray:
    """Return finite coordinates as (N, 3) float64 in metres from their minimum.

    Raises:
        UserError: the points lie too far apart.
    """
    # The minimum is subtracted in float64, because geo-referenced coordinates do not fit float32.
    with np.errstate(over="ignore"):
        if xyz.dtype.kind == "f":
            moved = xyz.astype(np.float64) - xyz.min(0).astype(np.float64)
        else:
            # Integers beyond 2^53 do not fit float64. The difference of two of them always fits the unsigned type.
            unsigned = f"u{xyz.dtype.itemsize}"
            moved = (xyz.astype(unsigned) - xyz.min(0).astype(unsigned)).astype(np.float64)
        metres = moved * scale
    if not metres.max() <= MAX_EXTENT:
        raise UserError(f"points are more than {MAX_EXTENT:g} m apart: remove stray points far away, or set scale")
    return metres


def color_rows(rgb: Any, count: int) -> np.ndarray:
    """Return colours as an array of ``count`` rows, whatever they mean.

    Raises:
        UserError: another shape.
    """
    rgb = _array(rgb, "rgb")
    if rgb.shape != (count, 3):
        raise UserError(f"rgb must be ({count}, 3), a colour for each point, got {rgb.shape}")
    return rgb


def colors_of(rgb: Any, count: int) -> np.ndarray | None:
    """Return the colours of ``count`` points as (N, 3) uint8, or None if all are zero, which no scanner sees.

    The range of the values is never guessed:

    - uint8 is taken as it is.
    - Whole numbers of any other type, the largest in 2..255, are colours in 0..255.
    - Numbers in 0..1, some of them fractions, are colours in 0..1. The largest may be above 1 by a rounding.

    Anything else is an error: values that are negative, NaN or above 255; fractions beyond 1 (round them if they are
    meant as 0..255); and values of another type than uint8 that are all 0 or 1, which may mean either.

    Args:
        rgb: (N, 3) array, tensor or list.

    Raises:
        UserError: another shape, or values whose meaning is not known.
    """
    rgb = color_rows(rgb, count)
    if not rgb.any():
        return None
    if rgb.dtype == np.uint8:
        return rgb
    if not np.isfinite(rgb).all() or rgb.min() < 0 or rgb.max() > 255:
        raise UserError(f"rgb must be whole numbers in 0..255 or fractions in 0..1, got {rgb.min():g}..{rgb.max():g}")
    whole = rgb.dtype.kind in "iu" or bool((rgb == np.rint(rgb)).all())
    if whole and rgb.max() == 1:
        raise UserError("rgb has only 0 and 1, which may be of 0..1 or of 0..255: give uint8 of 0..255")
    if not whole and rgb.max() > ONE:
        raise UserError(
            f"rgb has fractions up to {rgb.max():.9g}: round them if they are 0..255, else scale them to 0..1"
        )
    return rgb.astype(np.uint8) if whole else as_bytes(rgb, 0, FRACTIONS)


def warn_of_extent(size: np.ndarray) -> None:
    """Log a warning if an extent (3,) does not look like metres of a building."""
    if size.max() > 1000 or size.max() < 0.5:
        shown = " x ".join(f"{side:,.0f}" if side >= 100 else f"{side:.3g}" for side in size)
        log.warning(
            "The scan is %s m, which does not look like metres: set scale to metres per unit, or remove stray points",
            shown,
        )
