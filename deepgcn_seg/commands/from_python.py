"""The commands from Python, in a script or a notebook: :func:`train`, :func:`evaluate` and :func:`predict`.

Each takes the settings of its command line as texts and composes the same config. Differences: a mistake is a
:class:`~deepgcn_seg.errors.UserError` instead of an exit, and there are no multiruns and no further processes. Calls
run one after the other, also from several threads, because Hydra and PyTorch's random generator have one state for the
whole process. After a call, that state is what it was before, and so are the filters of warnings and
``threading.excepthook``. PyTorch's compiler keeps the environment variables that it sets for its cache
(``TORCHINDUCTOR_CACHE_DIR``).
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..evaluation.history import NAME, Row, read_history
from ..evaluation.metrics_file import Metrics
from ..model import DeepGCN, load_model
from ..model.checkpoint import find_checkpoint
from ..schema import read_json
from .command_line.composing import run_command
from .evaluate import evaluate as _evaluate
from .predict import predict as _predict
from .train import train as _train

# A folder with further groups and choices, as --config-dir of the command line. One with a config of the command's
# name, such as train.yaml, takes the place of the package's own settings.
ConfigDir = str | PathLike[str] | None


class Run:
    """The directory of a training, finished or not.

    Args:
        directory: as :func:`train` or ``tools/train.py`` left it.

    Raises:
        UserError: it is none.
    """

    def __init__(self, directory: str | PathLike[str]):
        self.directory = Path(directory)
        if not (self.directory / ".hydra" / "config.yaml").is_file():
            raise UserError(f"{self.directory}: not a run directory (no .hydra/config.yaml)")

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of ``metrics.json``; ``["test"]["mIoU"]`` is the score.

        Raises:
            UserError: the run has not finished, or scores in the file contradict its confusion matrix.
        """
        path = self.directory / "metrics.json"
        if not path.is_file():
            raise UserError(f"{self.directory}: the run has not finished; train('resume={self.directory}') goes on")
        content = read_json(path)
        Metrics.of(content, str(path))
        return content

    @property
    def history(self) -> list[Row]:
        """The rows of ``history.csv`` (:mod:`deepgcn_seg.evaluation.history`), for ``pandas.DataFrame`` for instance.

        Raises:
            UserError: cannot be read.
        """
        path = self.directory / NAME
        return read_history(path) if path.is_file() else []

    def load(self, trusted: Sequence[str] = ()) -> DeepGCN:
        """Return the network that was scored: of the last checkpoint, or of the best one if ``select`` says so.

        Args:
            trusted: modules of your own whose parts the network has.

        Raises:
            UserError: there is no checkpoint, or it cannot be read.
        """
        return load_model(find_checkpoint(self.directory), trusted=trusted)

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r})"


def train(*settings: str, config_dir: ConfigDir = None) -> Run:
    """Train a network and score it on the held-out area, as ``python tools/train.py SETTINGS`` does.

    Example:
        ``run = deepgcn_seg.train("experiment=quickstart", "depth=14")``

    Raises:
        UserError: a setting or the data cannot be used.
        Interrupted: Ctrl-C, or the notebook's stop button; ``train(f"resume={directory}")`` goes on.
    """
    return Run(run_command("train", _train, settings, config_dir)[0])


def evaluate(*settings: str, config_dir: ConfigDir = None) -> dict[str, Any]:
    """Score a checkpoint, as ``python tools/evaluate.py SETTINGS`` does.

    Example:
        ``deepgcn_seg.evaluate(f"checkpoint={run.directory}", "protocol=recut")["mIoU"]``

    Returns:
        The entry of ``metrics.json``: mIoU, mAcc, OA, IoU of each class, the confusion matrix, and how it was measured.

    Raises:
        UserError: a setting, the checkpoint or the data cannot be used.
    """
    folder, _ = run_command("evaluate", _evaluate, settings, config_dir)
    (entry,) = read_json(folder / "metrics.json").values()
    return entry


def predict(*settings: str, config_dir: ConfigDir = None) -> list[Path]:
    """Label scans, as ``python tools/predict.py SETTINGS`` does.

    Example:
        ``deepgcn_seg.predict(f"checkpoint={run.directory}", "input=scan.ply", "output=labelled.ply")``

    For points that are in memory, use :class:`deepgcn_seg.Segmenter`.

    Returns:
        The labelled files.

    Raises:
        UserError: a setting, the checkpoint or a scan cannot be used. The other scans are labelled.
    """
    return run_command("predict", _predict, settings, config_dir)[1]
