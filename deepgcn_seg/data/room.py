"""A room: labelled points of one scan."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Room:
    """Points of one room.

    Attributes:
        area, name: for example ``Area_5`` and ``office_1``.
        xyz: (N, 3) float64 metres. rgb: (N, 3) uint8, or None without colours.
        label: (N,) unsigned integers.
    """

    area: str
    name: str
    xyz: np.ndarray
    rgb: np.ndarray | None
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.xyz)

    @property
    def key(self) -> str:
        """``Area_5/office_1``."""
        return f"{self.area}/{self.name}"
