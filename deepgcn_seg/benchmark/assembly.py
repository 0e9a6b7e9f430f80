"""The same network of torch_geometric's and torch_cluster's parts, as a user without this package would build it."""

import torch
from torch import Tensor, nn
from torch_geometric import nn as geometric

from ..errors import UserError
from ..model import CONNECTIONS, dilation_schedule


class AssembledDeepGCN(nn.Module):
    """A network with graphs of ``torch_cluster.knn``, of which it takes every d-th neighbour, and PyG's ``EdgeConv``.

    Args:
        connection: plain, res or dense. conv: edge.

    Raises:
        UserError: torch-cluster is missing, or the convolution is another one.
    """

    def __init__(self, connection: str, conv: str, depth: int, channels: int, k: int):
        super().__init__()
        try:
            from torch_cluster import knn
        except (ImportError, OSError):
            raise UserError("networks: assembly needs torch-cluster; `make cluster` builds it") from None
        if conv != "edge":
            raise UserError(f"networks: assembly has EdgeConv alone, not conv={conv}")
        self.knn, self.connection, self.k = knn, connection, k
        dense = connection == "dense"
        widths = [9] + [channels * (i + 1 if dense else 1) for i in range(depth - 1)]
        self.dilations = dilation_schedule(CONNECTIONS[connection].official.get("dilation", "linear"), depth)
        self.convs = nn.ModuleList(geometric.EdgeConv(self._unit(2 * width, channels), aggr="max") for width in widths)
        joint = channels * (depth * (depth + 1) // 2 if dense else depth)
        self.fusion = self._unit(joint, 1024)
        self.head = nn.Sequential(
            self._unit(joint + 1024, 512), self._unit(512, 256), nn.Dropout(0.3), nn.Linear(256, 13)
        )

    @staticmethod
    def _unit(in_channels: int, out_channels: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(in_channels, out_channels), nn.ReLU(), nn.BatchNorm1d(out_channels))

    def forward(self, points: Tensor) -> Tensor:
        """Return logits (B, N, 13) of points (B, N, 9)."""
        batch, count, _ = points.shape
        x = points.reshape(batch * count, -1)
        number = torch.arange(batch, device=x.device).repeat_interleave(count)
        features: list[Tensor] = []
        for i, (conv, dilation) in enumerate(zip(self.convs, self.dilations)):
            at = x[:, :3] if i == 0 else x
            target, source = self.knn(at.detach(), at.detach(), self.k * dilation, number, number)
            edges = torch.stack([source.view(-1, self.k * dilation)[:, ::dilation].reshape(-1),
                                 target.view(-1, self.k * dilation)[:, ::dilation].reshape(-1)])  # fmt: skip
            h = conv(x, edges)
            if i:
                h = x + h if self.connection == "res" else torch.cat([x, h], 1) if self.connection == "dense" else h
            features.append(h)
            x = h
        joint = torch.cat(features, 1)
        fused = geometric.global_max_pool(self.fusion(joint), number)
        return self.head(torch.cat([fused[number], joint], 1)).view(batch, count, -1)
