"""Trained networks from their checkpoints: one by itself, or several as an :class:`~.ensemble.Ensemble`."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn

from ..data.classes import ClassList
from ..data.label_numbers import LabelNumbers
from ..errors import UserError
from ..settings import shown
from .checkpoint import build_model, describe, find_checkpoint, read_checkpoint
from .deepgcn import DeepGCN
from .description import Description, Network, TrainedOn
from .ensemble import Ensemble

log = logging.getLogger(__name__)

Checkpoints = str | Path | Sequence[str | Path]


@overload
def load_model(path: str | Path, trusted: Sequence[str] = ()) -> DeepGCN: ...  # type: ignore[overload-overlap]
@overload
def load_model(path: Sequence[str | Path], trusted: Sequence[str] = ()) -> Ensemble: ...
def load_model(path: Checkpoints, trusted: Sequence[str] = ()) -> nn.Module:
    """Return the trained model of a checkpoint, in eval mode, with its ``classes`` (:class:`ClassList`).

    Args:
        path: the file, or a run directory; of several, the model is their :class:`~.ensemble.Ensemble`.
        trusted: modules of your own whose classes may be built, for a network with parts of your own, e.g.
            ``["mypackage"]``.

    Raises:
        UserError: unreadable, damaged, or it needs a module that is not trusted; several that do not take the same
            input and tell the same classes apart.
    """
    return read_trained(path).build(trusted)


def find_checkpoints(checkpoints: Checkpoints) -> list[Path]:
    """Return the files that one or several paths stand for (:func:`~.checkpoint.find_checkpoint`).

    Raises:
        UserError: there is none, one is named twice, or one is a directory without a checkpoint.
    """
    several: Any = [checkpoints] if isinstance(checkpoints, (str, Path)) else checkpoints
    if not isinstance(several, (list, tuple)) or not all(isinstance(path, (str, Path)) for path in several):
        raise UserError(f"checkpoint={shown(several)}: must be a file or run directory, or a list of them")
    if not several:
        raise UserError("checkpoint=[]: give at least one file")
    paths = [find_checkpoint(path) for path in several]
    for i, path in enumerate(paths):
        if path.resolve() in [other.resolve() for other in paths[:i]]:
            raise UserError(f"checkpoint {path}: is given twice; every member of an ensemble counts once")
    return paths


@dataclass(frozen=True)
class Member:
    """A checkpoint that was read: its file, tensors, step (None if it was not trained here) and description.

    Attributes:
        card: what :class:`~deepgcn_seg.evaluation.model_card.Card` reads; None if there is none.
    """

    path: Path
    tensors: Any
    step: int | None
    description: Description
    card: Any = None

    @property
    def trained_on(self) -> TrainedOn:
        """What the network was trained on.

        Raises:
            UserError: the checkpoint does not say.
        """
        if self.description.trained_on is None:
            raise UserError(f"checkpoint {self.path}: does not say what it was trained on")
        return self.description.trained_on

    def expects(self) -> Iterator[tuple[str, Any]]:
        """Yield by name what networks must have in common for their probabilities to be averaged."""
        network, trained = self.description.network, self.description.trained_on
        yield "classes", self.description.classes
        if isinstance(network, Network):
            yield "number of input channels", network.in_channels
        if trained is not None:
            yield "features", trained.features
            yield "variant", trained.variant
            yield "side of a block", trained.side


@dataclass(frozen=True)
class Trained:
    """The network of a checkpoint, or of several, before it is built."""

    members: tuple[Member, ...]

    def __str__(self) -> str:
        """Return what messages begin with: ``checkpoint a.ckpt``, or ``checkpoints a.ckpt, b.ckpt``."""
        return f"checkpoint{'s' if len(self.members) > 1 else ''} {', '.join(str(m.path) for m in self.members)}"

    @property
    def name(self) -> str:
        """What a number is of: the checkpoint's path, or ``average of 2 networks (a.ckpt, b.ckpt)``."""
        paths = [str(member.path) for member in self.members]
        return paths[0] if len(paths) == 1 else f"average of {len(paths)} networks ({', '.join(paths)})"

    @property
    def class_list(self) -> ClassList:
        """Names and colours of the labels."""
        return self.members[0].description.class_list

    @property
    def min_points(self) -> int:
        """Fewest points of a block that every network takes."""
        networks = [member.description.network for member in self.members]
        return max(network.min_points if isinstance(network, Network) else 1 for network in networks)

    @cached_property
    def trained_on(self) -> TrainedOn:
        """What the first network was trained on; with the most points of a block, and the fewest blocks a pass.

        Raises:
            UserError: a checkpoint does not say.
        """
        every = [member.trained_on for member in self.members]
        points, batch_size = max(each.points for each in every), min(each.batch_size for each in every)
        if len(sizes := sorted({each.points for each in every})) > 1:
            log.warning(
                "The networks were trained on %s points a block; %d are taken", ", ".join(map(str, sizes)), points
            )
        return every[0].model_copy(update={"points": points, "batch_size": batch_size})

    @property
    def label_numbers(self) -> LabelNumbers | None:
        """Which numbers stand for the classes in scans; None if a checkpoint does not say, or they are not the same."""
        first, *others = (member.trained_on.label_numbers for member in self.members)
        return first if all(other == first for other in others) else None

    def facts(self) -> dict[str, Any]:
        """Return what ``metrics.json`` says of the network: checkpoint and step, and of several the checkpoints."""
        paths, steps = [str(member.path) for member in self.members], [member.step for member in self.members]
        if len(paths) == 1:
            return {"checkpoint": paths[0], "checkpoint_step": steps[0]}
        return {"checkpoint": self.name, "checkpoints": paths, "checkpoint_steps": steps}

    def build(self, trusted: Sequence[str] = ()) -> nn.Module:
        """Return the network in eval mode, with its ``classes``: as :func:`load_model`."""
        models = [build_model({"model": m.tensors}, m.path, trusted, m.description) for m in self.members]
        if len(models) == 1:
            return models[0]
        ensemble = Ensemble(models)
        ensemble.classes = self.class_list
        return ensemble.eval()

    def require_same(self, name: str, values: Sequence[Any], advice: str) -> None:
        """Refuse checkpoints that differ in something.

        Args:
            name: what the values are. values: one for each member, None if it is not known. advice: what to do.

        Raises:
            UserError: names the first that differs from the first one that is known.
        """
        known = [(member.path, value) for member, value in zip(self.members, values) if value is not None]
        for path, value in known:
            if value != known[0][1]:
                raise UserError(
                    f"checkpoint {path}: {name} {shown(value)}, but {shown(known[0][1])} in {known[0][0]}; {advice}"
                )


def read_trained(checkpoints: Checkpoints) -> Trained:
    """Return what one or several checkpoints hold.

    Args:
        checkpoints: files or run directories.

    Raises:
        UserError: one is unreadable, two have the same weights, or they have not the same classes, features, variant
            and side of a block.
    """
    found = Trained(tuple(_read(path) for path in find_checkpoints(checkpoints)))
    expected = [dict(member.expects()) for member in found.members]
    for name in dict.fromkeys(name for each in expected for name in each):
        found.require_same(
            name,
            [each.get(name) for each in expected],
            "networks are averaged that have the same classes, features, variant and side of a block",
        )
    # Last: the same weights may have been trained on other things, which is the more telling error.
    _require_different(found.members)
    return found


def _require_different(members: Sequence[Member]) -> None:
    """Refuse two checkpoints of the same weights, such as a best one and a last one of the same step.

    Raises:
        UserError: names both.
    """
    for i, member in enumerate(members):
        for other in members[:i]:
            if _are_equal(member.tensors, other.tensors):
                raise UserError(
                    f"checkpoint {member.path}: has the weights of {other.path}; each member of an ensemble counts once"
                )


def _are_equal(tensors: Any, others: Any) -> bool:
    """Return whether two state dicts hold the same values; False if they are damaged, which is told later."""
    if not (isinstance(tensors, dict) and isinstance(others, dict)) or tensors.keys() != others.keys():
        return False
    pairs = [(tensor, others[name]) for name, tensor in tensors.items()]
    return all(isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b) for a, b in pairs)


def _read(path: Path) -> Member:
    content: Mapping[str, Any] = read_checkpoint(path)
    # The optimiser's state is not kept: it takes twice the memory of the weights.
    return Member(path, content["model"], content.get("step"), describe(content, path), content.get("card"))
