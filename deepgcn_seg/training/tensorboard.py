"""The events of a run, which TensorBoard shows, and its history.

TensorBoard sorts the groups of tags by name, digits first, and opens the first ones. The groups are numbered so that
loss, mIoU and learning rate are seen first, and the many figures of classes and layers last.
"""

import math
import threading
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_SCALAR, Summary, SummaryMetadata
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ..data.classes import ClassList
from ..errors import UserError
from ..evaluation.history import TAGS, Epoch, History
from ..evaluation.metrics import Scores

LOSS, VALIDATION_LOSS, MIOU, RATE = (
    TAGS[column][0] for column in ("train_loss", "validation_loss", "mIoU", "learning_rate")
)
# Part of the data -> group of its scores, and group of its classes' IoU.
GROUPS = {"validation": ("3_validation", "5_IoU_validation"), "test": ("4_test", "6_IoU_test")}
LAYER_GROUPS = {"gradient_norm": "7_gradient_norm", "neighbor_distance": "8_neighbor_distance"}

_VALIDATED = "the validation rooms (with select=test the test rooms)"
_SCORED = "of the weights that are scored: the last ones, or best.ckpt with select=validation or select=test"

# Tag, or group of tags that are described alike -> what TensorBoard shows beside it.
DESCRIPTIONS = {
    LOSS: "Loss of each training step (recipe.loss), mean over its passes that have a labelled point.",
    VALIDATION_LOSS: f"Cross-entropy per point on {_VALIDATED}, without label smoothing. If it rises while the "
    "training loss falls, the network is overfitting.",
    MIOU: f"Mean over the classes of their IoU on {_VALIDATED}, after each validation. With select=validation or "
    "select=test it chooses best.ckpt.",
    RATE: "Learning rate of each training step (of the optimiser's first parameter group).",
    "2_training/gradient_norm": "Norm of the gradients of all parameters together, before the optimiser's step.",
    "2_training/points_per_second": "Points trained on in each second, including the wait for data.",
    "2_training/peak_memory_mb": "Highest memory in this training so far: of the process, or allocated on the GPU.",
    "3_validation/mAcc": "Mean over the classes of the share of their points that are labelled right, on "
    f"{_VALIDATED}.",
    "3_validation/OA": f"Share of all points that are labelled right, on {_VALIDATED}.",
    "4_test/mIoU": f"Mean IoU on the test rooms, {_SCORED}. The step is one after the last.",
    "4_test/mAcc": "Mean over the classes of the share of their points in the test rooms that are labelled right, "
    f"{_SCORED}.",
    "4_test/OA": f"Share of all points of the test rooms that are labelled right, {_SCORED}.",
    "5_IoU_validation": f"IoU of one class on {_VALIDATED}. Missing where neither truth nor prediction has it.",
    "6_IoU_test": f"IoU of one class on the test rooms, {_SCORED}.",
    "7_gradient_norm": "Norm of the gradients of one backbone layer; layer 0 is the first graph convolution.",
    "8_neighbor_distance": "Mean distance in space between a point and its neighbours in the graph of one layer, in "
    "metres with data.variant=paper. It grows as features describe what a point is instead of where it is.",
}

# More than the row of TensorBoard's table takes, which begins the file that PyTorch writes it to. The file of the other
# events may have gigabytes.
_HPARAMS_BYTES = 1 << 20

# Points are 3 cm wide, and the field of view shows a whole block that is 3 m high.
MESH_VIEW = {
    "material": {"cls": "PointsMaterial", "size": 0.03},
    "camera": {"cls": "PerspectiveCamera", "fov": 90},
}


class RunLog:
    """TensorBoard events and ``history.csv`` of one run. Neither file is there before there is something to write.

    Args:
        folder: the run directory; None to write nothing, as in every process but the first.
        step: first step whose events and rows are new, 0 in a new run; those that are there from it on are dropped.

    Every method raises :class:`~deepgcn_seg.errors.UserError` if events cannot be written, as on a full disk.
    """

    def __init__(self, folder: str | Path | None, step: int = 0):
        self._writer: Any = _Nothing() if folder is None else _EventWriter(Path(folder), step)
        self._history = None if folder is None else History(Path(folder), step)

    def config(self, text: str) -> None:
        """Write the composed config, once there are other events."""
        self._writer.first_text = ("config", f"```yaml\n{text}\n```")

    def step(self, step: int, loss: float | None, lr: float, points_per_second: float) -> None:
        """Write loss, learning rate and speed of a training step; loss is None if no point had a label."""
        if loss is not None:
            self._scalar(LOSS, loss, step)
        self._scalar(RATE, lr, step)
        self._scalar("2_training/points_per_second", points_per_second, step)

    def gradient_norm(self, step: int, norm: float) -> None:
        """Write the norm of all gradients together."""
        self._scalar("2_training/gradient_norm", norm, step)

    def layers(self, step: int, name: str, values: dict[int, float]) -> None:
        """Write a value of each backbone layer; ``name`` is a key of :data:`LAYER_GROUPS`."""
        for layer, value in values.items():
            self._scalar(f"{LAYER_GROUPS[name]}/layer_{layer:02d}", value, step)

    def memory(self, step: int, megabytes: float) -> None:
        """Write the peak memory of the training so far, unless it is NaN: of the process, or allocated on the GPU."""
        if not math.isnan(megabytes):
            self._scalar("2_training/peak_memory_mb", megabytes, step)

    def epoch(self, epoch: Epoch, classes: ClassList) -> None:
        """Add an epoch to ``history.csv``, and write its validation loss as an event."""
        if epoch.validation_loss is not None:
            self._scalar(VALIDATION_LOSS, epoch.validation_loss, epoch.step)
        if self._history is not None:
            self._history.append(epoch.row(classes.names))

    def blocks(self, step: int, xyz: Tensor, labels: dict[str, Tensor], classes: ClassList) -> None:
        """Write blocks of points (B, N, 3) as point clouds, coloured by each entry of ``labels`` (B, N) in turn."""
        # In TensorBoard, the camera looks at the origin and y points up.
        x, y, z = (xyz - xyz.mean(1, keepdim=True)).unbind(-1)
        xyz = torch.stack([x, z, -y], -1)
        for name, label in labels.items():
            colors = torch.from_numpy(classes.colors(label.cpu().numpy()))
            for number in range(len(xyz)):
                tag = f"block_{number}/{name}"
                part = slice(number, number + 1)
                self._writer.add_mesh(tag, xyz[part], colors[part], config_dict=MESH_VIEW, global_step=step)

    def scores(self, step: int, part: str, confusion: Tensor, classes: ClassList) -> None:
        """Write OA, mAcc, mIoU, IoU per class and the confusion matrix of ``part`` (validation, test)."""
        scores, (group, classes_group) = Scores.of(confusion), GROUPS[part]
        self._scalar(MIOU if part == "validation" else f"{group}/mIoU", scores.miou, step)
        for name, value in (("mAcc", scores.macc), ("OA", scores.oa)):
            self._scalar(f"{group}/{name}", value, step)
        for name, value in zip(classes.names, scores.iou):
            if value == value:
                self._scalar(f"{classes_group}/{name}", value, step)
        self._writer.add_image(f"{group}/confusion", confusion_image(confusion, classes), step, dataformats="HWC")

    def hparams(self, settings: dict[str, Any], metrics: dict[str, float]) -> None:
        """Write settings and final metrics, to compare the runs of a sweep, in the place of those of an earlier end."""
        plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in settings.items()}
        self._writer.replace_hparams(plain, metrics)

    def image(self, name: str, path: str | Path, step: int) -> None:
        """Write the picture of a PNG file."""
        from matplotlib.image import imread

        self._writer.add_image(name, np.asarray(imread(str(path)))[..., :3], step, dataformats="HWC")

    def flush(self) -> None:
        """Write events that are still in memory to disk."""
        self._writer.flush()

    def close(self) -> None:
        """Write the last events and close the file."""
        self._writer.close()

    def _scalar(self, tag: str, value: float, step: int) -> None:
        self._writer.add_described(tag, value, DESCRIPTIONS.get(tag) or DESCRIPTIONS[tag.partition("/")[0]], step)


class _EventWriter:
    """A SummaryWriter that makes its file with the first event, and turns errors of writing into a ``UserError``.

    Args:
        step: first step of a resumed run, else 0.
    """

    def __init__(self, folder: Path, step: int):
        self._folder, self._step = folder, step
        self._opened: SummaryWriter | None = None
        self.first_text: tuple[str, str] | None = None

    def __getattr__(self, name: str) -> Callable:
        return self._telling(getattr(self._open(), name))

    def add_described(self, tag: str, value: float, description: str, step: int) -> None:
        """Write a scalar with a description. :meth:`SummaryWriter.add_scalar` takes none."""
        # With a data class TensorBoard's server keeps the description of a value of the old kind, which all can read.
        metadata = SummaryMetadata(summary_description=description, data_class=DATA_CLASS_SCALAR)
        metadata.plugin_data.plugin_name = "scalars"
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value, metadata=metadata)])
        self._telling(self._open()._get_file_writer().add_summary)(summary, step)

    def replace_hparams(self, settings: dict[str, Any], metrics: dict[str, float]) -> None:
        """Write a run's row of TensorBoard's table. It shows the first row that it finds, so that there is only one."""
        self._telling(self._remove_hparams)()
        # PyTorch writes a file of its own for them.
        self.add_hparams(settings, metrics, run_name=".")

    def _remove_hparams(self) -> None:
        for path in self._folder.glob("events.out.tfevents.*"):
            with path.open("rb") as file:
                first = file.read(_HPARAMS_BYTES)
            if b"_hparams_/session_start_info" in first:
                path.unlink()

    def flush(self) -> None:
        """Write events that are still in memory to disk."""
        if self._opened is not None:
            self._telling(self._opened.flush)()

    def close(self) -> None:
        """Write the last events and close the file."""
        if self._opened is not None:
            self._telling(self._opened.close)()

    def _open(self) -> SummaryWriter:
        """Return the writer, which is made when there is something to write."""
        if self._opened is None:
            threading.excepthook = _leave_to_the_caller
            # A run that was killed before its first checkpoint has left events, and its steps come again.
            again = self._step or any(self._folder.glob("events.out.tfevents.*"))
            writer = self._telling(SummaryWriter)(str(self._folder), purge_step=self._step if again else None)
            self._opened = writer
            if self.first_text is not None:
                self.add_text(*self.first_text)
        return self._opened

    def _telling(self, function: Callable) -> Callable:
        @wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            try:
                return function(*arguments, **named)
            except OSError as error:
                reason = error.strerror or error
                raise UserError(f"cannot write TensorBoard's events to {self._folder} ({reason})") from None

        return call


_print_traceback = threading.excepthook


def _leave_to_the_caller(arguments: threading.ExceptHookArgs) -> None:
    """Print no traceback for TensorBoard's writing thread, because the writer's next call raises its error."""
    writing = type(arguments.thread).__module__.startswith("tensorboard.")
    if not (writing and isinstance(arguments.exc_value, OSError)):
        _print_traceback(arguments)


class _Nothing:
    """A writer that writes nothing, for processes other than the first."""

    def __getattr__(self, name: str):
        return lambda *args, **kwargs: None


def confusion_image(confusion: Tensor, classes: ClassList) -> np.ndarray:
    """Return an image (H, W, 3) uint8 of a confusion matrix whose rows are divided by their sum."""
    shares = confusion.double() / confusion.sum(1, keepdim=True).clamp(min=1)
    figure = Figure(figsize=(7, 6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axis.set_xticks(range(len(classes)), classes.names, rotation=90)
    axis.set_yticks(range(len(classes)), classes.names)
    axis.set_xlabel("prediction")
    axis.set_ylabel("truth (rows sum to 1)")
    for i, j in torch.nonzero(shares >= 0.005).tolist():
        value = float(shares[i, j])
        axis.text(
            j,
            i,
            f"{value:.2f}"[1:] if value < 0.995 else "1",
            ha="center",
            va="center",
            fontsize=7,
            color="w" if value > 0.6 else "k",
        )
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
