"""The arguments of :class:`~deepgcn_seg.model.DeepGCN`, each with its type and range.

The constructor, the composed config and a checkpoint's description are validated by them.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import PlainValidator, ValidationError

from ..schema import Schema
from ..settings import Flag, Part, SettingError, Share, choice, integer, key_of, listed, number, rule, setting_problem
from .connection import CONNECTIONS
from .graph import GRAPHS, SCHEDULES
from .layers import ACTS, INITS, NORMS, ORDERS

Width = Annotated[int, integer(1, 65_536)]
Depth = Annotated[int, integer(1, 10_000)]


def _is_dilation(value: Any) -> bool:
    if isinstance(value, str):
        return value in SCHEDULES
    values = value if isinstance(value, Sequence) and not isinstance(value, bytes) else [value]
    return bool(values) and all(isinstance(d, int) and not isinstance(d, bool) and d >= 1 for d in values)


Dilation = Annotated[Any, rule("linear, none, an integer of at least 1 or a list of such integers", _is_dilation)]


def _named_connection(value: Any) -> Any:
    """Return the name of a connection, or say how a checkpoint can describe a network with a user's own."""
    try:
        return key_of(CONNECTIONS).func(value)  # type: ignore[call-arg]
    except ValueError as error:
        own = isinstance(value, dict) or hasattr(value, "__dict__")
        advice = "; a description cannot hold a connection of your own: make a subclass of DeepGCN that sets it"
        raise ValueError(f"{error}{advice if own else ''}") from None


class Arguments(Schema):
    """All arguments but the convolution; :class:`~deepgcn_seg.model.DeepGCN` says what each means."""

    in_channels: Width = 9
    num_classes: Width = 13
    connection: Annotated[str, PlainValidator(_named_connection)] = "res"
    depth: Depth = 28
    channels: Width = 64
    k: Width = 16
    order: Annotated[str, choice(*ORDERS)] = "norm-act"
    norm: Annotated[str, choice(*NORMS)] = "batch"
    norm_eps: Annotated[float, number(0, 1, above=True)] = 1e-5
    act: Annotated[str, choice(*ACTS)] = "relu"
    bias: Flag = True
    graph: Annotated[str, key_of(GRAPHS)] = "dynamic"
    dilation: Dilation = "linear"
    dilation_period: Annotated[int | None, integer(1, 65_536, null=True)] = None
    stochastic: Flag = True
    epsilon: Share = 0.2
    loop: Flag = True
    positions: Annotated[Sequence[int], listed(integer(0, 65_535), 1, 64)] = (6, 7, 8)
    fusion_channels: Width = 1024
    head_channels: Annotated[Sequence[int], listed(integer(1, 65_536), 1, 64)] = (512, 256)
    dropout: Part = 0.3
    block_dropout: Part = 0.0
    recompute: Flag = False
    groups: Annotated[int, integer(2, 65_536)] = 2
    init: Annotated[str, choice(*INITS)] = "xavier"


def check_arguments(values: dict[str, Any]) -> None:
    """Raise a SettingError that names the first argument that does not fit, its value and what is allowed."""
    try:
        Arguments.model_validate(values)
    except ValidationError as error:
        raise SettingError(setting_problem(error)) from None
