"""The classes of a dataset: names, in order of label, and colours."""

from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from operator import index
from typing import cast

import numpy as np

from ..palette import print_colors

# The most classes, which labels of 16 bits can tell apart from one another and from "no label"; the most characters of
# a name.
MAX_CLASSES, MAX_NAME = 65535, 100
# The name of points without a label, in pictures and pages.
UNLABELLED = "unlabelled"
# Their colour there, and that of scans without colours for networks that need them: the middle of 0..255.
GREY = (128, 128, 128)


def no_label(classes: Sized) -> np.unsignedinteger:
    """Return the label of points that have no class: the largest number of the smallest type that can hold it (255).

    In a room it stands for points that nobody has labelled; in a prediction, for points without coordinates.
    """
    kind = np.min_scalar_type(len(classes))
    return kind.type(np.iinfo(kind).max)


@dataclass(frozen=True)
class ClassList:
    """Names and colours of the labels 0..len-1.

    Attributes:
        names: unique names. palette: an RGB triple of 0..255 for each.
        fallback: the class of unknown names, or None to refuse them.

    Raises:
        ValueError: names are empty, not unique or not printable, or colours are not three numbers of 0..255.
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    fallback: str | None = None

    def __post_init__(self):
        if not 1 <= len(self.names) <= MAX_CLASSES:
            raise ValueError(f"{len(self.names)} classes, must be 1 to {MAX_CLASSES}")
        for name in self.names:
            if not (isinstance(name, str) and 1 <= len(name) <= MAX_NAME and name.isprintable()):
                raise ValueError(f"class name {str(name)[:40]!r}: must be 1 to {MAX_NAME} printable characters")
        if len(set(self.names)) != len(self.names) or len(self.palette) != len(self.names):
            raise ValueError("class names must be unique, with one colour each")
        for name, color in zip(self.names, self.palette):
            if len(color) != 3 or not all(0 <= value <= 255 for value in color):
                raise ValueError(f"colour of {name}: must be three numbers of 0..255, is {str(list(color))[:40]}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def dtype(self) -> np.dtype:
        """The smallest type that holds every label, and :func:`no_label` too."""
        return no_label(self).dtype

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, label: int) -> str:
        return self.names[label]

    def colors(self, labels: np.ndarray) -> np.ndarray:
        """Return the colours of labels (...) as uint8 RGB (..., 3): :data:`GREY` for points without a label."""
        places = np.where(labels == no_label(self), len(self), np.asarray(labels, np.int64))
        return np.array([*self.palette, GREY], np.uint8)[places]

    def in_palette(self, palette: str) -> "ClassList":
        """Return the same classes with other colours: their own for ``screen``, and for ``print`` those for paper.

        The latter differ in lightness (:func:`~deepgcn_seg.palette.print_colors`).
        """
        return self if palette == "screen" else replace(self, palette=print_colors(len(self)))

    @classmethod
    def of(cls, names: Sequence[str], palette: Sequence[Sequence[int]], fallback: str | None = None) -> "ClassList":
        """Return a class list from plain lists, as they are in a config or a file."""
        colors = tuple(tuple(index(value) for value in color) for color in palette)
        # The constructor checks that each colour has three numbers.
        return cls(tuple(names), cast(tuple[tuple[int, int, int], ...], colors), fallback)


# Name and colour of each class of S3DIS, in the order of the official codes (and of PointNet before them).
_S3DIS = {
    "ceiling": (0, 255, 0),
    "floor": (0, 0, 255),
    "wall": (0, 255, 255),
    "beam": (255, 255, 0),
    "column": (255, 0, 255),
    "window": (100, 100, 255),
    "door": (200, 200, 100),
    "table": (170, 120, 200),
    "chair": (255, 0, 0),
    "sofa": (200, 100, 100),
    "bookcase": (10, 200, 100),
    "board": (200, 200, 200),
    "clutter": (50, 50, 50),
}
S3DIS = ClassList.of(tuple(_S3DIS), tuple(_S3DIS.values()), fallback="clutter")
