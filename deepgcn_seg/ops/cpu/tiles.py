"""A tile of distances: the LANES query points of a group by the LANES candidates of another, in registers.

Points lie in groups of :data:`.simd.LANES`, channel by channel: (G, C, LANES). For each row i, a query point, there is
a register of sums over the channels, whose lane j belongs to candidate j::

    sums[i] = |y|^2 / 2
    for each channel:
        y = the channel of all candidates of the group
        for each row i:
            sums[i] -= x[i] * y                  x[i], the channel of one query point, times all lanes
    write sums

This loop takes most of the time of a search. It is written in LLVM's language because neither numba nor LLVM keeps an
array of sums in registers from one channel to the next. There are 16 sums with AVX-512 and 8 with AVX2. 8 are enough
to keep the processor busy: it begins two multiply-adds in each cycle, and each takes four cycles. Measured: tiles of
8 rows by 2 groups, or of 4 rows by 4 groups, are equally fast.
"""

from numba import types
from numba.core import cgutils

from .simd import LANES, load_lanes, same_in_all_lanes, store_lanes, vector_function


@vector_function(
    lambda rows, row, candidates, column, half_norms, tile: types.void(
        rows, types.intp, candidates, types.intp, half_norms, tile
    )
)
def write_tile(builder, rows, row, candidates, column, half_norms, tile):
    """Write ``|y_j|^2 / 2 - x_i.y_j``, half the squared distance less ``|x_i|^2 / 2``, of a tile of pairs.

    Args:
        rows: (G, C, LANES), of which x is group ``row``. candidates: (G', C, LANES), of which y is group ``column``.
        half_norms: (G' * LANES,), ``|y|^2 / 2`` of all candidates.
        tile: (LANES * LANES,), written: row by row.
    """
    # Offsets are counted in elements, of which a group has channels * LANES.
    lanes = row.type(LANES)
    group_size = builder.mul(cgutils.unpack_tuple(builder, rows.shape)[1], lanes)
    first_x, first_y = builder.mul(row, group_size), builder.mul(column, group_size)
    start = load_lanes(builder, half_norms, builder.mul(column, lanes))
    # LLVM keeps these variables in registers.
    sums = [cgutils.alloca_once_value(builder, start) for _ in range(LANES)]
    with cgutils.for_range_slice(builder, row.type(0), group_size, lanes) as (channel, _):
        # One load for the candidates, and one number of each query point.
        candidate = load_lanes(builder, candidates, builder.add(first_y, channel))
        own = builder.add(first_x, channel)
        for i, variable in enumerate(sums):
            query = builder.load(builder.gep(rows.data, [builder.add(own, row.type(i))]))
            # A product and a difference that may become one instruction.
            product = builder.fmul(same_in_all_lanes(builder, query), candidate, flags=("contract",))
            builder.store(builder.fsub(builder.load(variable), product, flags=("contract",)), variable)
    for i, variable in enumerate(sums):
        store_lanes(builder, tile, row.type(i * LANES), builder.load(variable))
