"""Labels for a scan: the trained network of a checkpoint over every point of it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from ..data.classes import ClassList
from ..data.scans.scan import lost_digits
from ..data.store import MemoryRoom, RoomEntry
from ..data.units import UP, require_metres
from ..device import device as device_of
from ..errors import UserError, first_line
from ..evaluation.protocols import BadScoresError, Protocol
from ..model.checkpoint import build_model, describe, find_checkpoint, read_checkpoint
from ..settings import Modules, SettingError, number, validate_given

log = logging.getLogger(__name__)

# Colour of points that have none, for networks that were trained with colours.
GREY = 128
# Points of a tile below which its height says nothing of strays.
FEWEST_OF_HEIGHT = 100
# Metres between points up to which float64 tells a tenth of a micrometre.
MOST_APART = 1e9


@dataclass(frozen=True)
class Prediction:
    """Labels of points.

    Attributes:
        label: (N,) unsigned integers; :func:`no_label` for points without coordinates. confidence: (N,) float32, the
            share of the votes for that label; 0 for points without coordinates.
    """

    label: np.ndarray
    confidence: np.ndarray


class Segmenter:
    """Labels points with a checkpoint, in blocks as the network was trained.

    Example:
        ``Segmenter("best.ckpt").predict(xyz, rgb).label``

    Args:
        checkpoint: a file that training wrote, or a run directory. device: auto, cpu, cuda, ...
        stride: metres between blocks, at most the block's side, the default; below it, points get votes of several.
        votes: passes over each block. batch_size: blocks a pass; default: as trained.
        tile: larger scans are cut into tiles of at most so many metres, each taken for a room.
        trusted: modules of your own whose parts the network has (:func:`~deepgcn_seg.load_model`).

    Attributes:
        model, classes: of the checkpoint. needs_color: whether it was trained with colours.

    Raises:
        UserError: not a readable checkpoint of ours, or a setting out of range.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: str = "auto",
        stride: float | None = None,
        votes: int = 1,
        batch_size: int | None = None,
        tile: float = 20.0,
        trusted: Sequence[str] = (),
    ):
        _validated(Tiling, tile=tile, trusted=trusted)
        given = {"stride": stride, "votes": votes, "batch_size": batch_size}
        _validated(Protocol, **{name: value for name, value in given.items() if value is not None})
        self.checkpoint = checkpoint = find_checkpoint(checkpoint)
        content = read_checkpoint(checkpoint)
        description = describe(content, checkpoint)
        trained = description.trained_on
        if trained is None:
            raise UserError(f"checkpoint {checkpoint}: does not say what it was trained on")
        self.device = device_of(device)
        self.model = build_model(content, checkpoint, trusted, description).to(self.device)
        self.classes: ClassList = self.model.classes
        try:
            self._protocol = Protocol(
                "rooms",
                trained.points,
                trained.variant,
                batch_size or trained.batch_size,
                trained.side,
                stride=trained.side if stride is None else stride,
                votes=votes,
                groups=trained.features,
            )
        except SettingError as error:
            raise UserError(f"{error} (checkpoint {checkpoint} has blocks of {trained.side:g} m)") from None
        self.tile = tile
        self.needs_color = "color" in trained.features

    def predict(self, xyz: Any, rgb: Any = None, scale: float | None = None, up: str = "z") -> Prediction:
        """Label every point that has coordinates.

        Args:
            xyz: (N, 3) coordinates of any origin, float64 where they need it: an array, tensor or list. Points whose
                coordinates are NaN or infinite get no label.
            rgb: (N, 3) colours, as whole numbers in 0..255 of any type, or as fractions in 0..1
                (:func:`colors_of` says what is taken for which); all zero counts as none.
            scale: metres per unit; default 1, if the coordinates can be metres
                (:func:`~deepgcn_seg.data.units.require_metres`). up: the axis that points up: z, y or x.

        Raises:
            UserError: no points with coordinates, coordinates that cannot be metres, coordinates or colours of
                another shape or range, colours that are not finite, or a network that puts out NaN or infinity.
        """
        if not isinstance(up, str) or up not in UP:
            raise UserError(f"up={up}: must be one of {', '.join(UP)}")
        _validated(Tiling, scale=1.0 if scale is None else scale)
        xyz = _points(xyz)
        located = np.isfinite(xyz).all(1)
        label = np.full(len(xyz), no_label(self.classes))
        confidence = np.zeros(len(xyz), np.float32)
        rgb = None if rgb is None else _color_rows(rgb, len(xyz))
        if not located.all():
            log.warning(
                "%s of %s points have no coordinates (NaN or infinite): they get label %d, which is no class, and "
                "confidence 0",
                f"{(~located).sum():,}",
                f"{len(xyz):,}",
                no_label(self.classes),
            )
            xyz, rgb = xyz[located], None if rgb is None else rgb[located]
        label[located], confidence[located] = self._label(xyz, rgb, scale, UP[up])
        return Prediction(label, confidence)

    def _label(
        self, xyz: np.ndarray, rgb: np.ndarray | None, scale: float | None, axes: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return labels and confidence of points that all have coordinates."""
        if lost := lost_digits(xyz, scale or 1.0):
            log.warning("%s", lost)
        metres = _metres(xyz, scale or 1.0)[:, axes]
        _check_extent(np.ptp(metres, axis=0))
        if scale is None:
            require_metres(metres, "the scan")
        colors = None if rgb is None else colors_of(rgb, len(metres))
        if rgb is not None and colors is None:
            log.warning("The scan's colours are all zero: it is taken for one without colours")
        if self.needs_color and colors is None:
            log.warning("The network was trained with colours and the scan has none: grey is filled in")
        if not self.needs_color and colors is not None:
            log.info("The network was trained without colours: those of the scan are not looked at")
        if colors is None:
            colors = np.full((len(metres), 3), GREY, np.uint8)
        label = np.empty(len(metres), self.classes.dtype)
        confidence = np.full(len(metres), np.nan, np.float32)
        tiles = _Tiles(metres, colors, self.tile)
        tiles.warn_of_strays()
        try:
            with torch.inference_mode():
                for entry, votes in self._protocol.vote(self.model, tiles, tiles.entries, self.device):
                    best, chosen = votes.max(1)
                    place = tiles.places(entry)
                    label[place] = chosen.numpy().astype(label.dtype)
                    confidence[place] = (best / votes.sum(1)).numpy()
        except BadScoresError as error:
            raise UserError(f"checkpoint {self.checkpoint}: {error}") from None
        return label, confidence


def no_label(classes: ClassList) -> np.unsignedinteger:
    """Return the label of points that get none: the largest number of the smallest type with room for it (255)."""
    kind = np.min_scalar_type(len(classes))
    return kind.type(np.iinfo(kind).max)


@dataclass(frozen=True)
class Tiling:
    """How a scan is laid out, and what may be built. tile: metres. scale: metres per unit. trusted: modules."""

    tile: Annotated[float, number(0, 1000, above=True)]
    scale: Annotated[float, number(0, 1e6, above=True)]
    trusted: Modules


def _validated(kind: type, **values: Any) -> None:
    try:
        validate_given(kind, values)
    except ValueError as error:
        raise UserError(str(error)) from None


def _array(values: Any, name: str) -> np.ndarray:
    """An array, tensor or nested list of numbers as an array.

    Raises:
        UserError: it is none.
    """
    if np.ma.is_masked(values):
        raise UserError(f"{name} has masked values: leave these points out")
    try:
        if isinstance(values, torch.Tensor):
            values = values.detach().cpu()
            # NumPy has no bfloat16, whose values float32 holds exactly.
            values = values.float() if values.dtype == torch.bfloat16 else values
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{name} must be numbers of one shape ({first_line(error)})") from None
    if array.dtype.kind not in "iuf":
        raise UserError(f"{name} must be numbers, got {array.dtype}")
    return array


def _points(xyz: Any) -> np.ndarray:
    """Return coordinates as an (N, 3) array, some of them finite."""
    xyz = _array(xyz, "points")
    if xyz.ndim != 2 or xyz.shape[1] != 3 or not len(xyz):
        raise UserError(f"points must be (N, 3), at least one, got {xyz.shape}")
    if not np.isfinite(xyz).all(1).any():
        raise UserError("points have no coordinates: all are NaN or infinite")
    return xyz


def _metres(xyz: np.ndarray, scale: float) -> np.ndarray:
    """Return finite coordinates as (N, 3) float64 in metres from their minimum."""
    # Moved in float64: geo-referenced coordinates do not fit float32.
    with np.errstate(over="ignore"):
        if xyz.dtype.kind == "f":
            moved = xyz.astype(np.float64) - xyz.min(0).astype(np.float64)
        else:
            # Integers beyond 2^53 do not fit float64 either. Their differences do not overflow without a sign.
            unsigned = f"u{xyz.dtype.itemsize}"
            moved = (xyz.astype(unsigned) - xyz.min(0).astype(unsigned)).astype(np.float64)
        metres = moved * scale
    if not metres.max() <= MOST_APART:
        raise UserError(f"points are more than {MOST_APART:g} m apart: remove stray points far away, or set scale")
    return metres


def _color_rows(rgb: Any, count: int) -> np.ndarray:
    rgb = _array(rgb, "rgb")
    if rgb.shape != (count, 3):
        raise UserError(f"rgb must be ({count}, 3), a colour for each point, got {rgb.shape}")
    return rgb


def colors_of(rgb: Any, count: int) -> np.ndarray | None:
    """The colours of ``count`` points as (N, 3) uint8, or None if all are zero, which no scanner sees.

    What they mean is never guessed:

    - uint8: as they are.
    - whole numbers of any other type, the largest in 2..255: 0..255.
    - numbers in 0..1, some of them fractions: 0..1.

    Anything else is an error: negative, NaN and above 255; fractions beyond 1, which are rounded first if they are
    0..255; and other types whose values are all 0 or 1, which may be either.

    Args:
        rgb: (N, 3) array, tensor or list.

    Raises:
        UserError: another shape, or values whose meaning is not known.
    """
    rgb = _color_rows(rgb, count)
    if not rgb.any():
        return None
    if rgb.dtype == np.uint8:
        return rgb
    if not np.isfinite(rgb).all() or rgb.min() < 0 or rgb.max() > 255:
        raise UserError(f"rgb must be whole numbers in 0..255 or fractions in 0..1, got {rgb.min():g}..{rgb.max():g}")
    whole = rgb.dtype.kind in "iu" or bool((rgb == np.rint(rgb)).all())
    if whole and rgb.max() == 1:
        raise UserError("rgb has only 0 and 1, which may be of 0..1 or of 0..255: give uint8 of 0..255")
    if not whole and rgb.max() > 1:
        raise UserError(
            f"rgb has fractions up to {rgb.max():.9g}: round them if they are 0..255, else scale them to 0..1"
        )
    return (rgb if whole else np.rint(rgb * 255)).astype(np.uint8)


def _check_extent(size: np.ndarray) -> None:
    """Warn where an extent does not look like metres of a building."""
    if size.max() > 1000 or size.max() < 0.5:
        shown = " x ".join(f"{side:.3g}" for side in size)
        log.warning(
            "The scan is %s m, which does not look like metres: set scale to metres per unit, or remove stray points",
            shown,
        )


class _Tiles:
    """A scan cut along the floor plan into tiles of one size, with what a protocol asks of a store.

    Only tiles that have points exist, so that one stray point far away costs one tile.

    Args:
        xyz: (N, 3) float64 metres from their minimum. rgb: (N, 3) uint8. most: the tile's largest side.
    """

    def __init__(self, xyz: np.ndarray, rgb: np.ndarray, most: float):
        self._xyz, self._rgb = xyz, rgb
        size = np.maximum(np.ptp(xyz[:, :2], axis=0), 1e-6)
        count = np.ceil(size / most)
        # Numbers of tiles as floating point: there may be more than an integer holds.
        column, row = np.minimum(np.floor(xyz[:, :2] / (size / count)), count - 1).T
        self._order = np.lexsort((row, column))
        column, row = column[self._order], row[self._order]
        first = np.flatnonzero(np.r_[True, (np.diff(column) != 0) | (np.diff(row) != 0)])
        self._runs = {
            RoomEntry("scan", str(i), Path(str(i))): run
            for i, run in enumerate(zip(first.tolist(), [*first[1:].tolist(), len(xyz)]))
        }
        self._opened: dict[RoomEntry, MemoryRoom] = {}

    @property
    def entries(self) -> list[RoomEntry]:
        """The tiles."""
        return list(self._runs)

    def warn_of_strays(self) -> None:
        """Warn of tiles whose height is that of a few stray points: the others' features are shares of it."""
        found = []
        for first, last in self._runs.values():
            count = last - first
            ends = max(count // 2000, 1)
            if count < FEWEST_OF_HEIGHT:
                continue
            z = np.partition(self._xyz[self._order[first:last], 2], (0, ends, count - 1 - ends, count - 1))
            height, most = z[-1] - z[0], z[count - 1 - ends] - z[ends]
            if most < height / 10:
                found.append((height, most, 2 * ends))
        if found:
            height, most, strays = max(found)
            log.warning(
                "%s of %s tiles have stray points far above or below: one is %.3g m high, but all but %d of its points "
                "lie within %.3g m. Heights are looked at as shares of the tile's, so that the labels of the others "
                "are not to be trusted; remove the stray points",
                f"{len(found):,}",
                f"{len(self._runs):,}",
                height,
                strays,
                most,
            )

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
