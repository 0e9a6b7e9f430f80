"""Write the events of a run, which TensorBoard shows."""

import threading
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ..data.classes import ClassList
from ..errors import UserError
from ..evaluation.metrics import Scores

# Points are 3 cm wide, and the field of view shows a whole block that is 3 m high.
MESH_VIEW = {
    "material": {"cls": "PointsMaterial", "size": 0.03},
    "camera": {"cls": "PerspectiveCamera", "fov": 90},
}


class RunLog:
    """TensorBoard events of one run.

    Args:
        folder: the run directory; None to write nothing, as in every process but the first.
        step: first step of a resumed run; earlier events from this step on are dropped.

    Every method raises :class:`~deepgcn_seg.errors.UserError` if events cannot be written, as on a full disk.
    """

    def __init__(self, folder: str | Path | None, step: int = 0):
        if folder is None:
            self._writer: Any = _Nothing()
            return
        # If a run was killed before its first checkpoint, it has left events of steps that are now done again.
        again = step or any(Path(folder).glob("events.out.tfevents.*"))
        self._writer = _EventWriter(Path(folder), step if again else None)

    def config(self, text: str) -> None:
        """Write the full config."""
        self._writer.add_text("config", f"```yaml\n{text}\n```")

    def step(self, step: int, loss: float, lr: float, points_per_second: float) -> None:
        """Write loss, learning rate and speed of a training step."""
        self._writer.add_scalar("train/loss", loss, step)
        self._writer.add_scalar("train/learning_rate", lr, step)
        self._writer.add_scalar("train/points_per_second", points_per_second, step)

    def gradient_norm(self, step: int, norm: float) -> None:
        """Write the norm of all gradients together."""
        self._writer.add_scalar("train/gradient_norm", norm, step)

    def layers(self, step: int, name: str, values: dict[int, float]) -> None:
        """Write a value of each backbone layer, as ``name/layer_00`` and so on."""
        for layer, value in values.items():
            self._writer.add_scalar(f"{name}/layer_{layer:02d}", value, step)

    def memory(self, step: int, megabytes: float) -> None:
        """Write the peak memory so far: of the process, or allocated on the GPU."""
        self._writer.add_scalar("train/peak_memory_mb", megabytes, step)

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
        """Write OA, mAcc, mIoU, the IoU of each class and the confusion matrix of ``part`` (validation or test)."""
        scores = Scores.of(confusion)
        for name, value in (("mIoU", scores.miou), ("mAcc", scores.macc), ("OA", scores.oa)):
            self._writer.add_scalar(f"{part}/{name}", value, step)
        for name, value in zip(classes.names, scores.iou):
            if value == value:
                self._writer.add_scalar(f"{part}_IoU/{name}", value, step)
        self._writer.add_image(f"{part}/confusion", confusion_image(confusion, classes), step, dataformats="HWC")

    def hparams(self, settings: dict[str, Any], metrics: dict[str, float]) -> None:
        """Write settings and final metrics, to compare the runs of a sweep."""
        plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in settings.items()}
        self._writer.add_hparams(plain, metrics, run_name=".")

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


class _EventWriter:
    """A SummaryWriter that turns errors of writing into a one-line ``UserError``."""

    def __init__(self, folder: Path, purge_step: int | None):
        self._folder = folder
        threading.excepthook = _leave_to_the_caller
        self._writer = self._telling(SummaryWriter)(str(folder), purge_step=purge_step)

    def __getattr__(self, name: str) -> Callable:
        return self._telling(getattr(self._writer, name))

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
