"""Build the network that a description stands for, and check that a file's tensors fit it.

This is the only module that calls something a checkpoint names. Networks of this package are built from values with
ranges. A user's own parts are built only if the caller trusts their module, and only by a class or function that this
module defines.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError, first_line
from ..escaping import one_line
from ..old_names import renamed
from .convolution import CONVOLUTIONS
from .deepgcn import DeepGCN
from .description import Network, OwnPart, TorchLayer, names_of
from .message_passing import OPERATORS, MessagePassing
from .own_layers import TORCH_ACTS, TORCH_NORMS

# Libraries whose layers a file may need: the rest of them also loads, downloads and deletes files.
LIBRARIES = ("torch_geometric.nn", "torch.nn")


def build_network(description: Network | OwnPart, trusted: Sequence[str] = ()) -> nn.Module:
    """Build the network that a description stands for, with fresh weights.

    Args:
        trusted: modules whose classes and functions may be called.

    Raises:
        UserError: a part is of a module that is not trusted, or does not exist.
        ValueError: the arguments do not fit one another.
    """
    if isinstance(description, OwnPart):
        _require_trust(description, trusted)
        return _build_own(description.target, description.options, trusted)
    parts = {name: _build_part(getattr(description, name), trusted) for name in ("graph", "norm", "act")}
    settings = {name: getattr(description, name) for name in Network.model_fields if name not in ("conv", *parts)}
    if isinstance(settings["dilation"], tuple):
        settings["dilation"] = list(settings["dilation"])
    return DeepGCN(**settings, **parts, conv=_build_conv(description.conv, trusted))


def _build_part(part: Any, trusted: Sequence[str]) -> Any:
    """Return a graph, norm or activation as :class:`DeepGCN` takes it: a name, or what builds it."""
    if isinstance(part, TorchLayer):
        return partial({**TORCH_NORMS, **TORCH_ACTS}[part.kind], **part.options)
    return _build_later(part, trusted) if isinstance(part, OwnPart) else part


def _build_later(part: OwnPart, trusted: Sequence[str]) -> Callable[..., Any]:
    """Return the class or function of a user's own part, with its options set, if its module is trusted."""
    _require_trust(part, trusted)
    return _build_own(part.target, {**part.options, "_partial_": True}, trusted)


def _build_conv(conv: Any, trusted: Sequence[str]) -> Callable[..., nn.Module]:
    if isinstance(conv, OwnPart):
        return _build_later(conv, trusted)
    options = {name: getattr(conv, name) for name in type(conv).model_fields if name != "name"}
    if conv.name in CONVOLUTIONS:
        return partial(CONVOLUTIONS[conv.name][0], **options)
    # Importing torch_geometric takes seconds, so it is imported only when one of its operators is used.
    import torch_geometric.nn

    operator, _ = OPERATORS[conv.name]
    return partial(MessagePassing, operator=partial(getattr(torch_geometric.nn, operator), **options))


def _require_trust(part: OwnPart, trusted: Sequence[str]) -> None:
    """Raise an error if the class of a user's own part is not of a trusted module.

    For a :class:`MessagePassing`, the class of its operator must be of a trusted module. Other classes of this package
    are never a user's own parts, because a checkpoint describes them by values with ranges.

    Raises:
        UserError: names the setting that would allow it.
    """
    target, _ = own_class(part)
    if not _is_trusted(target.rpartition(".")[0], trusted):
        raise UserError(f"it uses {one_line(target, 100)}; {_advice(target)}")


def own_class(part: OwnPart) -> tuple[str, dict[str, Any]]:
    """Return the class of a user's own that a part stands for and its options: of a MessagePassing, its operator's."""
    operator = part.options.get("operator") if part.target in names_of(MessagePassing) else None
    if not isinstance(operator, Mapping):
        return part.target, part.options
    return str(operator.get("_target_")), {name: value for name, value in operator.items() if name != "_target_"}


def module_to_trust(part: OwnPart) -> str:
    """Return the module that a user must trust, so that a part of a user's own is built."""
    return _module_of(own_class(part)[0])


def _module_of(target: str) -> str:
    return next((each for each in LIBRARIES if target.startswith(f"{each}.")), target.split(".")[0])


def _advice(target: str) -> str:
    if target.startswith("deepgcn_seg."):
        return "no part of a user's own is called so"
    return f"if you trust that code, set trusted=[{one_line(_module_of(target), 50)}]"


def _is_trusted(module: str, trusted: Sequence[str]) -> bool:
    modules = [each.rstrip(".") for each in ([trusted] if isinstance(trusted, str) else trusted)]
    return any(module == each or module.startswith(f"{each}.") for each in modules)


def _build_own(target: str, options: Mapping[str, Any], trusted: Sequence[str]) -> Any:
    """Call what ``target`` names with its options; with ``_partial_`` among them, return it with the options bound."""

    def part(value: Any) -> Any:
        if isinstance(value, Mapping) and "_target_" in value:
            return _build_own(str(value["_target_"]), {k: v for k, v in value.items() if k != "_target_"}, trusted)
        if isinstance(value, Mapping):
            return {name: part(each) for name, each in value.items()}
        return [part(each) for each in value] if isinstance(value, (list, tuple)) else value

    arguments = {name: part(value) for name, value in options.items() if name not in ("_partial_", "_convert_")}
    called = _find_own(target, trusted)
    if isinstance(called, type) and issubclass(called, DeepGCN):
        arguments = renamed(arguments, "model")
    return partial(called, **arguments) if options.get("_partial_") else called(**arguments)


def _find_own(target: str, trusted: Sequence[str]) -> Callable[..., Any]:
    """Return what a name stands for: a class or function of a trusted module, or a network part of this package.

    Raises:
        UserError: it is of a module that is not trusted, or does not exist.
    """
    module, _, name = target.rpartition(".")
    parts: list[type[nn.Module]] = [DeepGCN, *(conv for conv, _ in CONVOLUTIONS.values()), MessagePassing]
    ours = {called: part for part in parts for called in (f"deepgcn_seg.{part.__name__}", *names_of(part))}
    if target in ours:
        return ours[target]
    refused = UserError(f"it uses {one_line(target, 100)}; {_advice(target)}")
    if not _is_trusted(module, trusted):
        raise refused
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"it uses {target}, which cannot be found ({first_line(error)}); is it on PYTHONPATH?"
        ) from None
    # What a trusted module has imported from other modules is not trusted.
    if not callable(found) or not _is_trusted(str(getattr(found, "__module__", "")), trusted):
        raise refused
    return found


def fit_weights(model: nn.Module, tensors: Any, where: str) -> None:
    """Raise an error if tensors do not fit the model: other names, shapes or dtypes, or values that are not finite.

    Args:
        model: on any device, even ``meta``. tensors: a state dict read from a file. where: what messages begin with.

    Raises:
        UserError: names the first tensor that does not fit.
    """
    require_tensors(tensors, where)
    own = model.state_dict()
    if missing := sorted(own.keys() - tensors.keys()):
        raise UserError(f"{where}: {len(missing)} tensors that its network needs are missing: {missing[0]}, ...")
    if unknown := sorted(map(str, tensors.keys() - own.keys())):
        raise UserError(f"{where}: {len(unknown)} tensors are not of its network: {one_line(unknown[0], 100)}, ...")
    for name, expected in own.items():
        tensor = tensors[name]
        if tensor.shape != expected.shape:
            raise UserError(f"{where}: tensor {name} is {tuple(tensor.shape)}, its network has {tuple(expected.shape)}")
        require_values(name, tensor, expected, where)


def require_tensors(tensors: Any, where: str) -> None:
    """Refuse what is not a mapping of names to tensors.

    Raises:
        UserError: begins with ``where``.
    """
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise UserError(f"{where}: its weights are not tensors by name")


def require_values(name: str, tensor: Tensor, expected: Tensor, where: str) -> None:
    """Refuse a tensor of another kind of number than expected, or whose values no training leaves.

    Raises:
        UserError: names the tensor; begins with ``where``.
    """
    if tensor.is_floating_point() != expected.is_floating_point() or tensor.is_complex():
        raise UserError(f"{where}: tensor {name} is {tensor.dtype}, its network has {expected.dtype}")
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise UserError(f"{where}: tensor {name} has NaN or infinite values; the training that wrote it failed")
    if name.endswith("running_var") and (tensor < 0).any():
        raise UserError(f"{where}: tensor {name} has negative variances")
