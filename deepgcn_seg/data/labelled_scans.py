"""A user's own labelled scans: ``ROOT/AREA/ROOM.ply`` (or another format) and ``ROOT/classes.yaml``.

classes: [floor, wall, chair]      # of the labels 0, 1, 2; or name: label, or name: [label, label]
colors: {floor: [0, 0, 255]}       # optional
label: classification              # optional: the field with the labels
columns: [x, y, z, label]          # optional: of text and arrays without names
other: wall                        # optional: class of all further labels; without it they are an error
skip: [0]                          # optional: labels whose points are left out
scale: 0.001                       # optional: metres per unit
"""

import colorsys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BeforeValidator, Field, field_validator, model_validator

from ..errors import UserError
from ..schema import Schema, read_yaml
from .classes import ClassList
from .formats.bounds import MAX_POINTS
from .room import Room
from .scan import LABELS, read_scan


def _text(value: Any) -> Any:
    """YAML takes some names for numbers or truth values."""
    return str(value) if isinstance(value, (int, float)) else value


def _several(value: Any) -> Any:
    return value if isinstance(value, tuple) else (value,)


Name = Annotated[str, BeforeValidator(_text)]
# Labels are whole numbers that float64, in which fields are compared, holds exactly.
Label = Annotated[int, Field(gt=-(2**53), lt=2**53)]
Color = tuple[int, int, int]


class ClassesFile(Schema):
    """The content of ``classes.yaml``."""

    classes: dict[Name, Annotated[tuple[Label, ...], BeforeValidator(_several)]]
    colors: dict[Name, Color] | None = None
    label: Name | None = None
    columns: Annotated[tuple[Name, ...], Field(max_length=1000)] | None = None
    other: Name | None = None
    skip: tuple[Label, ...] | None = None
    scale: Annotated[float, Field(ge=1e-9, le=1e9)] = 1.0

    @field_validator("classes", mode="before")
    @classmethod
    def _numbered(cls, named: Any) -> Any:
        """A list of names numbers them from 0."""
        if not isinstance(named, tuple):
            return named
        if len(set(map(str, named))) < len(named):
            raise ValueError("class names must be unique")
        return {name: number for number, name in enumerate(map(_text, named))}

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if not self.classes:
            raise ValueError("classes is empty")
        ClassList.of(tuple(self.classes), self.palette)
        if unknown := sorted(set(self.colors or ()) - set(self.classes)):
            raise ValueError(f"colors names {unknown[0]}, which is no class")
        if self.other is not None and self.other not in self.classes:
            raise ValueError(f"other: {self.other} is no class")
        labels = [label for values in self.classes.values() for label in set(values)]
        twice = [label for label, count in Counter([*labels, *set(self.skip or ())]).items() if count > 1]
        if twice:
            where = "a class and of skip" if twice[0] in (self.skip or ()) else "two classes"
            raise ValueError(f"label {twice[0]} is of {where}")
        return self

    @property
    def palette(self) -> list[Color]:
        """One colour for each class."""
        given, count = self.colors or {}, len(self.classes)
        return [given.get(name) or some_color(label, count) for label, name in enumerate(self.classes)]


@dataclass(frozen=True)
class Labelling:
    """How labels of files become classes. numbers: label in a file -> label of ``classes``."""

    classes: ClassList
    numbers: dict[int, int]
    label: str | None = None
    columns: tuple[str, ...] | None = None
    other: int | None = None
    skip: tuple[int, ...] = field(default=())
    scale: float = 1.0

    @classmethod
    def of(cls, classes: ClassList) -> "Labelling":
        """Labels 0, 1, ... in the order of the classes."""
        return cls(classes, {label: label for label in range(len(classes))})

    def apply(self, path: Path, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Labels of a file -> which points stay, and the classes of those.

        Raises:
            UserError: labels that are neither numbered, skipped nor covered by ``other``.
        """
        whole = np.rint(labels)
        # NaN and infinity fail both comparisons.
        if not ((np.abs(whole) < 2**53) & (whole == labels)).all():
            raise UserError(f"{path}: labels that are not whole numbers")
        found, place = np.unique(whole.astype(np.int64), return_inverse=True)
        known = {**dict.fromkeys(self.skip, -1), **self.numbers}
        unknown = [int(label) for label in found if int(label) not in known]
        if unknown and self.other is None:
            raise UserError(
                f"{path}: labels {', '.join(map(str, unknown[:8]))} are of no class; add them to classes, skip or "
                "other in classes.yaml"
            )
        mapped = np.array([known.get(int(label), self.other) for label in found])[place]
        keep = mapped >= 0
        return keep, mapped[keep].astype(self.classes.dtype)


def read_labelling(path: str | Path) -> Labelling:
    """Read ``classes.yaml``.

    Raises:
        UserError: missing, damaged, or with keys or values without meaning.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or "classes" not in content:
        raise UserError(f"{path}: must have classes: a list of names, or name: label")
    known = ClassesFile.model_fields
    if unknown := sorted(set(map(str, content)) - set(known)):
        raise UserError(f"{path}: unknown key {unknown[0]:.40}; known are {', '.join(sorted(known))}")
    return _labelling(ClassesFile.of(content, str(path)))


def _labelling(content: ClassesFile) -> Labelling:
    names = tuple(content.classes)
    numbers = {value: label for label, values in enumerate(content.classes.values()) for value in values}
    return Labelling(
        ClassList.of(names, content.palette),
        numbers,
        content.label,
        content.columns,
        None if content.other is None else names.index(content.other),
        content.skip or (),
        content.scale,
    )


def some_color(label: int, count: int) -> tuple[int, int, int]:
    """A colour for a class that was given none: hues around the circle, in two shades."""
    red, green, blue = colorsys.hsv_to_rgb(label / count, 0.75, 0.95 if label % 2 == 0 else 0.65)
    return round(255 * red), round(255 * green), round(255 * blue)


def read_labelled_room(
    path: str | Path, area: str, name: str, labelling: Labelling, max_points: int = MAX_POINTS
) -> Room:
    """One labelled scan as a room; ``rgb`` is None where the file has no colours.

    Raises:
        UserError: not readable, or without labels that can be understood.
    """
    scan = read_scan(path, labelling.columns, max_points)
    xyz, rgb = scan.xyz * labelling.scale, scan.rgb
    names = LABELS if labelling.label is None else (labelling.label.lower(),)
    found = scan.field(*names)
    if found is None:
        raise UserError(
            f"{path}: no field {' or '.join(names[:3])}; it has {', '.join(scan.fields)} (set label or columns in "
            "classes.yaml)"
        )
    keep, label = labelling.apply(scan.path, np.asarray(scan.fields[found], np.float64))
    return Room(area, name, xyz[keep], None if rgb is None else rgb[keep], label)
