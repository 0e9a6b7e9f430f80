"""How a network's input is sampled from the blocks of a room, for voting and for the protocols."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from ..data.blocks import NINE, VARIANTS, channels
from ..settings import Count, Flag, Metres, Seed, choice, integer, validate


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings that say which points of a room a network sees together, and in which features.

    Attributes:
        points: per sample. batch_size: samples per forward pass. seed: of the sampling.
        variant: of the channels (paper, port). features: of a point (:data:`deepgcn_seg.data.blocks.CHANNELS`).
        side: of a block, metres. stride: metres between blocks.
        votes: passes over each block. turn: whether the room is turned by a further quarter for each pass (for models
            trained with turns).

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

    def __post_init__(self):
        validate(self)
