"""Begin a training with the weights of another one.

Tensors are taken by name, so that the source may have other classes, input channels, depth or width. A layer with a
tensor of another shape begins anew as a whole: biases and running statistics mean nothing beside new weights. So does
the classifier if the classes are others, the first layer if the input channels are, and fusion block and prediction
head if the layers that they read are, even if their numbers agree.
"""

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..data.blocks import CHANNELS, count_channels
from ..data.classes import S3DIS, ClassList
from ..errors import UserError
from ..escaping import one_line
from ..files import why_no_file
from ..schema import Schema
from ..settings import counted, shown, some_of
from .backbone import Backbone
from .checkpoint import describe, find_checkpoint, is_checkpoint, require_format
from .connection import Plain, Residual, Reversible, find_connection
from .description import Description, Network, TrainedOn
from .from_description import require_tensors, require_values
from .gcn_block import Block
from .layers import Pointwise
from .official import UndecidedError, convert_official
from .tensor_file import read_tensor_file

log = logging.getLogger(__name__)

# Arguments of a network that do not decide what it computes with weights that fit: they decide shapes, or belong to
# training alone.
_WITHOUT_MEANING = {
    *("in_channels", "num_classes", "depth", "channels", "fusion_channels", "head_channels", "init"),
    *("dropout", "block_dropout", "recompute", "stochastic", "epsilon"),
}
# Arguments that decide which neighbours a layer sees. Its weights keep their meaning.
_NEIGHBORS = {"k", "graph", "dilation", "dilation_period", "loop"}
# Arguments that have a meaning only beside one value of another argument.
_ONLY_WITH = {"groups": ("connection", Reversible.name), "dilation_period": ("dilation", "linear")}
# How arguments are typed that are not model.NAME.
_TYPED = {
    **{"connection": "backbone.connection", "conv": "conv", "k": "k", "dilation_period": "graph.period"},
    **{"graph": "graph.name", "dilation": "graph.dilation", "loop": "graph.loop"},
}
# Names that a message lists before it counts the others.
_LISTED = 3


@dataclass(frozen=True)
class Source:
    """The weights of another training, as a file holds them.

    Attributes:
        path: the checkpoint. sha256: of the file.
        tensors: by name; the averaged weights if the training averaged them.
        description: of its network, classes and data.
        step: optimiser steps of the training, if the file says so.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    description: Description
    step: int | None = None

    def record(self) -> dict[str, Any]:
        """Return where the weights come from, as plain values for a run's files."""
        return {"path": str(self.path), "sha256": self.sha256, "step": self.step}


@dataclass(frozen=True)
class Fit:
    """What of a source fits a network.

    Attributes:
        taken: names of the tensors that fit.
        newly_initialised: layers and tensors of the network that keep their first weights, and why.
        unused: tensors of the source that the network does not have.
    """

    taken: tuple[str, ...]
    newly_initialised: dict[str, str]
    unused: tuple[str, ...]


def read_source(path: str | Path, network: Mapping[str, Any]) -> Source:
    """Read the weights of a checkpoint, of a run directory or of an official checkpoint.

    A run directory stands for the file that :func:`.checkpoint.find_checkpoint` returns. Nothing is built from a
    checkpoint of this project, so that one with parts of a user's own needs no trust.

    Args:
        network: what :func:`.description.describe_network` returned of the network that will take the weights. An
            official checkpoint does not say k and the activation, which are taken from it.

    Raises:
        UserError: no such file, a directory without checkpoints, damaged, or of another program.
    """
    path = find_checkpoint(path, "weights")
    if not path.is_file():
        raise UserError(f"weights={path}: {why_no_file(path)}")
    content = read_tensor_file(path, legacy=True)
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    if not is_checkpoint(content):
        return Source(path, sha256, *_official(content, path, network))
    require_format(content, path)
    require_tensors(content["model"], f"checkpoint {path}")
    return Source(path, sha256, content["model"], describe(content, path), content.get("step"))


def _official(content: Any, path: Path, network: Mapping[str, Any]) -> tuple[dict[str, Tensor], Description]:
    """Return tensors by our names, and the description, of the content of an official checkpoint."""
    k, act = network.get("k", 16), network.get("act", "relu")
    try:
        try:
            model, described = convert_official(content, k, act)
        except UndecidedError:
            connection = network.get("connection")
            connection = connection if connection in (Plain.name, Residual.name) else Residual.name
            conv = "mr" if network.get("conv", {}).get("name") == "mr" else "edge"
            log.warning(
                "checkpoint %s: does not show whether it is plain or res, edge or mr; taken as %s and %s",
                path,
                connection,
                conv,
            )
            model, described = convert_official(content, k, act, connection, conv)
    except ValueError as error:
        raise UserError(f"checkpoint {path}: not of deepgcn_seg; as an official checkpoint: {error}") from None
    count = model.num_classes
    unknown = ClassList.of([f"unknown class {i}" for i in range(count)], [(0, 0, 0)] * count)
    classes = S3DIS if count == len(S3DIS) else unknown
    # The official PyTorch code scales channels 0-2 per block.
    trained_on = {"variant": "port"} if model.in_channels == count_channels(TrainedOn().features) else None
    fields = {"model_config": described, "classes": classes.names, "palette": classes.palette, "trained_on": trained_on}
    return model.state_dict(), Description.of(fields, f"checkpoint {path}")


def take_weights(model: nn.Module, own: Description, source: Source) -> Fit:
    """Load what fits of a source into a network on the CPU, and log what was taken, what not and why.

    Args:
        own: the description of the network, its classes and data.

    Raises:
        UserError: nothing fits, or a tensor holds what no training leaves.
    """
    where = f"weights={source.path}"
    tensors, fit = model.state_dict(), fit_source(model, own, source)
    anew = "; ".join(f"{_some(names)} ({reason})" for reason, names in _by_reason(fit.newly_initialised).items())
    if not any(tensors[name].ndim > 1 for name in fit.taken):
        raise UserError(f"{where}: nothing fits this network: {anew}")
    for name in fit.taken:
        require_values(name, source.tensors[name], tensors[name], f"checkpoint {source.path}")
    model.load_state_dict({**tensors, **{name: source.tensors[name] for name in fit.taken}})
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    share = sum(sizes.get(name, 0) for name in fit.taken) / sum(sizes.values())
    log.info(
        "%s: %d of %d tensors are taken, %.0f %% of the parameters", where, len(fit.taken), len(tensors), 100 * share
    )
    if anew:
        log.info("Begin anew: %s", anew)
    if fit.unused:
        log.info("Not used: %s", _some(_parts(fit.unused, tensors.keys() & source.tensors.keys())))
    if differences := _differences(own, source.description, neighbors=False):
        log.warning("%s: with its weights this network computes something else: %s", where, "; ".join(differences))
    if differences := _differences(own, source.description, neighbors=True):
        log.info("%s: its layers see other neighbours: %s", where, "; ".join(differences))
    return fit


def fit_source(model: nn.Module, own: Description, source: Source) -> Fit:
    """Compare a source with a network; the arguments are those of :func:`take_weights`."""
    tensors, layers = model.state_dict(), _layers(model)
    unlike = _unlike_layers(own, source.description)
    anew = {layer: reason for layer, reason in unlike.items() if layer in layers.values()}
    for name, tensor in tensors.items():
        found = source.tensors.get(name)
        if found is not None and found.shape != tensor.shape:
            anew.setdefault(layers[name], f"{tuple(found.shape)} there, {tuple(tensor.shape)} here")
    # In the order of the network.
    anew = {layer: anew[layer] for layer in dict.fromkeys(layers.values()) if layer in anew}
    fitting = [name for name in tensors if layers[name] not in anew]
    taken = tuple(name for name in fitting if name in source.tensors)
    missing = [name for name in fitting if name not in source.tensors]
    anew |= dict.fromkeys(_parts(missing, source.tensors.keys() & tensors.keys()), "not there")
    return Fit(taken, anew, tuple(name for name in source.tensors if name not in tensors))


def _layers(model: nn.Module) -> dict[str, str]:
    """Return the layer of each tensor: the graph convolution or pointwise layer it is of, else the module it is of."""
    inside = {Backbone: "head", Block: "conv"}
    layers = set()
    for name, module in model.named_modules():
        if isinstance(module, Pointwise):
            layers.add(name)
        layers |= {f"{name}.{part}".lstrip(".") for kind, part in inside.items() if isinstance(module, kind)}

    def layer(tensor: str) -> str:
        modules = [tensor[: dot.start()] for dot in re.finditer(r"\.", tensor)]
        return next((name for name in modules if name in layers), modules[-1] if modules else tensor)

    return {tensor: layer(tensor) for tensor in model.state_dict()}


def _unlike_layers(own: Description, other: Description) -> dict[str, str]:
    """Return the layers that begin anew even if their shapes agree, because what they read or tell apart is another."""
    unlike = {}
    trained, here = other.trained_on, own.trained_on
    if trained is not None and here is not None and trained.features != here.features:
        unlike["backbone.head"] = f"channels {', '.join(trained.features)} there, {', '.join(here.features)} here"
    if isinstance(own.network, Network) and isinstance(other.network, Network):
        unlike |= _unlike_inputs(own.network, other.network)
    if own.classes != other.classes:
        unlike["head.classifier"] = f"classes {_some(other.classes)} there, {_some(own.classes)} here"
    return unlike


def _unlike_inputs(own: Network, other: Network) -> dict[str, str]:
    """Return the layers of fusion block and prediction head that read other layers than those of the source.

    Channels of another number of layers, or of layers of another width, may be as many by chance.
    """
    unlike = {}
    there, here = _fused(other), _fused(own)
    if there != here:
        reason = f"they read {_layers_of(there)} there, {_layers_of(here)} here"
        unlike = {"fusion.layer": reason, "head.first": reason}
    elif own.fusion_channels != other.fusion_channels:
        unlike["head.first"] = f"fusion_channels is {other.fusion_channels} there, {own.fusion_channels} here"
    if (wide := tuple(other.head_channels)) != (widths := tuple(own.head_channels)):
        unlike["head.classifier"] = f"head_channels is {shown(wide)} there, {shown(widths)} here"
    return unlike


def _fused(network: Network) -> list[int]:
    """Return the width of each layer that the fusion block sees."""
    connection = find_connection(network.connection, network.groups)
    return connection.fused_widths(network.depth, network.channels)


def _layers_of(widths: list[int]) -> str:
    every = f"{widths[0]}" if len(set(widths)) == 1 else f"{widths[0]} to {widths[-1]}"
    return f"{counted(len(widths), 'layer')} of {every} channels"


def _differences(own: Description, other: Description, neighbors: bool) -> list[str]:
    """Return the settings in which two networks compute something else with the same weights.

    Args:
        neighbors: those that decide which neighbours a layer sees; else all others.
    """
    there, here = _meaning(other), _meaning(own)
    return [
        f"{_TYPED.get(name, name if '.' in name else f'model.{name}')} is {there[name]} there, {here[name]} here"
        for name in there
        if (name in _NEIGHBORS) == neighbors and name in here and there[name] != here[name]
        # Biases that the source does not have begin at 0.
        if (name, there[name]) != ("bias", "false")
    ]


def _meaning(description: Description) -> dict[str, str]:
    """Return what decides what a network computes with its weights, as far as it is known, as it is typed."""
    network, trained = description.network, description.trained_on
    known: dict[str, str] = {}
    if isinstance(network, Network):
        names = [name for name in type(network).model_fields if name not in {*_WITHOUT_MEANING, "positions"}]
        known |= {name: _typed(getattr(network, name)) for name in names}
        for name, (other, value) in _ONLY_WITH.items():
            if getattr(network, other) != value:
                del known[name]
    if trained is not None:
        known["data.variant"] = trained.variant
    if isinstance(network, Network) and trained is not None:
        # The group of each channel in which the head graph convolution finds neighbours, wherever that channel is.
        features = [feature for feature in trained.features for _ in range(CHANNELS[feature])]
        known["positions"] = f"in {', '.join(dict.fromkeys(features[channel] for channel in network.positions))}"
    return known


def _typed(value: Any) -> str:
    """Return a setting for a message: a part such as a convolution by its name and options."""
    return one_line(" ".join(map(str, value.plain().values())), 100) if isinstance(value, Schema) else shown(value)


def _by_reason(anew: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the parts that begin anew by the reason."""
    found: dict[str, list[str]] = {}
    for name, reason in anew.items():
        found.setdefault(reason, []).append(name)
    return found


def _parts(tensors: Iterable[str], both: Iterable[str]) -> list[str]:
    """Return the names of tensors that one of two networks lacks; a part that it lacks as a whole is named once.

    Args:
        both: the tensors that both networks have.
    """
    known = set(map(_part, both))
    return list(dict.fromkeys(name if _part(name) in known else _part(name) for name in tensors))


def _part(tensor: str) -> str:
    """Return the module of a tensor, or the block of the backbone that the tensor is in."""
    block = re.match(r"backbone\.blocks\.\d+(?=\.)", tensor)
    return block[0] if block else tensor.rpartition(".")[0] or tensor


def _some(names: Iterable[str]) -> str:
    """Return some names as one text, and the number of the others."""
    return some_of([one_line(name, 100) for name in names], _LISTED)
