"""Results as a table on the terminal, and as entries of ``metrics.json``."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ..data.classes import ClassList
from ..data.room import RoomEntry
from ..escaping import terminal
from .metrics import Scores, miou_interval, points_by_class
from .protocols import Protocol, Result


def print_scores(
    scores: Scores,
    classes: ClassList,
    title: str,
    caption: str,
    interval: tuple[float, float] | None = None,
    console: Console | None = None,
) -> None:
    """Print a table of IoU and accuracy of each class, and their means; a dash stands for NaN.

    Args:
        interval: of the mIoU, 95 % over rooms.
    """
    table = Table(title=terminal(title, "table.title"), caption=terminal(caption, "table.caption"), min_width=44)
    table.add_column("class")
    table.add_column("IoU", justify="right")
    table.add_column("accuracy", justify="right")
    for name, iou, accuracy in zip(classes.names, scores.iou, scores.accuracy):
        table.add_row(terminal(name), _shown(iou), _shown(accuracy))
    table.add_section()
    table.add_row("mean (mIoU, mAcc)", _shown(scores.miou), _shown(scores.macc), style="bold")
    table.add_row("all points (OA)", "", _shown(scores.oa), style="bold")
    if interval is not None:
        table.add_row("mIoU, 95 % over rooms", " to ".join(map(_shown, interval)), "")
    (console or Console()).print(table)


def _shown(value: float) -> str:
    return "-" if value != value else f"{value:.4f}"


def summary(
    result: Result, rooms: Sequence[RoomEntry], protocol: Protocol, classes: ClassList, **about: Any
) -> dict[str, Any]:
    """Return the entry of a protocol in ``metrics.json``: scores in all and of each room, and how they were measured.

    ``mIoU_interval`` is the 95 % interval over rooms (:attr:`.protocols.Result.interval`). Each room
    has the points of every class that are right (``hits``), true and predicted, from which the interval of several
    runs together follows.

    Args:
        rooms: the rooms of ``result``, in its order. about: further facts for the entry: checkpoint, data, test areas.
    """
    by_room = {}
    points = points_by_class(result.by_room)
    for room, counts in zip(rooms, points):
        scores = Scores.of_points(counts).as_dict(classes.names)
        hits, truth, predicted = counts.tolist()
        by_room[room.key] = {
            **{"points": sum(truth), "mIoU": scores["mIoU"], "OA": scores["OA"]},
            **{"hits": hits, "truth": truth, "predicted": predicted},
        }
    return {
        "protocol": protocol.describe(),
        **about,
        **Scores.of_points(points.sum(0)).as_dict(classes.names),
        "mIoU_interval": miou_interval(points),
        "rooms": by_room,
        "points": result.points,
        "unlabelled": result.unlabelled,
        "seconds": round(result.seconds, 2),
        "points_per_second": round(result.points / max(result.seconds, 1e-9)),
        "classes": list(classes.names),
        "confusion": result.confusion.tolist(),
    }
