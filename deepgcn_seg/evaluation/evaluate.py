"""Score a model on rooms: print a table, draw pictures and pages, and return the entry of ``metrics.json``."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from ..data.classes import ClassList
from ..data.room import RoomEntry
from ..data.store import RoomStore, Store
from ..distributed import World
from ..errors import UserError, first_line
from ..inference.picture import room_picture
from ..inference.viewer import write_viewer
from ..inference.voting import BadScoresError
from .metrics import Scores
from .protocols import Protocol, Result
from .scores import print_scores, summary

log = logging.getLogger(__name__)

# Number of rooms with the lowest mIoU to draw.
WORST_ROOMS = 3
# Points of a room on its page, which is then at most 3.2 MB; a run has up to four pages.
PAGE_POINTS = 150_000


def evaluate_rooms(
    model: nn.Module,
    protocol: Protocol,
    store: Store,
    rooms: Sequence[RoomEntry],
    device: torch.device,
    folder: Path,
    title: str,
    world: World = World(),
    palette: str = "screen",
    pages: bool = False,
    **about: Any,
) -> dict[str, Any]:
    """Run a protocol, print a table of the scores, and draw some rooms.

    Rooms are drawn with the protocol ``rooms`` only: the first room (``room.png``), and those with the lowest mIoU
    (``worst_room_1.png``, ...). If that fails, as on a full disk, a warning says so.

    Args:
        folder: where pictures go. title: title of the table. world: processes that share the work; the first prints.
        palette: colours of classes in pictures (:meth:`~deepgcn_seg.data.classes.ClassList.in_palette`).
        pages: write a page to look at in 3-D beside each picture (``worst_room_1.html``, ...).
        about: further facts for the entry: dataset, areas, checkpoint and its step.

    Returns:
        The protocol's entry of ``metrics.json``.

    Raises:
        UserError: the network's scores are not finite; the message names the checkpoint and the block.
    """
    try:
        result = protocol.run(model, store, rooms, device, world)
    except BadScoresError as error:
        raise UserError(f"checkpoint {about.get('checkpoint', 'of this run')}: {error}") from None
    scores = Scores.of(result.confusion)
    facts = {"data": store.source, "folds": store.areas, **about}
    entry = summary(result, rooms, protocol, store.classes, **facts)
    if not world.first:
        return entry
    cost = f"{result.points:,} points in {result.seconds:.1f} s"
    if result.unlabelled:
        cost += f"; {result.unlabelled:,} unlabelled points were left out"
    caption = f"protocol {protocol.describe()}; {cost}"
    print_scores(scores, store.classes, title, caption, entry["mIoU_interval"])
    by, classes = title.split(" on ")[0], store.classes.in_palette(palette)
    entry["pictures"], entry["pages"] = {}, {}
    try:
        for name, room in _rooms_to_draw(result, rooms, entry).items():
            _draw(folder / name, cast(RoomStore, store), room, result.predictions[room.key], classes, by, pages)
            entry["pictures"][f"{name}.png"] = room.key
            if pages:
                entry["pages"][f"{name}.html"] = room.key
    except OSError as error:
        # The scores may have taken hours. They are still to be written.
        log.warning("%s: not all rooms are drawn (%s)", folder, first_line(error))
    return entry


def _draw(
    file: Path, store: RoomStore, room: RoomEntry, predicted: np.ndarray, classes: ClassList, by: str, page: bool
) -> None:
    """Write the picture of a room that a network (``by``) has labelled and, if ``page``, a page to look at it.

    Args:
        file: their name without an ending.
    """
    xyz, rgb, label = store.open(room).all()
    title = f"{room.key} of {store.source}"
    room_picture(file.with_suffix(".png"), xyz, rgb, label, predicted, classes, f"{title}, labelled by {by}")
    if page:
        colors = rgb if store.colored else None
        written = file.with_suffix(".html")
        write_viewer(written, xyz, colors, predicted, None, label, classes, title, max_points=PAGE_POINTS)


def _rooms_to_draw(result: Result, rooms: Sequence[RoomEntry], entry: dict[str, Any]) -> dict[str, RoomEntry]:
    """Return rooms to draw by the names of their files: the first room, and those with the lowest mIoU."""
    # If several processes share the work, each has only the predictions of its own rooms.
    predicted = [room for room in rooms if room.key in result.predictions]
    if not predicted:
        return {}
    first, *rest = predicted
    scored = [room for room in rest if entry["rooms"][room.key]["points"]]
    worst = sorted(scored, key=lambda room: entry["rooms"][room.key]["mIoU"])[:WORST_ROOMS]
    return {"room": first} | {f"worst_room_{i}": room for i, room in enumerate(worst, 1)}
