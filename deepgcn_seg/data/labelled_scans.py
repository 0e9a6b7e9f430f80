"""A user's own labelled scans: ``ROOT/AREA/ROOM.ply`` (or another format) and ``ROOT/classes.yaml``."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..escaping import one_line
from ..schema import read_yaml
from .classes import ClassList, no_label
from .classes_file import FORMS, ClassesFile
from .label_numbers import MAX_LABEL, LabelNumbers
from .repairs import KEPT, NO_COORDINATES, NO_LABEL, ROUNDED, Repair
from .room import Room
from .scans.files import read_scan
from .scans.formats.bounds import MAX_POINTS
from .scans.formats.scan import AXES, LABELS, Scan, lost_digits
from .units import UP

# The meaning of a label whose points are left out.
SKIPPED = -1


@dataclass(frozen=True)
class Labelling:
    """How labelled files become rooms.

    Attributes:
        classes: of the rooms. numbers: which labels of the files stand for them.
        skip: labels of points that are left out; None stands for NaN.
        columns, up: as in ``classes.yaml``.
        scale: metres per unit; None for metres that are checked (:func:`~deepgcn_seg.data.units.require_metres`).
    """

    classes: ClassList
    numbers: LabelNumbers
    skip: tuple[int | None, ...] = ()
    columns: tuple[str, ...] | None = None
    scale: float | None = None
    up: str = "z"

    @classmethod
    def of(cls, classes: ClassList) -> "Labelling":
        """Return the labelling of files whose labels are 0, 1, ... in the order of the classes, such as S3DIS."""
        return cls(classes, LabelNumbers(classes=tuple((label,) for label in range(len(classes)))))

    @property
    def label_numbers(self) -> LabelNumbers:
        """What labels mean, as a store and a checkpoint keep it. Labels of ``skip`` count as unlabelled ones."""
        skipped = {number for number in self.skip if number is not None}
        unlabelled = tuple(sorted(skipped.union(self.numbers.unlabelled)))
        return self.numbers.model_copy(update={"unlabelled": unlabelled})

    def meaning(self, labels: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """Return what each label (N,) means, and the unknown labels.

        The meaning is a label of ``classes``, :func:`~deepgcn_seg.data.classes.no_label` or :data:`SKIPPED`. An unknown
        label means ``no_label`` here.

        Raises:
            ValueError: labels that are not whole numbers.
        """
        found, place = np.unique(labels, return_inverse=True)
        numbers = found[~np.isnan(found)]
        # Infinity is refused by the first comparison.
        if not ((np.abs(numbers) < MAX_LABEL) & (np.rint(numbers) == numbers)).all():
            raise ValueError("labels that are not whole numbers")
        unlabelled, other = int(no_label(self.classes)), self.numbers.other
        # None stands for NaN.
        known: dict[Any, int] = {None: unlabelled, **dict.fromkeys(self.skip, SKIPPED)}
        for label, of_class in enumerate(self.numbers.classes):
            known |= dict.fromkeys(of_class, label)
        known |= dict.fromkeys(self.numbers.unlabelled, unlabelled)
        further = other if isinstance(other, int) else unlabelled
        classes = [known.get(None if np.isnan(label) else int(label), further) for label in found]
        unknown = [] if other is not None else [int(label) for label in numbers if int(label) not in known]
        return np.array(classes, np.int64)[place], unknown

    def kept_points(self, path: Path, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """Return which points to keep (N,), the labels of these, and how many of them are unlabelled.

        Points with a label of ``skip`` are left out. Points with NaN or a label of ``ignore`` are unlabelled: they are
        kept with :func:`~deepgcn_seg.data.classes.no_label`.

        Args:
            path: the file, for messages. labels: (N,) of all points, float64.

        Raises:
            UserError: labels that are neither numbered, ignored, skipped nor covered by ``other``.
        """
        try:
            mapped, unknown = self.meaning(labels)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None
        if unknown:
            raise UserError(
                f"{path}: labels {', '.join(map(str, unknown[:8]))} are of no class; add them to classes, ignore, skip "
                "or other in classes.yaml"
            )
        keep = mapped != SKIPPED
        label = mapped[keep].astype(self.classes.dtype)
        return keep, label, int((label == no_label(self.classes)).sum())


def read_labelling(path: str | Path) -> Labelling:
    """Read ``classes.yaml``.

    Raises:
        UserError: missing, damaged, or with unknown keys or values.
    """
    content = read_yaml(path, words_as_typed=True)
    if not isinstance(content, dict) or "classes" not in content:
        raise UserError(f"{path}: must have classes: {FORMS}")
    known = ClassesFile.model_fields
    if unknown := sorted(set(map(str, content)) - set(known)):
        raise UserError(f"{path}: unknown key {unknown[0]:.40}; known are {', '.join(sorted(known))}")
    found = ClassesFile.of(content, str(path))
    kept = found.kept
    numbers = {
        "classes": list(kept.values()),
        "unlabelled": sorted(found.ignored),
        "other": None if found.other is None else list(kept).index(found.other),
        "field": found.label,
    }
    classes = ClassList.of(tuple(kept), found.palette)
    return Labelling(classes, LabelNumbers.of(numbers, str(path)), found.skip, found.columns, found.scale, found.up)


def read_labelled_room(
    path: str | Path, area: str, name: str, labelling: Labelling, max_points: int = MAX_POINTS
) -> tuple[Room, list[Repair]]:
    """Read a labelled scan as a room (:func:`labelled_room`).

    Raises:
        UserError: not readable, or without a field of labels.
    """
    scan = read_scan(path, labelling.columns, max_points)
    field = labelling.numbers.field
    names = LABELS if field is None else (field,)
    found = scan.field(*names)
    if found is None:
        wanted, there = one_line(" or ".join(names[:3]), 100), one_line(", ".join(scan.fields), 500)
        raise UserError(f"{path}: no field {wanted}; it has {there} (set label or columns in classes.yaml)")
    return labelled_room(scan, found, area, name, labelling)


def labelled_room(scan: Scan, field: str, area: str, name: str, labelling: Labelling) -> tuple[Room, list[Repair]]:
    """Return a scan as a room, and what is wrong with its points.

    The room has no points if no point has coordinates. Its ``rgb`` is None if the scan has no colours.

    Args:
        field: the field of the labels.

    Raises:
        UserError: labels that the labelling does not know.
    """
    path = scan.path
    scan, lost = _with_coordinates(scan)
    repairs = [Repair(str(path), None, NO_COORDINATES, "left out", lost)] if lost else []
    if not len(scan):
        return Room(area, name, np.empty((0, 3)), None, np.empty(0, labelling.classes.dtype)), repairs
    try:
        labels = np.asarray(scan.fields[field], np.float64)
    except ValueError:
        raise UserError(f"{path}: the labels of field {field} are not numbers") from None
    keep, label, unlabelled = labelling.kept_points(scan.path, labels)
    if unlabelled:
        repairs.append(Repair(str(path), None, NO_LABEL, KEPT, unlabelled))
    rgb, xyz = scan.rgb, scan.xyz[keep]
    repairs += rounded(path, xyz, labelling.scale)
    xyz = xyz[:, UP[labelling.up]] * (labelling.scale or 1.0)
    return Room(area, name, xyz, None if rgb is None else rgb[keep], label), repairs


def rounded(path: Path, xyz: np.ndarray, scale: float | None) -> list[Repair]:
    """Return what is wrong with coordinates (N, 3) as a file has them, if they were rounded, else nothing."""
    lost = lost_digits(xyz, scale or 1.0) if len(xyz) else None
    return [Repair(str(path), None, f"{lost[0].lower()}{lost[1:]}", ROUNDED)] if lost else []


def _with_coordinates(scan: Scan) -> tuple[Scan, int]:
    """Return the points of a scan that have finite coordinates, and the number of those that have not."""
    axes = [found for names in AXES if (found := scan.field(*names)) and scan.fields[found].dtype.kind == "f"]
    there = np.ones(len(scan), bool)
    for axis in axes:
        there &= np.isfinite(scan.fields[axis])
    if there.all():
        return scan, 0
    return replace(scan, fields={name: values[there] for name, values in scan.fields.items()}), int((~there).sum())
