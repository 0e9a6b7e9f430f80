"""Which numbers stand for the classes in labelled scans, as store.json and checkpoints keep it."""

from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from ..schema import Schema

# Labels are compared as float64, which holds whole numbers below this one exactly.
MAX_LABEL = 2**53
Label = Annotated[int, Field(gt=-MAX_LABEL, lt=MAX_LABEL)]


class LabelNumbers(Schema):
    """What the label of a point in a scan means.

    Attributes:
        classes: the numbers of each class, in the order of the classes. unlabelled: numbers of points without a class.
        other: the place of the class that every further number stands for; or ``unlabelled``, or None if a further
            number is a mistake.
        field: the field with the labels; None for the first that has a usual name.
    """

    classes: tuple[tuple[Label, ...], ...]
    unlabelled: tuple[Label, ...] = ()
    other: Annotated[int, Field(ge=0)] | Literal["unlabelled"] | None = None
    field: Annotated[str, StringConstraints(min_length=1, max_length=1000)] | None = None

    @model_validator(mode="after")
    def _means_one_thing(self) -> Self:
        if isinstance(self.other, int) and self.other >= len(self.classes):
            raise ValueError(f"other={self.other} is none of {len(self.classes)} classes")
        counts = Counter(number for numbers in (*map(set, self.classes), set(self.unlabelled)) for number in numbers)
        if twice := [number for number, count in counts.items() if count > 1]:
            raise ValueError(f"label {twice[0]} has two meanings")
        return self

    def require(self, classes: int) -> None:
        """Raise a ValueError unless these are the numbers of so many classes."""
        if len(self.classes) != classes:
            raise ValueError(f"label numbers of {len(self.classes)} classes, but there are {classes}")
