"""A user's own labelled scans: ``ROOT/AREA/ROOM.ply`` (or another format) and ``ROOT/classes.yaml``.

classes: [floor, wall, chair]      # of the labels 0, 1, 2; or name: label, name: [label, label], or label: name
colors: {floor: [0, 0, 255]}       # optional
label: classification              # optional: the field with the labels
columns: [x, y, z, label]          # optional: of text and arrays without names
other: wall                        # optional: class of all further labels; without it they are an error
ignore: [255, unknown]             # optional: labels, or names of classes, that mean "unlabelled", as NaN always does
skip: [0]                          # optional: labels whose points are left out
scale: 0.001                       # optional: metres per unit
up: y                              # optional: the axis that points up
"""

import colorsys
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, field_validator, model_validator

from ...errors import UserError
from ...escaping import one_line
from ...schema import Schema, read_yaml
from ..classes import ClassList
from ..room import NO_COORDINATES, NO_LABEL, Repair, Room
from ..units import UP
from .files import read_scan
from .formats.bounds import MAX_POINTS
from .scan import AXES, LABELS, Scan


def _text(value: Any) -> Any:
    """Return text for a number or truth value, which YAML makes of some names."""
    return str(value) if isinstance(value, (int, float)) else value


def _as_tuple(value: Any) -> Any:
    return value if isinstance(value, tuple) else (value,)


def _without_nan(values: Any) -> Any:
    """Return listed labels without NaN, which means "unlabelled" whether it is listed or not."""
    return tuple(value for value in _as_tuple(() if values is None else values) if _text(value) != "nan")


# The most characters of a name that a message shows.
_SHOWN = 60
# Labels are compared as float64, which holds whole numbers below this one exactly.
_MAX_LABEL = 2**53


def _labels_or_names(values: Any) -> Any:
    for value in (kept := _without_nan(values)):
        if not isinstance(value, str) and (type(value) is not int or abs(value) >= _MAX_LABEL):
            raise ValueError("must be labels (whole numbers or .nan) or names of classes")
    return kept


Name = Annotated[str, BeforeValidator(_text)]
Label = Annotated[int, Field(gt=-_MAX_LABEL, lt=_MAX_LABEL)]
Color = tuple[int, int, int]


class ClassesFile(Schema):
    """The content of ``classes.yaml``."""

    classes: dict[Name, Annotated[tuple[Label, ...], BeforeValidator(_as_tuple)]]
    colors: dict[Name, Color] | None = None
    label: Name | None = None
    columns: Annotated[tuple[Name, ...], Field(max_length=1000)] | None = None
    other: Name | None = None
    ignore: Annotated[tuple[int | str, ...], BeforeValidator(_labels_or_names)] = ()
    skip: Annotated[tuple[Label, ...], BeforeValidator(_without_nan)] = ()
    scale: Annotated[float, Field(ge=1e-9, le=1e9)] | None = None
    up: Literal["z", "y", "x"] = "z"

    @field_validator("classes", mode="before")
    @classmethod
    def _numbered(cls, named: Any) -> Any:
        """Return a mapping of names to labels. Names in a list are numbered from 0; ``label: name`` is turned round."""
        if isinstance(named, tuple):
            if not all(isinstance(name, (str, int, float)) for name in named):
                raise ValueError("must be a list of names, or name: label")
            names = _distinct(named)
            return {name: number for number, name in enumerate(names)}
        return _of_text(_by_name(named)) if isinstance(named, dict) else named

    @field_validator("colors", mode="before")
    @classmethod
    def _of_names(cls, named: Any) -> Any:
        return _of_text(named) if isinstance(named, dict) else named

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if not self.classes:
            raise ValueError("classes is empty")
        if unknown := sorted(set(self.colors or ()) - set(self.classes)):
            raise ValueError(f"colors names {one_line(unknown[0], _SHOWN)}, which is no class")
        if self.other is not None and self.other not in self.classes:
            raise ValueError(f"other: {one_line(self.other, _SHOWN)} is no class")
        if unknown := [name for name in self.ignore if isinstance(name, str) and name not in self.classes]:
            raise ValueError(f"ignore names {one_line(unknown[0], _SHOWN)}, which is no class")
        if not self.kept:
            raise ValueError("ignore leaves no class")
        ClassList.of(tuple(self.kept), self.palette)
        if self.other is not None and self.other not in self.kept:
            raise ValueError(f"other: {one_line(self.other, _SHOWN)} is ignored")
        labels = [label for values in self.classes.values() for label in set(values)]
        twice = [label for label, count in Counter([*labels, *set(self.skip)]).items() if count > 1]
        if twice:
            where = "a class and of skip" if twice[0] in self.skip else "two classes"
            raise ValueError(f"label {twice[0]} is of {where}")
        return self

    @property
    def ignored(self) -> set[int]:
        """Labels that mean "unlabelled": those that are listed, and those of classes that are listed."""
        return {label for one in self.ignore for label in (self.classes[one] if isinstance(one, str) else (one,))}

    @property
    def kept(self) -> dict[str, tuple[int, ...]]:
        """The classes that are learned, and their labels. A class is left out if all of its labels are ignored."""
        ignored, names = self.ignored, set(self.ignore)
        left = {name: tuple(n for n in labels if n not in ignored) for name, labels in self.classes.items()}
        return {
            name: labels for name, labels in left.items() if name not in names and (labels or not self.classes[name])
        }

    @property
    def palette(self) -> list[Color]:
        """A colour for each class that is kept."""
        given, count = self.colors or {}, len(self.kept)
        return [given.get(name) or some_color(label, count) for label, name in enumerate(self.kept)]


def _distinct(names: Iterable[Any]) -> list[Any]:
    """Return names as text.

    Raises:
        ValueError: two names are the same as text, such as 1 and "1".
    """
    texts = [_text(name) for name in names]
    if twice := [name for name, count in Counter(texts).items() if count > 1]:
        raise ValueError(
            f"class names must be unique, but {one_line(twice[0], _SHOWN)} is there twice (put names that look like "
            "numbers in quotes)"
        )
    return texts


def _of_text(named: dict[Any, Any]) -> dict[Any, Any]:
    return dict(zip(_distinct(named), named.values()))


def _by_name(named: dict[Any, Any]) -> dict[Any, Any]:
    """Return classes as ``name: labels``. Other programs write ``label: name``, which is turned round.

    Raises:
        ValueError: some classes are written in one way and some in the other.
    """
    turned = [isinstance(name, (str, bool)) for name in named.values()]
    if not any(turned):
        return named
    labels = {label: name for key, name in named.items() if (label := _label_of(key)) is not None}
    if not all(turned) or len(labels) < len(named):
        key, name = next((key, name) for (key, name), is_name in zip(named.items(), turned) if is_name)
        shown = f"{one_line(key, _SHOWN)}: {one_line(name, _SHOWN)}"
        raise ValueError(f"{shown} is no label; write each class as name: label, or each as label: name")
    by_name: dict[Any, Any] = {}
    for label in sorted(labels):
        by_name.setdefault(_text(labels[label]), []).append(label)
    return {name: tuple(numbers) for name, numbers in by_name.items()}


def _label_of(key: Any) -> int | None:
    """Return the label that a key is, with or without quotes, or None."""
    if isinstance(key, str) and re.fullmatch(r"[+-]?[0-9]{1,15}", key):
        return int(key)
    return key if type(key) is int else None


# What a label can mean besides a class.
_SKIPPED, _UNLABELLED = -1, -2


@dataclass(frozen=True)
class Labelling:
    """How labelled files become rooms.

    Attributes:
        numbers: label in a file -> label of ``classes``. other: the class of all further labels.
        label, columns, ignore, skip, up: as in ``classes.yaml``.
        scale: metres per unit; None for metres that are checked (:func:`~deepgcn_seg.data.units.require_metres`).
    """

    classes: ClassList
    numbers: dict[int, int]
    label: str | None = None
    columns: tuple[str, ...] | None = None
    other: int | None = None
    ignore: tuple[int, ...] = ()
    skip: tuple[int, ...] = ()
    scale: float | None = None
    up: str = "z"

    @classmethod
    def of(cls, classes: ClassList) -> "Labelling":
        """Return the labelling of files whose labels are 0, 1, ... in the order of the classes."""
        return cls(classes, {label: label for label in range(len(classes))})

    def apply(self, path: Path, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """Return which points to keep (N,), the classes of these, and the number of unlabelled points.

        Points are left out if they are unlabelled (NaN or a label of ``ignore``) or have a label of ``skip``.

        Args:
            path: the file, for messages. labels: (N,) of all points, float64.

        Raises:
            UserError: labels that are neither numbered, ignored, skipped nor covered by ``other``.
        """
        found, place = np.unique(labels, return_inverse=True)
        numbers = found[~np.isnan(found)]
        # Infinity is refused by the first comparison.
        if not ((np.abs(numbers) < _MAX_LABEL) & (np.rint(numbers) == numbers)).all():
            raise UserError(f"{path}: labels that are not whole numbers")
        known = {**dict.fromkeys(self.skip, _SKIPPED), **self.numbers, **dict.fromkeys(self.ignore, _UNLABELLED)}
        unknown = [int(label) for label in numbers if int(label) not in known]
        if unknown and self.other is None:
            raise UserError(
                f"{path}: labels {', '.join(map(str, unknown[:8]))} are of no class; add them to classes, ignore, skip "
                "or other in classes.yaml"
            )
        classes = [_UNLABELLED if np.isnan(label) else known.get(int(label), self.other) for label in found]
        mapped = np.array(classes, np.int64)[place]
        keep = mapped >= 0
        return keep, mapped[keep].astype(self.classes.dtype), int((mapped == _UNLABELLED).sum())


def read_labelling(path: str | Path) -> Labelling:
    """Read ``classes.yaml``.

    Raises:
        UserError: missing, damaged, or with unknown keys or values.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or "classes" not in content:
        raise UserError(f"{path}: must have classes: a list of names, or name: label")
    known = ClassesFile.model_fields
    if unknown := sorted(set(map(str, content)) - set(known)):
        raise UserError(f"{path}: unknown key {unknown[0]:.40}; known are {', '.join(sorted(known))}")
    return _labelling(ClassesFile.of(content, str(path)))


def _labelling(content: ClassesFile) -> Labelling:
    names = tuple(content.kept)
    return Labelling(
        ClassList.of(names, content.palette),
        {value: label for label, values in enumerate(content.kept.values()) for value in values},
        content.label,
        content.columns,
        None if content.other is None else names.index(content.other),
        tuple(sorted(content.ignored)),
        content.skip,
        content.scale,
        content.up,
    )


def some_color(label: int, count: int) -> tuple[int, int, int]:
    """Return a colour for a class without one: hues around the colour circle, alternating between two shades."""
    red, green, blue = colorsys.hsv_to_rgb(label / count, 0.75, 0.95 if label % 2 == 0 else 0.65)
    return round(255 * red), round(255 * green), round(255 * blue)


def read_labelled_room(
    path: str | Path, area: str, name: str, labelling: Labelling, max_points: int = MAX_POINTS
) -> tuple[Room, list[Repair]]:
    """Return a labelled scan as a room, and what was left out of it.

    The room has no points if no point has both coordinates and a class. Its ``rgb`` is None if the file has no colours.

    Raises:
        UserError: not readable, or without a field of labels.
    """
    scan = read_scan(path, labelling.columns, max_points)
    names = LABELS if labelling.label is None else (labelling.label.lower(),)
    found = scan.field(*names)
    if found is None:
        wanted, there = one_line(" or ".join(names[:3]), 100), one_line(", ".join(scan.fields), 500)
        raise UserError(f"{path}: no field {wanted}; it has {there} (set label or columns in classes.yaml)")
    scan, lost = _with_coordinates(scan)
    repairs = [Repair(str(path), None, NO_COORDINATES, "left out", lost)] if lost else []
    if not len(scan):
        return Room(area, name, np.empty((0, 3)), None, np.empty(0, labelling.classes.dtype)), repairs
    try:
        labels = np.asarray(scan.fields[found], np.float64)
    except ValueError:
        raise UserError(f"{path}: the labels of field {found} are not numbers") from None
    keep, label, unlabelled = labelling.apply(scan.path, labels)
    if unlabelled:
        repairs.append(Repair(str(path), None, NO_LABEL, "left out", unlabelled))
    rgb = scan.rgb
    xyz = scan.xyz[keep][:, UP[labelling.up]] * (labelling.scale or 1.0)
    return Room(area, name, xyz, None if rgb is None else rgb[keep], label), repairs


def _with_coordinates(scan: Scan) -> tuple[Scan, int]:
    """Return the points of a scan that have finite coordinates, and the number of those that have not."""
    axes = [found for names in AXES if (found := scan.field(*names)) and scan.fields[found].dtype.kind == "f"]
    there = np.ones(len(scan), bool)
    for axis in axes:
        there &= np.isfinite(scan.fields[axis])
    if there.all():
        return scan, 0
    return replace(scan, fields={name: values[there] for name, values in scan.fields.items()}), int((~there).sum())
