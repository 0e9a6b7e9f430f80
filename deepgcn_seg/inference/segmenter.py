"""Labels for the points of a scan, by the trained network of a checkpoint."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from ..data.classes import GREY, no_label
from ..data.scans.formats.scan import lost_digits
from ..data.units import UP, require_metres
from ..device import device as device_of
from ..errors import UserError
from ..model.trained import Checkpoints, read_trained
from ..settings import Flag, Modules, SettingError, number, validate_given
from .inputs import color_rows, colors_of, coordinates, to_metres, warn_of_extent
from .sampling import TTA
from .tiles import Tiles
from .truth import trained_labelling
from .voting import BadScoresError, Voting

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """Labels of points.

    Attributes:
        label: (N,) unsigned integers; :func:`~deepgcn_seg.data.classes.no_label` for points without coordinates.
        confidence: (N,) float32, the share of the votes for that label; 0 for points without coordinates.
    """

    label: np.ndarray
    confidence: np.ndarray


class Segmenter:
    """A trained network that labels scans, in blocks of points as it was trained on.

    Example:
        ``Segmenter("best.ckpt").predict(xyz, rgb).label``
        ``Segmenter(["a.ckpt", "b.ckpt"], tta=True)`` averages two networks over copies of the scan.

    Args:
        checkpoint: a file that training wrote, or a run directory; of several, class probabilities are averaged
            (:class:`~deepgcn_seg.model.Ensemble`). device: auto, cpu, cuda, ...
        stride: metres between blocks, at most the block's side, which is the default. With a smaller stride, points
            get votes from several blocks.
        votes: passes over each block; default 1, with ``tta`` 8. batch_size: blocks per forward pass; default: as
            trained. tta: test-time augmentation: passes see turned, mirrored and scaled copies of the scan
            (:data:`~.sampling.TTA`).
        tile: metres. Larger scans are cut into tiles of at most this side, and each tile is taken for a room.
        trusted: modules of your own whose parts the network has (:func:`~deepgcn_seg.load_model`).

    Attributes:
        model, classes: of the checkpoint. ``predict`` runs the model in eval mode, whatever mode it was left in.
        labelling: what label numbers in scans mean to these classes (:func:`~.truth.trained_labelling`).
        needs_color: whether it was trained with colours.

    Raises:
        UserError: not a readable checkpoint of ours, or a setting out of range.
    """

    def __init__(
        self,
        checkpoint: Checkpoints,
        device: str = "auto",
        stride: float | None = None,
        votes: int | None = None,
        batch_size: int | None = None,
        tile: float = 20.0,
        trusted: Sequence[str] = (),
        tta: bool = False,
    ):
        _require(ScanSettings, tile=tile, trusted=trusted, tta=tta)
        given = {"stride": stride, "votes": votes, "batch_size": batch_size}
        _require(Voting, **{name: value for name, value in given.items() if value is not None})
        self._networks = networks = read_trained(checkpoint)
        trained = networks.trained_on
        self.device = device_of(device)
        self.model = networks.build(trusted).to(self.device)
        self.classes = networks.class_list
        self.labelling = trained_labelling(networks)
        copies = TTA if tta else {}
        try:
            self._voting = Voting(
                points=trained.points,
                variant=trained.variant,
                batch_size=batch_size or trained.batch_size,
                side=trained.side,
                stride=trained.side if stride is None else stride,
                features=trained.features,
                **({**copies, "votes": votes} if votes is not None else copies),
            )
        except SettingError as error:
            raise UserError(f"{error} ({networks} has blocks of {trained.side:g} m)") from None
        self.tile = tile
        self.needs_color = "color" in trained.features

    def describe(self) -> str:
        """Return in one line whose labels these are: the checkpoint or checkpoints, and the votes of a point."""
        return f"{self._networks.name}; {self._voting.describe_votes()}"

    def predict(self, xyz: Any, rgb: Any = None, scale: float | None = None, up: str = "z") -> Prediction:
        """Label every point that has coordinates.

        Args:
            xyz: (N, 3) coordinates with any origin: an array, tensor or list, float64 if they are large. Points whose
                coordinates are NaN or infinite get no label.
            rgb: (N, 3) colours, as whole numbers in 0..255 of any type, or as fractions in 0..1
                (:func:`colors_of` tells them apart). Colours that are all zero count as none.
            scale: metres per unit; default 1, if the coordinates can be metres
                (:func:`~deepgcn_seg.data.units.require_metres`). up: the axis that points up: z, y or x.

        Raises:
            UserError: no points with coordinates, coordinates that cannot be metres, coordinates or colours of
                another shape or range, colours that are not finite, or a network that puts out NaN or infinity.
        """
        if not isinstance(up, str) or up not in UP:
            raise UserError(f"up={up}: must be one of {', '.join(UP)}")
        _require(ScanSettings, scale=1.0 if scale is None else scale)
        xyz = coordinates(xyz)
        located = np.isfinite(xyz).all(1)
        label = np.full(len(xyz), no_label(self.classes))
        confidence = np.zeros(len(xyz), np.float32)
        rgb = None if rgb is None else color_rows(rgb, len(xyz))
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
        metres = to_metres(xyz, scale or 1.0)[:, axes]
        if scale is None:
            require_metres(metres)
        warn_of_extent(np.ptp(metres, axis=0))
        tiles = Tiles(metres, self._colors(rgb, len(metres)), self.tile)
        tiles.warn_of_strays()
        label = np.empty(len(metres), self.classes.dtype)
        confidence = np.empty(len(metres), np.float32)
        try:
            for entry, votes in self._voting.vote(self.model, tiles, tiles.entries, self.device):
                most, winner = votes.max(1)
                points = tiles.points_of(entry)
                label[points] = winner.numpy().astype(label.dtype)
                confidence[points] = (most / votes.sum(1)).numpy()
        except BadScoresError as error:
            raise UserError(f"{self._networks}: {error}") from None
        return label, confidence

    def _colors(self, rgb: np.ndarray | None, count: int) -> np.ndarray:
        """Return a colour for each point: the scan's if it has some, else grey."""
        colors = None if rgb is None else colors_of(rgb, count)
        if rgb is not None and colors is None:
            log.warning("The scan's colours are all zero: it is taken for one without colours")
        if self.needs_color and colors is None:
            log.warning("The network was trained with colours and the scan has none: grey is filled in")
        if not self.needs_color and colors is not None:
            log.info("The network was trained without colours: those of the scan are not looked at")
        return np.full((count, 3), GREY, np.uint8) if colors is None else colors


@dataclass(frozen=True)
class ScanSettings:
    """The settings of :class:`Segmenter` that no other class validates: ranges of ``tile``, ``scale``, and so on."""

    tile: Annotated[float, number(0, 1000, above=True)]
    scale: Annotated[float, number(0, 1e6, above=True)]
    trusted: Modules
    tta: Flag


def _require(kind: type, **values: Any) -> None:
    """Check values of some settings of a dataclass.

    Raises:
        UserError: a value out of range.
    """
    try:
        validate_given(kind, values)
    except ValueError as error:
        raise UserError(str(error)) from None
