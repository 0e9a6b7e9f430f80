"""Point-cloud files: PLY, LAS, LAZ, PCD, NPY, NPZ and text, read and written with all their fields.

A file is not trusted: what its header claims is compared with the file, or with ``max_points``, before memory
is taken (:mod:`.formats.bounds`), nothing is unpickled, and whatever is wrong ends in one :class:`UserError`
that names the file.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError, first_line
from .files import replacing
from .formats.bounds import MAX_POINTS, Bounds, clean_names, printable
from .formats.typed import LazyFields, number_column

log = logging.getLogger(__name__)

# Names a field may have, compared without case; the first that a file has counts.
COLORS = (
    ("red", "green", "blue"),
    ("r", "g", "b"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
    ("rf", "gf", "bf"),
)
# x, y, z; then as ParaView and old CloudCompare write them.
AXES = tuple((axis, f"points:{n}", f"points_{n}", f"coord. {axis}", f"coord_{axis}") for n, axis in enumerate("xyz"))
# CloudCompare's Rf, Gf, Bf are fractions of 1, whatever their type.
_FRACTIONS = COLORS[3]
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
        path: the file. fields: name -> (N,), as in the file, ``x``, ``y``, ``z`` among them; those of LAS and LAZ are
            unpacked each time they are asked for.
        template: what writing the same format again needs besides (a header, faces), or None.
    """

    path: Path
    fields: Mapping[str, np.ndarray]
    template: Any = None

    def __len__(self) -> int:
        return self.fields.count if isinstance(self.fields, LazyFields) else len(next(iter(self.fields.values()), ()))

    def field(self, *names: str) -> str | None:
        """The first of some names that the file has, as it is written there."""
        known = {_without_unit(name): name for name in self.fields}
        known |= {name.lower().lstrip("/"): name for name in self.fields}
        return next((known[name] for name in names if name in known), None)

    @property
    def xyz(self) -> np.ndarray:
        """(N, 3) float64 coordinates; NaN or infinite where the file has them, as depth cameras do.

        Raises:
            UserError: no coordinates, or no points that have any.
        """
        names = [self.field(*axis) for axis in AXES]
        if None in names:
            raise UserError(
                f"{self.path}: no fields x, y, z; it has {', '.join(self.fields) or 'none'} (of text and arrays, "
                "columns=[x,y,z,...] says which columns are which)"
            )
        if not len(self):
            raise UserError(f"{self.path}: no points")
        xyz = np.stack([_numbers(self.path, str(name), self.fields[name]) for name in names], 1)
        if not np.isfinite(xyz).all(1).any():
            raise UserError(f"{self.path}: no points with coordinates: all are NaN or infinite")
        return xyz

    @property
    def rgb(self) -> np.ndarray | None:
        """(N, 3) uint8 colours, or None without; 16-bit and 0..1 ones are scaled to 0..255.

        Points without coordinates may be without colours too: those that are NaN become black.

        Raises:
            UserError: other NaN colours, or negative ones.
        """
        for names in COLORS:
            found = [self.field(name) for name in names]
            if None not in found:
                break
        else:
            return None
        rgb = np.stack([self.fields[name] for name in found], 1)
        if rgb.dtype == np.uint8:
            return rgb
        fractions = names == _FRACTIONS or self.fields[found[0]].dtype.kind == "f"
        rgb = _numbers(self.path, str(found[0]), rgb, np.float32)
        if not np.isfinite(rgb).all():
            rgb = np.where(np.isfinite(rgb) | np.isfinite(self.xyz).all(1)[:, None], rgb, 0)
        if len(rgb) and (not np.isfinite(rgb).all() or rgb.min() < 0):
            raise UserError(f"{self.path}: colours that are NaN, infinite or negative")
        largest = rgb.max(initial=0)
        if fractions and largest <= 1:
            rgb = rgb * 255
        elif largest > 255:
            # Both ways of widening, times 256 and times 257, end in the same byte.
            rgb = np.floor(rgb / 256)
        if rgb.max(initial=0) >= 256:
            raise UserError(f"{self.path}: colours up to {largest:g}, which are neither 8 nor 16 bits")
        return np.minimum(np.rint(rgb), 255).astype(np.uint8)


def _without_unit(name: str) -> str:
    """Return a field's name as it is compared: in small letters, without a unit in brackets."""
    return re.sub(r"[ _]*[\[(][^\[(]*[\])]$", "", name.lower().lstrip("/"))


def _numbers(path: Path, name: str, values: np.ndarray, dtype: type = np.float64) -> np.ndarray:
    try:
        return values.astype(dtype, copy=False)
    except (ValueError, TypeError):
        raise UserError(f"{path}: field {name} is not numbers") from None


def lost_digits(xyz: np.ndarray, scale: float = 1.0) -> str | None:
    """Return what to say where float32 has rounded coordinates to more than a centimetre, else None.

    Values that went through float32 are multiples of its step at their size, 0.5 at 5,400,000. Whole numbers, such as
    those of a regular grid, are multiples of more, and are no loss.

    Args:
        xyz: (N, 3) finite coordinates of any type. scale: metres per unit.
    """
    with np.errstate(all="ignore"):
        steps = np.spacing(np.abs(xyz).max(0).astype(np.float32)).astype(np.float64)
        coarse = [
            axis
            for axis, step in enumerate(steps)
            if step * scale > 0.01
            and np.array_equal(xyz[:, axis], xyz[:, axis].astype(np.float32))
            and np.fmod(xyz[:, axis], 2 * step).any()
        ]
    if not coarse:
        return None
    # Enough to say how many fell together.
    some = xyz[:: len(xyz) // 1_000_000 + 1]
    return (
        f"Coordinates in {', '.join('xyz'[axis] for axis in coarse)} are rounded to {max(steps[coarse]) * scale:g} m "
        f"because they were stored as float32: {len(np.unique(some, axis=0)):,} different points of {len(some):,}. "
        "Store them as float64, or subtract an offset before"
    )


def read_scan(path: str | Path, columns: Sequence[str] | None = None, max_points: int = MAX_POINTS) -> Scan:
    """Read a point-cloud file, or a scene of several files: a folder with ``coord.npy``, or ``points/NAME.bin``.

    Memory: binary formats take the bytes that a point has in the file (twice, for compressed PCD), text 8 for each
    column; :attr:`Scan.xyz` takes 24 more and :attr:`Scan.rgb` 3.

    Args:
        columns: names of the columns of a text file (instead of those it has) or of an array without names. Without
            them 3 are x y z, 4 have an intensity too, 6 are x y z r g b if the colours are whole numbers in 0..255,
            and 7 are x y z intensity r g b in PTS; others are refused.
        max_points: a file with more is refused, before they are read.

    Raises:
        UserError: missing, of an unknown format, too large, or damaged.
    """
    from .formats.scene import is_scene, read_scene
    from .scan_formats import FORMATS

    path = Path(path)
    try:
        scene = is_scene(path)
        # Not a pipe or device, which may never end.
        found = scene or path.is_file()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)})") from None
    if not found:
        raise UserError(f"{path}: no such file")
    if not scene and path.suffix.lower() not in FORMATS:
        raise UserError(f"{path}: unknown format; known are {', '.join(FORMATS)}")
    try:
        read = read_scene if scene else FORMATS[path.suffix.lower()].read
        scan = read(Bounds(path, max_points), columns)
    except (UserError, KeyboardInterrupt, SystemExit):
        raise
    except MemoryError:
        raise UserError(f"{path}: does not fit into memory") from None
    except ImportError as error:
        raise UserError(f"{path}: reading it needs {error.name} (pip install {error.name})") from None
    # Readers of other people's formats fail in ways of their own; a panic in compiled code is no Exception.
    except BaseException as error:
        raise UserError(f"{path}: not a readable {path.suffix[1:].upper()} file ({first_line(error)})") from None
    return _checked(scan)


def _checked(scan: Scan) -> Scan:
    """Return a scan whose fields have clean names and are one number for each point."""
    names = clean_names(scan.fields)
    if isinstance(scan.fields, LazyFields):
        return replace(scan, fields=LazyFields(len(scan), dict(zip(names, scan.fields.makers.values()))))
    fields: dict[str, np.ndarray] = {}
    count = None
    for name, values in zip(names, scan.fields.values()):
        fields[name] = number_column(scan.path, name, values, count)
        count = len(fields[name])
    return replace(scan, fields=fields)


def write_scan(path: str | Path, scan: Scan, more: Mapping[str, np.ndarray], notes: Sequence[str] = ()) -> None:
    """Write a scan with further fields, in the format of ``path``'s suffix; whole or not at all.

    Fields that get another name or lose digits, because the format demands it, are listed in a warning.

    Args:
        more: name -> (N,), replacing fields of that name. notes: comment lines, where the format has them.

    Raises:
        UserError: an unknown format, or the file cannot be written.
    """
    from .scan_formats import FORMATS

    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"{path}: unknown format; known are {', '.join(FORMATS)}")
    kept = {name: values for name, values in scan.fields.items() if name not in more}
    family = {".laz": ".las"}
    formats = [family.get(name.suffix.lower(), name.suffix.lower()) for name in (path, scan.path)]
    template = scan.template if formats[0] == formats[1] else None
    full = _checked(Scan(scan.path, {**kept, **more}, template))
    try:
        with replacing(path) as temporary:
            changes = FORMATS[path.suffix.lower()].write(temporary, full, list(map(printable, notes)))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    # Writers of other people's formats fail in ways of their own.
    except Exception as error:
        raise UserError(f"{path}: cannot be written ({first_line(error)})") from None
    if changes:
        log.warning("%s: %s", path, "; ".join(changes))
