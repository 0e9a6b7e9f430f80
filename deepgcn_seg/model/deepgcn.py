"""DeepGCN: backbone, fusion block and prediction head (DeepGCNs, figure 2)."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..data.classes import ClassList
from ..ops import require_no_transform
from . import fast_inference
from .arguments import Arguments, check_arguments
from .backbone import Backbone, ConvFactory
from .connection import Connection, Dense, Plain, PreActivatedResidual, Residual, Reversible, find_connection
from .convolution import EdgeConv
from .fusion import FusionBlock
from .graph import Graph, build_graph, dilation_schedule
from .head import PredictionHead
from .layers import LayerSpec, hide_absent, initialise
from .own_layers import Factory

Constructor = TypeVar("Constructor", bound=Callable[..., Any])


def _shows_settings_of(init: Callable[..., None]) -> Callable[[Constructor], Constructor]:
    """Let a constructor with ``**settings`` show those in its signature, and so in ``help()``.

    The short constructors pass them on to ``init``. To repeat them in each, with their defaults, would let them differ.
    """
    settings = [p.replace(kind=p.KEYWORD_ONLY) for p in list(inspect.signature(init).parameters.values())[1:]]

    def show(constructor: Constructor) -> Constructor:
        signature = inspect.signature(constructor)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        others = [p for p in settings if p.name not in (*signature.parameters, "connection")]
        vars(constructor)["__signature__"] = signature.replace(parameters=own + others)
        return constructor

    return show


class DeepGCN(nn.Module):
    """A deep graph convolutional network for point-cloud semantic segmentation.

    The defaults are the paper's ResGCN-28 in the TensorFlow code's variant (linear map, norm, activation; head graph on
    room-normalised positions) with PyTorch's epsilon of norms, 1e-5. ``recipe=paper`` sets TensorFlow's, 1e-3.

    Five arguments take parts of your own: ``connection``, ``graph``, ``conv``, ``norm`` and ``act``. Each is what
    builds the part, a class or a ``functools.partial`` of one with settings of its own, and the network calls it:
    ``connection()``, ``graph(k=..., dilations=..., ...)``, ``conv(c_in, c_out, spec)``, ``norm(channels)``, ``act()``.
    All but ``conv`` may be a name instead (:data:`.CONNECTIONS`, :data:`.GRAPHS`, :data:`.NORMS`, :data:`.ACTS`). A
    checkpoint holds a part of your own by the name of its module, and builds it if you trust that. It holds a
    connection by a name in the table alone (docs/model.md says why).

    ``head`` is the prediction head here, and the head graph convolution in :class:`~.backbone.Backbone`. The official
    code calls that one ``head``, and this one ``prediction``. Both names are in every checkpoint, so they stay.

    Args:
        in_channels: features per point. num_classes: classes.
        connection: plain, res, dense, res+ or rev, or a :class:`.Connection`, as class or object. The paper's
            PlainGCN has no dilation either: that is :meth:`plaingcn`. With ``connection="plain"`` alone, dilation
            stays as the other arguments say, linear and stochastic unless they are given.
        depth: layers, the head included. channels: width of each (growth rate if dense).
        k: neighbours per point. conv: builds a graph convolution, ``conv(c_in, c_out, spec)``.
        order, norm, norm_eps, act, bias: what follows linear maps (:class:`.LayerSpec`); norm and act may be classes
            of torch.nn or of your own (:mod:`.own_layers`).
        graph: dynamic (neighbours in each layer's feature space), fixed (by position), or what builds a
            :class:`.Graph` from its fields: a subclass or a partial of one.
        dilation, dilation_period: schedule over depth (:func:`.dilation_schedule`).
        stochastic, epsilon: stochastic dilation in training.
        loop: a point is its own neighbour.
        positions: input channels that are coordinates for the head's graph.
        fusion_channels, head_channels, dropout: fusion block and prediction head.
        block_dropout: dropout inside the blocks, which are no ``nn.Dropout`` modules.
        recompute: compute convolutions again in the backward pass to save memory (gradient checkpointing). It has no
            effect under ``torch.compile``, which decides that itself.
        groups: channel groups of ``rev``.
        init: xavier (TensorFlow) or kaiming (PyTorch).

    Attributes:
        classes: names and colours of the classes, of a network that :func:`~deepgcn_seg.load_model` returned.

    Shape: points (B, N, in_channels), mask (B, N) -> (B, N, num_classes).

    Raises:
        ValueError: a setting is unknown, of another type or out of range; the message names it.
    """

    classes: ClassList

    def __init__(
        self,
        in_channels: int = 9,
        num_classes: int = 13,
        connection: str | Connection | Callable[[], Connection] = "res",
        depth: int = 28,
        channels: int = 64,
        k: int = 16,
        conv: ConvFactory = EdgeConv,
        order: str = "norm-act",
        norm: str | Factory = "batch",
        norm_eps: float = 1e-5,
        act: str | Factory = "relu",
        bias: bool = True,
        graph: str | Callable[..., Graph] = "dynamic",
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
        recompute: bool = False,
        groups: int = 2,
        init: str = "xavier",
    ):
        # locals() holds every argument under its name here, so that one call validates all of them.
        arguments = {name: value for name, value in locals().items() if name in Arguments.model_fields}
        for name in ("connection", "graph", "norm", "act"):
            # What is a user's own has no list of allowed values. Its builder refuses what it cannot take.
            if isinstance(arguments[name], (Connection, Graph)) or callable(arguments[name]):
                del arguments[name]
        check_arguments(arguments)
        if len(set(positions)) < len(positions) or max(positions) >= in_channels:
            raise ValueError(f"positions must be different channels of the {in_channels}, got {list(positions)}")
        if not callable(conv):
            raise ValueError(f"conv must build a graph convolution, conv(c_in, c_out, spec), got {conv!r}")
        super().__init__()
        spec = LayerSpec(order, norm, act, bias, norm_eps)
        graphs = build_graph(
            graph,
            k=k,
            dilations=dilation_schedule(dilation, depth, dilation_period),
            stochastic=stochastic,
            epsilon=epsilon,
            loop=loop,
            positions=positions,
        )
        connected = find_connection(connection, groups)
        connected.check(channels)
        self.in_channels, self.num_classes = in_channels, num_classes
        self.backbone = Backbone(in_channels, channels, conv, spec, graphs, connected, block_dropout, recompute)
        widths, last_has_all = self.backbone.layer_widths(), connected.last_has_all
        self.fusion = FusionBlock(widths, fusion_channels, spec, last_has_all)
        self.head = PredictionHead(widths, fusion_channels, num_classes, spec, last_has_all, head_channels, dropout)
        initialise(self, init)

    @classmethod
    @_shows_settings_of(__init__)
    def plaingcn(
        cls,
        depth: int = 28,
        *,
        dilation: Any = Plain.official["dilation"],
        stochastic: bool = Plain.official["stochastic"],
        **settings,
    ) -> "DeepGCN":
        """Build PlainGCN, which has no connections and no dilation (:class:`~.connection.Plain`)."""
        return cls(connection=Plain.name, depth=depth, dilation=dilation, stochastic=stochastic, **settings)

    @classmethod
    @_shows_settings_of(__init__)
    def resgcn(cls, depth: int = 28, **settings) -> "DeepGCN":
        """Build ResGCN; at depth 28 it is the paper's reference model."""
        return cls(connection=Residual.name, depth=depth, **settings)

    @classmethod
    @_shows_settings_of(__init__)
    def densegcn(cls, depth: int = 28, **settings) -> "DeepGCN":
        """Build DenseGCN; ``channels`` is the growth rate."""
        return cls(connection=Dense.name, depth=depth, **settings)

    @classmethod
    @_shows_settings_of(__init__)
    def resgcnplus(cls, depth: int = 28, **settings) -> "DeepGCN":
        """Build ResGCN+ (DeeperGCN), which has norm and activation before each convolution."""
        return cls(connection=PreActivatedResidual.name, depth=depth, **settings)

    @classmethod
    @_shows_settings_of(__init__)
    def revgcn(cls, depth: int = 112, **settings) -> "DeepGCN":
        """Build RevGCN (RevGNN), whose grouped blocks are reversible."""
        return cls(connection=Reversible.name, depth=depth, **settings)

    @property
    def min_points(self) -> int:
        """The fewest points that a block may have; with fewer, a point would lack neighbours."""
        return self.backbone.graph.min_points

    def forward(self, points: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return class scores of every point.

        Args:
            points: (B, N, in_channels) floating point.
            mask: (B, N) bool, False where a point is absent, for blocks of unequal size in one batch.

        Returns:
            (B, N, num_classes) logits; zero at absent points.

        Raises:
            ValueError: the points have another shape, are too few, have NaN or infinite values, or another type than
                the weights without autocast. ``torch.compile`` leaves out the examination of values.
            RuntimeError: it is called by ``torch.jit.trace``, or inside a transform of ``torch.func``.
        """
        points = self._checked(points, mask)
        if fast_inference.applies(self):
            return fast_inference.infer(self, points, mask)
        features = self.backbone.concatenate(self.backbone(points, mask))
        fused = self.fusion(features, mask)
        return hide_absent(self.head(features, fused, mask), mask, 0)

    def features(self, points: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Return the output (B, N, width) of each layer that the fusion block sees, for inspection.

        They may be modified: each is a tensor of its own, while in the forward pass the layers of a dense backbone
        share one.
        """
        return [layer.clone() for layer in self.backbone(self._checked(points, mask), mask)]

    def _checked(self, points: Tensor, mask: Tensor | None) -> Tensor:
        """Return the points, zero where absent, or raise the errors of :meth:`forward`."""
        if torch.jit.is_tracing():
            raise RuntimeError(
                "torch.jit.trace cannot follow the search for neighbours: use torch.export.export(model, (points,))"
            )
        require_no_transform()
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
        weights = next(self.parameters(), points).dtype
        autocast = points.is_floating_point() and torch.is_autocast_enabled(points.device.type)
        if points.dtype != weights and not autocast:
            raise ValueError(f"points are {points.dtype}, but the weights {weights}: give points.to({weights})")
        fewest = points.shape[1] if mask is None else int(mask.sum(1).min())
        if fewest < self.min_points:
            raise ValueError(
                f"a block has {fewest} points, but k x dilation needs {self.min_points}: "
                "use more points, a smaller k or a smaller dilation"
            )
        # If the sum is finite, so are all its terms. Only otherwise is each point examined.
        if not math.isfinite(points.detach().sum()):
            bad = int((~torch.isfinite(points)).any(-1).sum())
            if bad:
                raise ValueError(f"{bad} points have NaN or infinite values")
        return points
