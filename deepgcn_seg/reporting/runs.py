"""The runs below a folder."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..changes import values_in_time
from ..errors import UserError
from ..escaping import one_line
from ..evaluation.metrics_file import Tested, area_title
from .beginnings import with_beginnings
from .config import read_config
from .measured import data_names
from .reading import LeftOut, read_metrics, shown, why_unfinished
from .run import Run


def find_runs(root: str | Path, left_out: LeftOut) -> tuple[list[Run], list[Path]]:
    """Return the finished runs below ``root`` and the folders of unfinished ones.

    Args:
        left_out: runs that cannot be read are added to it.

    Raises:
        UserError: no run can be read.
    """
    root = Path(root)
    runs, unfinished = [], []
    for folder in sorted(path.parent.parent for path in root.rglob(".hydra/config.yaml")):
        with left_out.noting():
            config = read_config(folder)
            if config is None:
                continue
            metrics = read_metrics(folder)
            if metrics is None:
                unfinished.append(folder)
            else:
                _require_area(folder, config.settings.get("data.fold"), metrics.test)
                # A run that was trained with several values of a setting is not one with the last of them.
                changed = {shown(key): shown(values) for key, values in values_in_time(metrics.changes).items()}
                settings, typed = {**config.settings, **changed}, config.typed.union(changed)
                runs.append(Run(folder, settings, metrics, metrics.test.data, config.network, typed))
    if not runs and not unfinished:
        if left_out.reasons:
            raise UserError(f"runs={root}: none of the runs below it can be read; the first: {left_out.reasons[0]}")
        raise UserError(f"runs={root}: no run directories below it (looked for .hydra/config.yaml and metrics.json)")
    names = _names(root, [run.folder for run in runs])
    data = data_names([run.test for run in runs])
    runs = [replace(run, data=each, name=name) for run, each, name in zip(runs, data, names)]
    return with_beginnings(runs), unfinished


def _names(root: Path, folders: Sequence[Path]) -> list[str]:
    """Return names of the folders of runs; where several have the same, with the folders between ``root`` and them."""
    # The path of root itself may be ".".
    short = [(root.resolve() if folder == root else folder).name for folder in folders]
    alike = Counter(short)
    long = lambda folder, name: alike[name] > 1 and folder != root
    return [one_line(folder.relative_to(root) if long(folder, name) else name) for folder, name in zip(folders, short)]


def _require_area(folder: Path, fold: Any, test: Tested) -> None:
    """Refuse scores of an area that is not the one that the run held out: they are another run's.

    Args:
        fold: ``data.fold`` of the config, None if it has no such setting. A reference to another one tells nothing.
    """
    if fold is not None and "$" not in str(fold) and area_title(fold) != test.area:
        raise UserError(
            f"{folder / 'metrics.json'}: test.areas is {test.area}, but .hydra/config.yaml has data.fold={fold}; put "
            "the run's own metrics.json there, or move it away and score the run again: python tools/train.py "
            "resume=RUN_DIR"
        )


def describe_unfinished(folders: Sequence[Path], left_out: LeftOut) -> list[str]:
    """Return a line for each unfinished run: that it failed and why, or how far it came."""
    lines = []
    for folder in folders:
        state = "unfinished"
        with left_out.noting():
            state = why_unfinished(folder)
        lines.append(one_line(f"{folder}: {state}"))
    return lines
