"""DeepGCN: backbone, fusion block and prediction head (DeepGCNs, figure 2)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ops.cpu.threads import each_alone
from .arguments import require_bool, require_choice, require_integer, require_integers, require_probability
from .backbone import Backbone, ConvFactory
from .block import CONNECTIONS
from .convolution import EdgeConv
from .fusion import FusionBlock
from .graph import dilation_schedule
from .head import PredictionHead
from .layers import INITS, LayerSpec, hooked, initialise

# Points that go through the layers at a time in inference: enough to keep the processor busy.
POINTS, POINTS_GPU = 4096, 32768


class DeepGCN(nn.Module):
    """A deep graph convolutional network for point-cloud semantic segmentation.

    The defaults are the paper's ResGCN-28 in the TensorFlow code's variant: linear map,
    norm, activation; head graph on room-normalised positions.

    Args:
        in_channels: features per point. num_classes: classes.
        connection: plain, res, dense, res+ or rev.
        depth: graph convolutions, the head included. channels: their width (growth rate if dense).
        k: neighbours per point. conv: builds a graph convolution, ``conv(c_in, c_out, spec)``.
        order, norm, norm_eps, act, bias: what follows linear maps (:class:`LayerSpec`).
        dynamic: neighbours in each layer's feature space, not at fixed positions.
        dilation, dilation_period: schedule over depth (:func:`dilation_schedule`).
        stochastic, epsilon: stochastic dilation in training.
        loop: a point is its own neighbour.
        positions: input channels that are coordinates for the head's graph.
        fusion_channels, head_channels, dropout: fusion block and prediction head.
        block_dropout: dropout inside the blocks. checkpoint: recompute convolutions in backward.
        groups: channel groups of ``rev``.
        init: xavier (TensorFlow) or kaiming (PyTorch).

    Raises:
        ValueError: a setting of another type, out of range or unknown; the message names it.
    """

    def __init__(
        self,
        in_channels: int = 9,
        num_classes: int = 13,
        connection: str = "res",
        depth: int = 28,
        channels: int = 64,
        k: int = 16,
        conv: ConvFactory = EdgeConv,
        order: str = "norm-act",
        norm: str = "batch",
        norm_eps: float = 1e-5,
        act: str = "relu",
        bias: bool = True,
        dynamic: bool = True,
        dilation: str | int | Sequence[int] = "linear",
        dilation_period: int | None = None,
        stochastic: bool = True,
        epsilon: float = 0.2,
        loop: bool = True,
        positions: Sequence[int] = (6, 7, 8),
        fusion_channels: int = 1024,
        head_channels: Sequence[int] = (512, 256),
        dropout: float = 0.3,
        block_dropout: float = 0.0,
        checkpoint: bool = False,
        groups: int = 2,
        init: str = "xavier",
    ):
        super().__init__()
        for name, count in (
            ("in_channels", in_channels),
            ("num_classes", num_classes),
            ("depth", depth),
            ("channels", channels),
            ("k", k),
            ("fusion_channels", fusion_channels),
        ):
            require_integer(name, count)
        for name, chance in (("epsilon", epsilon), ("dropout", dropout), ("block_dropout", block_dropout)):
            require_probability(name, chance)
        for name, flag in (
            ("bias", bias),
            ("dynamic", dynamic),
            ("stochastic", stochastic),
            ("loop", loop),
            ("checkpoint", checkpoint),
        ):
            require_bool(name, flag)
        require_choice("connection", connection, (*CONNECTIONS, "rev"))
        require_choice("init", init, INITS)
        require_integers("head_channels", head_channels)
        require_integers("positions", positions, least=0)
        if len(set(positions)) < len(positions) or max(positions) >= in_channels:
            raise ValueError(f"positions must be different channels of the {in_channels}, got {list(positions)}")
        require_integer("groups", groups, least=2)
        if connection == "rev" and channels % groups:
            raise ValueError(f"groups={groups} must divide the channels of rev, {channels}")
        if not callable(conv):
            raise ValueError(f"conv must build a graph convolution, conv(c_in, c_out, spec), got {conv!r}")
        spec = LayerSpec(order, norm, act, bias, norm_eps)
        self.in_channels, self.num_classes = in_channels, num_classes
        self.backbone = Backbone(
            in_channels,
            channels,
            connection,
            conv,
            spec,
            k,
            dilation_schedule(dilation, depth, dilation_period),
            dynamic,
            stochastic,
            epsilon,
            loop,
            positions,
            block_dropout,
            checkpoint,
            groups,
        )
        widths = self.backbone.layer_widths()
        nested = connection == "dense"
        self.fusion = FusionBlock(widths, fusion_channels, spec, nested)
        self.head = PredictionHead(widths, fusion_channels, num_classes, spec, nested, head_channels, dropout)
        initialise(self, init)

    @classmethod
    def plaingcn(cls, depth: int = 28, **settings) -> "DeepGCN":
        """PlainGCN: no connections, no dilation (section 5.2)."""
        return cls(connection="plain", depth=depth, **{"dilation": "none", "stochastic": False, **settings})

    @classmethod
    def resgcn(cls, depth: int = 28, **settings) -> "DeepGCN":
        """ResGCN, the paper's reference at depth 28."""
        return cls(connection="res", depth=depth, **settings)

    @classmethod
    def densegcn(cls, depth: int = 28, **settings) -> "DeepGCN":
        """DenseGCN; ``channels`` is the growth rate."""
        return cls(connection="dense", depth=depth, **settings)

    @classmethod
    def resgcnplus(cls, depth: int = 28, **settings) -> "DeepGCN":
        """ResGCN+ (DeeperGCN): norm and activation in front of each convolution."""
        return cls(connection="res+", depth=depth, **settings)

    @classmethod
    def revgcn(cls, depth: int = 112, **settings) -> "DeepGCN":
        """RevGCN (RevGNN): reversible grouped blocks."""
        return cls(connection="rev", depth=depth, **settings)

    @property
    def min_points(self) -> int:
        """Fewest points a block may have: the largest k x dilation (plus one without self-loops)."""
        graphs = self.backbone.graphs
        return max(int(graph.k) * int(graph.dilation) + (not graph.loop) for graph in graphs)

    def forward(self, points: Tensor, mask: Tensor | None = None) -> Tensor:
        """Class scores of every point.

        Args:
            points: (B, N, in_channels) floating point.
            mask: (B, N) bool, False where a point is absent: blocks of unequal size in one batch.

        Returns:
            (B, N, num_classes) logits; zero at absent points.

        In inference (eval mode, gradients off, no hooks on layers) each block goes through the layers alone, small ones
        some at a time: on a CPU as many side by side as there are threads, on a GPU one after another.

        Raises:
            ValueError: wrong shape, too few points, NaN or infinite values.
        """
        points = self._checked(points, mask)
        together = len(points)
        if self._only_logits_matter():
            together = max((POINTS_GPU if points.is_cuda else POINTS) // points.shape[1], 1)
        if together >= len(points):
            return self._logits(points, mask)
        masks = [None] * len(points) if mask is None else mask.split(together)
        parts = list(zip(points.split(together), masks))
        if points.is_cuda:
            return torch.cat([self._logits(*part) for part in parts])
        return torch.cat(each_alone(self._logits, parts))

    def _logits(self, points: Tensor, mask: Tensor | None) -> Tensor:
        joint = self.backbone.joint(points, mask)
        logits = self.head(joint, self.fusion(joint, mask), mask)
        return logits if mask is None else logits.masked_fill(~mask[:, :, None], 0)

    def _only_logits_matter(self) -> bool:
        """Whether nothing is to be differentiated, no norm or dropout is for the whole batch, no hook looks inside."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return False
        inside = list(self.modules())[1:]
        return not any(m.training or hooked(m) for m in inside)

    def features(self, points: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """What each backbone layer puts out, (B, N, width) each, for inspection."""
        return self.backbone(self._checked(points, mask), mask)

    def _checked(self, points: Tensor, mask: Tensor | None) -> Tensor:
        if points.ndim != 3 or points.shape[-1] != self.in_channels:
            raise ValueError(f"points must be (B, N, {self.in_channels}), got {tuple(points.shape)}")
        if points.shape[0] == 0:
            raise ValueError(f"the batch is empty: points are {tuple(points.shape)}")
        if mask is not None:
            if mask.shape != points.shape[:2] or mask.dtype != torch.bool:
                raise ValueError(f"mask must be bool {tuple(points.shape[:2])}, got {mask.dtype} {tuple(mask.shape)}")
            points = torch.where(mask[:, :, None], points, 0)
        if torch.compiler.is_compiling():
            return points
        fewest = points.shape[1] if mask is None else int(mask.sum(1).min())
        if fewest < self.min_points:
            raise ValueError(
                f"a block has {fewest} points, but k x dilation needs {self.min_points}: "
                "use more points, a smaller k or a smaller dilation"
            )
        # Quick: a finite sum has only finite terms.
        if not math.isfinite(points.sum()):
            bad = int((~torch.isfinite(points)).any(-1).sum())
            if bad:
                raise ValueError(f"{bad} points have NaN or infinite values")
        return points
