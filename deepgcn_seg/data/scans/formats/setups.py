"""Files of several setups, as laser scanners write them: each has points and the pose of its scanner.

The formats, and messages to users, call each setup a scan.

The scans of a file become one cloud in the coordinates that they share. If there is more than one, the field ``scan``
has the number of the scan, from 0.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot
from pathlib import Path

import numpy as np

from ....errors import UserError
from .scan import COLORS

log = logging.getLogger(__name__)

# Most scans of a file. A campaign has some hundreds.
MAX_SCANS = 10_000
# Largest difference from 1 in the length of a quaternion, which writers round to a few digits.
_ROUNDED = 0.01


@dataclass(frozen=True)
class Pose:
    """A pose of a scanner: p_shared = rotation p_own + translation.

    Attributes:
        rotation: (3, 3) float64. translation: (3,) float64.
    """

    rotation: np.ndarray
    translation: np.ndarray

    @classmethod
    def of_quaternion(cls, path: Path, quaternion: Sequence[float], translation: Sequence[float]) -> "Pose":
        """Return the pose with the rotation of a quaternion w, x, y, z.

        Raises:
            UserError: the quaternion's length is not 1, or a number is not finite.
        """
        length = hypot(*quaternion)
        if not (abs(length - 1) <= _ROUNDED and np.isfinite(translation).all()):
            raise UserError(
                f"{path}: a pose with the rotation {list(quaternion)}, translation {list(translation)}; the four "
                "numbers of a rotation must have the length 1"
            )
        w, x, y, z = np.asarray(quaternion, np.float64) / length
        rotation = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
        return cls(np.array(rotation), np.array(translation, np.float64))

    @property
    def is_identity(self) -> bool:
        """Whether the pose changes no point."""
        return bool((self.rotation == np.eye(3)).all() and not self.translation.any())

    def apply(self, xyz: np.ndarray) -> np.ndarray:
        """Return points (N, 3) float64 in the shared coordinates."""
        with np.errstate(invalid="ignore", over="ignore"):
            return xyz if self.is_identity else xyz @ self.rotation.T + self.translation

    def undo(self, xyz: np.ndarray) -> np.ndarray:
        """Return points (N, 3) float64 in the coordinates of the scanner."""
        with np.errstate(invalid="ignore", over="ignore"):
            return xyz if self.is_identity else (xyz - self.translation) @ self.rotation


def joined(path: Path, parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the fields of several scans as those of one cloud, with the field ``scan`` if they are several.

    A field that some scans do not have is 0 there if it has integers or colours, else NaN. A warning names it.

    Args:
        parts: the fields of each scan, which are taken out of the dictionaries. So the arrays exist twice for one field
            at a time only.
    """
    if len(parts) == 1:
        return parts[0]
    counts = [len(next(iter(part.values()), ())) for part in parts]
    names = list(dict.fromkeys(name for part in parts for name in part))
    fields, colors = {}, {name for group in COLORS for name in group}
    for name in names:
        there = [part.pop(name, None) for part in parts]
        given = [values for values in there if values is not None]
        # A scan without points does not decide on the type.
        kind = np.result_type(*(values.dtype for values in [column for column in given if len(column)] or given))
        missing = np.nan if kind.kind == "f" and name not in colors else 0
        column, start = np.empty(sum(counts), kind), 0
        for values, count in zip(there, counts):
            column[start : start + count] = missing if values is None else values
            start += count
        fields[name] = column
        if lacking := [number for number, (values, n) in enumerate(zip(there, counts)) if values is None and n]:
            log.warning(
                "%s: %d of %d scans have no field %s, the first of them scan %d; the points there have %g",
                path, len(lacking), len(parts), name, lacking[0], missing,
            )  # fmt: skip
    fields["scan"] = np.repeat(np.arange(len(parts), dtype=np.uint16), counts)
    return fields
