"""Colours of E57 files. Each scan declares the range of its colours; a file may have scans of different ranges."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ....errors import UserError
from .colors import BYTES, FRACTIONS, WORDS, as_bytes, guessed_full
from .e57_header import Field, Setup

log = logging.getLogger(__name__)


class _Column(NamedTuple):
    """A colour of a scan: its field in the file, its name in the fields of the scan, its least and largest number."""

    field: Field
    name: str
    least: float
    largest: float


def scaled_colors(
    path: Path, setups: Sequence[Setup], parts: Sequence[dict[str, np.ndarray]], names: dict[str, str]
) -> None:
    """Replace colours by bytes, scaled by the range of each scan.

    Colours stay as they are if all scans have fractions of 1, or if all have 16 bits and some numbers need them.
    They have more digits than bytes, and :attr:`.scan.Scan.rgb` can tell what they are.

    Args:
        parts: the fields of each scan. names: element -> its name in ``parts``, of the colours in the file.

    Raises:
        UserError: colours that are NaN, infinite or negative at points with coordinates, or beyond 16 bits.
    """
    scaled: list[tuple[dict[str, np.ndarray], _Column, tuple[float, float]]] = []
    for setup, part in zip(setups, parts):
        columns = [_column(field, names[field.path], part) for field in setup.fields if field.path in names]
        scaled += zip([part] * len(columns), columns, _ranges(path, setup, columns))
    filled = [(part[of.name], of, bounds) for part, of, bounds in scaled if len(part[of.name])]
    ranges, least = {bounds for *_, bounds in filled}, min((of.least for _, of, _ in filled), default=0)
    largest = max((of.largest for _, of, _ in filled), default=0)
    floats = all(values.dtype.kind == "f" for values, *_ in filled)
    fractions = ranges == {(0, FRACTIONS)} and floats and largest <= FRACTIONS
    words = ranges == {(0, WORDS)} and BYTES < largest <= WORDS
    if least >= 0 and (fractions or words):
        return
    for part, of, bounds in scaled:
        part[of.name] = as_bytes(_known(path, part, of.name), *bounds)


def _column(field: Field, name: str, part: dict[str, np.ndarray]) -> _Column:
    known = part[name][np.isfinite(part[name])]
    return _Column(field, name, *((float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)))


def _ranges(path: Path, setup: Setup, columns: Sequence[_Column]) -> list[tuple[float, float]]:
    """Return the numbers for 0 and for full colour of each colour of a scan: the first range that holds its numbers.

    If a scan declares no such range, it is guessed from the largest number of all colours.
    """
    found = [next((bounds for bounds in of.field.ranges if _holds(bounds, of)), None) for of in columns]
    for of, bounds in zip(columns, found):
        if bounds != next(iter(of.field.ranges), None):
            log.warning(
                "%s: scan %d declares %s from %g to %g, but has %g to %g; the declared range is not used",
                path, setup.index, of.field.path, *of.field.ranges[0], of.least, of.largest,
            )  # fmt: skip
    if None in found and not all(of.least >= 0 and of.largest <= WORDS for of in columns):
        raise UserError(
            f"{path}: scan {setup.index} has colours from {min(of.least for of in columns):g} to "
            f"{max(of.largest for of in columns):g}, which are neither 8 nor 16 bits"
        )
    floats = all(of.field.kind.startswith("f") for of in columns)
    full = guessed_full(max((of.largest for of in columns), default=0), floats)
    return [(0, full) if bounds is None else bounds for bounds in found]


def _holds(bounds: tuple[float, float], column: _Column) -> bool:
    """Return whether the numbers of a column are within a range, up to half a step of 8 bits for rounding."""
    margin = (bounds[1] - bounds[0]) / (2 * BYTES)
    return bounds[0] - margin <= column.least and column.largest <= bounds[1] + margin


def _known(path: Path, part: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Return a colour of a scan as float64, with 0 where a point has neither a colour nor coordinates."""
    values = part[name].astype(np.float64)
    missing = ~np.isfinite(values)
    if np.isfinite(np.stack([part[axis][missing] for axis in "xyz"])).all(0).any():
        raise UserError(f"{path}: colours that are NaN, infinite or negative")
    values[missing] = 0
    return values
