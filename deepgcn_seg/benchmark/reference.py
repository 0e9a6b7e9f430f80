"""The official formulation of the network, literally: what the fast one is measured and tested against.

Channels-first (B, C, N, 1) tensors; the whole distance matrix and its top k x d; every edge's
[x_i ; x_j - x_i] through a 1x1 convolution, activation and norm; the global vector repeated to all
points. Module names are those of deep_gcns_torch, so that state dicts are interchangeable.
"""

import torch
from torch import Tensor, nn

ACTS = {
    "relu": nn.ReLU,
    "leakyrelu": lambda: nn.LeakyReLU(0.2),
    "prelu": lambda: nn.PReLU(init=0.2),
}


def unit(in_channels: int, out_channels: int, act: str | None, norm: bool, order: str = "act-norm") -> nn.Sequential:
    """1x1 convolution, activation and batch norm, in the order of either official code."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, out_channels, 1)]
    after = [ACTS[act]()] if act else []
    after += [nn.BatchNorm2d(out_channels)] if norm else []
    return nn.Sequential(*layers, *(after if order == "act-norm" else reversed(after)))


def knn(x: Tensor, k: int, dilation: int) -> Tensor:
    """(B, C, N, 1) -> (B, N, k) neighbours at ranks 0, d, 2d, ... by the full distance matrix."""
    with torch.no_grad():
        flat = x.squeeze(-1).transpose(1, 2)
        square = flat.square().sum(-1, keepdim=True)
        distances = square - 2 * flat @ flat.transpose(1, 2) + square.transpose(1, 2)
        return (-distances).topk(k * dilation).indices[:, :, ::dilation]


def gather(x: Tensor, index: Tensor) -> Tensor:
    """(B, C, N, 1), (B, N, k) -> (B, C, N, k)."""
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
        """(B, C, N, 1) -> (B, C_out, N, 1)."""
        relative = gather(x, index) - x
        if self.conv == "mr":
            return self.nn(torch.cat([x, relative.amax(-1, keepdim=True)], 1))
        return self.nn(torch.cat([x.expand_as(relative), relative], 1)).amax(-1, keepdim=True)


class Layer(nn.Module):
    """One backbone block."""

    def __init__(self, in_channels: int, channels: int, block: str, conv: str, act: str, order: str, k: int, d: int):
        super().__init__()
        self.block, self.k, self.d = block, k, d
        self.body = nn.Module()
        self.body.gconv = Conv(in_channels, channels, conv, act, order)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, N, 1) -> (B, C', N, 1)."""
        out = self.body.gconv(x, knn(x, self.k, self.d))
        if self.block == "res":
            return out + x
        return torch.cat([x, out], 1) if self.block == "dense" else out


class ReferenceDeepGCN(nn.Module):
    """The official dense model, with stochastic dilation off.

    Args:
        block: plain, res or dense. conv: edge or mr. order: act-norm (PyTorch) or norm-act (TensorFlow).
        positions: input channels of the head's graph.
    """

    def __init__(
        self,
        block: str = "res",
        conv: str = "edge",
        depth: int = 28,
        channels: int = 64,
        k: int = 16,
        act: str = "relu",
        order: str = "act-norm",
        in_channels: int = 9,
        num_classes: int = 13,
        dropout: float = 0.3,
        positions: tuple[int, ...] = (0, 1, 2),
    ):
        super().__init__()
        self.k, self.positions = k, list(positions)
        self.head = nn.Module()
        self.head.gconv = Conv(in_channels, channels, conv, act, order)
        dense = block == "dense"
        self.backbone = nn.ModuleList(
            Layer(
                channels * (i + 1) if dense else channels,
                channels,
                block,
                conv,
                act,
                order,
                k,
                1 if block == "plain" else i + 1,
            )
            for i in range(depth - 1)
        )
        width = channels * (depth * (depth + 1) // 2 if dense else depth)
        self.fusion_block = unit(width, 1024, act, True, order)
        self.prediction = nn.Sequential(
            unit(width + 1024, 512, act, True, order),
            unit(512, 256, act, True, order),
            nn.Dropout(dropout),
            unit(256, num_classes, None, False),
        )

    def forward(self, points: Tensor) -> Tensor:
        """(B, N, in_channels) -> logits (B, N, num_classes)."""
        x = points.transpose(1, 2).unsqueeze(-1)
        features = [self.head.gconv(x, knn(x[:, self.positions], self.k, 1))]
        for layer in self.backbone:
            features.append(layer(features[-1]))
        joint = torch.cat(features, 1)
        fused = self.fusion_block(joint).amax(2, keepdim=True).repeat(1, 1, joint.shape[2], 1)
        return self.prediction(torch.cat([fused, joint], 1)).squeeze(-1).transpose(1, 2)
