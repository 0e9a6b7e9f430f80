"""Vectors of numbers as values inside compiled (numba) code: they stay in registers from one neighbour to the next,
which an array of so many does not. A vector of float32 is one register with AVX-512 or AVX2; LLVM makes of it what
another CPU has.
"""

import operator

import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir
from numba import from_dtype, types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

from ...kernel_cache import compiled_features


def _compiled_for(*wanted: str) -> bool:
    """Whether numba compiles for processors with all of these features; one that is taken away takes others along."""
    features = compiled_features().split(",")
    taken = {name[1:] for name in features if name.startswith("-")}
    return all(f"+{name}" in features for name in wanted) and not taken & {*wanted, *_BELOW}


# What the features of vectors are built upon.
_BELOW = ("sse", "sse2", "sse3", "ssse3", "sse4.1", "sse4.2", "avx")
# With an LLVM that can pack its vectors: move chosen lanes to the front. And with integers of 16 bits.
AVX512 = llvm.llvm_version_info[0] >= 19 and _compiled_for("avx2", "fma", "avx512f", "avx512bw")
# Whether vectors can be packed.
PACKS = AVX512 or _compiled_for("avx2", "fma")
# Numbers in a vector.
LANES = 16 if AVX512 else 8
# A bit for each.
BITS = np.uint16 if AVX512 else np.uint8

_bits = from_dtype(np.dtype(BITS))
_integers = ir.VectorType(ir.IntType(32), LANES)


class Vector(types.Type):
    """:data:`LANES` values of a scalar type."""

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
    """Pointer to the elements of a vector, from ``place`` on."""
    vector = ir.VectorType(data.type.pointee, LANES)
    return builder.bitcast(builder.gep(data, [place]), vector.as_pointer())


def splatted(builder, value):
    """Vector of one scalar."""
    undefined = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    one = builder.insert_element(undefined, value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def numbered_lanes(builder, first):
    """``first``, ``first + 1`` and so on: a vector of integers."""
    return builder.add(splatted(builder, first), ir.Constant(_integers, list(range(LANES))))


def _name(kind) -> str:
    """LLVM's name of a vector."""
    element = kind.element
    return f"v{LANES}" + {ir.FloatType(): "f32", ir.DoubleType(): "f64"}.get(element, str(element))


def _front_lanes(module):
    """For each mask, which lanes it holds: a table in the module."""
    name = "deepgcn_seg.front_lanes"
    if name not in module.globals:
        row = ir.VectorType(ir.IntType(8), LANES)
        chosen = ([lane for lane in range(LANES) if bits >> lane & 1] for bits in range(1 << LANES))
        rows = [ir.Constant(row, lanes + [0] * (LANES - len(lanes))) for lanes in chosen]
        cgutils.add_global_variable(module, ir.ArrayType(row, len(rows)), name)
        table = module.globals[name]
        table.linkage, table.global_constant = "internal", True
        table.initializer = ir.Constant(table.type.pointee, rows)
    return module.globals[name]


def _permuted(builder, values, lanes):
    """Those lanes of ``values``, of 32 bits."""
    number = values.type.element == ir.FloatType()
    if AVX512:
        name = "llvm.x86.avx512.permvar." + ("sf.512" if number else "si.512")
    else:
        name = "llvm.x86.avx2.perm" + ("ps" if number else "d")
    kind = ir.FunctionType(values.type, [values.type, _integers])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [values, lanes])


def packed_lanes(builder, values, mask):
    """The lanes of ``values``, of 32 bits, where ``mask`` holds, at its front; anything behind."""
    kind = values.type
    if not AVX512:
        bits = builder.zext(builder.bitcast(mask, ir.IntType(LANES)), ir.IntType(64))
        lanes = builder.load(builder.gep(_front_lanes(builder.module), [ir.IntType(64)(0), bits]))
        return _permuted(builder, values, builder.zext(lanes, _integers))
    name = "llvm.experimental.vector.compress." + _name(kind)
    pack = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind, mask.type, kind]), name)
    return builder.call(pack, [values, mask, ir.Constant(kind, ir.Undefined)])


def _bytes(kind) -> int:
    return kind.dtype.bitwidth // 8


@intrinsic
def load(typingctx, array, place):
    """``array[place : place + LANES]`` of one-dimensional, contiguous memory."""

    def codegen(context, builder, signature, arguments):
        data, where = arguments
        return builder.load(vector_at(builder, data_of(context, builder, array, data), where), align=_bytes(array))

    return Vector(array.dtype)(array, types.intp), codegen


@intrinsic
def store(typingctx, array, place, values):
    """``array[place : place + LANES] = values``."""

    def codegen(context, builder, signature, arguments):
        data, where, vector = arguments
        builder.store(vector, vector_at(builder, data_of(context, builder, array, data), where), align=_bytes(array))
        return context.get_dummy_value()

    return types.void(array, types.intp, values), codegen


@intrinsic
def splat(typingctx, value):
    """The same in each lane."""

    def codegen(context, builder, signature, arguments):
        return splatted(builder, arguments[0])

    return Vector(value)(value), codegen


@intrinsic
def numbered(typingctx, first):
    """``first``, ``first + 1`` and so on: integers."""

    def codegen(context, builder, signature, arguments):
        return numbered_lanes(builder, arguments[0])

    return Vector(types.uint32)(types.uint32), codegen


@intrinsic
def where_greater(typingctx, a, b, x, y):
    """``a > b ? x : y`` in each lane."""

    def codegen(context, builder, signature, arguments):
        a, b, x, y = arguments
        return builder.select(builder.fcmp_ordered(">", a, b), x, y)

    return x(a, b, x, y), codegen


def _reduced(name: str):
    @intrinsic
    def lowest_or_highest(typingctx, values):
        def codegen(context, builder, signature, arguments):
            kind = arguments[0].type
            reduce = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(kind.element, [kind]), f"llvm.vector.reduce.{name}.{_name(kind)}"
            )
            return builder.call(reduce, arguments, fastmath=("nnan", "nsz"))

        return values.dtype(values), codegen

    return lowest_or_highest


lowest, highest = _reduced("fmin"), _reduced("fmax")


@intrinsic
def truncated(typingctx, values):
    """Integers of numbers from 0 to 2^31."""

    def codegen(context, builder, signature, arguments):
        return builder.fptosi(arguments[0], _integers)

    return Vector(types.uint32)(values), codegen


@intrinsic
def bits_at(typingctx, table, places):
    """Of each lane, the bit at its place in a table of bits. Where :data:`PACKS`.

    Args:
        table: (LANES,) uint32. places: below 32 * LANES.
    """

    def codegen(context, builder, signature, arguments):
        def all_lanes(value):
            return ir.Constant(_integers, [value] * LANES)

        data = data_of(context, builder, signature.args[0], arguments[0])
        table = builder.load(vector_at(builder, data, ir.IntType(64)(0)), align=4)
        word = _permuted(builder, table, builder.lshr(arguments[1], all_lanes(5)))
        bit = builder.shl(all_lanes(1), builder.and_(arguments[1], all_lanes(31)))
        return builder.bitcast(builder.icmp_unsigned("!=", builder.and_(word, bit), all_lanes(0)), ir.IntType(LANES))

    return _bits(table, places), codegen


@intrinsic
def packed(typingctx, values, bits):
    """The lanes whose bit is set, moved to the front; of values of 32 bits. Where :data:`PACKS`."""

    def codegen(context, builder, signature, arguments):
        mask = builder.bitcast(arguments[1], ir.VectorType(ir.IntType(1), LANES))
        return packed_lanes(builder, arguments[0], mask)

    return values(values, _bits), codegen


@intrinsic
def count_bits(typingctx, bits):
    """How many bits are set, one for each lane."""

    def codegen(context, builder, signature, arguments):
        return builder.zext(builder.ctpop(arguments[0]), ir.IntType(64))

    return types.int64(_bits), codegen


@intrinsic
def count_within(typingctx, values, limits):
    """In how many lanes a value does not exceed its limit."""

    def codegen(context, builder, signature, arguments):
        mask = builder.fcmp_ordered("<=", *arguments)
        return builder.zext(builder.ctpop(builder.bitcast(mask, ir.IntType(LANES))), ir.IntType(64))

    return types.int64(values, limits), codegen


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
