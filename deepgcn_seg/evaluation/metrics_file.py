"""``metrics.json`` of a training, which may come from anywhere: its fields, and their relations.

Scores stand there beside the confusion matrix from which they follow. A file in which they contradict each other was
edited, damaged or written by other code, and is refused.
"""

from collections.abc import Mapping
from typing import Annotated, NamedTuple, Self
from unicodedata import normalize

import torch
from pydantic import AfterValidator, ConfigDict, Field, model_validator

from ..changes import Changes
from ..escaping import one_line
from ..schema import Schema
from .metrics import Scores, points_by_class

# Larger than anything that training writes.
MAX_CLASSES, MAX_ROOMS, MAX_PICTURES = 1000, 100_000, 100
# Characters of a name or setting that are shown.
MAX_SHOWN = 200
# Counts of points stay exact in float64, and sums of many of them in int64.
MAX_COUNT = 2**53

# Most by which a score may differ from that of its counts: training writes all digits, other programs perhaps four.
ROUNDING = 5.1e-5
# What the counts of rooms are called where they are summed.
_COUNTS = ("hits of all rooms", "truth of all rooms", "predicted points of all rooms")

Share = Annotated[float, Field(ge=0, le=1)] | None
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Counts = Annotated[tuple[Count, ...], Field(max_length=MAX_CLASSES)]
Cost = Annotated[float, Field(ge=0, le=1e12)]
# Text is made printable.
Name = Annotated[str, Field(max_length=1000), AfterValidator(lambda text: one_line(text, MAX_SHOWN))]
Names = Annotated[tuple[Name, ...], Field(max_length=MAX_CLASSES)]
# Area and name of a room are whole, so that two rooms never become one.
RoomKey = Annotated[str, Field(max_length=1000), AfterValidator(one_line)]


def _require_same(counts: str, stated: Mapping[str, float | None], found: Mapping[str, float | None]) -> None:
    """Refuse values that stand beside the counts from which they follow, and are others.

    Args:
        counts: what the counts are called. stated: the values that stand there by name, None for null. found: those
            that follow.

    Raises:
        ValueError: names the first that differs by more than :data:`ROUNDING`, and both values.
    """
    for name, value in stated.items():
        other = found.get(name)
        alike = value is other if value is None or other is None else abs(value - other) <= ROUNDING
        if not alike:
            raise ValueError(
                f"has {name} {_as_text(value)}, which is {_as_text(other)} by its {counts}; correct what is wrong, or "
                "move the file away and score the run again: python tools/train.py resume=RUN_DIR"
            )


def _as_text(value: float | None) -> str:
    return "null" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _named(what: str, values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return values of classes by a name for messages, such as ``IoU of wall``."""
    return {f"{what} of {name}": value for name, value in values.items()}


class _Written(Schema):
    """Base of what is read of the file; other fields are ignored."""

    model_config = ConfigDict(extra="ignore")


class RoomScores(_Written):
    """Scores of one room. hits, truth, predicted: points of each class (C,); empty in files of older versions."""

    points: Count
    mIoU: Share
    OA: Share
    hits: Counts = ()
    truth: Counts = ()
    predicted: Counts = ()

    @property
    def counts(self) -> tuple[Counts, Counts, Counts]:
        """The points of each class that are right, true and predicted."""
        return self.hits, self.truth, self.predicted

    @model_validator(mode="after")
    def _related(self) -> Self:
        if len(set(map(len, self.counts))) > 1:
            raise ValueError("hits, truth and predicted must be of as many classes")
        if any(hits > min(truth, predicted) for hits, truth, predicted in zip(*self.counts)):
            raise ValueError("a class has more hits than true or predicted points")
        if self.truth:
            stated = {"points": self.points, "predicted points": sum(self.predicted), "mIoU": self.mIoU, "OA": self.OA}
            total, scores = sum(self.truth), Scores.of_points(torch.tensor(self.counts, device="cpu")).as_dict(())
            found = {"points": total, "predicted points": total, **scores}
            _require_same("hits, truth and predicted", stated, found)
        return self


class Scored(NamedTuple):
    """The rooms that were scored, with their numbers of points, and the points of each true class.

    Both are empty if they are not known: earlier versions did not keep the rooms, and a protocol that draws points by a
    seed draws other ones of each class by another seed.
    """

    rooms: tuple[tuple[str, float], ...]
    truth: tuple[int, ...]

    def fits(self, other: "Scored") -> bool:
        """Return whether nothing that is known of both tells them apart."""
        return all(not mine or not theirs or mine == theirs for mine, theirs in zip(self, other))

    def joined(self, other: "Scored") -> "Scored":
        """Return what is known of this or of another one that fits."""
        return Scored(self.rooms or other.rooms, self.truth or other.truth)


class Tested(_Written):
    """Scores of a run on its test rooms, and how they were measured. confusion: (C, C), rows truth."""

    data: Name
    protocol: Name
    dataset: Name = ""
    selection: Name = ""
    mIoU: Share
    mAcc: Share
    OA: Share
    IoU: Annotated[dict[Name, Share], Field(max_length=MAX_CLASSES)] = Field(default_factory=dict)
    accuracy: Annotated[dict[Name, Share], Field(max_length=MAX_CLASSES)] = Field(default_factory=dict)
    points: Count | None = None
    areas: Annotated[tuple[Name | int, ...], Field(max_length=MAX_CLASSES)]
    folds: Names
    classes: Annotated[Names, Field(min_length=1)]
    confusion: Annotated[tuple[tuple[Count, ...], ...], Field(max_length=MAX_CLASSES)]
    rooms: Annotated[dict[RoomKey, RoomScores], Field(max_length=MAX_ROOMS)] = Field(default_factory=dict)
    pictures: Annotated[dict[Name, RoomKey], Field(max_length=MAX_PICTURES)] = Field(default_factory=dict)
    pages: Annotated[dict[Name, RoomKey], Field(max_length=MAX_PICTURES)] = Field(default_factory=dict)
    points_per_second: Count | None = None

    @property
    def area(self) -> str:
        """The test area, as tables name it: "Area 5" for ``data.fold=5`` and ``data.fold=Area_5``."""
        return ", ".join(map(area_title, self.areas))

    @property
    def points_by_room(self) -> torch.Tensor | None:
        """Points (R, 3, C) of the test rooms, as :func:`~deepgcn_seg.evaluation.metrics.points_by_class` has them.

        None if the run was scored by a version that did not keep them.
        """
        rooms = [room.counts for room in self.rooms.values()]
        return torch.tensor(rooms, device="cpu") if rooms and all(map(all, rooms)) else None

    @property
    def scored(self) -> "Scored":
        """What was scored."""
        rooms = tuple(sorted((key, room.points) for key, room in self.rooms.items()))
        drawn = "sampled points" in self.protocol
        return Scored(rooms, () if drawn else tuple(map(sum, self.confusion)))

    @model_validator(mode="after")
    def _related(self) -> Self:
        if any(len(row) != len(self.classes) for row in (self.confusion, *self.confusion)):
            raise ValueError(f"confusion must have a row and a column for each of {len(self.classes)} classes")
        if sum(map(sum, self.confusion)) > MAX_COUNT:
            raise ValueError(f"confusion has more than {MAX_COUNT} points")
        for key, room in self.rooms.items():
            if len(room.truth) not in (0, len(self.classes)):
                raise ValueError(
                    f"room {key}: hits, truth and predicted must be of each of {len(self.classes)} classes"
                )
        _require_same("confusion matrix", self._stated(), self._by_confusion())
        return self

    def _stated(self) -> dict[str, float | None]:
        """Return by name all that the file has beside the confusion matrix from which it follows.

        The interval of the mIoU is left out: reports compute it again, because older versions had another one.
        """
        stated = {"mIoU": self.mIoU, "mAcc": self.mAcc, "OA": self.OA}
        stated |= _named("IoU", self.IoU) | _named("accuracy", self.accuracy)
        if self.points is not None:
            stated["points"] = self.points
        if self.rooms:
            stated["points of all rooms"] = sum(room.points for room in self.rooms.values())
        if (counts := self.points_by_room) is not None:
            for what, values in zip(_COUNTS, counts.sum(0).tolist()):
                stated |= _named(what, dict(zip(self.classes, values)))
        return stated

    def _by_confusion(self) -> dict[str, float | None]:
        """Return what follows from the confusion matrix, by the names of :meth:`_stated`."""
        confusion = torch.tensor(self.confusion, device="cpu")
        scores, total = Scores.of(confusion).as_dict(self.classes), sum(map(sum, self.confusion))
        found = {**scores, "points": total, "points of all rooms": total}
        found |= _named("IoU", scores["IoU"]) | _named("accuracy", scores["accuracy"])
        for what, values in zip(_COUNTS, points_by_class(confusion).tolist()):
            found |= _named(what, dict(zip(self.classes, values)))
        return found


class Training(_Written):
    """Time and memory that a training took."""

    seconds: Cost | None = None
    steps: Count | None = None
    peak_memory_mb: Cost | None = None


class Beginning(_Written):
    """The weights that a training began with. sha256: of their file."""

    sha256: Name


class Metrics(_Written):
    """``metrics.json`` of a training.

    Attributes:
        changes: settings that were changed on the way. weights: None for random first weights.
    """

    test: Tested
    parameters: Count
    training: Training = Training()
    changes: Changes = ()
    weights: Beginning | None = None


def area_title(area: object) -> str:
    """Return the name of an area as tables have it: "Area 5" for 5, ``5`` and ``Area_5``.

    A name of a folder may be stored with its accents apart, and be typed with them composed: both have one title.
    """
    name = normalize("NFC", str(area))
    number = name.removeprefix("Area_")
    return f"Area {number}" if number != name or number.isdecimal() else name
