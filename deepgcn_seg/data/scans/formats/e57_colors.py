"""Colours of E57 files. Each scan declares the range of its colours; a file may have scans of different ranges."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ....errors import UserError
from .colors import BYTES, FRACTIONS, ONE, WORDS, as_bytes, exceed_one, guessed_full
from .e57_header import Field, Range, Setup

log = logging.getLogger(__name__)


class _Channel(NamedTuple):
    """Red, green or blue of one scan.

    Attributes:
        field: its field in the file. arrays: all fields of the scan. name: the name of this channel in ``arrays``.
        least, largest: of its finite numbers; infinity and -infinity if it has none, so that every range holds them.
    """

    field: Field
    arrays: dict[str, np.ndarray]
    name: str
    least: float
    largest: float

    @property
    def has_numbers(self) -> bool:
        """Whether it has finite numbers."""
        return self.least <= self.largest

    @property
    def floats(self) -> bool:
        """Whether its numbers are floats, as those of scaled integers are too."""
        return self.arrays[self.name].dtype.kind == "f"

    def within(self, declared: Range) -> bool:
        """Return whether its numbers are in a range, up to half a step of 8 bits for rounding."""
        low, full = declared
        margin = (full - low) / (2 * BYTES)
        return low - margin <= self.least and self.largest <= full + margin


def scaled_colors(
    path: Path, setups: Sequence[Setup], parts: Sequence[dict[str, np.ndarray]], names: dict[str, str]
) -> None:
    """Replace colours by bytes, scaled by the range of each scan.

    Colours stay as they are if all scans have fractions of 1, or if all have 16 bits and some numbers need them.
    They have more digits than bytes, and :attr:`.scan.Scan.rgb` can tell what they are.

    Args:
        parts: the fields of each scan. names: element -> its name in ``parts``, of the colours in the file.

    Raises:
        UserError: colours that are NaN or infinite at points with coordinates; or that are negative or beyond 16 bits,
            and no declared range holds them.
    """
    channels: list[_Channel] = []
    ranges: list[Range] = []
    for setup, part in zip(setups, parts):
        of_scan = [_channel(field, part, names[field.path]) for field in setup.fields if field.path in names]
        channels += of_scan
        ranges += _ranges(path, setup, of_scan)
    if _rgb_guesses(channels, ranges):
        return
    for channel, (low, full) in zip(channels, ranges):
        channel.arrays[channel.name] = as_bytes(_known(path, channel), low, full)


def _channel(field: Field, arrays: dict[str, np.ndarray], name: str) -> _Channel:
    finite = _finite(arrays[name])
    if not len(finite):
        return _Channel(field, arrays, name, np.inf, -np.inf)
    return _Channel(field, arrays, name, float(finite.min()), float(finite.max()))


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _rgb_guesses(channels: Sequence[_Channel], ranges: Sequence[Range]) -> bool:
    """Return whether :attr:`.scan.Scan.rgb`, which is given no ranges, guesses the right one for all scans."""
    used = {bounds for channel, bounds in zip(channels, ranges) if channel.has_numbers}
    filled = [channel for channel in channels if channel.has_numbers]
    if min((channel.least for channel in filled), default=0) < 0:
        return False
    largest = max((channel.largest for channel in filled), default=0)
    if used == {(0, FRACTIONS)}:
        return largest <= ONE and all(channel.floats for channel in filled)
    return used == {(0, WORDS)} and BYTES < largest <= WORDS


def _ranges(path: Path, setup: Setup, channels: Sequence[_Channel]) -> list[Range]:
    """Return the range of each channel of a scan: the one that the scan declares, or a guess from the numbers.

    The guess uses only the channels without a declared range, and floats apart from integers: one says nothing about
    the other.

    Raises:
        UserError: numbers that are negative, beyond 16 bits or fractions beyond 1, in a channel without a declared
            range.
    """
    declared = _declared(path, setup, channels)
    others = [channel for channel, bounds in zip(channels, declared) if bounds is None]
    least, largest = (
        min((channel.least for channel in others), default=0),
        max((channel.largest for channel in others), default=0),
    )
    if least < 0 or largest > WORDS:
        raise UserError(
            f"{path}: scan {setup.index} has colours from {least:g} to {largest:g}, which are neither 8 nor 16 bits"
        )
    floats = [_finite(channel.arrays[channel.name]) for channel in others if channel.floats]
    if floats and exceed_one(np.concatenate(floats)):
        raise UserError(
            f"{path}: scan {setup.index} has colours with fractions up to {largest:.7g}; scale them to 0..1 or 0..255"
        )
    full = {
        fractions: guessed_full(
            max((channel.largest for channel in others if channel.floats == fractions), default=0), fractions
        )
        for fractions in (False, True)
    }
    return [bounds or (0, full[channel.floats]) for channel, bounds in zip(channels, declared)]


def _declared(path: Path, setup: Setup, channels: Sequence[_Channel]) -> list[Range | None]:
    """Return the range that a scan declares for each channel, or None for a channel without one.

    ``colorLimits`` come before the limits of fields. Each of the two is used for all channels of a scan or for none: if
    the numbers of one channel are not within its range, those of the others may be so only because they are dark.
    """
    found: list[Range | None] = [None] * len(channels)
    for declared in (
        [channel.field.color_limits for channel in channels],
        [channel.field.depth for channel in channels],
    ):
        if all(bounds is None or channel.within(bounds) for channel, bounds in zip(channels, declared)):
            found = [first or bounds for first, bounds in zip(found, declared)]
    for channel in channels:
        bounds = channel.field.color_limits or channel.field.depth
        if bounds and not channel.within(bounds):
            log.warning(
                "%s: scan %d declares %s from %g to %g, but has %g to %g; the declared range is not used, "
                "nor those of the other colours of this scan",
                path, setup.index, channel.field.path, *bounds, channel.least, channel.largest,
            )  # fmt: skip
            break
    return found


def _known(path: Path, channel: _Channel) -> np.ndarray:
    """Return the numbers of a channel as float64, with 0 where a point has neither a colour nor coordinates."""
    values = channel.arrays[channel.name].astype(np.float64)
    missing = ~np.isfinite(values)
    if np.isfinite(np.stack([channel.arrays[axis][missing] for axis in "xyz"])).all(0).any():
        raise UserError(f"{path}: colours that are NaN or infinite at points with coordinates")
    values[missing] = 0
    return values
