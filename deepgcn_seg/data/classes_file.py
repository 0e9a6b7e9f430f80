"""The file ``classes.yaml`` of a user's labelled scans.

classes: [floor, wall, chair]      # of the labels 0, 1, 2; or name: label, name: [label, label], or label: name
colors: {floor: [0, 0, 255]}       # optional
label: classification              # optional: the field with the labels
columns: [x, y, z, label]          # optional: of text and arrays without names
other: wall                        # optional: class of all further labels; without it they are an error
ignore: [255, unknown]             # optional: labels, or names of classes, that mean "unlabelled", as NaN does
skip: [0]                          # optional: labels whose points are left out
scale: 0.001                       # optional: metres per unit
up: y                              # optional: the axis that points up
"""

import colorsys
import re
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ..escaping import one_line
from ..schema import Schema
from .classes import ClassList


def _text(value: Any) -> Any:
    """Return text for a number, which YAML makes of some names."""
    return str(value) if isinstance(value, (int, float)) else value


def _as_tuple(value: Any) -> Any:
    return value if isinstance(value, tuple) else (value,)


def _without_nan(values: Any) -> Any:
    """Return listed labels without NaN, which means "unlabelled" whether it is listed or not."""
    return tuple(value for value in _as_tuple(() if values is None else values) if _text(value) != "nan")


def _none_for_nan(values: Any) -> Any:
    return tuple(None if _text(value) == "nan" else value for value in _as_tuple(() if values is None else values))


# The most characters of a name that a message shows.
_SHOWN = 60
# Labels are compared as float64, which holds whole numbers below this one exactly.
MAX_LABEL = 2**53


def _labels_or_names(values: Any) -> Any:
    for value in (kept := _without_nan(values)):
        if not isinstance(value, str) and (type(value) is not int or abs(value) >= MAX_LABEL):
            raise ValueError("must be labels (whole numbers or .nan) or names of classes")
    return kept


def _metres(value: Any) -> Any:
    """Return a scale as a number; YAML reads ``1e-3`` as text.

    Raises:
        ValueError: gives the number to write for the name of a unit.
    """
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        written = _UNITS.get(value.strip().lower())
        remedy = f"write {written:g}" if written else "0.001 for millimetres, 0.01 for centimetres"
        raise ValueError(f"must be the metres per unit as a number: {remedy}") from None


# Name of a unit, as it may be written for ``scale`` -> metres.
_UNITS = {
    **dict.fromkeys(("mm", "millimetre", "millimetres", "millimeter", "millimeters"), 0.001),
    **dict.fromkeys(("cm", "centimetre", "centimetres", "centimeter", "centimeters"), 0.01),
    **dict.fromkeys(("m", "metre", "metres", "meter", "meters"), 1.0),
    **dict.fromkeys(("in", "inch", "inches"), 0.0254),
    **dict.fromkeys(("ft", "foot", "feet"), 0.3048),
}
# The forms of ``classes`` that are read.
FORMS = "a list of names, or name: label for each class, or label: name for each label"

Name = Annotated[str, BeforeValidator(_text)]
Label = Annotated[int, Field(gt=-MAX_LABEL, lt=MAX_LABEL)]
Color = tuple[int, int, int]


class ClassesFile(Schema):
    """The content of ``classes.yaml``."""

    classes: dict[Name, Annotated[tuple[Label, ...], BeforeValidator(_as_tuple)]]
    colors: dict[Name, Color] | None = None
    label: Name | None = None
    columns: Annotated[tuple[Name, ...], Field(max_length=1000)] | None = None
    other: Name | None = None
    ignore: Annotated[tuple[int | str, ...], BeforeValidator(_labels_or_names)] = ()
    skip: Annotated[tuple[Label | None, ...], BeforeValidator(_none_for_nan)] = ()
    scale: Annotated[float | None, Field(ge=1e-9, le=1e9), BeforeValidator(_metres)] = None
    up: Literal["z", "y", "x"] = "z"

    @model_validator(mode="before")
    @classmethod
    def _that_are_set(cls, content: Any) -> Any:
        """Return the settings without those that are null (which ``null`` is not if a class has that name)."""
        if not isinstance(content, dict):
            return content
        named = content.get("classes")
        classes = [*named, *named.values()] if isinstance(named, dict) else named if isinstance(named, tuple) else ()
        unset = [word for word in (None, "null", "~") if word is None or word not in classes]
        return {key: value for key, value in content.items() if key == "classes" or value not in unset}

    @field_validator("classes", mode="before")
    @classmethod
    def _numbered(cls, named: Any) -> Any:
        """Return a mapping of names to labels. Names in a list are numbered from 0; ``label: name`` is turned round."""
        if isinstance(named, tuple):
            if not all(isinstance(name, (str, int, float)) for name in named):
                raise ValueError(f"must be {FORMS}")
            names = _distinct(named)
            return {name: number for number, name in enumerate(names)}
        if not isinstance(named, dict):
            raise ValueError(f"must be {FORMS}")
        return _of_text(_by_name(named))

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
        ValueError: some classes are written in one way and some in the other, or all of them may be either.
    """
    if named and all(type(value) is int for pair in named.items() for value in pair):
        key, value = next(iter(named.items()))
        raise ValueError(
            f"{one_line(key, _SHOWN)}: {one_line(value, _SHOWN)} may be name: label or label: name; put the names in "
            f'quotes, as {{"{key}": {value}}} or {{{key}: "{value}"}}'
        )
    turned = [isinstance(name, str) for name in named.values()]
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


def some_color(label: int, count: int) -> tuple[int, int, int]:
    """Return a colour for a class without one: hues around the colour circle, alternating between two shades."""
    red, green, blue = colorsys.hsv_to_rgb(label / count, 0.75, 0.95 if label % 2 == 0 else 0.65)
    return round(255 * red), round(255 * green), round(255 * blue)
