"""Checkpoint files: written whole, read without unpickling code, complete in themselves."""

import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data.classes import ClassList
from ..data.files import replacing
from ..errors import UserError, first_line

FORMAT = 1
# Where the classes that a checkpoint's config may build are defined. A checkpoint comes from
# anywhere; its config must not be able to call anything else.
_PARTS = ("deepgcn_seg.model.", "torch_geometric.nn.")
# And what its data settings may call.
_SOURCES = (
    "deepgcn_seg.data.sources.synthetic",
    "deepgcn_seg.data.sources.s3dis",
    "deepgcn_seg.data.sources.s3dis_hdf5",
    "deepgcn_seg.data.sources.folder",
    "deepgcn_seg.data.blocks.BlockGrid",
)


def versions() -> dict[str, str]:
    """Versions of what computed a result."""
    from .. import __version__

    return {
        "deepgcn_seg": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def save_checkpoint(path: str | Path, model: nn.Module, model_config: dict, classes: ClassList, **state: Any) -> None:
    """Write a checkpoint; an older file of the name stays until the new one is complete.

    Args:
        model_config: what builds the model (``_target_`` and settings, plain values).
        state: more to keep: plain values and tensors only (optimiser, epoch, random state, ...).
    """
    content = {
        "format": FORMAT,
        "model": model.state_dict(),
        "model_config": model_config,
        "classes": list(classes.names),
        "palette": [list(rgb) for rgb in classes.palette],
        "versions": versions(),
        **state,
    }
    with replacing(path) as temporary:
        # Through a file of Python's, whose errors say that the disk is full.
        with open(temporary, "wb") as file:
            torch.save(content, file)
        # Nothing replaces a good file before it has been read back.
        torch.load(temporary, map_location="meta", weights_only=True)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of ours to the CPU.

    Raises:
        UserError: missing, truncated, not a checkpoint, or not of this project.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"checkpoint {path}: damaged, or not a checkpoint ({first_line(error)})") from None
    needed = {"format", "model", "model_config", "classes", "palette"}
    if not isinstance(content, dict) or not needed <= content.keys():
        raise UserError(f"checkpoint {path}: not written by deepgcn_seg (official ones: deepgcn_seg.load_official)")
    if content["format"] != FORMAT:
        raise UserError(f"checkpoint {path}: format {content['format']}, but this version reads {FORMAT}")
    return content


def load_model(path: str | Path, trusted: Sequence[str] = ()) -> nn.Module:
    """The trained model of a checkpoint, in eval mode, with its ``classes`` (:class:`ClassList`).

    Args:
        trusted: further module prefixes whose ``_target_`` may be built, for a model of your
            own parts, e.g. ``("mypackage.",)``.

    Raises:
        UserError: unreadable, or its config names something outside the allowed packages.
    """
    return build_model(read_checkpoint(path), str(path), trusted)


def build_model(content: dict[str, Any], path: str, trusted: Sequence[str] = ()) -> nn.Module:
    """:func:`load_model` from what :func:`read_checkpoint` gave."""
    from hydra.utils import instantiate

    _require_allowed(content["model_config"], path, trusted)
    try:
        model = instantiate(content["model_config"])
        model.load_state_dict(content["model"])
    except Exception as error:
        raise UserError(f"checkpoint {path}: its model cannot be built ({first_line(error)})") from None
    model.classes = ClassList.of(content["classes"], content["palette"])
    return model.eval()


def targets(config: Any) -> Iterator[str]:
    """Every ``_target_`` in a nested config of plain values."""
    if isinstance(config, dict):
        if config.get("_target_") is not None:
            yield str(config["_target_"])
        for value in config.values():
            yield from targets(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from targets(value)


def require_sources(data: Any, path: str) -> None:
    """Refuse data settings of a checkpoint that would call anything but this package's sources.

    Raises:
        UserError: they would.
    """
    for target in targets(data):
        if target not in _SOURCES:
            raise UserError(f"checkpoint {path}: its data settings would call {target!r}; give data=NAME data.root=DIR")


def _require_allowed(config: Any, path: str, trusted: Sequence[str]) -> None:
    for target in targets(config):
        known = any(target == name or (name.endswith(".") and target.startswith(name)) for name in trusted)
        if not known and not _is_network_part(target):
            raise UserError(f"checkpoint {path}: its config would call {target!r}, which is not allowed")


def _is_network_part(target: str) -> bool:
    """Whether a dotted name stands for a module class of ours or of torch_geometric.

    The name alone says nothing: ``deepgcn_seg.model.checkpoint.torch.os.system`` begins well.
    """
    from hydra.utils import get_object

    if not target.startswith(("deepgcn_seg.DeepGCN", *_PARTS)):
        return False
    try:
        found = get_object(target)
    except Exception:
        return False
    return isinstance(found, type) and issubclass(found, nn.Module) and f"{found.__module__}.".startswith(_PARTS)
