"""Reversible connections (RevGNN, 2106.07476, section 3.1): activations are recomputed, not kept.

The channels fall into groups x_1 .. x_G. With y_0 = x_2 + ... + x_G, a block computes
y_i = f_i(y_{i-1}) + x_i, which can be undone from the outputs: x_i = y_i - f_i(y_{i-1}).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .block import Block, frozen_statistics


class ReversibleBlock(nn.Module):
    """G grouped residual functions, each norm, act, dropout and convolution (res+ without its sum).

    Args:
        branches: G blocks of the res+ connection over C / G channels. Their own dropout is unused:
            the mask is drawn once per forward pass and shared by all blocks.
    """

    def __init__(self, branches: Sequence[Block]):
        super().__init__()
        if len(branches) < 2:
            raise ValueError(f"a reversible block needs at least 2 groups, got {len(branches)}")
        self.branches = nn.ModuleList(branches)

    def _residual(self, branch: Block, x: Tensor, index: Tensor, mask: Tensor | None, drop: Tensor | None):
        h = branch._activate(x, mask)
        return branch.conv(h if drop is None else h * drop, index, mask)

    def forward(self, x: Tensor, index: Tensor, mask: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        """x: (B, N, C), drop: (B, N, C / G) scaled dropout mask or None -> (B, N, C)."""
        groups = x.chunk(len(self.branches), -1)
        y = sum(groups[1:-1], groups[-1])
        outputs = []
        for branch, group in zip(self.branches, groups):
            y = group + self._residual(branch, y, index, mask, drop)
            outputs.append(y)
        return torch.cat(outputs, -1)

    def inverse(self, y: Tensor, index: Tensor, mask: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        """The x that gave y, up to rounding."""
        outputs = y.chunk(len(self.branches), -1)
        groups = list(outputs)
        for i in reversed(range(1, len(outputs))):
            groups[i] = outputs[i] - self._residual(self.branches[i], outputs[i - 1], index, mask, drop)
        start = sum(groups[2:], groups[1])
        groups[0] = outputs[0] - self._residual(self.branches[0], start, index, mask, drop)
        return torch.cat(groups, -1)


class _Reverse(torch.autograd.Function):
    """Run blocks keeping only the last output and the graphs; invert block by block in backward."""

    @staticmethod
    def forward(ctx, blocks, graph, mask, drop, x, *parameters):
        ctx.blocks, ctx.mask, ctx.drop, ctx.graphs = blocks, mask, drop, []
        # Autocast is recorded so that backward computes in the precision of forward.
        device = x.device.type
        ctx.autocast = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device), device
        smallest = torch.int16 if x.shape[1] <= torch.iinfo(torch.int16).max else torch.int32
        for i, block in enumerate(blocks):
            index = graph(i, x)
            # The graph is kept, not recomputed: rounding in the inverse could swap near-ties.
            ctx.graphs.append(index.to(smallest))
            x = block(x, index, mask, drop)
        ctx.save_for_backward(x)
        ctx.parameters = parameters
        return x

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        grads: dict[Tensor, Tensor] = {}
        enabled, dtype, device = ctx.autocast
        with torch.autocast(device, dtype=dtype, enabled=enabled), frozen_statistics(nn.ModuleList(ctx.blocks)):
            for block, index in zip(reversed(ctx.blocks), reversed(ctx.graphs)):
                index = index.long()
                with torch.no_grad():
                    x = block.inverse(y, index, ctx.mask, ctx.drop)
                own = [p for p in block.parameters() if p.requires_grad]
                with torch.enable_grad():
                    x.requires_grad_()
                    out = block(x, index, ctx.mask, ctx.drop)
                    grad, *own_grads = torch.autograd.grad(out, [x, *own], grad, allow_unused=True)
                grads.update(zip(own, own_grads))
                y = x.detach()
        return None, None, None, None, grad, *(grads.get(p) for p in ctx.parameters)


class ReversibleSequence(nn.ModuleList):
    """Reversible blocks in a row. Memory for training grows only by the graphs (2 or 4 bytes an edge)."""

    def forward(
        self,
        x: Tensor,
        graph: Callable[[int, Tensor], Tensor],
        mask: Tensor | None = None,
        dropout: float = 0.0,
    ) -> Tensor:
        """Run all blocks.

        Args:
            x: (B, N, C). graph: called as ``graph(i, x)`` for the neighbours (B, N, k) of block i.
            dropout: probability; one mask is drawn for all blocks.
        """
        drop = None
        if self.training and dropout > 0:
            width = x.shape[-1] // len(self[0].branches)
            drop = torch.nn.functional.dropout(x.new_ones(*x.shape[:2], width), dropout)
        parameters = [p for p in self.parameters() if p.requires_grad]
        return _Reverse.apply(list(self), graph, mask, drop, x, *parameters)
