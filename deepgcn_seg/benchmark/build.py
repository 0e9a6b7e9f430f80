"""The networks that are measured: this package's, the official formulation, and an assembly of library parts."""

from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from ..errors import UserError
from ..model import DeepGCN
from ..model.connection import CONNECTIONS, PAPER_CONNECTIONS
from ..model.official import CONVS, conv_name
from .reference import ReferenceDeepGCN

NETWORKS = ("reference", "assembly", "ours")


def network_settings(config: DictConfig) -> dict[str, Any]:
    """Return connection, convolution and sizes of the network to measure.

    Raises:
        UserError: the official formulation does not have these settings.
    """
    conv = conv_name(config.conv)
    if config.connection not in PAPER_CONNECTIONS or conv not in CONVS:
        raise UserError(
            f"connection={config.connection}, conv={conv}: the official code has {', '.join(PAPER_CONNECTIONS)} and "
            f"{', '.join(CONVS)}"
        )
    if config.points < config.k * max(config.depth - 1, 1):
        raise UserError(f"points={config.points}: k x dilation needs {config.k * (config.depth - 1)}")
    if config.precision not in ("fp32", "bf16"):
        raise UserError(f"precision={config.precision}: must be fp32 or bf16")
    return {"conv": conv, **{key: config[key] for key in ("connection", "depth", "channels", "k", "precision")}}


def described(settings: dict[str, Any]) -> str:
    """Return settings as one line, for titles."""
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def build(name: str, settings: dict[str, Any], device: torch.device) -> nn.Module:
    """Return one of :data:`NETWORKS`, all of which compute the same function; with bf16 under autocast.

    With ``conv`` "dynamic-edge" it is one of :data:`deepgcn_seg.benchmark.pyg.NETWORKS`.
    """
    # All are measured in float32. Without this, cuDNN would use TF32 in the reference's convolutions.
    torch.backends.cudnn.allow_tf32 = False
    network = _network(name, settings).to(device)
    if settings.get("precision") == "bf16":
        network.forward = torch.autocast(device.type, torch.bfloat16)(network.forward)
    return network


def _network(name: str, settings: dict[str, Any]) -> nn.Module:
    common = {key: settings[key] for key in ("depth", "channels", "k")}
    if settings["conv"] == "dynamic-edge":
        from .dgcnn import DGCNN

        return DGCNN(name, layers=settings["layers"], **common)
    conv, connection = settings["conv"], settings["connection"]
    if name == "reference":
        return ReferenceDeepGCN(connection, conv, order="act-norm", **common)
    if name == "assembly":
        from .assembly import AssembledDeepGCN

        return AssembledDeepGCN(connection, conv, **common)
    common |= CONNECTIONS[connection].official
    return DeepGCN(connection=connection, conv=CONVS[conv], order="act-norm", positions=(0, 1, 2), **common)
