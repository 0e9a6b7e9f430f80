"""A network of ``DynamicEdgeConv``s as one writes it with torch_geometric (DGCNN, 1801.07829, for segmentation)."""

import torch
from torch import Tensor, nn
from torch_geometric import nn as geometric
from torch_geometric.nn import MLP

from ..errors import UserError
from ..pyg import DynamicEdgeConv


class LibraryDynamicEdgeConv(geometric.EdgeConv):
    """torch_geometric's ``EdgeConv`` on the neighbours that torch_cluster finds.

    This is what torch_geometric's ``DynamicEdgeConv`` does. Newer versions of it do not accept torch_cluster's search.

    Raises:
        UserError: torch_cluster is not installed.
    """

    def __init__(self, nn: nn.Module, k: int):
        super().__init__(nn, aggr="max")
        try:
            from torch_cluster import knn
        except (ImportError, OSError):
            raise UserError("measure=pyg: needs torch-cluster, which `make cluster` builds") from None
        self.search, self.k = knn, k

    def forward(self, x: Tensor, batch: Tensor) -> Tensor:
        """Return the convolution of x (N, C)."""
        return super().forward(x, self.search(x.detach(), x.detach(), self.k, batch, batch).flip([0]))


class DGCNN(nn.Module):
    """Dynamic convolutions, their outputs joined, and a pointwise head.

    Args:
        source: one of :data:`~.pyg.NETWORKS`, whose ``DynamicEdgeConv`` it is of.
        layers: linear maps in the network of each edge, 1 or 2 (2 in torch_geometric's own example).
    """

    def __init__(self, source: str, depth: int, channels: int, k: int, layers: int):
        super().__init__()
        conv = DynamicEdgeConv if source == "ours" else LibraryDynamicEdgeConv
        widths = [9] + [channels] * depth
        self.convs = nn.ModuleList(
            conv(MLP([2 * width, *[channels] * layers], plain_last=layers > 1), k) for width in widths[:-1]
        )
        self.head = MLP([depth * channels, 1024, 256, 13], dropout=[0.5, 0.5, 0.0])

    def forward(self, points: Tensor) -> Tensor:
        """Return logits (B, N, 13) of points (B, N, 9)."""
        blocks, count, _ = points.shape
        batch = torch.arange(blocks, device=points.device).repeat_interleave(count)
        features, x = [], points.flatten(0, 1)
        for conv in self.convs:
            x = conv(x, batch)
            features.append(x)
        return self.head(torch.cat(features, 1)).view(blocks, count, -1)
