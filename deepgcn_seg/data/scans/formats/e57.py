"""Read E57, the exchange format of laser scanners: :mod:`.e57_header` reads its XML, and pye57 its points.

The points are decoded in a process of its own. :mod:`.e57_writer` writes the format.
"""

import json
import logging
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path

import numpy as np

from ....errors import UserError
from ....escaping import one_line
from . import e57_decoder
from .bounds import Bounds, clean_names
from .decoding import decoding
from .e57_colors import scaled_colors
from .e57_header import COLOR_ELEMENTS, Setup, read_header
from .scan import COLORS, Scan
from .setups import joined

log = logging.getLogger(__name__)

# Points to decode or to write at a time.
PIECE = 1 << 18
# Names of the standard for coordinates and colours.
CARTESIAN = ("cartesianX", "cartesianY", "cartesianZ")
_SPHERICAL = ("sphericalRange", "sphericalAzimuth", "sphericalElevation")
# Coordinates -> the field that is not 0 where a point has none. A scan may have one of them for both.
_INVALID: dict[tuple[str, ...], str] = {CARTESIAN: "cartesianInvalidState", _SPHERICAL: "sphericalInvalidState"}
_NAMES = dict(zip(COLOR_ELEMENTS, COLORS[0]))


def read_e57(bounds: Bounds, columns: Sequence[str] | None) -> Scan:
    """Read the scans of an E57 file as one cloud in shared coordinates. Points that are marked as invalid get NaN."""
    header = read_header(bounds)
    for setup in header.setups:
        if setup.others:
            log.warning("%s: no numbers, left out: %s", bounds.path, one_line(", ".join(setup.others), 200))
    # Names are unique after the names of extensions have lost their prefix.
    paths = list(dict.fromkeys(field.path for setup in header.setups for field in setup.fields))
    plain = (_NAMES.get(path, path.rpartition(":")[2]) for path in paths)
    names = dict(zip(paths, clean_names([*"xyz", *plain])[3:]))
    plans = [(s.index, s.count, [(field.path, buffer_type(field.kind)) for field in s.fields]) for s in header.setups]
    settings, given = [str(bounds.path.resolve()), str(PIECE)], json.dumps(plans).encode()
    parts: list[dict[str, np.ndarray]] = []
    with decoding(bounds.path, e57_decoder.__file__, settings, given) as decoded:
        for setup in header.setups:
            if (part := _read_points(bounds.path, decoded, setup, names)) is None:
                break
            parts.append(part)
    if len(parts) < len(header.setups):
        raise UserError(f"{bounds.path}: not a readable E57 file (its points end early)")
    scaled_colors(bounds.path, header.setups, parts, {path: names[path] for path in COLOR_ELEMENTS if path in names})
    return Scan(bounds.path, joined(bounds.path, parts), header)


def buffer_type(kind: str) -> str:
    """Return the type of the buffer for a field. pye57 has none for integers of 32 bits.

    Its buffers for NumPy's ``l``, which is the usual int64 on Linux, hold wrong numbers; those for ``q`` are right.
    """
    return "q" if kind in ("i4", "u4", "i8") else kind


def _read_points(
    path: Path, decoded: BufferedReader, setup: Setup, names: dict[str, str]
) -> dict[str, np.ndarray] | None:
    """Return the fields of a scan, or None if the decoder ends before."""
    system = _coordinates(path, setup)
    states = (_INVALID[system], *_INVALID.values())
    invalid = next((state for state in states if state in {field.path for field in setup.fields}), "")
    used = {*system, invalid}
    fields = {names[field.path]: np.empty(setup.count, field.kind) for field in setup.fields if field.path not in used}
    xyz = [np.empty(setup.count) for _ in range(3)]
    for start in range(0, setup.count, PIECE):
        size = min(PIECE, setup.count - start)
        piece = {}
        for field in setup.fields:
            values = np.empty(size, buffer_type(field.kind))
            if decoded.readinto(values.data.cast("B")) != values.nbytes:
                return None
            piece[field.path] = values
        for name, values in piece.items():
            if name not in used:
                fields[names[name]][start : start + size] = values
        own = _cartesian(np.stack([piece[name].astype(np.float64, copy=False) for name in system], 1), system)
        if invalid in piece:
            own[piece[invalid] != 0] = np.nan
        for axis, values in zip(xyz, setup.pose.apply(own).T):
            axis[start : start + size] = values
    return dict(zip("xyz", xyz)) | fields


def _coordinates(path: Path, setup: Setup) -> tuple[str, ...]:
    """Return the names of the three fields that have the coordinates of a scan.

    Raises:
        UserError: it has none.
    """
    there = [field.path for field in setup.fields]
    for system in _INVALID:
        if set(there) >= set(system):
            return system
    shown = one_line(", ".join(there), 200) or "no fields"
    raise UserError(f"{path}: scan {setup.index} has no coordinates; it has {shown}")


def _cartesian(values: np.ndarray, system: Sequence[str]) -> np.ndarray:
    """Return coordinates (N, 3) of a system as x, y, z. Angles are in radians, elevation from the horizontal plane."""
    if system is CARTESIAN:
        return values
    distance, azimuth, elevation = values.T
    # Angles that are infinite give NaN.
    with np.errstate(invalid="ignore"):
        level = distance * np.cos(elevation)
        return np.stack([level * np.cos(azimuth), level * np.sin(azimuth), distance * np.sin(elevation)], 1)
