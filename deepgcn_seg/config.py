"""Checks of a composed config, before any work."""

from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from .data.blocks import VARIANTS
from .errors import UserError, first_line
from .model.block import CONNECTIONS
from .model.graph import dilation_schedule
from .model.layers import ACTS, NORMS, ORDERS

_POSITIVE = (
    "depth",
    "channels",
    "k",
    "points",
    "batch_size",
    "accumulate",
    "devices",
    "epochs",
    "validate_every",
    "save_every",
)


def check(config: DictConfig) -> None:
    """Refuse impossible settings.

    Raises:
        UserError: names the key, its value and what is allowed.
    """
    for key in _POSITIVE:
        value = OmegaConf.select(config, key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{key}={value}: must be an integer of at least 1")
    _one_of(config, "model.connection", (*CONNECTIONS, "rev"))
    _one_of(config, "model.norm", NORMS)
    _one_of(config, "model.act", ACTS)
    _one_of(config, "model.order", ORDERS)
    _one_of(config, "data.variant", VARIANTS)
    _one_of(config, "precision", ("fp32", "bf16"))
    _one_of(config, "select", ("validation", "test", "last"))
    if config.max_steps is not None and (not isinstance(config.max_steps, int) or config.max_steps < 1):
        raise UserError(f"max_steps={config.max_steps}: must be null or an integer of at least 1")
    if not 0 <= config.model.epsilon <= 1:
        raise UserError(f"graph.epsilon={config.model.epsilon}: must be between 0 and 1")
    if not 0 <= config.data.validation < 1:
        raise UserError(f"data.validation={config.data.validation}: must be at least 0 and below 1")
    _check_graph(config)
    if config.data.root is None:
        raise UserError("data.root is not set: give the folder of the prepared rooms (see tools/prepare.py)")
    areas = config.data.get("areas")
    if areas and config.data.fold not in range(1, areas + 1):
        raise UserError(f"data.fold={config.data.fold}: must be one of 1..{areas}")
    device(config.device)


def _check_graph(config: DictConfig) -> None:
    k, points = config.k, config.points
    if k > points:
        raise UserError(f"k={k}: must be at most points={points}")
    try:
        dilation = OmegaConf.to_object(config.model).get("dilation")
        schedule = dilation_schedule(dilation, config.depth, config.model.dilation_period)
    except ValueError as error:
        raise UserError(f"graph.dilation={config.model.dilation}: {error}") from None
    needed = k * max(schedule) + (not config.model.loop)
    if needed > points:
        raise UserError(
            f"k={k} with dilation up to {max(schedule)} (depth={config.depth}) needs blocks of {needed} points, "
            f"but points={points}: raise points, lower k or depth, or set graph.dilation or graph.period"
        )


def _one_of(config: DictConfig, key: str, allowed: tuple[str, ...]) -> None:
    value: Any = OmegaConf.select(config, key)
    if value not in allowed:
        raise UserError(f"{key}={value}: must be one of {', '.join(allowed)}")


def device(name: str) -> torch.device:
    """The device a setting names; ``auto`` is CUDA where there is some, else the CPU.

    Raises:
        UserError: unknown, or not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name}: {first_line(error)}") from None
    return chosen
