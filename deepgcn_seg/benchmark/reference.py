"""The official formulation of the network, with which this package's is compared in speed and result.

Tensors are channels-first (B, C, N, 1). The neighbours are the k x d largest entries of the whole negative distance
matrix. Every edge's [x_i ; x_j - x_i] goes through a 1x1 convolution, activation and norm. The global vector is
repeated for all points. Module names are those of deep_gcns_torch, so that state dicts can be exchanged.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

# Channels of a point, those in which the head's neighbours are searched, and the classes of S3DIS.
CHANNELS, POSITIONS, CLASSES = 9, [0, 1, 2], 13
ACTS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leakyrelu": lambda: nn.LeakyReLU(0.2),
    "prelu": lambda: nn.PReLU(init=0.2),
}


def unit(in_channels: int, out_channels: int, act: str | None, norm: bool, order: str = "act-norm") -> nn.Sequential:
    """Return a 1x1 convolution, activation and batch norm, in the order of either official code."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, out_channels, 1)]
    after = [ACTS[act]()] if act else []
    after += [nn.BatchNorm2d(out_channels)] if norm else []
    return nn.Sequential(*layers, *(after if order == "act-norm" else reversed(after)))


def knn(x: Tensor, k: int, dilation: int) -> Tensor:
    """Return the neighbours (B, N, k) of x (B, C, N, 1) at ranks 0, d, 2d, ... of the full distance matrix."""
    with torch.no_grad():
        flat = x.squeeze(-1).transpose(1, 2)
        square = flat.square().sum(-1, keepdim=True)
        distances = square - 2 * flat @ flat.transpose(1, 2) + square.transpose(1, 2)
        return (-distances).topk(k * dilation).indices[:, :, ::dilation]


def gather(x: Tensor, index: Tensor) -> Tensor:
    """Return the features (B, C, N, k) of neighbours (B, N, k) of x (B, C, N, 1)."""
    batch, channels, count, _ = x.shape
    indices = index.reshape(batch, 1, -1).expand(-1, channels, -1)
    return x.squeeze(-1).gather(2, indices).view(batch, channels, count, -1)


class Conv(nn.Module):
    """EdgeConv or MRConv over given neighbours."""

    def __init__(self, in_channels: int, out_channels: int, conv: str, act: str, order: str):
        super().__init__()
        self.conv = conv
        self.nn = unit(2 * in_channels, out_channels, act, True, order)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """Return features (B, C_out, N, 1) of x (B, C, N, 1)."""
        relative = gather(x, index) - x
        if self.conv == "mr":
            return self.nn(torch.cat([x, relative.amax(-1, keepdim=True)], 1))
        return self.nn(torch.cat([x.expand_as(relative), relative], 1)).amax(-1, keepdim=True)


class Layer(nn.Module):
    """A layer of the backbone: graph, convolution and connection."""

    def __init__(self, conv: Conv, connection: str, k: int, d: int):
        super().__init__()
        self.connection, self.k, self.d = connection, k, d
        self.body = nn.ModuleDict({"gconv": conv})

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, C', N, 1) of x (B, C, N, 1)."""
        out = self.body["gconv"](x, knn(x, self.k, self.d))
        if self.connection == "res":
            return out + x
        return torch.cat([x, out], 1) if self.connection == "dense" else out


class ReferenceDeepGCN(nn.Module):
    """The official dense model for the nine channels and thirteen classes of S3DIS, with stochastic dilation off.

    Args:
        connection: plain, res or dense. conv: edge or mr. order: act-norm (PyTorch) or norm-act (TensorFlow).
    """

    def __init__(
        self,
        connection: str = "res",
        conv: str = "edge",
        depth: int = 28,
        channels: int = 64,
        k: int = 16,
        act: str = "relu",
        order: str = "act-norm",
        dropout: float = 0.3,
    ):
        super().__init__()
        self.k = k
        self.head = nn.ModuleDict({"gconv": Conv(CHANNELS, channels, conv, act, order)})
        dense, dilated = connection == "dense", connection != "plain"
        self.backbone = nn.ModuleList()
        for i in range(depth - 1):
            width = channels * (i + 1) if dense else channels
            self.backbone.append(Layer(Conv(width, channels, conv, act, order), connection, k, i + 1 if dilated else 1))
        width = channels * (depth * (depth + 1) // 2 if dense else depth)
        self.fusion_block = unit(width, 1024, act, True, order)
        self.prediction = nn.Sequential(
            unit(width + 1024, 512, act, True, order),
            unit(512, 256, act, True, order),
            nn.Dropout(dropout),
            unit(256, CLASSES, None, False),
        )

    def forward(self, points: Tensor) -> Tensor:
        """Return logits (B, N, 13) of points (B, N, 9)."""
        x = points.transpose(1, 2).unsqueeze(-1)
        features = [self.head["gconv"](x, knn(x[:, POSITIONS], self.k, 1))]
        for layer in self.backbone:
            features.append(layer(features[-1]))
        joint = torch.cat(features, 1)
        fused = self.fusion_block(joint).amax(2, keepdim=True).repeat(1, 1, joint.shape[2], 1)
        return self.prediction(torch.cat([fused, joint], 1)).squeeze(-1).transpose(1, 2)
