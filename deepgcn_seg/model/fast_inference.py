"""Inference with little memory and time; the logits are those of :meth:`.DeepGCN.forward`.

- Some blocks of points at a time go through the network, so that only their features are in memory. On a CPU each
  thread takes blocks of its own through all layers, so that threads do not wait for one another at every operation.
- Each layer's features are copied into the concatenated tensor as soon as they are computed, so that only one layer is
  held twice. A dense backbone needs no such copy: its layers share one tensor (:mod:`.append_in_place`).
- The fusion block and the prediction head, whose layers are several times wider than the backbone's, take some hundred
  points at a time, so that their features never exist for a whole block of points. This is possible only in layers
  that compute a point's result from that point alone, and so not with instance norm.

:meth:`.DeepGCN.forward` calls :func:`infer` if nothing but the logits is needed (:func:`applies`). What a layer must be
for that, it says itself: :attr:`.Pointwise.sliceable` and :attr:`.Pointwise.unchanged`, which convolutions ask too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops import map_on_threads
from .backbone import Backbone
from .fusion import FusionBlock
from .gcn_block import Block
from .head import PredictionHead
from .layers import Pointwise, hide_absent, separates_blocks, uses_batch_statistics
from .message_passing import MessagePassing
from .own_layers import is_exactly, is_hooked, is_linear, is_unchanged


@dataclass(frozen=True)
class Sizes:
    """The number of points that inference processes at a time.

    Attributes:
        together: number of points in the whole network. slice: number of points in the wide layers of fusion block and
            head.
    """

    together: int
    slice: int


# On a CPU the sizes are those of little memory, because they hardly change the time: two blocks of 4096 points through
# ResGCN-28 took 1.55 s of one core, 1.57 s if both went together, and 1.62, 1.56 and 1.60 s in slices of 128, 2048 and
# 4096 points. The features of all layers of 4096 points have 29 MB, and 1024 channels of 512 points have 2 MB.
# On an H100, 65,536 points at a time are a tenth faster than 32,768, and take 678 MB instead of 426; 16,384 take 306 MB
# and 1.7 times as long (docs/performance.md). Other slices have not been measured there.
CPU, GPU = Sizes(4096, 512), Sizes(32768, 16384)


def applies(model: Any) -> bool:
    """Return whether a call of the model needs nothing but its logits.

    This is so if no gradient is needed, the model is not being compiled, no part is in training mode and every batch
    norm has running statistics. A hook must see the features of the whole batch, and so must what is a user's own: a
    backbone, fusion block or head, a layer or linear map in the last two, and a norm or activation. The answer is then
    False. A graph convolution of a user's own, and a layer or linear map in one, gets whole blocks of points, and must
    not let one block influence another.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    parts = (model.backbone, Backbone), (model.fusion, FusionBlock), (model.head, PredictionHead)
    if not all(is_exactly(*part) for part in parts):
        return False
    layers = (model.fusion.layer, model.head.first, *model.head.rest)
    if not all(map(is_unchanged, layers)) or not is_linear(model.head.classifier):
        return False
    others = list(model.modules())[1:]
    pairs = [(part.norm, part.act) for part in others if isinstance(part, (Pointwise, Block, MessagePassing))]
    if not all(separates_blocks(*pair) for pair in [*pairs, (model.backbone.last_norm, model.backbone.last_act)]):
        return False
    return not any(part.training or is_hooked(part) or uses_batch_statistics(part) for part in others)


def infer(model: nn.Module, points: Tensor, mask: Tensor | None, sizes: Sizes | None = None) -> Tensor:
    """Return the logits of a batch of blocks, as :meth:`.DeepGCN.forward`.

    Args:
        points: (B, N, in_channels). mask: (B, N) or None. sizes: None for those of the device.
    """
    sizes = sizes or (GPU if points.is_cuda else CPU)
    together = max(sizes.together // points.shape[1], 1)
    masks = [None] * len(points) if mask is None else mask.split(together)
    parts = [(model, *part, sizes.slice) for part in zip(points.split(together), masks)]
    if len(parts) == 1:
        return _logits(*parts[0])
    if points.is_cuda:
        return torch.cat([_logits(*part) for part in parts])
    return torch.cat(map_on_threads(_logits, parts))


def _logits(model: Any, points: Tensor, mask: Tensor | None, size: int) -> Tensor:
    """Return the logits of some blocks: backbone, fusion block and head as in :meth:`.DeepGCN.forward`."""
    large = points.shape[0] * points.shape[1] > size
    features = _concatenate(model.backbone, points, mask, large)
    if large and model.fusion.layer.sliceable:
        fused = _fuse(model.fusion, features, mask, size)
    else:
        fused = model.fusion(features, mask)
    if large and all(layer.sliceable for layer in (model.head.first, *model.head.rest)):
        logits = _predict(model.head, features, fused, mask, size)
    else:
        logits = model.head(features, fused, mask)
    return hide_absent(logits, mask, 0)


def _concatenate(backbone: Any, points: Tensor, mask: Tensor | None, large: bool) -> Tensor:
    """Return the features of all layers, each copied into its place as soon as it is computed."""
    if not large or backbone.connection.last_has_all or len(backbone.layer_widths()) == 1:
        return backbone.concatenate(backbone(points, mask))
    features, start = points.new_empty(0), 0
    for x in backbone.layers(points, mask):
        if not start:
            features = x.new_empty(*x.shape[:2], sum(backbone.layer_widths()))
        stop = start + x.shape[-1]
        features[..., start:stop] = x
        start = stop
    return features


def _fuse(fusion: FusionBlock, features: Tensor, mask: Tensor | None, size: int) -> Tensor:
    """Return the global vector, computed from some points at a time.

    If norm and activation are monotone, they are applied only to the maximum.
    """
    layer = fusion.layer
    weight, bias = layer.weights(features)[1], layer.linear.bias
    sign = layer.monotone_sign()
    fused = torch.empty(0)
    for blocks, points in _slices(features, size):
        product = F.linear(features[blocks, points], weight, bias)
        # Where the norm's scale is negative, the smallest product gives the maximum. So the sign is changed there.
        product = layer.finish(product) if sign is None else product.mul_(sign)
        product = hide_absent(product, None if mask is None else mask[blocks, points], -torch.inf)
        if not len(fused):
            fused = product.new_full((len(features), product.shape[-1]), -torch.inf)
        fused[blocks] = torch.maximum(fused[blocks], product.amax(1))
    if sign is None:
        return fused
    return layer.finish((sign * fused)[:, None])[:, 0]


def _predict(head: PredictionHead, features: Tensor, fused: Tensor, mask: Tensor | None, size: int) -> Tensor:
    """Return the logits, computed for some points at a time; the product with the global vector is computed once."""
    front, weight = head.first.weights(features)
    shared = F.linear(fused, front, head.first.linear.bias)
    logits = torch.empty(0)
    for blocks, points in _slices(features, size):
        part, present = features[blocks, points], None if mask is None else mask[blocks, points]
        if len(part) == 1:
            product = F.linear(part, weight, shared[blocks][0])
        else:
            product = F.linear(part, weight) + shared[blocks, None]
        scores = head.classify(head.first.finish(product, present), present)
        if not len(logits):
            logits = scores.new_empty(*features.shape[:2], scores.shape[-1])
        logits[blocks, points] = scores
    return logits


def _slices(x: Tensor, size: int) -> Iterator[tuple[slice, slice]]:
    """Yield blocks and points of x (B, N, C), in contiguous pieces of at most ``size`` points."""
    batch, count = x.shape[:2]
    together = max(size // count, 1)
    for block in range(0, batch, together):
        for point in range(0, count, size):
            yield slice(block, block + together), slice(point, point + size)
