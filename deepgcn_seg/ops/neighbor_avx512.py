"""The whole neighbour search of a CPU with AVX-512, in float32: distances are compared while still in registers.

Sixteen rows by sixteen columns of distances are one vector register for each row. As soon as they are summed up, those
at most a threshold are packed and appended to the row's candidates; no distance is ever stored for being looked at
later. Compared are ``|y|^2 / 2 - x.y``, half the squared distance less what a whole row shares.

The threshold of a row comes from its distances to the first :data:`SAMPLE` columns, and columns stand in an order
that makes these every n-th point.
"""

import threading
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from llvmlite import binding as llvm
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from .candidates import SAMPLE, remove, select, threshold_of, workspace
from .simd import LANES, splatted, vector_at
from .threads import run_each

# Groups of sixteen rows that meet each group of columns: as many as the innermost cache holds, 64 channels wide.
ROW_GROUPS = 2
# Pieces of work for each thread: more cost more, fewer leave the last thread alone for longer.
PIECES = 4
LARGEST = np.finfo(np.float32).max

_i64 = ir.IntType(64)
_floats = ir.VectorType(ir.FloatType(), LANES)


@lru_cache(maxsize=1)
def _available() -> bool:
    """Whether there is AVX-512 and an LLVM that can pack a vector."""
    return llvm.llvm_version_info[0] >= 19 and bool(llvm.get_host_cpu_features().get("avx512f"))


def suits(points: Tensor) -> bool:
    """Whether this search can run on this machine, for points of that type: float32."""
    return points.dtype == torch.float32 and _available()


def search(points: Tensor, present: Tensor, ranks: Tensor, loop: bool, out: Tensor) -> None:
    """Write the points at the given ranks of distance to each point.

    Args:
        points: (N, C) float32, centred. present: (N,) bool, False where a point may not be chosen.
        ranks: (m,) ascending, each below the number of points that may be chosen.
        loop: whether a point may be chosen for itself. out: (N, m) int64, written.
    """
    count, channels = points.shape
    groups = -(-count // LANES)
    packed = np.empty((groups, channels, LANES), np.float32)
    half_norms, index = np.empty(groups * LANES, np.float32), np.empty(groups * LANES, np.uint32)
    _pack(points.numpy(), present.numpy(), packed, half_norms, index)
    settings = (packed, half_norms, index, ranks.numpy(), loop, out.numpy())
    piece = -(-groups // (PIECES * torch.get_num_threads()))
    buffers = threading.local()

    def work(first: int) -> None:
        if not hasattr(buffers, "lists"):
            rows, longest = ROW_GROUPS * LANES, (groups + 1) * LANES
            buffers.lists = np.empty((rows, longest), np.float32), np.empty((rows, longest), np.uint32)
            buffers.workspace = workspace(longest, np.float32)
        scratch: tuple[Any, ...] = (*buffers.lists, buffers.workspace)
        _search(*(first, min(first + piece, groups)), *settings, *scratch)

    run_each(work, range(0, groups, piece))


@njit(nogil=True, cache=True)
def _pack(points, present, packed, half_norms, index):
    """Points in groups of sixteen, channel by channel, in an order whose first :data:`SAMPLE` are spread over all."""
    count, channels = points.shape
    stride = max(count // SAMPLE, 1)
    point = 0
    for place in range(len(index)):
        group, lane = place // LANES, place % LANES
        if place >= count:
            # Filling, infinitely far.
            packed[group, :, lane] = 0
            half_norms[place] = np.inf
            index[place] = 0
            continue
        square = np.float32(0)
        for channel in range(channels):
            value = points[point, channel]
            packed[group, channel, lane] = value
            square += value * value
        half_norms[place] = square / 2 if present[point] else np.inf
        index[place] = point
        point += stride
        if point >= count:
            point = point % stride + 1


@njit(nogil=True, cache=True)
def _search(start, stop, packed, half_norms, index, ranks, loop, out, keys, places, space):
    """``out[i]`` for the points ``i`` in groups ``start <= g < stop`` of sixteen.

    Args:
        packed: (G, C, 16) points; half_norms, index: (G * 16,) of each, and which point it is.
        keys, places: (ROW_GROUPS * 16, (G + 1) * 16) scratch, and that of :mod:`.candidates`.
    """
    groups = packed.shape[0]
    count = len(out)
    sampled = SAMPLE // LANES if count >= 4 * SAMPLE else 0
    wanted = ranks[-1] + (1 if loop else 2)
    thresholds = np.empty(keys.shape[0], np.float32)
    kept = np.empty(keys.shape[0], np.int64)
    for first in range(start, stop, ROW_GROUPS):
        last = min(first + ROW_GROUPS, stop)
        rows = min(last * LANES, count) - first * LANES
        kept[:] = 0
        thresholds[:] = LARGEST
        if sampled:
            _sweep(first, last, 0, sampled, packed, half_norms, index, thresholds, kept, keys, places)
            for r in range(rows):
                thresholds[r] = min(threshold_of(keys[r, : kept[r]], wanted * SAMPLE / count), LARGEST)
                kept[r] = _keep_again(keys[r], places[r], kept[r], thresholds[r])
        _sweep(first, last, sampled, groups, packed, half_norms, index, thresholds, kept, keys, places)
        for r in range(rows):
            if kept[r] < wanted:
                # The sample misled: every column is a candidate, of the rows that share the registers too.
                group = r // LANES
                again = slice(group * LANES, (group + 1) * LANES)
                kept[again] = 0
                thresholds[again] = LARGEST
                _sweep(
                    first + group, first + group + 1, 0, groups, packed, half_norms, index,
                    thresholds[again], kept[again], keys[again], places[again],
                )  # fmt: skip
            itself = index[first * LANES + r]
            if not loop:
                kept[r] = remove(itself, keys[r], places[r], kept[r])
            select(keys[r], places[r], kept[r], ranks, out[itself], space)


@njit(nogil=True, cache=True)
def _sweep(first, last, start, stop, packed, half_norms, index, thresholds, kept, keys, places):
    """Compare the groups of rows ``first <= g < last`` with the groups of columns ``start <= g < stop``."""
    for column in range(start, stop):
        for row in range(first, last):
            own = slice((row - first) * LANES, (row - first + 1) * LANES)
            _compare(packed, half_norms, index, row, column, thresholds[own], kept[own], keys[own], places[own])


@njit(nogil=True, cache=True)
def _keep_again(keys, places, count, threshold):
    """Of the first ``count``, move those at most ``threshold`` to the front; how many there are."""
    kept = 0
    for j in range(count):
        key = keys[j]
        keys[kept] = key
        places[kept] = places[j]
        kept += key <= threshold
    return kept


@intrinsic
def _compare(typingctx, packed, half_norms, index, row, column, thresholds, kept, keys, places):
    """Append what is near among sixteen columns to the candidates of sixteen rows.

    For i, j in 0..15: where ``half_norms[j] - x_i.y_j <= thresholds[i]``, that number and ``index[j]``
    go to ``keys[i]`` and ``places[i]`` at ``kept[i]``, which counts on. Both must have room for sixteen more than
    there are columns.
    """

    def codegen(context, builder, signature, arguments):
        def array(position):
            return cgutils.create_struct_proxy(signature.args[position])(context, builder, arguments[position])

        def at(data, place):
            return builder.gep(data, [place])

        def read(data, place):
            return builder.load(vector_at(builder, data, place), align=4)

        def function(name, kind, *arguments):
            return cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, arguments), name)

        def compressed(values, mask, name):
            kind = values.type
            pack = function(
                f"llvm.experimental.vector.compress.v{LANES}{name}",
                kind, kind, ir.VectorType(ir.IntType(1), LANES), kind,
            )  # fmt: skip
            return builder.call(pack, [values, mask, ir.Constant(kind, ir.Undefined)])

        packed, half_norms, index = (array(position) for position in range(3))
        thresholds, kept, keys, places = (array(position) for position in range(5, 9))
        row, column = arguments[3:5]
        channels = cgutils.unpack_tuple(builder, packed.shape)[1]
        longest = cgutils.unpack_tuple(builder, keys.shape)[1]
        group = builder.mul(channels, _i64(LANES))
        rows, columns = (at(packed.data, builder.mul(which, group)) for which in (row, column))
        first = builder.mul(column, _i64(LANES))
        norms = read(half_norms.data, first)

        # for c in range(channels): sums[i] -= rows[c, i] * columns[c, :]
        before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.branch(loop)
        builder.position_at_end(loop)
        channel = builder.phi(_i64)
        sums = [builder.phi(_floats) for _ in range(LANES)]
        place = builder.mul(channel, _i64(LANES))
        values = read(columns, place)
        negative = builder.fsub(ir.Constant(_floats, [-0.0] * LANES), values)
        multiply_add = function(f"llvm.fma.v{LANES}f32", _floats, _floats, _floats, _floats)
        scalars = [builder.load(at(rows, builder.add(place, _i64(i)))) for i in range(LANES)]
        added = [builder.call(multiply_add, [splatted(builder, x), negative, total]) for x, total in zip(scalars, sums)]
        following = builder.add(channel, _i64(1))
        builder.cbranch(builder.icmp_signed("<", following, channels), loop, after)
        for phi, initial, next_value in zip([channel, *sums], [_i64(0)] + [norms] * LANES, [following, *added]):
            phi.add_incoming(initial, before)
            phi.add_incoming(next_value, loop)

        builder.position_at_end(after)
        points = read(index.data, first)
        for i, distances in enumerate(added):
            counter = at(kept.data, _i64(i))
            count, threshold = builder.load(counter), builder.load(at(thresholds.data, _i64(i)))
            mask = builder.fcmp_ordered("<=", distances, splatted(builder, threshold))
            end = builder.add(builder.mul(longest, _i64(i)), count)
            builder.store(compressed(distances, mask, "f32"), vector_at(builder, keys.data, end), align=4)
            builder.store(compressed(points, mask, "i32"), vector_at(builder, places.data, end), align=4)
            near = builder.ctpop(builder.bitcast(mask, ir.IntType(LANES)))
            builder.store(builder.add(count, builder.zext(near, _i64)), counter)
        return context.get_dummy_value()

    arrays = packed, half_norms, index, types.intp, types.intp, thresholds, kept, keys, places
    return types.void(*arrays), codegen
