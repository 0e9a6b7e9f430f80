"""A tile of distances: the LANES query points of a panel by the LANES points of another, in registers.

A panel holds :data:`.simd.LANES` points, channel by channel: (C, LANES). Libraries for products of matrices call the
blocks that they pack in this way panels. Rows of the tile are query points, columns are the points that they are
compared with. For each row i there is a register of sums over the channels, whose lane j belongs to column j::

    sums[i] = |y|^2 / 2
    for each channel:
        y = the channel of all columns
        for each row i:
            sums[i] -= x[i] * y                  x[i], the channel of one query point, times all lanes
    write sums

This loop takes most of the time of a search. It is written in LLVM's language because neither numba nor LLVM keeps an
array of sums in registers from one channel to the next. There are 16 sums with AVX-512 and 8 with AVX2. 8 are enough
to keep the processor busy: it begins two multiply-adds in each cycle, and each takes four cycles. Measured: tiles of
8 rows by 2 panels, or of 4 rows by 4 panels, are equally fast.
"""

from numba import types
from numba.core import cgutils

from .simd import LANES, load_lanes, same_in_all_lanes, store_lanes, vector_function


@vector_function(
    lambda queries, query_panel, points, panel, half_norms, tile: types.void(
        queries, types.intp, points, types.intp, half_norms, tile
    )
)
def write_tile(builder, queries, query_panel, points, panel, half_norms, tile):
    """Write ``|y_j|^2 / 2 - x_i.y_j``, half the squared distance less ``|x_i|^2 / 2``, of a tile of pairs.

    Args:
        queries: (P, C, LANES); their panel ``query_panel`` has the x_i. points: (P', C, LANES); their panel ``panel``
            has the y_j. half_norms: (P' * LANES,), ``|y|^2 / 2`` of all points.
        tile: (LANES * LANES,), written: row by row.
    """
    # Offsets are counted in elements, of which a panel has channels * LANES.
    index = panel.type
    panel_size = builder.mul(cgutils.unpack_tuple(builder, queries.shape)[1], index(LANES))
    first_x, first_y = builder.mul(query_panel, panel_size), builder.mul(panel, panel_size)
    start = load_lanes(builder, half_norms, builder.mul(panel, index(LANES)))
    # LLVM keeps these variables in registers.
    sums = [cgutils.alloca_once_value(builder, start) for _ in range(LANES)]
    with cgutils.for_range_slice(builder, index(0), panel_size, index(LANES)) as (channel, _):
        # One load for the columns, and one number of each query point.
        y = load_lanes(builder, points, builder.add(first_y, channel))
        query_start = builder.add(first_x, channel)
        for i, variable in enumerate(sums):
            x = builder.load(builder.gep(queries.data, [builder.add(query_start, index(i))]))
            # A product and a difference that may become one instruction.
            product = builder.fmul(same_in_all_lanes(builder, x), y, flags=("contract",))
            builder.store(builder.fsub(builder.load(variable), product, flags=("contract",)), variable)
    for i, variable in enumerate(sums):
        store_lanes(builder, tile, index(i * LANES), builder.load(variable))
