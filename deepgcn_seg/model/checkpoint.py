"""Read and write checkpoint files, which are written whole, need no other file, and hold only data.

How a checkpoint describes its network is in :mod:`.description`.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ..data.classes import ClassList
from ..errors import UserError, first_line
from ..files import replacing
from ..provenance import versions
from ..schema import read_json
from ..settings import are_modules, shown
from ..torch_defaults import torch_defaults
from .description import Description, Network
from .from_description import build_network, fit_weights
from .tensor_file import read_tensor_file

log = logging.getLogger(__name__)

# Format 2 describes the network by typed values; format 1 had a Hydra config.
FORMAT = 2


def save_checkpoint(
    path: str | Path,
    model: nn.Module,
    network: Mapping[str, Any],
    classes: ClassList,
    trained_on: Mapping[str, Any] | None = None,
    **state: Any,
) -> None:
    """Write a checkpoint; an older file of that name stays until the new one is complete.

    Args:
        network: the description that builds the model (:func:`~.description.describe_network`).
        trained_on: fields of :class:`~.description.TrainedOn`.
        state: further plain values and tensors (optimiser, epoch, random state, ...). Whoever loads only the weights
            uses none of them but ``step``.

    Raises:
        UserError: a field of the description is out of range or contradicts another.
        OSError, RuntimeError: the file cannot be written.
    """
    fields = {
        "model_config": dict(network),
        "classes": list(classes.names),
        "palette": [list(rgb) for rgb in classes.palette],
        "trained_on": None if trained_on is None else dict(trained_on),
    }
    # A checkpoint with a description that could not be read again is never written.
    Description.of(fields, f"checkpoint {path}")
    _write(path, {"format": FORMAT, "model": model.state_dict(), **fields, "versions": versions(), **state})


def add_to_checkpoint(path: str | Path, **values: Any) -> dict[str, Any]:
    """Write further plain values into a checkpoint, which is replaced as a whole, and return its content.

    Raises:
        UserError: the checkpoint cannot be read.
        OSError, RuntimeError: the file cannot be written; the old one is intact.
    """
    content = {**read_checkpoint(path), **values}
    _write(path, content)
    return content


def _write(path: str | Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:
        # torch.save writes through a Python file, whose errors say if the disk is full.
        with open(temporary, "wb") as file:
            torch.save(content, file)
        # The new file is read back before it replaces a good one.
        torch.load(temporary, map_location="meta", weights_only=True)


def find_checkpoint(path: str | Path, key: str = "checkpoint") -> Path:
    """Return the checkpoint that a path stands for: the file itself, or the one that a run directory's scores are of.

    That is the best checkpoint if there is one. It is the last one if not, or if the run's ``select=last`` says so. For
    a ``best.ckpt`` that does not exist, it is the ``last.ckpt`` beside it, because a run without rooms for validation
    writes no best one.

    Args:
        key: the setting that gave the path, for messages.

    Raises:
        UserError: the directory has no checkpoint.
    """
    path = Path(path)
    if path.name == "best.ckpt" and not path.exists() and (last := path.with_name("last.ckpt")).is_file():
        log.warning("%s=%s: not there, as no validation chose a best one; last.ckpt is taken", key, path)
        return last
    if not path.is_dir():
        return path
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    names = ["last.ckpt", "best.ckpt"] if _scores_last(folder.absolute().parent) else ["best.ckpt", "last.ckpt"]
    for name in names:
        if (folder / name).is_file():
            log.info("%s=%s: its %s", key, path, (folder / name).relative_to(path))
            return folder / name
    raise UserError(f"{key} {path}: a directory without checkpoints/best.ckpt or last.ckpt; give a file")


def _scores_last(folder: Path) -> bool:
    """Return whether a run directory records that its last checkpoint is the one that was scored."""
    try:
        return read_json(folder / "run.json")["settings"]["select"] == "last"
    except (UserError, KeyError, TypeError, IndexError):
        return False


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint of this package, on the CPU; :func:`describe` validates its description.

    Raises:
        UserError: the file is missing, damaged, or not a checkpoint of this package.
    """
    content = read_tensor_file(path)
    if not is_checkpoint(content):
        raise UserError(f"checkpoint {path}: not written by deepgcn_seg (official ones: tools/convert.py)")
    require_format(content, path)
    return content


def is_checkpoint(content: Any) -> bool:
    """Return whether the content of a file has the fields of a checkpoint of this project."""
    needed = {"format", "model", "model_config", "classes", "palette"}
    return isinstance(content, dict) and needed <= content.keys()


def require_format(content: Mapping[str, Any], path: str | Path) -> None:
    """Refuse a checkpoint of another format than this version reads, or without a number of steps.

    Raises:
        UserError: names the file.
    """
    if type(content["format"]) is not int or content["format"] != FORMAT:
        number = content["format"] if type(content["format"]) is int and abs(content["format"]) < 1000 else "unknown"
        raise UserError(f"checkpoint {path}: format {number}, but this version reads {FORMAT}; train it again")
    step = content.get("step")
    if step is not None and (type(step) is not int or not 0 <= step < 2**63):
        raise UserError(f"checkpoint {path}: step must be a number of steps")


def describe(content: Mapping[str, Any], path: str | Path) -> Description:
    """Return the validated description that is part of the content from :func:`read_checkpoint`.

    Raises:
        UserError: a field is missing, of another type, out of range, or contradicts another.
    """
    fields = {name: content[name] for name in ("model_config", "classes", "palette", "trained_on") if name in content}
    return Description.of(fields, f"checkpoint {path}")


@torch_defaults()
def build_model(
    content: Mapping[str, Any],
    path: str | Path,
    trusted: Sequence[str] = (),
    description: Description | None = None,
) -> nn.Module:
    """Return the trained model, in eval mode with its ``classes``, of what :func:`read_checkpoint` returned.

    Args:
        content: only its ``model`` is needed with a description. trusted: modules of your own whose classes may be
            built. description: the result of :func:`describe` for this content, if there is one already.

    Raises:
        UserError: the content is damaged, or the network needs a module that is not trusted.
    """
    where = f"checkpoint {path}"
    if not are_modules(trusted):
        raise UserError(f"trusted={shown(trusted)}: must be a list of names of modules, as [mine]")
    description = description or describe(content, path)
    network, tensors = description.network, content["model"]
    try:
        if isinstance(network, Network) and not network.has_own_parts:
            # Numbers and shapes are compared first, which takes no memory, because a description may ask for a network
            # that is larger than what the file holds.
            held = len({id(tensor) for tensor in tensors.values()}) if isinstance(tensors, dict) else 0
            if network.convolutions > held:
                raise UserError(f"{where}: {network.convolutions} convolutions cannot have {held} tensors in all")
            with torch.device("meta"):
                fit_weights(build_network(network), tensors, where)
            model = build_network(network)
        else:
            model = build_network(network, trusted)
            fit_weights(model, tensors, where)
    except UserError as error:
        raise error if str(error).startswith(where) else UserError(f"{where}: {error}") from None
    except Exception as error:
        raise UserError(f"{where}: its network cannot be built ({first_line(error)})") from None
    model.load_state_dict(tensors)
    cast(Any, model).classes = description.class_list
    return model.eval()


def load_weights(model: nn.Module, tensors: Any, where: str) -> None:
    """Load the tensors of a checkpoint into a model, if they fit it (:func:`~.from_description.fit_weights`)."""
    fit_weights(model, tensors, where)
    model.load_state_dict(tensors)
