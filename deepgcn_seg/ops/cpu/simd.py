"""Vectors of numbers as values inside compiled (numba) code.

numba has scalars and arrays, but no value of several numbers that stays in a register from one step of a loop to the
next. :class:`Vector` is such a value: :data:`LANES` numbers of one type. ``load`` reads one from an array, ``store``
writes one, and between them ``+ - *``, comparisons and a few functions below work on all lanes at once::

    total = splat(0.0)
    for j in range(0, count, LANES):
        total = total + load(weights, j) * load(values, j)

All of it is LLVM's own arithmetic of vectors, which has no instruction of a certain machine in it. LLVM makes several
registers of a vector that is longer than the machine's: eight float32 are one register with AVX2, two with SSE or NEON.
A comparison gives a bitmask (:data:`BITS`): bit i is lane i.
"""

import inspect
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir
from numba import from_dtype, types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

from ...kernel_cache import compiled_features


def _compiled_for(*wanted: str) -> bool:
    """Return whether numba compiles for processors with all of these features."""
    features = compiled_features().split(",")
    taken = {name[1:] for name in features if name.startswith("-")}
    # A feature that is taken away takes along what is built upon it: without "avx" there is no "avx512f".
    below = {"sse", "sse2", "sse3", "ssse3", "sse4.1", "sse4.2", "avx"}
    return all(f"+{name}" in features for name in wanted) and not taken & {*wanted, *below}


# Numbers in a vector: as many float32 as a register has, 16 with AVX-512 and 8 with AVX2 (8 elsewhere too). AVX-512 is
# used only with LLVM 19 or newer, which can pack such a vector by one instruction (see `_packed`).
AVX512 = llvm.llvm_version_info[0] >= 19 and _compiled_for("avx2", "fma", "avx512f", "avx512bw")
LANES = 16 if AVX512 else 8
# A bitmask has a bit for each lane.
BITS = np.uint16 if AVX512 else np.uint8

_bits = from_dtype(np.dtype(BITS))
_int64 = ir.IntType(64)
_int32_lanes = ir.VectorType(ir.IntType(32), LANES)


class Vector(types.Type):
    """numba's type of :data:`LANES` values of a scalar type."""

    def __init__(self, dtype: types.Type):
        self.dtype = dtype
        super().__init__(name=f"Vector({dtype})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    """numba's data model of a Vector, which is LLVM's vector type."""

    def __init__(self, manager: Any, kind: Vector):
        scalar = manager.lookup(kind.dtype).get_value_type()
        super().__init__(manager, kind, ir.VectorType(scalar, LANES))


def vector_function(signature: Callable[..., Any]) -> Callable[[Callable], Any]:
    """Return a decorator for a function that emits LLVM instructions: compiled code can then call it.

    numba calls such a function an intrinsic. The decorated function gets LLVM's builder, which appends instructions,
    and the arguments as LLVM values; it returns an LLVM value or None. An array arrives as a struct whose ``data``
    points to the first element, and whose ``shape`` is that of the array.

    Args:
        signature: returns numba's signature of a call, given numba's types of the arguments. A type that is called with
            types gives a signature: ``types.int64(bits)`` is that of a function that takes a value of the type ``bits``
            and returns an int64, and ``x(a, b, x, y)`` that of a function of four arguments that returns one like x.
    """

    def decorated(emit: Callable) -> Any:
        def define(typingctx, *kinds):
            def codegen(context, builder, signature, arguments):
                values = (
                    cgutils.create_struct_proxy(kind)(context, builder, value)
                    if isinstance(kind, types.Array)
                    else value
                    for kind, value in zip(signature.args, arguments)
                )
                return emit(builder, *values) or context.get_dummy_value()

            return signature(*kinds), codegen

        define.__name__, define.__doc__ = emit.__name__, emit.__doc__
        # numba counts the arguments by this signature, and leaves out the first one, here the builder.
        vars(define)["__signature__"] = inspect.signature(emit)
        return intrinsic(define)

    return decorated


def load_lanes(builder: ir.IRBuilder, array: Any, place: ir.Value) -> ir.Value:
    """Return ``array[place : place + LANES]`` of a one-dimensional, contiguous array. No bounds are checked."""
    pointer = builder.gep(array.data, [place])
    vector = ir.VectorType(pointer.type.pointee, LANES)
    # Vectors may begin at any element. By default LLVM would take them to be aligned to their own size.
    return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=1)


def store_lanes(builder: ir.IRBuilder, array: Any, place: ir.Value, values: ir.Value) -> None:
    """Write ``array[place : place + LANES] = values``. No bounds are checked."""
    pointer = builder.gep(array.data, [place])
    builder.store(values, builder.bitcast(pointer, values.type.as_pointer()), align=1)


def same_in_all_lanes(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Return a vector with the same number in each lane."""
    # LLVM has no single instruction for this: make a vector whose lane 0 is set, then repeat that lane.
    undefined = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    one = builder.insert_element(undefined, value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(_int32_lanes, [0] * LANES))


# The same three for compiled code.
load = vector_function(lambda array, place: Vector(array.dtype)(array, types.intp))(load_lanes)
store = vector_function(lambda array, place, values: types.void(array, types.intp, values))(store_lanes)
splat = vector_function(lambda value: Vector(value)(value))(same_in_all_lanes)


@vector_function(lambda first: Vector(first)(first))
def numbered(builder, first):
    """Return the vector ``first``, ``first + 1``, ``first + 2`` and so on, in uint32."""
    return builder.add(same_in_all_lanes(builder, first), ir.Constant(_int32_lanes, list(range(LANES))))


# A choice without a branch: `if` would be mispredicted for half of the numbers, and chooses for one number only.
@vector_function(lambda a, b, x, y: x(a, b, x, y))
def where_greater(builder, a, b, x, y):
    """Return ``a > b ? x : y`` of each lane."""
    return builder.select(builder.fcmp_ordered(">", a, b), x, y)


# One comparison for all lanes. A bitmask can be counted and can steer `append`, a vector of truth values cannot.
@vector_function(lambda values, limits: _bits(values, limits))
def at_most(builder, values, limits):
    """Return the bitmask of ``values <= limits``."""
    return builder.bitcast(builder.fcmp_ordered("<=", values, limits), ir.IntType(LANES))


@vector_function(lambda keys, columns, key, column: _bits(keys, columns, key, column))
def comes_before(builder, keys, columns, key, column):
    """Return the bitmask of ``(keys, columns) < (key, column)``: a smaller key, or the same and a smaller column."""
    tie = builder.and_(builder.fcmp_ordered("==", keys, key), builder.icmp_unsigned("<", columns, column))
    before = builder.or_(builder.fcmp_ordered("<", keys, key), tie)
    return builder.bitcast(before, ir.IntType(LANES))


@vector_function(lambda bits: types.int64(bits))
def count_bits(builder, bits):
    """Return how many bits of a bitmask are set."""
    return builder.zext(builder.ctpop(bits), _int64)


@vector_function(lambda values: Vector(types.uint32)(values))
def truncated(builder, values):
    """Return numbers from 0 to 2^31 as uint32, rounded down."""
    # A conversion to signed integers is one instruction everywhere, one to unsigned integers is not before AVX-512.
    return builder.fptosi(values, _int32_lanes)


@vector_function(lambda values: Vector(types.float64)(values))
def widened(builder, values):
    """Return the same numbers in float64."""
    wide = ir.VectorType(ir.DoubleType(), LANES)
    return values if values.type == wide else builder.fpext(values, wide)


@vector_function(lambda values: values.dtype(values))
def lowest(builder, values):
    """Return the smallest number of a vector without NaN."""
    return _reduced(builder, "fmin", values)


@vector_function(lambda values: values.dtype(values))
def highest(builder, values):
    """Return the largest number of a vector without NaN."""
    return _reduced(builder, "fmax", values)


def _reduced(builder: ir.IRBuilder, name: str, values: ir.Value) -> ir.Value:
    function = _llvm_function(builder, f"llvm.vector.reduce.{name}", values.type.element, values.type)
    # If NaN and the sign of zero need no care, LLVM halves the vector repeatedly. Otherwise it goes lane by lane.
    return builder.call(function, [values], fastmath=("nnan", "nsz"))


def _llvm_function(builder: ir.IRBuilder, name: str, result: ir.Type, vector: ir.Type, *others: ir.Type) -> ir.Function:
    """Return one of LLVM's generic functions of vectors, whose full name ends with the type of the vector."""
    full_name = f"{name}.v{vector.count}{vector.element.intrinsic_name}"
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, [vector, *others]), full_name)


@vector_function(lambda array, place, values, bits: types.intp(array, types.intp, values, _bits))
def append(builder, array, place, values, bits):
    """Write the lanes whose bit is set one after another from ``array[place]`` on; return the place after the last.

    The array must have LANES entries from ``place`` on. Those after the written lanes get arbitrary values.
    """
    # As many lanes at a time as one register has with AVX-512, because LLVM 22 packs a wider vector wrongly: without
    # this, test_simd.py::test_lanes_of_a_bitmask_are_appended crashes in float64.
    lanes = LANES // 2 if AVX512 and isinstance(values.type.element, ir.DoubleType) else LANES
    for first in range(0, LANES, lanes):
        part = ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(range(first, first + lanes)))
        # Each part overwrites the arbitrary values after the last lane of the part before.
        some = builder.shuffle_vector(values, values, part)
        their_bits = builder.trunc(builder.lshr(bits, bits.type(first)), ir.IntType(lanes))
        store_lanes(builder, array, place, _packed(builder, some, their_bits))
        place = builder.add(place, builder.zext(builder.ctpop(their_bits), place.type))
    return place


def _packed(builder: ir.IRBuilder, values: ir.Value, bits: ir.Value) -> ir.Value:
    """Return the lanes whose bit is set, moved to the front; the lanes after them are undefined.

    With AVX-512 this is LLVM's ``compress``, one instruction. With 8 lanes LLVM would translate ``compress`` to a chain
    of 8 stores, each of which waits for the one before. Instead a table of 256 rows (2 KiB) says which lanes to take,
    and LLVM combines the inserts and extracts into one AVX2 instruction. Measured with AVX2: a search takes 26 ms
    instead of 47 at dilation 1, 29 instead of 50 at dilation 27 (4096 points, 64 channels, 16 neighbours, one thread).
    """
    undefined = ir.Constant(values.type, ir.Undefined)
    if AVX512:
        mask = builder.bitcast(bits, ir.VectorType(ir.IntType(1), values.type.count))
        compress = _llvm_function(
            builder, "llvm.experimental.vector.compress", values.type, values.type, mask.type, values.type
        )
        return builder.call(compress, [values, mask, undefined])
    row = builder.gep(_lanes_of_bitmasks(builder.module), [_int64(0), builder.zext(bits, _int64)])
    lanes = builder.zext(builder.load(row), _int32_lanes)
    result = undefined
    for place in map(ir.IntType(32), range(LANES)):
        value = builder.extract_element(values, builder.extract_element(lanes, place))
        result = builder.insert_element(result, value, place)
    return result


def _lanes_of_bitmasks(module: ir.Module) -> ir.GlobalVariable:
    """Return a constant table: row b holds the numbers of the bits that are set in b, and then zeros."""
    name = "deepgcn_seg.lanes_of_bitmasks"
    if name not in module.globals:
        kind = ir.VectorType(ir.IntType(8), LANES)
        numbers = ([lane for lane in range(LANES) if bits >> lane & 1] for bits in range(1 << LANES))
        rows = [ir.Constant(kind, row + [0] * (LANES - len(row))) for row in numbers]
        table = cgutils.add_global_variable(module, ir.ArrayType(kind, len(rows)), name)
        # Each compiled module has its own table, so that a kernel loaded from the disk cache needs no other module.
        table.linkage, table.global_constant = "internal", True
        table.initializer = ir.Constant(table.type.pointee, rows)
    return module.globals[name]


def _arithmetic(operation: Callable, instruction: str) -> None:
    """Let compiled code use an operator on two vectors. A product and a sum may become one fused instruction."""

    @vector_function(lambda a, b: a(a, b))
    def lanewise(builder, a, b):
        # "contract" allows one rounding instead of two where the machine has a fused instruction.
        return getattr(builder, instruction)(a, b, flags=("contract",))

    @overload(operation)
    def _(a, b):
        if isinstance(a, Vector) and a == b:
            return lambda a, b: lanewise(a, b)
        return None


_arithmetic(operator.add, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.mul, "fmul")
