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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..errors import UserError, first_line
from .classes import ClassList
from .room import Room
from .scan import LABELS, read_scan


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
        if not np.isfinite(labels).all() or not np.array_equal(whole, labels):
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
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)})") from None
    known = {"classes", "colors", "label", "columns", "other", "skip", "scale"}
    if not isinstance(content, dict) or "classes" not in content:
        raise UserError(f"{path}: must have classes: a list of names, or name: label")
    if unknown := sorted(set(content) - known):
        raise UserError(f"{path}: unknown key {unknown[0]}; known are {', '.join(sorted(known))}")
    try:
        return _labelling(content)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: {error}") from None


def _labelling(content: dict[str, Any]) -> Labelling:
    named = content["classes"]
    if isinstance(named, list):
        if len(set(map(str, named))) < len(named):
            raise ValueError("class names must be unique")
        named = {name: number for number, name in enumerate(named)}
    names = [str(name) for name in named]
    numbers: dict[int, int] = {}
    for label, values in enumerate(named.values()):
        for value in values if isinstance(values, list) else [values]:
            if numbers.setdefault(int(value), label) != label:
                raise ValueError(f"label {value} is of two classes")
    if not names:
        raise ValueError("classes is empty")
    colors = {str(name): rgb for name, rgb in (content.get("colors") or {}).items()}
    if unknown := sorted(set(colors) - set(names)):
        raise ValueError(f"colors names {unknown[0]}, which is no class")
    palette = [colors.get(name) or some_color(label, len(names)) for label, name in enumerate(names)]
    other = content.get("other")
    if other is not None and str(other) not in names:
        raise ValueError(f"other: {other} is no class")
    return Labelling(
        ClassList.of(names, palette),
        numbers,
        content.get("label"),
        tuple(content["columns"]) if content.get("columns") else None,
        None if other is None else names.index(str(other)),
        tuple(int(label) for label in content.get("skip") or ()),
        float(content.get("scale", 1.0)),
    )


def some_color(label: int, count: int) -> tuple[int, int, int]:
    """A colour for a class that was given none: hues around the circle, in two shades."""
    red, green, blue = colorsys.hsv_to_rgb(label / count, 0.75, 0.95 if label % 2 == 0 else 0.65)
    return round(255 * red), round(255 * green), round(255 * blue)


def read_labelled_room(path: str | Path, area: str, name: str, labelling: Labelling) -> Room:
    """One labelled scan as a room; ``rgb`` is None where the file has no colours.

    Raises:
        UserError: not readable, or without labels that can be understood.
    """
    scan = read_scan(path, labelling.columns)
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
