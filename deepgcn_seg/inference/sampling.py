"""How a network's input is sampled from the blocks of a room, for voting and for the protocols."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from ..data.augmentation import BlockPoints, mirrored, scaled, turned
from ..data.blocks import NINE, VARIANTS, channels
from ..settings import Count, Flag, Metres, Seed, Validated, choice, integer, listed, number

# Test-time augmentation: the eight ways in which a square fits onto itself, each in one of three sizes. The factors are
# within the range of training (recipe=modern_turns).
TTA: dict[str, Any] = {"votes": 8, "turn": True, "mirror": True, "scales": (1.0, 0.95, 1.05)}


@dataclass(frozen=True, kw_only=True)
class Sampling(Validated):
    """Settings that say which points of a room a network sees together, and in which features.

    Attributes:
        points: per sample. batch_size: samples per forward pass. seed: of the sampling.
        variant: of the channels (paper, port). features: of a point (:data:`deepgcn_seg.data.blocks.CHANNELS`).
        side: of a block, metres. stride: metres between blocks.
        votes: passes over each block. With the next three settings each pass sees another copy of the room. That is
            test-time augmentation, for networks that were trained with such augmentations.
        turn: whether each pass turns the room a quarter further.
        mirror: whether every second pass mirrors it; with ``turn``, passes 5 to 8 of each 8.
        scales: factors of the room's size. The first pass takes the first, the next pass the next, and so on.

    Raises:
        SettingError: a setting out of range.
    """

    points: Count = 4096
    variant: Annotated[str, choice(*VARIANTS)] = "paper"
    batch_size: Count = 16
    side: Metres = 1.0
    seed: Seed = 0
    stride: Metres = 1.0
    votes: Annotated[int, integer(1, 1000)] = 1
    turn: Flag = False
    features: Annotated[Sequence[str], channels()] = NINE
    mirror: Flag = False
    scales: Annotated[Sequence[float], listed(number(0, 100, above=True), 1)] = (1.0,)

    def copy(self, points: BlockPoints, vote: int) -> BlockPoints:
        """Return points of a block in the copy of the room that the pass ``vote``, counted from 0, sees."""
        turns = 4 if self.turn else 1
        if self.mirror and vote // turns % 2:
            points = mirrored(points)
        if vote % turns:
            points = turned(points, vote % turns * np.pi / 2)
        factor = self.scales[vote % len(self.scales)]
        return points if factor == 1 else scaled(points, factor)

    def describe_votes(self) -> str:
        """Return the number of passes, and which copies of the room they see."""
        scales = tuple(dict.fromkeys(self.scales[: self.votes]))
        copies = {
            "turned": self.turn and self.votes > 1,
            "mirrored": self.mirror and self.votes > (4 if self.turn else 1),
            f"scaled by {', '.join(f'{factor:g}' for factor in scales)}": scales != (1.0,),
        }
        return ", ".join([f"votes {self.votes}", *(copy for copy, seen in copies.items() if seen)])
