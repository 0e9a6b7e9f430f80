"""Reading of run directories that may come from anywhere.

Contents are validated and bounded, nothing is composed or built from them, and only files of the directory itself are
read.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError, first_line
from ..escaping import one_line
from ..evaluation import history
from ..evaluation.metrics_file import MAX_SHOWN, Metrics
from ..schema import read_json

log = logging.getLogger(__name__)

# Larger than anything that training writes; events, pictures: bytes. TensorBoard's reader takes more than ten
# times the memory of small events, and the limit is that of all files of a run together.
MAX_SETTINGS = 1000
# A row of 13 classes has about 200 bytes: MAX_HISTORY, in bytes, holds 20,000 epochs.
MAX_HISTORY = 2**22
MAX_EVENTS, MAX_PICTURE, MAX_PIXELS = 2**26, 2**26, 2**25

# Bytes of the note that a failed job of a sweep leaves.
MAX_NOTE = 2**16


class LeftOut:
    """The reasons why parts of a report are missing. Each is logged when it is found."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note a :class:`UserError` that is raised inside, and go on."""
        try:
            yield
        except UserError as error:
            reason = one_line(error, 1000)
            if reason not in self.reasons:
                self.reasons.append(reason)
                log.warning("left out: %s", reason)


def read_metrics(folder: Path) -> Metrics | None:
    """Return a run's ``metrics.json``, or None if the run has none yet.

    Raises:
        UserError: cannot be read, or is not what training writes.
    """
    if not os.path.lexists(folder / "metrics.json"):
        return None
    path = own_file(folder, "metrics.json")
    return Metrics.of(read_json(path), str(path))


def why_unfinished(folder: Path) -> str:
    """Return what is known about a run without scores: that it failed and why, or how far it came.

    Raises:
        UserError: what it left cannot be read.
    """
    if os.path.lexists(folder / "failed.txt"):
        note = own_file(folder, "failed.txt", MAX_NOTE).read_text(encoding="utf-8", errors="replace")
        return f"failed: {one_line(note.strip(), MAX_SHOWN)}"
    if os.path.lexists(folder / history.NAME):
        rows = history.read_history(own_file(folder, history.NAME, MAX_HISTORY))
        if rows:
            epoch, step = rows[-1]["epoch"] or 0, rows[-1]["step"] or 0
            return f"unfinished, after epoch {epoch:.0f} and step {step:.0f}"
    return "unfinished, without a finished epoch"


def read_facts(folder: Path) -> dict[str, str]:
    """Return command, commit, versions and hardware, from ``run.json``; empty if the run has none.

    Raises:
        UserError: cannot be read.
    """
    found = {}
    for key, value in _read_run(folder).items():
        # Changed settings are among the settings of the run.
        if key not in ("settings", "changes"):
            parts = [f"{k} {shown(v)}" for k, v in value.items()] if isinstance(value, dict) else [value]
            found[shown(key)] = one_line(", ".join(map(str, parts)), 10 * MAX_SHOWN)
    return found


def read_device(folder: Path) -> str:
    """Return the name of the GPU that a run was trained on, or ``cpu``; ``-`` if the run does not say.

    Raises:
        UserError: ``run.json`` cannot be read.
    """
    hardware = _read_run(folder).get("hardware")
    if not isinstance(hardware, dict):
        return "-"
    return shown(hardware.get("gpu", hardware.get("device", "-")))


def _read_run(folder: Path) -> dict[Any, Any]:
    """Return the content of a run's ``run.json``; empty if the run has none."""
    if not os.path.lexists(folder / "run.json"):
        return {}
    path = own_file(folder, "run.json")
    facts = read_json(path)
    if not isinstance(facts, dict):
        raise UserError(f"{path}: must be a mapping of names to values")
    return facts


def read_picture(folder: Path, name: str) -> Image.Image:
    """Return a picture that a run wrote.

    Raises:
        UserError: cannot be read, or too large.
    """
    path = own_file(folder, name, MAX_PICTURE)
    try:
        # The two formats that we write: PIL would try all of its forty readers.
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            if image.width * image.height <= MAX_PIXELS:
                return image.convert("RGB")
    # Each format raises errors of its own.
    except Exception as error:
        raise UserError(f"{path}: not a readable picture ({first_line(error)})") from None
    raise UserError(f"{path}: {image.width} x {image.height} is more than {MAX_PIXELS} pixels")


def read_curve(folder: Path, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and values of a curve of a run; empty if the run has none.

    It is a column of the run's ``history.csv``. A run without the file wrote its curves to TensorBoard only.

    Args:
        column: a key of :data:`deepgcn_seg.evaluation.history.TAGS`.

    Raises:
        UserError: its history or its events cannot be read.
    """
    if not os.path.lexists(folder / history.NAME):
        return _read_scalar(folder, history.TAGS[column])
    rows = history.read_history(own_file(folder, history.NAME, MAX_HISTORY))
    found = [(row["step"], row[column]) for row in rows if row[column] is not None]
    steps, values = np.array(found, np.float64).reshape(-1, 2).T
    return steps, values


def _read_scalar(folder: Path, tags: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and finite values of the first of some tags that a run wrote to TensorBoard; empty if it did not."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # TensorBoard's reader logs every file that it opens.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    files = [own_file(folder, path.name) for path in sorted(folder.glob("*tfevents*"))]
    if sum(path.stat().st_size for path in files) > MAX_EVENTS:
        raise UserError(f"{folder}: its TensorBoard events are larger than {MAX_EVENTS >> 20} MiB")
    events = EventAccumulator(str(folder), {"scalars": 0})
    try:
        events.Reload()
        scalars = events.Tags()["scalars"]
        found: list[Any] = next((events.Scalars(tag) for tag in tags if tag in scalars), [])
        steps, values = np.array([event.step for event in found]), np.array([float(event.value) for event in found])
    # Damaged records raise all kinds of errors.
    except Exception as error:
        raise UserError(f"{folder}: its TensorBoard events cannot be read ({first_line(error)})") from None
    # The reader skips the last record of a killed process, which is cut off, but also all of a file that is no events.
    if files and not scalars:
        raise UserError(f"{folder}: its TensorBoard events hold no scalars")
    finite = np.isfinite(values)
    return steps[finite], values[finite]


def own_file(folder: Path, name: str, most: int | None = None) -> Path:
    """Return the path of a run's file, a plain one of at most ``most`` bytes that lies in that very directory.

    Raises:
        UserError: it is something else.
    """
    path = folder / name
    try:
        root = folder.resolve()
        if path.resolve() != root / name or not path.resolve().is_relative_to(root):
            raise UserError(f"{folder}/{name}: is a link, or outside the run; a report reads a run's own files")
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        if most is not None and path.stat().st_size > most:
            raise UserError(f"{path}: larger than {most >> 20} MiB")
    # RuntimeError: links in a circle. ValueError: a zero byte in the name.
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)})") from None
    return path


def shown(value: object) -> str:
    """Return a name or value as printable text of at most :data:`MAX_SHOWN` characters."""
    return one_line(value, MAX_SHOWN)
