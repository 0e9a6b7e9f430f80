"""Edge aggregation on a GPU (Triton): largest neighbours and moments over edges, and their gradients.

No tensor of all edges exists. A program owns a tile of 16 points by 64 channels::

    for each neighbour n of k:
        j = index[point, n]                          of each point of the tile
        edge = center[point] + neighbor[j]           16 x 64 values in registers
        keep the largest, or add phi(edge) and its square, or add the gradient to grad_neighbor[j]
    write the tile's result

Sums over edges are written for each tile and added in float64 outside, so that forward passes do not depend on the
order in which programs run. Gradients that several edges send to one point are added atomically, in any order; under
``torch.use_deterministic_algorithms`` PyTorch's formulation runs instead.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import reference
from .launch import FUSED, power_of_two

# Size of a tile. Its values take 8 registers in each of 128 threads, and a row of 64 float32 is two cache lines.
POINTS = 16
CHANNELS = 64
# The most programs in any dimension of a grid but the first.
MOST_TILES = 65535


@triton.jit
def _tile(
    mask, count, channels, MASKED: tl.constexpr, BLOCKS: tl.constexpr, POINTS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Return this program's block, rows and channels; which rows and channels exist, and which rows are present."""
    block = tl.program_id(BLOCKS).to(tl.int64)
    point = tl.program_id(1 - BLOCKS) * POINTS + tl.arange(0, POINTS)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    row = block * count + point
    inside = point < count
    present = inside
    if MASKED:
        present = inside & (tl.load(mask + row, mask=inside, other=0) != 0)
    return block, row, channel, inside, channel < channels, present


@triton.jit
def _extremum(
    x, index, mask, sign, extreme, place, count, channels,
    K: tl.constexpr, MASKED: tl.constexpr, SUM: tl.constexpr,
    BLOCKS: tl.constexpr, POINTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Write the largest neighbour of each point (``sign`` +1) or the smallest (-1), and its place 0..k-1."""
    block, row, channel, inside, wide, present = _tile(mask, count, channels, MASKED, BLOCKS, POINTS, CHANNELS)
    element = row[:, None] * channels + channel[None, :]
    written = inside[:, None] & wide[None, :]
    signs = tl.load(sign + channel, mask=wide, other=1).to(SUM)
    # The largest value so far of each channel, and which neighbour it comes from, stay in registers.
    best = tl.zeros((POINTS, CHANNELS), SUM)
    which = tl.zeros((POINTS, CHANNELS), tl.int32)
    for n in range(K):
        j = block * count + tl.load(index + row * K + n, mask=present, other=0)
        here = present[:, None] & wide[None, :]
        # The smallest value is found as the largest of the negated ones.
        value = tl.load(x + j[:, None] * channels + channel[None, :], mask=here, other=0).to(SUM) * signs[None, :]
        # Of equal values the first stays, as in PyTorch's formulation on a CPU.
        better = (value > best) | (n == 0)
        best = tl.where(better & here, value, best)
        which = tl.where(better & here, n, which)
    tl.store(extreme + element, (best * signs[None, :]).to(extreme.dtype.element_ty), mask=written)
    tl.store(place + element, which.to(tl.int16), mask=written)


@triton.jit
def _extremum_backward(
    grad, index, mask, place, out, count, channels,
    K: tl.constexpr, MASKED: tl.constexpr, SUM: tl.constexpr,
    BLOCKS: tl.constexpr, POINTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Add each point's gradient to the neighbour that gave its extreme."""
    block, row, channel, _inside, wide, present = _tile(mask, count, channels, MASKED, BLOCKS, POINTS, CHANNELS)
    element = row[:, None] * channels + channel[None, :]
    here = present[:, None] & wide[None, :]
    which = tl.load(place + element, mask=here, other=0).to(tl.int64)
    j = block * count + tl.load(index + row[:, None] * K + which, mask=here, other=0)
    value = tl.load(grad + element, mask=here, other=0).to(SUM)
    # Atomic, because other points may have the same neighbour.
    tl.atomic_add(out + j * channels + channel[None, :], value, mask=here)


@triton.jit
def _moments(
    center, neighbor, index, mask, slope, shift, sums, squares, count, channels,
    K: tl.constexpr, MASKED: tl.constexpr, SUM: tl.constexpr,
    BLOCKS: tl.constexpr, POINTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Write the tile's sums of phi(e) - shift and of its square over the edges of its points."""
    block, row, channel, _inside, wide, present = _tile(mask, count, channels, MASKED, BLOCKS, POINTS, CHANNELS)
    here = present[:, None] & wide[None, :]
    slopes = tl.load(slope + channel, mask=wide, other=1).to(SUM)
    shifts = tl.load(shift + block * channels + channel, mask=wide, other=0).to(SUM)
    own = tl.load(center + row[:, None] * channels + channel[None, :], mask=here, other=0).to(SUM)
    total = tl.zeros((POINTS, CHANNELS), SUM)
    square = tl.zeros((POINTS, CHANNELS), SUM)
    for n in range(K):
        j = block * count + tl.load(index + row * K + n, mask=present, other=0)
        edge = own + tl.load(neighbor + j[:, None] * channels + channel[None, :], mask=here, other=0).to(SUM)
        phi = tl.where(edge > 0, edge, slopes[None, :] * edge) - shifts[None, :]
        # What was computed for absent points, and for channels beyond the last, is not summed up.
        phi = tl.where(here, phi, 0)
        total += phi
        square += phi * phi
    # One sum for each tile, added up outside: atomic additions would depend on the order of programs.
    out = (block * tl.num_programs(1 - BLOCKS) + tl.program_id(1 - BLOCKS)) * channels + channel
    tl.store(sums + out, tl.sum(total, 0), mask=wide)
    tl.store(squares + out, tl.sum(square, 0), mask=wide)


@triton.jit
def _moments_backward(
    center, neighbor, index, mask, slope, offset, factor, grad_center, grad_neighbor, grad_slope, count, channels,
    K: tl.constexpr, MASKED: tl.constexpr, SUM: tl.constexpr,
    BLOCKS: tl.constexpr, POINTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Write the gradients of center, neighbor and slope; offset + factor * phi(e) is that of phi(e)."""
    block, row, channel, inside, wide, present = _tile(mask, count, channels, MASKED, BLOCKS, POINTS, CHANNELS)
    element = row[:, None] * channels + channel[None, :]
    here = present[:, None] & wide[None, :]
    slopes = tl.load(slope + channel, mask=wide, other=1).to(SUM)[None, :]
    offsets = tl.load(offset + block * channels + channel, mask=wide, other=0).to(SUM)[None, :]
    factors = tl.load(factor + block * channels + channel, mask=wide, other=0).to(SUM)[None, :]
    own = tl.load(center + element, mask=here, other=0).to(SUM)
    # A point's own gradient is summed up over its edges in registers, and written once.
    own_grad = tl.zeros((POINTS, CHANNELS), SUM)
    slope_grad = tl.zeros((POINTS, CHANNELS), SUM)
    for n in range(K):
        j = (block * count + tl.load(index + row * K + n, mask=present, other=0))[:, None] * channels
        edge = own + tl.load(neighbor + j + channel[None, :], mask=here, other=0).to(SUM)
        # phi(e) = steepness * e and phi'(e) = steepness. The edge is made again here: no tensor of edges was kept.
        steepness = tl.where(edge > 0, 1, slopes)
        grad = tl.where(here, offsets + factors * (steepness * edge), 0)
        slope_grad += tl.where(edge > 0, 0, grad * edge)
        grad *= steepness
        own_grad += grad
        tl.atomic_add(grad_neighbor + j + channel[None, :], grad, mask=here)
    tl.store(grad_center + element, own_grad.to(grad_center.dtype.element_ty), mask=inside[:, None] & wide[None, :])
    out = (block * tl.num_programs(1 - BLOCKS) + tl.program_id(1 - BLOCKS)) * channels + channel
    tl.store(grad_slope + out, tl.sum(slope_grad, 0), mask=wide)


def neighbor_extremum(x: Tensor, index: Tensor, mask: Tensor | None, sign: Tensor) -> tuple[Tensor, Tensor]:
    """Return what :func:`deepgcn_seg.ops.reference.neighbor_extremum` does."""
    x = x.contiguous()
    extreme = torch.empty_like(x)
    place = torch.empty(x.shape, dtype=torch.int16, device=x.device)
    _launch(_extremum, x, index, x, index.contiguous(), mask, sign.contiguous(), extreme, place)
    return extreme, place


def neighbor_extremum_backward(grad: Tensor, index: Tensor, mask: Tensor | None, place: Tensor) -> Tensor:
    """Return the gradient (B, N, C) of the features."""
    grad = grad.contiguous()
    # Half precision would lose what many edges add to one point, so sums are in float32 and rounded at the end.
    out = torch.zeros_like(grad, dtype=_sum_dtype(grad))
    _launch(_extremum_backward, grad, index, grad, index.contiguous(), mask, place, out)
    return out.to(grad.dtype)


def edge_moments(
    center: Tensor, neighbor: Tensor, index: Tensor, slope: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return what :func:`deepgcn_seg.ops.reference.edge_moments` does."""
    center, neighbor, wide = center.contiguous(), neighbor.contiguous(), _sum_dtype(center)
    shift = reference.typical_activation(center.to(wide), neighbor.to(wide), slope, mask)
    batch, count, channels = center.shape
    sums = torch.empty(batch, -(-count // POINTS), channels, dtype=wide, device=center.device)
    squares = torch.empty_like(sums)
    arguments = center, neighbor, index.contiguous(), mask, slope.contiguous(), shift, sums, squares
    _launch(_moments, center, index, *arguments)
    return reference.moments_of_sums(sums, squares, shift, index, mask)


def edge_moments_backward(
    center: Tensor, neighbor: Tensor, index: Tensor, slope: Tensor, mask: Tensor | None, offset: Tensor, factor: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of center, neighbor and slope, given those of phi: offset + factor * phi, (B, C) each."""
    center, neighbor, wide = center.contiguous(), neighbor.contiguous(), _sum_dtype(center)
    batch, count, channels = center.shape
    grad_center = torch.empty_like(center)
    grad_neighbor = torch.zeros_like(neighbor, dtype=wide)
    grad_slope = torch.empty(batch, -(-count // POINTS), channels, dtype=wide, device=center.device)
    arguments = center, neighbor, index.contiguous(), mask, slope.contiguous(), offset.contiguous()
    _launch(_moments_backward, center, index, *arguments, factor.contiguous(), grad_center, grad_neighbor, grad_slope)
    return grad_center, grad_neighbor.to(neighbor.dtype), grad_slope.sum((0, 1)).to(slope.dtype)


def _sum_dtype(x: Tensor) -> torch.dtype:
    """Return the type that sums have: float32, or float64 for float64."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _launch(kernel, x: Tensor, index: Tensor, *arguments: Tensor | None) -> None:
    """Run a kernel over tiles of ``x`` (B, N, C); None stands for an absent mask."""
    batch, count, channels = x.shape
    # Sizes of tiles must be powers of two.
    width = min(CHANNELS, power_of_two(channels))
    masked = not any(argument is None for argument in arguments)
    # An absent mask is never read: any pointer will do.
    given = [x if argument is None else argument for argument in arguments]
    # Triton has no pointers to truth values.
    given = [a.contiguous().view(torch.uint8) if a.dtype == torch.bool else a for a in given]
    # The dimension of the grid that counts blocks; the other one of the first two counts tiles of a block's points.
    tiles = -(-count // POINTS)
    blocks = int(tiles > MOST_TILES)
    kernel[(tiles, batch, -(-channels // width)) if blocks else (batch, tiles, -(-channels // width))](
        *given,
        count,
        channels,
        K=index.shape[2],
        MASKED=masked,
        SUM=tl.float64 if x.dtype == torch.float64 else tl.float32,
        BLOCKS=blocks,
        POINTS=POINTS,
        CHANNELS=width,
        num_warps=4,
        **FUSED,
    )
