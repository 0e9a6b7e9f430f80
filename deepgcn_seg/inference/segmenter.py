"""Labels for a scan: the trained network of a checkpoint over every point of it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..config import device as device_of
from ..data.classes import ClassList
from ..data.store import MemoryRoom, RoomEntry
from ..errors import UserError
from ..evaluation.protocols import Protocol
from ..model.checkpoint import build_model, describe, find_checkpoint, read_checkpoint

log = logging.getLogger(__name__)

UP = {"z": (0, 1, 2), "y": (0, 2, 1), "x": (1, 2, 0)}
# Colour of points that have none, for networks that were trained with colours.
GREY = 128


@dataclass(frozen=True)
class Prediction:
    """label: (N,) unsigned integers; confidence: (N,) float32, the share of the votes for that label."""

    label: np.ndarray
    confidence: np.ndarray


class Segmenter:
    """Labels points with a checkpoint, in blocks as the network was trained.

    Example:
        ``Segmenter("best.ckpt").predict(xyz, rgb).label``

    Args:
        checkpoint: a file that training wrote, or a run directory. device: auto, cpu, cuda, ...
        stride: metres between blocks; below the block's side, points get votes of several.
        votes: passes over each block. batch_size: blocks a pass; default: as trained.
        tile: larger scans are cut into tiles of at most so many metres, each taken for a room.
        trusted: modules of your own whose parts the network has (:func:`~deepgcn_seg.load_model`).

    Attributes:
        model, classes: of the checkpoint. needs_color: whether it was trained with colours.

    Raises:
        UserError: not a readable checkpoint of ours.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: str = "auto",
        stride: float = 1.0,
        votes: int = 1,
        batch_size: int | None = None,
        tile: float = 20.0,
        trusted: Sequence[str] = (),
    ):
        checkpoint = find_checkpoint(checkpoint)
        content = read_checkpoint(checkpoint)
        trained = describe(content, checkpoint).trained_on
        if trained is None:
            raise UserError(f"checkpoint {checkpoint}: does not say what it was trained on")
        self.device = device_of(device)
        self.model = build_model(content, checkpoint, trusted).to(self.device)
        self.classes: ClassList = self.model.classes
        self._protocol = Protocol(
            "rooms",
            trained.points,
            trained.variant,
            batch_size or trained.batch_size,
            trained.side,
            stride=stride,
            votes=votes,
            groups=trained.features,
        )
        self.tile = tile
        self.needs_color = "color" in trained.features

    def predict(self, xyz: np.ndarray, rgb: np.ndarray | None = None, scale: float = 1.0, up: str = "z") -> Prediction:
        """Label every point.

        Args:
            xyz: (N, 3) coordinates of any origin, float64 where they need it. rgb: (N, 3) in 0..255.
            scale: metres per unit. up: the axis that points up: z, y or x.

        Raises:
            UserError: no points, or not finite.
        """
        if up not in UP:
            raise UserError(f"up={up}: must be one of {', '.join(UP)}")
        if xyz.ndim != 2 or xyz.shape[1] != 3 or not len(xyz):
            raise UserError(f"points must be (N, 3), at least one, got {xyz.shape}")
        if not np.isfinite(xyz).all():
            raise UserError("points have NaN or infinite coordinates")
        origin = xyz.min(0)
        # Moved first, then narrowed: geo-referenced coordinates do not fit float32.
        metres = ((xyz - origin) * scale).astype(np.float32)[:, UP[up]]
        _check_extent(np.ptp(metres, axis=0))
        if self.needs_color and rgb is None:
            log.warning("The network was trained with colours and the scan has none: grey is filled in")
        if not self.needs_color and rgb is not None:
            log.info("The network was trained without colours: those of the scan are not looked at")
        colors = np.full((len(xyz), 3), GREY, np.uint8) if rgb is None else np.asarray(rgb, np.uint8)
        label = np.empty(len(xyz), self.classes.dtype)
        confidence = np.empty(len(xyz), np.float32)
        tiles = _Tiles(metres, colors, self.tile)
        with torch.inference_mode():
            for entry, votes in self._protocol.vote(self.model, tiles, tiles.entries, self.device):
                best, chosen = votes.max(1)
                place = tiles.places(entry)
                label[place] = chosen.numpy().astype(label.dtype)
                confidence[place] = (best / votes.sum(1)).numpy()
        return Prediction(label, confidence)


def _check_extent(size: np.ndarray) -> None:
    """Warn where an extent does not look like metres of a building."""
    if size.max() > 1000 or size.max() < 0.5:
        shown = " x ".join(f"{side:.3g}" for side in size)
        log.warning("The scan is %s m, which does not look like metres: set scale to metres per unit", shown)


class _Tiles:
    """A scan cut along the floor plan into tiles of one size, with what a protocol asks of a store."""

    def __init__(self, xyz: np.ndarray, rgb: np.ndarray, most: float):
        self._xyz, self._rgb = xyz, rgb
        size = np.maximum(np.ptp(xyz[:, :2], axis=0), 1e-6)
        count = np.maximum(np.ceil(size / most).astype(int), 1)
        tile = np.minimum((xyz[:, :2] / (size / count)).astype(int), count - 1)
        number = tile[:, 0] * count[1] + tile[:, 1]
        self._order = np.argsort(number, kind="stable") if count.prod() > 1 else np.arange(len(xyz))
        starts = np.searchsorted(number[self._order], np.arange(count.prod() + 1))
        self._runs = {
            RoomEntry("scan", str(i), Path(str(i))): (starts[i], starts[i + 1])
            for i in range(count.prod())
            if starts[i + 1] > starts[i]
        }
        self._opened: dict[RoomEntry, MemoryRoom] = {}

    @property
    def entries(self) -> list[RoomEntry]:
        """The tiles that have points."""
        return list(self._runs)

    def open(self, entry: RoomEntry) -> MemoryRoom:
        """A tile as a room; the last few are kept."""
        if entry not in self._opened:
            while len(self._opened) > 2:
                self._opened.pop(next(iter(self._opened)))
            place = self._order[slice(*self._runs[entry])]
            self._opened[entry] = MemoryRoom(self._xyz[place], self._rgb[place])
        return self._opened[entry]

    def places(self, entry: RoomEntry) -> np.ndarray:
        """Where a tile's points are in the scan, in the order of the votes."""
        return self._order[slice(*self._runs[entry])][self.open(entry).place]
