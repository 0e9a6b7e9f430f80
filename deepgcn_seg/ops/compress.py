"""Keep the entries of a row that do not exceed a threshold, in order: the pass over distances that
selects candidates, as one vector instruction for sixteen entries where the CPU has it."""

import llvmlite.binding as llvm
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

LANES = 16


def vector_compress_available() -> bool:
    """Whether sixteen entries can be packed at once: AVX-512 and an LLVM that has the operation."""
    return llvm.llvm_version_info[0] >= 19 and bool(llvm.get_host_cpu_features().get("avx512f"))


@intrinsic
def _compress(typingctx, row, at, threshold, keys, index, count):
    """Append ``row[at + i] <= threshold`` for i in 0..15 to keys and index (places) at ``count``; the new count."""

    def codegen(context, builder, signature, args):
        row, at, threshold, keys, index, count = args
        scalar, i32 = ir.FloatType(), ir.IntType(32)

        def address(array, kind, element, place):
            data = cgutils.create_struct_proxy(kind)(context, builder, array).data
            pointer = builder.gep(data, [place])
            return builder.bitcast(pointer, ir.VectorType(element, LANES).as_pointer())

        def splat(value, element):
            undefined = ir.Constant(ir.VectorType(element, LANES), ir.Undefined)
            one = builder.insert_element(undefined, value, i32(0))
            return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(i32, LANES), [0] * LANES))

        def packed(values, element, name):
            vector = ir.VectorType(element, LANES)
            kind = ir.FunctionType(vector, [vector, ir.VectorType(ir.IntType(1), LANES), vector])
            function = cgutils.get_or_insert_function(
                builder.module, kind, f"llvm.experimental.vector.compress.v{LANES}{name}"
            )
            return builder.call(function, [values, mask, ir.Constant(vector, ir.Undefined)])

        def stored(value, array, kind, element):
            builder.store(value, address(array, kind, element, count), align=4)

        values = builder.load(address(row, signature.args[0], scalar, at), align=4)
        mask = builder.fcmp_ordered("<=", values, splat(threshold, scalar))
        steps = ir.Constant(ir.VectorType(i32, LANES), list(range(LANES)))
        places = builder.add(splat(builder.trunc(at, i32), i32), steps)
        stored(packed(values, scalar, "f32"), keys, signature.args[3], scalar)
        stored(packed(places, i32, "i32"), index, signature.args[4], i32)
        kept = builder.ctpop(builder.bitcast(mask, ir.IntType(LANES)))
        return builder.add(count, builder.zext(kept, count.type))

    return types.intp(row, types.intp, row.dtype, keys, index, types.intp), codegen


@njit(nogil=True, cache=True)
def keep_by_vectors(row, threshold, keys, index):
    """As :func:`keep_one_by_one`, sixteen at a time; float32 alone (LLVM's packing of sixteen float64 crashes)."""
    count = 0
    whole = len(row) // LANES * LANES
    for at in range(0, whole, LANES):
        count = _compress(row, at, threshold, keys, index, count)
    for j in range(whole, len(row)):
        keys[count] = row[j]
        index[count] = j
        count += row[j] <= threshold
    return count


@njit(nogil=True, cache=True)
def keep_one_by_one(row, threshold, keys, index):
    """Write entries at most ``threshold``, and their places, to the front of keys and index; how many there are.

    Args:
        row: (N,). keys: (N + 16,) of the same type, index: (N + 16,) uint32, written.
    """
    count = 0
    for j in range(len(row)):
        keys[count] = row[j]
        index[count] = j
        count += row[j] <= threshold
    return count


def keep(row, threshold, keys, index):
    """The faster of the two for this machine and type, inside compiled code."""


@overload(keep)
def _keep(row, threshold, keys, index):
    vectors = row.dtype == types.float32 and vector_compress_available()
    chosen = keep_by_vectors if vectors else keep_one_by_one
    return lambda row, threshold, keys, index: chosen(row, threshold, keys, index)
