"""Load checkpoints of the official PyTorch code (deep_gcns_torch, sem_seg_dense) as models of this package."""

import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..torch_defaults import torch_defaults
from .connection import Dense, Plain, Residual, find_connection
from .convolution import EdgeConv, MRConv
from .deepgcn import DeepGCN
from .description import names_of
from .from_description import fit_weights
from .graph import DilatedKnnGraph
from .layers import BatchNorm
from .tensor_file import read_tensor_file

# The second-best guess must be off by MARGIN times as much as the best one. Connection and convolution of networks with
# more than MAX_GUESSED layers are not guessed, because that would take minutes.
MARGIN, MAX_GUESSED = 1.3, 112
# The fewest random points that are guessed by.
LEAST_POINTS = 512

# The convolutions that the official PyTorch code and this package both have for dense blocks, by their official names.
CONVS: dict[str, type[nn.Module]] = {"edge": EdgeConv, "mr": MRConv}


class UndecidedError(ValueError):
    """An official checkpoint whose connection or convolution must be given, as neither shapes nor statistics tell."""


def conv_name(config: Mapping[str, Any]) -> str:
    """Return ``edge`` or ``mr`` if a config builds that convolution of this package, and else its ``_target_``."""
    target = str(config["_target_"])
    return next((name for name, conv in CONVS.items() if target in names_of(conv)), target)


# Patterns of official names and our names for them, without the number in the sequence (0 linear, 1 act, 2 norm).
_PARTS = [
    (r"head\.gconv\.nn", "backbone.head.layer"),
    (r"backbone\.(\d+)\.body\.gconv\.nn", r"backbone.blocks.\1.conv.layer"),
    (r"fusion_block", "fusion.layer"),
    (r"prediction\.0", "head.first"),
    (r"prediction\.1", "head.rest.0"),
]


def load_official(
    source: str | Path | Mapping[str, Any],
    k: int = 16,
    act: str = "relu",
    connection: str | None = None,
    conv: str | None = None,
) -> DeepGCN:
    """Return a DeepGCN, in eval mode, that computes what the official PyTorch model does.

    Depth, width, classes, norm, bias and the dense connection follow from the tensors' shapes. plain and res have
    tensors of the same shapes, and so have edge and mr. Unless they are given, the choice is the one that reproduces
    the checkpoint's running statistics best on random points (:func:`guess`). k and act leave no trace in a checkpoint
    and must be given. The model expects the input of the official PyTorch code: channels 0-2 are coordinates, centred
    and scaled to -1..1 per block, from which the head's graph is made.

    Args:
        source: a file, a state dict, or a training checkpoint that holds one as ``state_dict``;
            with or without DataParallel's ``module.`` prefix.
        k: neighbours (official default 16). act: relu, leakyrelu or prelu.
        connection: plain, res or dense. conv: edge or mr.

    Raises:
        ValueError: it is no such checkpoint, or one with another act, connection or conv.
    """
    return convert_official(source, k, act, connection, conv)[0]


@torch_defaults()
def convert_official(
    source: str | Path | Mapping[str, Any],
    k: int = 16,
    act: str = "relu",
    connection: str | None = None,
    conv: str | None = None,
    max_guessed: int = MAX_GUESSED,
) -> tuple[DeepGCN, dict[str, Any]]:
    """Return the model of :func:`load_official`, and the description that builds it, as in our checkpoints."""
    state = _state_dict(source)
    try:
        settings = _settings(state, k, act)
    except (KeyError, IndexError) as error:
        raise ValueError(f"not a sem_seg_dense checkpoint: a tensor is missing or of another shape ({error})") from None
    if settings["connection"] == Dense.name:
        connection = connection or Dense.name
    connections = [connection] if connection else [Residual.name, Plain.name]
    convs = [conv] if conv else ["edge", "mr"]
    if len(connections) * len(convs) > 1 and settings["depth"] > max_guessed:
        raise UndecidedError(f"a checkpoint of {settings['depth']} layers: give connection= and conv=")
    candidates = []
    for c in connections:
        for v in convs:
            if v not in CONVS:
                raise ValueError(f"conv={v!r}: official models have {' or '.join(CONVS)}")
            own = {**settings, "connection": c, **find_connection(c).official}
            candidates.append((_build(state, {**own, "conv": CONVS[v]}), {**own, "conv": {"name": v}}))
    best = 0 if len(candidates) == 1 else guess([model for model, _ in candidates])
    return candidates[best]


def guess(candidates: list[DeepGCN]) -> int:
    """Return which candidate's batch statistics on random points come closest to its running ones.

    Random points have other statistics than the training data. But a wrong connection or convolution changes the
    statistics far more, and more in every layer.

    Args:
        candidates: models of the same tensors, in eval mode.

    Raises:
        UndecidedError: the model is not trained, or two candidates are about equally close.
    """
    generator = torch.Generator().manual_seed(0)
    count = max(LEAST_POINTS, 2 * candidates[0].min_points)
    cloud = torch.rand(2, count, candidates[0].in_channels, generator=generator)
    cloud[..., :3] = 2 * cloud[..., :3] - 1
    cloud = cloud.to(next(candidates[0].parameters()).dtype)
    gaps = torch.tensor([_statistics_gap(model, cloud) for model in candidates])
    (best, second), order = gaps.sort()[0][:2], gaps.argsort()
    if not best * MARGIN < second:
        raise UndecidedError(
            "plain or res, edge or mr? The checkpoint's running statistics do not tell: give connection= and conv="
        )
    return int(order[0])


@torch.no_grad()
def _statistics_gap(model: DeepGCN, cloud: Tensor) -> float:
    """Return the distance of batch statistics from running ones.

    It is the log ratio of variances plus the difference of means in standard deviations, averaged over the channels of
    the backbone and the fusion block.
    """
    norms = _norms(model)
    if not norms or not norms[0].num_batches_tracked:
        return torch.nan
    trial = deepcopy(model).train()
    trial_norms = _norms(trial)
    for norm in trial_norms:
        norm.momentum = 1.0
    for graph in trial.backbone.graphs:
        cast(DilatedKnnGraph, graph).stochastic = False
    trial.fusion(trial.backbone.concatenate(trial.backbone(cloud)))
    gaps = []
    for norm, measured in zip(norms, trial_norms):
        # After few batches, running statistics still hold a share of the initial mean 0 and variance 1. Remove it.
        left = (1 - norm.momentum) ** int(norm.num_batches_tracked)
        mean = norm.running_mean / (1 - left)
        var = ((norm.running_var - left) / (1 - left)).clamp(min=1e-3)
        gaps.append(((measured.running_var + 1e-3) / (var + 1e-3)).log().abs().mean())
        gaps.append(((measured.running_mean - mean).abs() / var.sqrt()).mean())
    return float(torch.stack(gaps).mean())


def _norms(model: DeepGCN) -> list[Any]:
    """Return the batch norms of backbone and fusion block. Those of official networks have running statistics."""
    return [m for part in (model.backbone, model.fusion) for m in part.modules() if isinstance(m, BatchNorm)]


def _state_dict(source: str | Path | Mapping[str, Any]) -> dict[str, Tensor]:
    if isinstance(source, (str, Path)):
        try:
            source = read_tensor_file(source, legacy=True)
        except UserError as error:
            raise ValueError(str(error)) from None
    if not isinstance(source, Mapping):
        raise ValueError(f"a checkpoint is a mapping of names to tensors, got {type(source).__name__}")
    state = source.get("state_dict", source)
    if not isinstance(state, Mapping):
        raise ValueError(f"state_dict is a mapping of names to tensors, got {type(state).__name__}")
    state = {str(name).removeprefix("module."): tensor for name, tensor in state.items()}
    if wrong := [name for name, tensor in state.items() if not isinstance(tensor, Tensor)]:
        raise ValueError(f"{wrong[0]!r} is not a tensor")
    if "head.gconv.nn.0.weight" not in state:
        raise ValueError(
            "not a sem_seg_dense checkpoint of deep_gcns_torch: no tensor 'head.gconv.nn.0.weight' "
            f"among its {len(state)}"
        )
    return state


def _settings(state: Mapping[str, Tensor], k: int, act: str) -> dict[str, Any]:
    """Return the settings of :class:`DeepGCN` that the shapes of an official state dict imply."""
    head = state["head.gconv.nn.0.weight"]
    layers = {int(m[1]) for name in state if (m := re.match(r"backbone\.(\d+)\.", name))}
    if layers != set(range(len(layers))):
        raise ValueError(f"backbone layers are missing: found {sorted(layers)}")
    depth, channels = len(layers) + 1, head.shape[0]
    # The second block's input has C channels, or 2 C with a dense connection. If there is only one block, the
    # fusion block's input tells the connection: it has C + C or C + 2 C channels.
    second = state.get("backbone.1.body.gconv.nn.0.weight")
    if second is not None:
        dense = second.shape[1] == 4 * channels
    else:
        dense = depth == 2 and state["fusion_block.0.weight"].shape[1] == 3 * channels
    slopes = state.get("head.gconv.nn.1.weight")
    if (slopes is not None and slopes.numel() == 1) != (act == "prelu"):
        raise ValueError(f"act={act!r}, but the checkpoint {'has no' if act == 'prelu' else 'has'} PReLU slopes")
    return {
        "in_channels": head.shape[1] // 2,
        "num_classes": state["prediction.3.0.weight"].shape[0],
        "connection": Dense.name if dense else Residual.name,
        "depth": depth,
        "channels": channels,
        "k": k,
        "act": act,
        "order": "act-norm",
        "norm": "batch" if "head.gconv.nn.2.running_mean" in state else "none",
        "bias": "head.gconv.nn.0.bias" in state,
        "positions": [0, 1, 2],
        "init": "kaiming",
    }


def _build(state: Mapping[str, Tensor], settings: dict[str, Any]) -> DeepGCN:
    # Shapes are compared on the meta device, which takes no memory: a file with one wide tensor must not make us build
    # a network of that width.
    with torch.device("meta"):
        own = DeepGCN(**settings).state_dict()
    renamed = {}
    for name, tensor in state.items():
        ours = _our_name(name)
        if ours not in own:
            raise ValueError(f"unexpected tensor {name!r} in an official checkpoint")
        if tensor.ndim == 4:
            tensor = tensor[:, :, 0, 0]
        if tensor.shape != own[ours].shape:
            raise ValueError(
                f"tensor {name!r} is {tuple(tensor.shape)}, but a {settings['connection']} model of "
                f"depth {settings['depth']} has {tuple(own[ours].shape)} there"
            )
        renamed[ours] = tensor
    missing = sorted(own.keys() - renamed.keys())
    if missing:
        raise ValueError(f"{len(missing)} tensors are missing from the official checkpoint: {missing[0]}, ...")
    model = DeepGCN(**settings)
    try:
        fit_weights(model, renamed, "the official checkpoint")
    except UserError as error:
        raise ValueError(str(error)) from None
    # Double precision stays. Half precision becomes single, because CPUs lack operations for it.
    model = model.to(torch.promote_types(torch.float32, state["head.gconv.nn.0.weight"].dtype))
    model.load_state_dict(renamed)
    return model.eval()


def _our_name(name: str) -> str:
    """Return our name of an official tensor."""
    if match := re.fullmatch(r"prediction\.3\.0\.(\w+)", name):
        return f"head.classifier.{match[1]}"
    for pattern, ours in _PARTS:
        if match := re.fullmatch(pattern + r"\.([012])\.(\w+)", name):
            *_, place, tensor = match.groups()
            part = {"0": "linear", "1": "act", "2": "norm"}[place]
            return f"{match.expand(ours)}.{part}.{tensor}"
    return name
