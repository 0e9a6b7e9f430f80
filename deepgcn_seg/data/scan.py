"""Point-cloud files: PLY, LAS, LAZ, PCD, NPY, NPZ and text, read and written with all their fields.

A file is not trusted: what its header claims is compared with the file, or with ``max_points``, before memory
is taken (:mod:`.formats.bounds`), nothing is unpickled, and whatever is wrong ends in one :class:`UserError`
that names the file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError, first_line
from .files import replacing
from .formats.bounds import MAX_POINTS, Bounds, clean_names, printable
from .formats.typed import LazyFields, number_column

# Names a field may have, compared without case; the first that a file has counts.
COLORS = (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue"))
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
        known = {name.lower().lstrip("/"): name for name in self.fields}
        return next((known[name] for name in names if name in known), None)

    @property
    def xyz(self) -> np.ndarray:
        """(N, 3) float64 coordinates.

        Raises:
            UserError: no coordinates, no points, or NaN or infinite ones.
        """
        names = [self.field(axis) for axis in "xyz"]
        if None in names:
            raise UserError(f"{self.path}: no fields x, y, z; it has {', '.join(self.fields) or 'none'}")
        if not len(self):
            raise UserError(f"{self.path}: no points")
        xyz = np.stack([_numbers(self.path, str(name), self.fields[name]) for name in names], 1)
        if not np.isfinite(xyz).all():
            bad = ~np.isfinite(xyz).all(1)
            raise UserError(
                f"{self.path}: {bad.sum()} points have NaN or infinite coordinates, first point {bad.argmax()}"
            )
        return xyz

    @property
    def rgb(self) -> np.ndarray | None:
        """(N, 3) uint8 colours, or None without; 16-bit and 0..1 ones are scaled to 0..255.

        Raises:
            UserError: NaN or negative colours.
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
        rgb = _numbers(self.path, str(found[0]), rgb, np.float32)
        if not np.isfinite(rgb).all() or rgb.min() < 0:
            raise UserError(f"{self.path}: colours that are NaN, infinite or negative")
        largest = rgb.max()
        if self.fields[found[0]].dtype.kind == "f" and largest <= 1:
            rgb = rgb * 255
        elif largest > 255:
            # Both ways of widening, times 256 and times 257, end in the same byte.
            rgb = np.floor(rgb / 256)
        if rgb.max() >= 256:
            raise UserError(f"{self.path}: colours up to {largest:g}, which are neither 8 nor 16 bits")
        return np.minimum(np.rint(rgb), 255).astype(np.uint8)


def _numbers(path: Path, name: str, values: np.ndarray, dtype: type = np.float64) -> np.ndarray:
    try:
        return values.astype(dtype, copy=False)
    except (ValueError, TypeError):
        raise UserError(f"{path}: field {name} is not numbers") from None


def read_scan(path: str | Path, columns: Sequence[str] | None = None, max_points: int = MAX_POINTS) -> Scan:
    """Read a point-cloud file.

    Memory: binary formats take the bytes that a point has in the file (twice, for compressed PCD), text 8 for each
    column; :attr:`Scan.xyz` takes 24 more and :attr:`Scan.rgb` 3.

    Args:
        columns: names of the columns of a text file or plain array without names; by default
            3: x y z, 4: and intensity, 6: x y z r g b, 7: and label.
        max_points: a file with more is refused, before they are read.

    Raises:
        UserError: missing, of an unknown format, too large, or damaged.
    """
    from .scan_formats import FORMATS

    path = Path(path)
    try:
        # Not a pipe or device, which may never end.
        found = path.is_file()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)})") from None
    if not found:
        raise UserError(f"{path}: no such file")
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"{path}: unknown format; known are {', '.join(FORMATS)}")
    try:
        scan = FORMATS[path.suffix.lower()].read(Bounds(path, max_points), columns)
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
            FORMATS[path.suffix.lower()].write(temporary, full, list(map(printable, notes)))
    # Writers of other people's formats fail in ways of their own.
    except Exception as error:
        raise UserError(f"{path}: cannot be written ({first_line(error)})") from None
