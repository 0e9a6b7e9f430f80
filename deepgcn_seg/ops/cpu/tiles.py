"""Distances of a group of rows to two groups of columns, compared while still in registers.

A group is of :data:`.simd.LANES` points: 16 with AVX-512, 8 with AVX2. Half of its rows at a time meet the columns of
two groups, two registers for each row: of the shapes that fit into the registers this one reads least.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .simd import AVX512, LANES, Vector, packed_lanes, splatted, vector_at

_bits, _i32, _i64 = (ir.IntType(bits) for bits in (LANES, 32, 64))
# Groups of columns, and rows, at a time.
COLUMNS = 2
ROWS = LANES // 2

_floats = ir.VectorType(ir.FloatType(), LANES)
_integers = ir.VectorType(_i32, LANES)
_PARTS = range(ROWS), range(ROWS, LANES)


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

    def tile(self, tiles, others, row, lanes, column, initial, accumulate):
        """``initial[i][c]``, and then ``accumulate(x_i, y, ·)`` for every channel, or word of channels, of x_i and y.

        Args:
            lanes: which points x_i of the group ``row`` of tiles. y is a vector, of the points of group ``column + c``
                of others.
        """
        builder = self.builder
        channels = cgutils.unpack_tuple(builder, tiles.shape)[1]
        group = builder.mul(channels, _i64(LANES))
        rows = self.at(tiles.data, builder.mul(row, group))
        columns = [self.at(others.data, builder.mul(self.lane(column, c), group)) for c in range(COLUMNS)]

        def body(place, sums):
            y = [self.read(data, place) for data in columns]
            x = [self.scalar(rows, self.lane(place, i)) for i in lanes]
            return [accumulate(x[i // COLUMNS], y[i % COLUMNS], total) for i, total in enumerate(sums)]

        flat = [value for per_row in initial for value in per_row]
        sums = self.loop(_i64(0), group, _i64(LANES), flat, body)
        return [sums[i : i + COLUMNS] for i in range(0, len(sums), COLUMNS)]

    def less_product(self, x, y, total):
        """``total - x y``."""
        return self.multiply_add(x, self.builder.fsub(ir.Constant(_floats, [-0.0] * LANES), y), total)

    def plus_products(self, x, y, total):
        """``total`` and, of two halves of each integer, the products."""
        halves = ir.VectorType(ir.IntType(16), 2 * LANES)
        name = "llvm.x86.avx512.pmaddw.d.512" if AVX512 else "llvm.x86.avx2.pmadd.wd"
        add = cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(_integers, [halves] * 2), name)
        words = [self.builder.bitcast(value, halves) for value in (x, y)]
        return self.builder.add(total, self.builder.call(add, words))


@intrinsic
def append_near(typingctx, tiles, others, half_norms, order, row, column, thresholds, kept, keys, columns):
    """Append what is near among :data:`COLUMNS` groups of columns to the candidates of a group of rows.

    For x_i of group ``row`` of tiles and y_j of the groups from ``column`` on of others: where
    ``half_norms[j] - x_i.y_j <= thresholds[i]``, that number and ``order[j]`` go to ``keys[i]`` and ``columns[i]`` at
    ``kept[i]``, which counts on. Both must have room for one group more than there are columns.
    """

    def codegen(context, builder, signature, arguments):
        code = _Code(context, builder, signature, arguments)
        tiles, others, half_norms, order = (code.array(position) for position in range(4))
        thresholds, kept, keys, columns = (code.array(position) for position in range(6, 10))
        row, column = arguments[4:6]
        longest = cgutils.unpack_tuple(builder, keys.shape)[1]
        firsts = [builder.mul(code.lane(column, c), _i64(LANES)) for c in range(COLUMNS)]
        norms = [code.read(half_norms.data, first) for first in firsts]
        numbers = [code.read(order.data, first) for first in firsts]
        for lanes in _PARTS:
            for i, sums in zip(lanes, code.tile(tiles, others, row, lanes, column, [norms] * ROWS, code.less_product)):
                counter, threshold = code.at(kept.data, _i64(i)), code.scalar(thresholds.data, _i64(i))
                count = builder.load(counter)
                for distances, these in zip(sums, numbers):
                    mask = builder.fcmp_ordered("<=", distances, threshold)
                    end = builder.add(builder.mul(longest, _i64(i)), count)
                    for values, target in (distances, keys), (these, columns):
                        packed = packed_lanes(builder, values, mask)
                        builder.store(packed, vector_at(builder, target.data, end), align=4)
                    near = builder.ctpop(builder.bitcast(mask, _bits))
                    count = builder.add(count, builder.zext(near, _i64))
                builder.store(count, counter)
        return context.get_dummy_value()

    arrays = tiles, others, half_norms, order, types.intp, types.intp, thresholds, kept, keys, columns
    return types.void(*arrays), codegen


def _no_rows():
    """Masks of rows, none so far: with AVX-512 a vector of columns, which has cheap masks, else one number."""
    return ir.Constant(_integers, [0] * LANES) if AVX512 else _i64(0)


def _with_row(builder, rows, i, mask):
    """The same with the mask of row i."""
    if AVX512:
        bit = builder.select(mask, ir.Constant(_integers, [1 << i] * LANES), ir.Constant(_integers, [0] * LANES))
        return builder.or_(rows, bit)
    bits = builder.zext(builder.bitcast(mask, _bits), _i64)
    return builder.or_(rows, builder.shl(bits, _i64(i * LANES)))


def _by_column(builder, rows):
    """For each column, which rows' masks hold it: a vector of bits."""
    if AVX512:
        return builder.trunc(rows, ir.VectorType(_bits, LANES))
    # Swaps single bits across the diagonal, then squares of two by two and of four by four.
    for apart, upper in (7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0):
        different = builder.and_(builder.xor(rows, builder.lshr(rows, _i64(apart))), _i64(upper))
        rows = builder.xor(rows, builder.xor(different, builder.shl(different, _i64(apart))))
    return builder.bitcast(rows, ir.VectorType(_bits, LANES))


@intrinsic
def mark_near(typingctx, words, norms, limits, row, column, marks, place, mirrored, mirrored_next):
    """Mark who is near whom between a group of rows and two of columns, in both directions.

    Near is who comes above the other's limit with minus half the squared distance. Bit j of the mark i places behind
    ``place``, for the second group of columns LANES further on: y_j is near to x_i. Bit i of the mark j behind
    ``mirrored``, for the second group behind ``mirrored_next``: x_i is near to y_j.

    Args:
        words: (G, W, LANES) int32, two channels of 16 bits each. norms: (G * LANES,) int32, minus half the squared
            norms. limits: like norms. marks: flat, of :data:`.simd.BITS`, written.
    """

    def codegen(context, builder, signature, arguments):
        code = _Code(context, builder, signature, arguments)
        words, norms, limits = (code.array(position) for position in range(3))
        row, column = arguments[3:5]
        marks, place, *mirrored = code.array(5).data, *arguments[6:]
        own = builder.mul(row, _i64(LANES))
        others = [builder.mul(code.lane(column, c), _i64(LANES)) for c in range(COLUMNS)]
        their_norms = [[code.read(norms.data, other) for other in others]] * ROWS
        theirs = [code.read(limits.data, other) for other in others]
        theirs_near = [_no_rows()] * COLUMNS
        for lanes in _PARTS:
            for i, sums in zip(lanes, code.tile(words, words, row, lanes, column, their_norms, code.plus_products)):
                norm, limit = (code.scalar(array.data, code.lane(own, i)) for array in (norms, limits))
                for c, partial_sum in enumerate(sums):
                    nearness = builder.add(partial_sum, norm)
                    near = builder.icmp_signed(">", nearness, limit)
                    builder.store(builder.bitcast(near, _bits), code.at(marks, code.lane(place, c * LANES + i)))
                    near = builder.icmp_signed(">", nearness, theirs[c])
                    theirs_near[c] = _with_row(builder, theirs_near[c], i, near)
        for rows, start in zip(theirs_near, mirrored):
            builder.store(_by_column(builder, rows), vector_at(builder, marks, start), align=LANES // 8)
        return context.get_dummy_value()

    places = [types.intp] * 3
    return types.void(words, norms, limits, types.intp, types.intp, marks, *places), codegen


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
