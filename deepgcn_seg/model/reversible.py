"""Reversible connections (RevGNN, 2106.07476, section 3.1): activations are recomputed, not kept.

The channels are split into groups x_1 .. x_G. With y_0 = x_2 + ... + x_G, a block computes
y_i = f_i(y_{i-1}) + x_i, which can be undone from the outputs: x_i = y_i - f_i(y_{i-1}).

Undoing amplifies rounding, layer by layer. So reversible blocks run in float32 even under autocast (from bfloat16
outputs the inputs cannot be recovered, and the gradients would be those of another network), and the input of every
eighth block is kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..ops import Differentiable
from .neighborhood import Neighborhood
from .own_layers import is_exactly
from .recompute import Recorded

# The input of every eighth block is kept. Gradients of 112 layers then agree with autograd's to 3e-6. Without any, they
# were off by up to a third in networks of few channels.
KEPT_EVERY = 8


class ReversibleBlock(nn.Module):
    """y_i = x_i + f_i(y_{i-1}) for G groups of channels, f being norm, activation, dropout and convolution.

    Args:
        branches: one pre-activated :class:`.Block` for each group, of C / G channels. Their own dropout is unused:
            one mask over all C channels is drawn per forward pass and shared by all blocks, and each branch takes the
            channels of its group.

    Shape: x (B, N, C) -> (B, N, C).
    """

    def __init__(self, branches: Sequence[nn.Module]):
        super().__init__()
        if len(branches) < 2:
            raise ValueError(f"a reversible block needs at least 2 groups, got {len(branches)}")
        self.branches = nn.ModuleList(branches)

    def _residual(self, branch: Any, x: Tensor, neighborhood: Neighborhood, drop: Tensor | None) -> Tensor:
        h = branch.activate(x, neighborhood.mask)
        h = h if drop is None else h * drop
        return branch.convolved(branch.conv(h, *neighborhood.arguments(branch.conv)), h)

    def _drops(self, drop: Tensor | None) -> Sequence[Tensor | None]:
        """Return each branch's part of the dropout mask."""
        return [None] * len(self.branches) if drop is None else drop.chunk(len(self.branches), -1)

    def forward(self, x: Tensor, neighborhood: Neighborhood, drop: Tensor | None = None) -> Tensor:
        """Return y (B, N, C); ``drop`` is a scaled dropout mask (B, N, C) or None."""
        groups = x.chunk(len(self.branches), -1)
        y = sum(groups[1:-1], groups[-1])
        outputs = []
        for branch, group, part in zip(self.branches, groups, self._drops(drop)):
            y = group + self._residual(branch, y, neighborhood, part)
            outputs.append(y)
        return torch.cat(outputs, -1)

    def inverse(self, y: Tensor, neighborhood: Neighborhood, drop: Tensor | None = None) -> Tensor:
        """Return the x that gave y, up to rounding."""
        outputs, parts = y.chunk(len(self.branches), -1), self._drops(drop)
        groups = list(outputs)
        for i in reversed(range(1, len(outputs))):
            groups[i] = outputs[i] - self._residual(self.branches[i], outputs[i - 1], neighborhood, parts[i])
        start = sum(groups[1:-1], groups[-1])
        groups[0] = outputs[0] - self._residual(self.branches[0], start, neighborhood, parts[0])
        return torch.cat(groups, -1)


class _Reverse(Differentiable):
    """The pass through all blocks, which keeps graphs, the last output and some inputs; backward inverts each block."""

    @staticmethod
    def forward(ctx, blocks, around, drop, x, *parameters):
        ctx.blocks, ctx.drop, ctx.graphs, ctx.inputs, ctx.recorded = blocks, drop, [], {}, []
        smallest = torch.int16 if x.shape[1] <= torch.iinfo(torch.int16).max else torch.int32
        for i, block in enumerate(blocks):
            # The inverse undoes a block, but not what a hook or a derived class does to its output.
            if i % KEPT_EVERY == 0 or not is_exactly(block, ReversibleBlock):
                ctx.inputs[i] = x
            neighborhood = around(i, x)
            _require_constant_positions(block, neighborhood)
            # The graph is kept and not recomputed, because rounding in the inverse could swap nearly equal distances.
            ctx.graphs.append(replace(neighborhood, index=neighborhood.index.to(smallest)))
            # The backward pass runs with the parameters, buffers and modes of this one, or is refused. Blocks may share
            # parts, so that each is recorded just before it runs.
            ctx.recorded.append(Recorded(block))
            before = _random_states(x.device)
            x = block(x, neighborhood, drop)
            if any(not torch.equal(*states) for states in zip(before, _random_states(x.device))):
                raise ValueError(
                    "a convolution of a reversible block draws random numbers, which its inverse would draw anew: "
                    "set its own dropout to 0 (block_dropout is shared by all blocks)"
                )
        ctx.save_for_backward(x)
        ctx.parameters = parameters
        return x

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        grads: dict[Tensor, Tensor] = {}
        with torch.autocast(y.device.type, enabled=False):
            for i in reversed(range(len(ctx.blocks))):
                block, kept = ctx.blocks[i], ctx.graphs[i]
                neighborhood = replace(kept, index=kept.index.long())
                with ctx.recorded[i] as recorded:
                    if i in ctx.inputs:
                        x = ctx.inputs[i].detach()
                    else:
                        with torch.no_grad():
                            x = block.inverse(y, neighborhood, ctx.drop)
                        recorded.begin()
                    with torch.enable_grad():
                        x.requires_grad_()
                        out = block(x, neighborhood, ctx.drop)
                        leaves = recorded.leaves.values()
                        _require_known(out, [x, *leaves])
                        grad, *own_grads = torch.autograd.grad(out, [x, *leaves], grad, allow_unused=True)
                # Blocks may share parameters.
                for parameter, own in zip(recorded.leaves, own_grads):
                    if own is not None:
                        grads[parameter] = grads[parameter] + own if parameter in grads else own
                y = x
        return None, None, None, grad, *(grads.get(p) for p in ctx.parameters)


def _require_known(out: Tensor, known: Sequence[Tensor]) -> None:
    """Refuse to drop the gradient of a tensor that a block computes with, and that is none of those known.

    Autograd is asked for the gradients of parameters that the block has before it is called. Where sharding or a hook
    puts others in their place during the call, or where a convolution reads a parameter of another module, autograd
    would silently leave these without a gradient.
    """
    seen: set[Any] = set()
    waiting: list[Any] = [out.grad_fn]
    known_ids = {id(tensor) for tensor in known}
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
        leaf = node.variable if node.name() == "torch::autograd::AccumulateGrad" else None
        if leaf is not None and id(leaf) not in known_ids:
            raise RuntimeError(
                f"a reversible block computes with a tensor {tuple(leaf.shape)} that is no parameter of its own, which "
                "would get no gradient: parameters of other modules cannot be used in it, and of the parts of a "
                "reversible network none can be sharded by itself; fully_shard(model) can shard the whole"
            )


def _require_constant_positions(block: nn.Module, neighborhood: Neighborhood) -> None:
    """Refuse a gradient of positions that convolutions read: the backward pass has one for features alone."""
    geometry = neighborhood.geometry
    reading = any(getattr(part, "reads_geometry", False) for part in block.modules())
    if reading and geometry is not None and geometry.positions.requires_grad:
        raise ValueError("reversible blocks give no gradient of the positions that their convolutions read")


def _random_states(device: torch.device) -> list[Tensor]:
    """Return the states of the random number generators that a convolution draws from; none while compiling."""
    if torch.compiler.is_compiling():
        return []
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


class ReversibleSequence(nn.ModuleList):
    """Reversible blocks in a row.

    Each needs memory for its graph in training (2 or 4 bytes an edge), and one block in eight for its input.
    """

    def forward(
        self,
        x: Tensor,
        around: Callable[[int, Tensor], Neighborhood],
        dropout: float = 0.0,
    ) -> Tensor:
        """Run all blocks.

        Args:
            x: (B, N, C). around: called as ``around(i, x)`` for the neighbours of block i's points.
            dropout: probability; one mask is drawn for all blocks.

        Raises:
            ValueError: features of less than float32 in training, without autocast.
            RuntimeError: gradients are wanted of a replica of ``torch.nn.DataParallel``.
        """
        device = x.device.type
        if torch.is_autocast_enabled(device):
            x = x.to(torch.promote_types(x.dtype, torch.float32))
        elif self.training and x.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"reversible blocks cannot recover their inputs from outputs in {x.dtype}: "
                "keep the weights in float32 and use autocast"
            )
        drop = torch.nn.functional.dropout(torch.ones_like(x), dropout) if self.training and dropout > 0 else None
        parameters = [p for p in self.parameters() if p.requires_grad]
        with torch.autocast(device, enabled=False):
            if not torch.is_grad_enabled():
                for i, block in enumerate(self):
                    x = block(x, around(i, x), drop)
                return x
            if getattr(self, "_is_replica", False):
                raise RuntimeError(
                    "reversible blocks cannot be trained with torch.nn.DataParallel, whose replicas have no parameters "
                    "of their own: use torch.nn.parallel.DistributedDataParallel"
                )
            if torch.compiler.is_compiling():
                # A compiled backward pass would keep all activations, so these blocks are not compiled.
                torch._dynamo.graph_break()
            return _Reverse.of(list(self), around, drop, x, *parameters)
