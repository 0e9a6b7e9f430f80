"""A scan: the points of a file with all their fields, and the fields that are its coordinates and colours.

A scan may have been taken from several positions of a laser scanner, which are called setups; most formats call each
of them a scan (:mod:`.setups`). A scan that consists of several files is called a scene (:mod:`.scene`).

Files are not trusted. What a header claims is compared with the file, or with ``max_points``, before memory is taken
(:mod:`.bounds`). Nothing is unpickled, and whatever is wrong ends in one :class:`UserError` that names the
file.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import UserError
from .colors import BYTES, WORDS, Colors, exceed_one, guessed_full
from .typed import LazyFields

log = logging.getLogger(__name__)

# Names that colours and labels may have; the first that a file has counts (Scan.field).
COLORS = (
    ("red", "green", "blue"),
    ("r", "g", "b"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
    ("rf", "gf", "bf"),
    # ParaView's names of the components of an array.
    *(tuple(f"{name}{mark}{n}" for n in range(3)) for name in ("rgb", "rgba") for mark in ":_"),
)
# Names of fields that hold the bytes of three colours, or of these and a transparency, in one number.
PACKED = ("rgb", "rgba")
# Names of x, y and z; ParaView and old versions of CloudCompare write the longer ones.
AXES = tuple((axis, f"points:{n}", f"points_{n}", f"coord. {axis}", f"coord_{axis}") for n, axis in enumerate("xyz"))
# CloudCompare's Rf, Gf, Bf are fractions of 1, whatever their type.
_FRACTIONS = COLORS[3]
# Digits that C, C++ and their %g write unless they are told otherwise.
_DIGITS = 6
LABELS = (
    "label",
    "labels",
    "class",
    "classification",
    "scalar_label",
    "scalar_classification",
    "semantic",
    "sem_label",
)


@dataclass
class Scan:
    """Points of a file.

    Attributes:
        path: the file. fields: name -> (N,) values as in the file, coordinates among them; fields of LAS and LAZ are
            unpacked each time they are asked for.
        template: what else is needed to write the same format again (a header, faces), or None.
    """

    path: Path
    fields: Mapping[str, np.ndarray]
    template: Any = None

    def __len__(self) -> int:
        return self.fields.count if isinstance(self.fields, LazyFields) else len(next(iter(self.fields.values()), ()))

    def field(self, *names: str) -> str | None:
        """Return the field that the first of some names stands for, as the file spells it, or None if none does.

        Raises:
            UserError: that name stands for several fields.
        """
        found = self.candidates(*names)
        if len(found) > 1:
            raise UserError(
                f"{self.path}: fields {' and '.join(found)} have the same name but for case or unit, and it is not "
                "certain which is meant; rename or remove all but one"
            )
        return found[0] if found else None

    def candidates(self, *names: str) -> list[str]:
        """Return the fields that the first of some names may stand for, or nothing if the file has none of them.

        A name stands for the field that is spelled like it. Without such a field it stands for fields that differ in
        case, and without these for fields with a unit in brackets.
        """
        for name in names:
            for spelled in (str, _without_case, _without_unit):
                if found := [field for field in self.fields if spelled(field) == spelled(name)]:
                    return found
        return []

    @property
    def xyz(self) -> np.ndarray:
        """Coordinates (N, 3) float64; some may be NaN or infinite, as in files of depth cameras.

        They are put together at each access; those of LAS and LAZ are unpacked, too. So are the colours.

        Raises:
            UserError: no fields of coordinates, or no point with finite ones.
        """
        names = [name for axis in AXES if (name := self.field(*axis)) is not None]
        if len(names) < len(AXES):
            raise UserError(
                f"{self.path}: no fields x, y, z; it has {', '.join(self.fields) or 'none'} (of text and arrays, "
                "columns=[x,y,z,...] says which columns are which)"
            )
        if not len(self):
            raise UserError(f"{self.path}: no points")
        xyz = np.stack([_numbers(self.path, name, self.fields[name]) for name in names], 1)
        if not np.isfinite(xyz).all(1).any():
            raise UserError(f"{self.path}: no points with coordinates: all are NaN or infinite")
        return xyz

    @property
    def rgb(self) -> np.ndarray | None:
        """Colours (N, 3) uint8, or None without: those of :attr:`colors`, scaled to 0..255.

        The bytes of all three may be packed into one field ``rgb`` or ``rgba`` (:func:`unpacked`).

        Raises:
            UserError: as of :attr:`colors`; or a packed field that has something else.
        """
        if (colors := self.colors) is not None:
            return colors.bytes
        packed = self.field(*PACKED)
        bands = None if packed is None else unpacked(self.path, packed, self.fields[packed])
        return None if bands is None else np.stack(bands[:3], 1)

    @property
    def colors(self) -> Colors | None:
        """Colours in three fields as the file has them, or None without: fractions of 1, or of 8 or 16 bits.

        Which of them they are is guessed from the largest of all three. Readers of formats that declare the range of
        colours give numbers of which the guess is right. A point without coordinates may have no colour either: NaN
        becomes black there.

        Raises:
            UserError: NaN at another point, negative colours, or fractions beyond 1.
        """
        for names in COLORS:
            found = tuple(field for name in names if (field := self.field(name)) is not None)
            if len(found) == len(names):
                break
        else:
            return None
        rgb = np.stack([self.fields[name] for name in found], 1)
        if rgb.dtype == np.uint8:
            return Colors(found, rgb, BYTES)
        # In text, a column of fractions may happen to have whole numbers only.
        fractions = names == _FRACTIONS or rgb.dtype.kind == "f"
        rgb = _numbers(self.path, found[0], rgb, np.float32)
        if not np.isfinite(rgb).all():
            rgb = np.where(np.isfinite(rgb) | np.isfinite(self.xyz).all(1)[:, None], rgb, 0)
        if len(rgb) and (not np.isfinite(rgb).all() or rgb.min() < 0):
            raise UserError(f"{self.path}: colours that are NaN, infinite or negative")
        largest = rgb.max(initial=0)
        if largest > WORDS:
            raise UserError(f"{self.path}: colours up to {largest:g}, which are neither 8 nor 16 bits")
        if exceed_one(rgb):
            raise UserError(f"{self.path}: colours have fractions up to {largest:.7g}; scale them to 0..1 or 0..255")
        return Colors(found, rgb, guessed_full(largest, fractions))


def unpacked(path: Path, name: str, values: np.ndarray) -> list[np.ndarray] | None:
    """Return the bytes red, green, blue and alpha (N,) uint8 that a field packs into one number, or None if it cannot.

    The number is alpha * 2^24 + red * 2^16 + green * 2^8 + blue, as an integer of at least 32 bits (negative if it was
    written as a signed one), as a float64 with this value, or as a float32 with these bits, as PCL stores it. Missing
    numbers become black.

    Raises:
        UserError: numbers beyond 32 bits, or with fractions in float64.
    """
    if values.dtype.itemsize < 4 or values.dtype.kind not in "iuf":
        return None
    if values.dtype == np.float32:
        bits = np.ascontiguousarray(values).view(np.uint32)
    else:
        known = np.where(np.isfinite(values), values, 0)
        whole = known.dtype.kind != "f" or np.array_equal(known, np.rint(known))
        if len(known) and not (whole and -(2**31) <= known.min() <= known.max() < 2**32):
            raise UserError(
                f"{path}: field {name} has numbers that are not three colours packed into one; give it another name, "
                "or give the colours as red, green and blue"
            )
        bits = known.astype(np.uint32 if known.dtype.kind == "u" else np.int64).astype(np.uint32)
    return [(bits >> shift & 255).astype(np.uint8) for shift in (16, 8, 0, 24)]


def _without_case(name: str) -> str:
    return name.lower().lstrip("/")


def _without_unit(name: str) -> str:
    """Return a field's name in lower case, without a unit in brackets."""
    return re.sub(r"[ _]*[\[(][^\[(]*[\])]$", "", _without_case(name))


def _numbers(path: Path, name: str, values: np.ndarray, dtype: type = np.float64) -> np.ndarray:
    try:
        return values.astype(dtype, copy=False)
    except (ValueError, TypeError):
        raise UserError(f"{path}: field {name} is not numbers") from None


def lost_digits(xyz: np.ndarray, scale: float = 1.0) -> str | None:
    """Return a warning if coordinates were rounded by more than a centimetre, to float32 or to six digits, else None.

    Values that were stored as float32 are multiples of its step, which is 0.5 at 5,400,000. Many programs write text
    with six digits, whose step is 10 there. Coordinates that are multiples of a larger step, such as those of a regular
    grid, have lost nothing.

    Args:
        xyz: (N, 3) finite coordinates of any type. scale: metres per unit.
    """
    with np.errstate(all="ignore"):
        largest = np.abs(xyz).max(0).astype(np.float64)
        steps, why = 10.0 ** (np.floor(np.log10(largest)) + 1 - _DIGITS), "have six digits at most"
        coarse = [axis for axis, step in enumerate(steps) if step * scale > 0.01]
        if not coarse or not _have_six_digits(xyz):
            steps, why = np.spacing(largest.astype(np.float32)).astype(np.float64), "were stored as float32"
            coarse = [
                axis
                for axis, step in enumerate(steps)
                if step * scale > 0.01
                and np.array_equal(xyz[:, axis], xyz[:, axis].astype(np.float32))
                and np.fmod(xyz[:, axis], 2 * step).any()
            ]
    if not coarse:
        return None
    # A million points tell how many became equal.
    some = xyz[:: len(xyz) // 1_000_000 + 1]
    return (
        f"Coordinates in {', '.join('xyz'[axis] for axis in coarse)} are rounded to {max(steps[coarse]) * scale:g} m "
        f"because they {why}: {len(np.unique(some, axis=0)):,} different points of {len(some):,}. "
        "Store them as float64 or with more digits, or subtract an offset before"
    )


def _have_six_digits(xyz: np.ndarray) -> bool:
    """Return whether all coordinates are numbers of at most six digits; float32 may have rounded them after that."""
    for some in (xyz[:1000], xyz):
        values = np.abs(some.astype(np.float64))
        units = values * 10.0 ** (_DIGITS - 1 - np.floor(np.log10(values)))
        if not ((np.abs(units - np.rint(units)) < 0.05) | (values == 0)).all():
            return False
    return True
