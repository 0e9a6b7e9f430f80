"""A tile of distances: some rows (query points) by some columns (candidate points), summed up in registers.

Points lie in groups of :data:`.simd.LANES`, channel by channel: (G, C, LANES). One tile is :data:`ROWS` points of a
group by the points of :data:`COLUMNS` groups::

    sums[i][c] = |y|^2 / 2                                  vectors: lane j is candidate j of group c
    for each channel:
        for each row i and group c:
            sums[i][c] -= x[channel, i] * y[channel, c]     x of one row in all lanes, times a vector
    write sums

Compilers do not keep an array of sums in registers across a loop, so this one loop is written in LLVM's language.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .simd import LANES, load_lanes, same_in_all_lanes, store_lanes

# The sums of a tile fill half of the 32 registers of AVX-512 (16 = 8 x 2), or of the 16 of AVX2 (8 = 4 x 2). Of the
# shapes that fit, 8 x 2 was fastest: each channel needs 2 loads of candidates for 16 multiply-adds.
ROWS = LANES // 2
COLUMNS = 2
# Numbers in a tile.
TILE = ROWS * COLUMNS * LANES


@intrinsic
def write_tile(typingctx, rows, row, lane, candidates, half_norms, column, tile):
    """Write ``|y_j|^2 / 2 - x_i.y_j``, half the squared distance less ``|x_i|^2 / 2``, of a tile of pairs.

    Args:
        rows: (G, C, LANES), of which x are ROWS points of group ``row`` from ``lane`` on.
        candidates: (G', C, LANES), of which y are the points of COLUMNS groups from ``column`` on.
        half_norms: (G' * LANES,), ``|y_j|^2 / 2``.
        tile: (TILE,), written: row by row, COLUMNS * LANES numbers each.
    """

    def codegen(context, builder, signature, arguments):
        _, row, lane, _, _, column, _ = arguments
        x, y, norms, out = (
            cgutils.create_struct_proxy(signature.args[i])(context, builder, arguments[i]) for i in (0, 3, 4, 6)
        )

        def number(value):
            return ir.IntType(64)(value)

        def plus(place, value):
            return builder.add(place, number(value))

        channels = cgutils.unpack_tuple(builder, x.shape)[1]
        group = builder.mul(channels, number(LANES))
        first_row = builder.add(builder.mul(row, group), lane)
        groups = [plus(column, c) for c in range(COLUMNS)]
        first_columns = [builder.mul(number_of_group, group) for number_of_group in groups]
        starts = [load_lanes(builder, norms.data, builder.mul(g, number(LANES))) for g in groups]
        # LLVM makes registers of these variables.
        sums = [[cgutils.alloca_once_value(builder, start) for start in starts] for _ in range(ROWS)]
        with cgutils.for_range(builder, channels) as loop:
            offset = builder.mul(loop.index, number(LANES))
            theirs = [load_lanes(builder, y.data, builder.add(first, offset)) for first in first_columns]
            for i in range(ROWS):
                place = plus(builder.add(first_row, offset), i)
                own = same_in_all_lanes(builder, builder.load(builder.gep(x.data, [place])))
                for variable, their in zip(sums[i], theirs):
                    product = builder.fmul(own, their, flags=("contract",))
                    builder.store(builder.fsub(builder.load(variable), product, flags=("contract",)), variable)
        for place, variable in enumerate(variable for row_sums in sums for variable in row_sums):
            store_lanes(builder, builder.load(variable), out.data, number(place * LANES))
        return context.get_dummy_value()

    arguments = rows, types.intp, types.intp, candidates, half_norms, types.intp, tile
    return types.void(*arguments), codegen
