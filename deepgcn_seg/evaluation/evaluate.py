"""Scoring a model on rooms, with table, picture and figures for ``metrics.json``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.store import RoomEntry, RoomStore
from ..distributed import World
from ..inference.picture import room_picture
from .metrics import Scores
from .protocols import Protocol
from .report import print_scores, summary


def evaluate_rooms(
    model: nn.Module,
    protocol: Protocol,
    store: RoomStore,
    rooms: Sequence[RoomEntry],
    device: torch.device,
    folder: Path,
    title: str,
    world: World = World(),
    **about: Any,
) -> dict[str, Any]:
    """Run a protocol, print its table, and under ``rooms`` write ``room.png`` of the first room.

    Args:
        about: what else every number must name: dataset, areas, checkpoint and its step.

    Returns:
        The protocol's entry of ``metrics.json``.
    """
    result = protocol.run(model, store, rooms, device, world)
    scores = Scores.of(result.confusion)
    facts = {"data": store.source, "folds": store.areas, "rooms": [room.key for room in rooms], **about}
    entry = summary(result, protocol, store.classes, **facts)
    if not world.first:
        return entry
    cost = f"{result.points:,} points in {result.seconds:.1f} s"
    print_scores(scores, store.classes, title, f"protocol {protocol.describe()}; {cost}")
    if result.predictions:
        room = rooms[0]
        xyz, rgb, label = store.open(room).all()
        caption = f"{room.key} of {store.source}, labelled by {title.split(' on ')[0]}"
        room_picture(folder / "room.png", xyz, rgb, label, result.predictions[room.key], store.classes, caption)
    return entry
