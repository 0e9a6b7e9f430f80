"""Distances of a group of rows to a group of columns, compared while still in registers: a row is one.

A group is of :data:`.simd.LANES` points: 16 with AVX-512, 8 with AVX2.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .simd import LANES, Vector, numbered_lanes, packed_lanes, splatted, vector_at

_bits, _i32, _i64 = (ir.IntType(bits) for bits in (LANES, 32, 64))
_floats = ir.VectorType(ir.FloatType(), LANES)
_integers = ir.VectorType(_i32, LANES)


class _Code:
    """What the operations below write, in LLVM's language."""

    def __init__(self, context, builder, signature, arguments):
        self.context, self.builder, self.signature, self.arguments = context, builder, signature, arguments

    def array(self, position):
        return cgutils.create_struct_proxy(self.signature.args[position])(
            self.context, self.builder, self.arguments[position]
        )

    def at(self, data, place):
        return self.builder.gep(data, [place])

    def read(self, data, place):
        """As many elements as there are lanes."""
        return self.builder.load(vector_at(self.builder, data, place), align=4)

    def scalar(self, data, place):
        """One element in each lane."""
        return splatted(self.builder, self.builder.load(self.at(data, place)))

    def lane(self, first, i):
        return self.builder.add(first, _i64(i))

    def loop(self, start, stop, step, initial, body):
        """``for i in range(start, stop, step): values = body(i, values)``, at least once."""
        builder = self.builder
        before, inside, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.branch(inside)
        builder.position_at_end(inside)
        i, values = builder.phi(_i64), [builder.phi(value.type) for value in initial]
        results = body(i, values)
        following = builder.add(i, step)
        for phi, first, then in zip([i, *values], [start, *initial], [following, *results]):
            phi.add_incoming(first, before)
            phi.add_incoming(then, builder.block)
        builder.cbranch(builder.icmp_signed("<", following, stop), inside, after)
        builder.position_at_end(after)
        return results

    def multiply_add(self, a, b, c):
        fma = cgutils.get_or_insert_function(
            self.builder.module, ir.FunctionType(_floats, [_floats] * 3), f"llvm.fma.v{LANES}f32"
        )
        return self.builder.call(fma, [a, b, c])

    def less_products(self, tiles, others, row, column, initial):
        """``initial[i][j] - x_i . y_j`` for the points x of a group (row) of tiles and y of one (column) of others."""
        builder = self.builder
        channels = cgutils.unpack_tuple(builder, tiles.shape)[1]
        group = builder.mul(channels, _i64(LANES))
        rows, columns = self.at(tiles.data, builder.mul(row, group)), self.at(others.data, builder.mul(column, group))

        def body(place, sums):
            negative = builder.fsub(ir.Constant(_floats, [-0.0] * LANES), self.read(columns, place))
            return [
                self.multiply_add(self.scalar(rows, self.lane(place, i)), negative, total)
                for i, total in enumerate(sums)
            ]

        return self.loop(_i64(0), group, _i64(LANES), initial, body)


@intrinsic
def append_near(typingctx, tiles, others, half_norms, row, column, thresholds, kept, keys, columns):
    """Append what is near among a group of columns to the candidates of a group of rows.

    For x_i of group ``row`` of tiles and y_j of group ``column`` of others: where
    ``half_norms[j] - x_i.y_j <= thresholds[i]``, that number and the column's go to ``keys[i]`` and ``columns[i]`` at
    ``kept[i]``, which counts on. Both must have room for one group more than there are columns.
    """

    def codegen(context, builder, signature, arguments):
        code = _Code(context, builder, signature, arguments)
        tiles, others, half_norms = (code.array(position) for position in range(3))
        thresholds, kept, keys, columns = (code.array(position) for position in range(5, 9))
        row, column = arguments[3:5]
        longest = cgutils.unpack_tuple(builder, keys.shape)[1]
        first = builder.mul(column, _i64(LANES))
        sums = code.less_products(tiles, others, row, column, [code.read(half_norms.data, first)] * LANES)
        these = numbered_lanes(builder, builder.trunc(first, _i32))
        for i, distances in enumerate(sums):
            counter = code.at(kept.data, _i64(i))
            count = builder.load(counter)
            mask = builder.fcmp_ordered("<=", distances, code.scalar(thresholds.data, _i64(i)))
            end = builder.add(builder.mul(longest, _i64(i)), count)
            for values, target in (distances, keys), (these, columns):
                builder.store(packed_lanes(builder, values, mask), vector_at(builder, target.data, end), align=4)
            near = builder.ctpop(builder.bitcast(mask, _bits))
            builder.store(builder.add(count, builder.zext(near, _i64)), counter)
        return context.get_dummy_value()

    arrays = tiles, others, half_norms, types.intp, types.intp, thresholds, kept, keys, columns
    return types.void(*arrays), codegen


@intrinsic
def mark_near(typingctx, tiles, half_norms, thresholds, row, column, marks, mirrored):
    """Mark who is near whom between a group of rows and one of columns, in both directions.

    Bit j of ``marks[i]``: half the squared distance of x_i and y_j is at most the threshold of x_i.
    Bit i of ``mirrored[j]``: it is at most that of y_j.

    Args:
        thresholds: (N,) like half_norms. marks, mirrored: (LANES,) of :data:`.simd.BITS`, written.
    """

    def codegen(context, builder, signature, arguments):
        code = _Code(context, builder, signature, arguments)
        tiles, half_norms, thresholds = (code.array(position) for position in range(3))
        row, column = arguments[3:5]
        marks, mirrored = (code.array(position) for position in (5, 6))
        own, other = (builder.mul(which, _i64(LANES)) for which in (row, column))
        norms = code.read(half_norms.data, other)
        both = [builder.fadd(code.scalar(half_norms.data, code.lane(own, i)), norms) for i in range(LANES)]
        theirs = code.read(thresholds.data, other)
        nothing = ir.Constant(_integers, [0] * LANES)
        columns_marks = nothing
        for i, distances in enumerate(code.less_products(tiles, tiles, row, column, both)):
            near = builder.fcmp_ordered("<=", distances, code.scalar(thresholds.data, code.lane(own, i)))
            builder.store(builder.bitcast(near, _bits), code.at(marks.data, _i64(i)))
            bit = builder.select(
                builder.fcmp_ordered("<=", distances, theirs), ir.Constant(_integers, [1 << i] * LANES), nothing
            )
            columns_marks = builder.or_(columns_marks, bit)
        words = builder.trunc(columns_marks, ir.VectorType(_bits, LANES))
        builder.store(words, vector_at(builder, mirrored.data, _i64(0)), align=2)
        return context.get_dummy_value()

    return types.void(tiles, half_norms, thresholds, types.intp, types.intp, marks, mirrored), codegen


@intrinsic
def squared_distances(typingctx, points, width, own, columns, start):
    """``|x - y_j|^2`` of point ``own`` and the points ``columns[start : start + LANES]``.

    Args:
        points: all points one after another, ``width`` channels each, a multiple of LANES.
    """

    def codegen(context, builder, signature, arguments):
        code = _Code(context, builder, signature, arguments)
        data, columns = code.array(0).data, code.array(3).data
        _, width, own, _, start = arguments
        point = code.at(data, builder.mul(own, width))
        which = [builder.zext(builder.load(code.at(columns, code.lane(start, i))), _i64) for i in range(LANES)]
        others = [code.at(data, builder.mul(place, width)) for place in which]

        def body(channel, sums):
            x = code.read(point, channel)
            apart = [builder.fsub(x, code.read(other, channel)) for other in others]
            return [code.multiply_add(difference, difference, total) for difference, total in zip(apart, sums)]

        sums = code.loop(_i64(0), width, _i64(LANES), [ir.Constant(_floats, [0.0] * LANES)] * LANES, body)
        # Each round adds up lanes of two registers that are so far apart, into one: at last lane j is the sum of y_j.
        apart = 1
        while len(sums) > 1:
            lanes = [LANES + lane - apart if lane & apart else lane for lane in range(LANES)]
            here = ir.Constant(_integers, lanes)
            there = ir.Constant(_integers, [lane + apart for lane in lanes])
            sums = [
                builder.fadd(builder.shuffle_vector(a, b, here), builder.shuffle_vector(a, b, there))
                for a, b in zip(sums[::2], sums[1::2])
            ]
            apart *= 2
        return sums[0]

    return Vector(types.float32)(points, types.intp, types.intp, columns, types.intp), codegen
