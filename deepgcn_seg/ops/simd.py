"""Vectors of sixteen numbers as values inside compiled (numba) code: they stay in registers from one neighbour to the
next, which an array of sixteen does not. LLVM makes of them what the CPU has, one AVX-512 register or several smaller.
"""

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

LANES = 16


class Vector(types.Type):
    """Sixteen values of a scalar type."""

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(name=f"Vector({dtype})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        scalar = manager.lookup(kind.dtype).get_value_type()
        super().__init__(manager, kind, ir.VectorType(scalar, LANES))


def data_of(context, builder, kind, array):
    """Pointer to the first element of an array."""
    return cgutils.create_struct_proxy(kind)(context, builder, array).data


def vector_at(builder, data, place):
    """Pointer to sixteen elements from ``place`` on."""
    vector = ir.VectorType(data.type.pointee, LANES)
    return builder.bitcast(builder.gep(data, [place]), vector.as_pointer())


def splatted(builder, value):
    """Vector of one scalar."""
    undefined = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    one = builder.insert_element(undefined, value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _bytes(kind) -> int:
    return kind.dtype.bitwidth // 8


@intrinsic
def load(typingctx, array, place):
    """``array[place : place + 16]`` of one-dimensional, contiguous memory."""

    def codegen(context, builder, signature, arguments):
        data, where = arguments
        return builder.load(vector_at(builder, data_of(context, builder, array, data), where), align=_bytes(array))

    return Vector(array.dtype)(array, types.intp), codegen


@intrinsic
def store(typingctx, array, place, values):
    """``array[place : place + 16] = values``."""

    def codegen(context, builder, signature, arguments):
        data, where, vector = arguments
        builder.store(vector, vector_at(builder, data_of(context, builder, array, data), where), align=_bytes(array))
        return context.get_dummy_value()

    return types.void(array, types.intp, values), codegen


@intrinsic
def splat(typingctx, value):
    """Sixteen times the same."""

    def codegen(context, builder, signature, arguments):
        return splatted(builder, arguments[0])

    return Vector(value)(value), codegen


@intrinsic
def where_greater(typingctx, a, b, x, y):
    """``a > b ? x : y`` in each lane."""

    def codegen(context, builder, signature, arguments):
        a, b, x, y = arguments
        return builder.select(builder.fcmp_ordered(">", a, b), x, y)

    return x(a, b, x, y), codegen


@intrinsic
def count_before(typingctx, keys, places, key, place):
    """In how many lanes (keys, places) comes before (key, place): a smaller key, or the same and a smaller place."""

    def codegen(context, builder, signature, arguments):
        keys, places, key, place = arguments
        earlier = builder.and_(builder.fcmp_ordered("==", keys, key), builder.icmp_unsigned("<", places, place))
        before = builder.or_(builder.fcmp_ordered("<", keys, key), earlier)
        lanes = builder.ctpop(builder.bitcast(before, ir.IntType(LANES)))
        return builder.zext(lanes, ir.IntType(64))

    return types.int64(keys, places, key, place), codegen


@intrinsic
def widened(typingctx, values):
    """The same in float64."""

    def codegen(context, builder, signature, arguments):
        wide = ir.VectorType(ir.DoubleType(), LANES)
        return arguments[0] if arguments[0].type == wide else builder.fpext(arguments[0], wide)

    return Vector(types.float64)(values), codegen


def _arithmetic(operation, instruction: str) -> None:
    @intrinsic
    def lanewise(typingctx, a, b):
        def codegen(context, builder, signature, arguments):
            return getattr(builder, instruction)(*arguments, flags=("contract",))

        return a(a, b), codegen

    @overload(operation)
    def _(a, b):
        if isinstance(a, Vector) and a == b:
            return lambda a, b: lanewise(a, b)
        return None


_arithmetic(operator.add, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.mul, "fmul")
