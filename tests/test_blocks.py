"""The blocks of a room hold every point of it, wherever it lies and however numbers round."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepgcn_seg.data.blocks import BlockGrid, points_inside
from deepgcn_seg.data.cells import CELL
from deepgcn_seg.data.room import RoomEntry
from deepgcn_seg.data.stored_room import MemoryRoom
from deepgcn_seg.errors import UserError

ENTRY = RoomEntry("Area_1", "office_1", Path("office_1"))


class OneRoom:
    """A store of one room that was never stored."""

    def __init__(self, xyz):
        self.room = MemoryRoom(xyz, np.zeros((len(xyz), 3), np.uint8))

    def open(self, room):
        return self.room


def votes(xyz, grid):
    """How many blocks each point is in, and the number of blocks."""
    store = OneRoom(xyz)
    blocks = grid.cut(store, ENTRY)
    counts = np.zeros(len(xyz), int)
    for block in blocks:
        place = points_inside(store.room, block.low, block.high)[3]
        assert block.count == len(place) > 0
        counts[place] += 1
    return counts, len(blocks)


def on_edges(extent, side, stride, offset):
    """Points on, just below and just above every edge of the blocks along x, and at both ends of the room."""
    lows = np.arange(0, extent, stride)
    x = np.concatenate([lows, lows + side, np.arange(0, extent, CELL), [0, extent]]).astype(np.float32)
    x = np.concatenate([x, np.nextafter(x, np.float32(-np.inf)), np.nextafter(x, np.float32(np.inf))])
    x = np.concatenate([x[(x >= 0) & (x <= extent)], np.float32([0, extent])]).astype(np.float64)
    return np.stack([x, np.zeros(len(x)), np.zeros(len(x))], 1) + offset


sides = st.sampled_from([0.1, 0.3, 0.5, 0.7, 1.0, 1.1, 2.0]) | st.floats(0.05, 8)
shares = st.sampled_from([1.0, 0.5, 1 / 3, 0.1]) | st.floats(0.06, 1)
# Whole metres and what float32 makes of them, a little more and a little less, and anything between.
extents = (
    st.integers(1, 40).map(float)
    | st.integers(1, 400).map(lambda n: float(np.float32(n) / np.float32(10)))
    | st.tuples(st.integers(1, 40), st.sampled_from([1e-7, -1e-7, 1e-6, 3e-6, -3e-6])).map(sum)
    | st.floats(0, 40)
)


@given(sides, shares, extents, st.sampled_from([0.0, 451234.5]))
@settings(deadline=None, max_examples=150)
def test_every_point_is_in_a_block(side, share, extent, offset):
    grid = BlockGrid(side, side * share, min_points=1)
    counts, _ = votes(on_edges(extent, side, grid.stride, offset), grid)
    assert counts.min() >= 1
    if share == 1:
        assert counts.max() == 1


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 30)), min_size=1, max_size=40), sides, shares)
@settings(deadline=None, max_examples=60)
def test_every_point_of_a_plane_is_in_as_many_blocks_as_cover_it(places, side, share):
    xyz = np.c_[np.array(places), np.zeros(len(places))]
    grid = BlockGrid(side, side * share, min_points=1)
    counts, _ = votes(xyz, grid)
    assert counts.min() >= 1 and counts.max() <= (np.ceil(1 / share) + 1) ** 2


@given(sides, shares, st.floats(0, 1e7), st.integers(1, 10**6))
def test_edges_leave_no_gap(side, share, extent, number):
    grid = BlockGrid(side, side * share)
    count = grid.count(extent)
    index = np.unique(np.clip([0, number, number + 1, count - 2, count - 1], 0, count - 1))
    low, high = grid.edges(index, count)
    following = grid.edges(index + 1, count)[0]
    assert grid.edges(np.array([0]), count)[0] == 0 and high[-1] == np.inf
    assert (high >= following).all()


def test_a_whole_metre_with_the_rounding_of_float32():
    """A room of 4.0000005 m has four blocks of 1 m, the last of which holds its last point too."""
    xyz = np.array([[0.0, 0, 0], [3.5, 0, 0], [4.0000005, 0, 0]])
    counts, blocks = votes(xyz, BlockGrid(1.0, 1.0, 1))
    assert counts.tolist() == [1, 1, 1]
    assert blocks == 2


@pytest.mark.parametrize("side", [0.2, 1.0])
def test_blocks_are_sought_where_points_are(side):
    """Of the 1e6 to 4e7 blocks of a room of 1 km with five points, five are looked at."""
    xyz = np.array([[0, 0, 0], [1000, 0, 0], [0, 1000, 0], [1000, 1000, 0], [500.1, 500.1, 0]], float)
    counts, blocks = votes(xyz, BlockGrid(side, side, 1))
    assert counts.tolist() == [1] * 5 and blocks == 5


@pytest.mark.parametrize("stray", [[1e6, 1e6, 0], [1e8, 0, 0], [0, 1e8, 0], [0, 0, 1e8]], ids=str)
def test_a_room_of_more_cells_than_memory_holds_is_one_line(stray):
    with pytest.raises(UserError, match="stray points"):
        MemoryRoom(np.array([[0.0, 0, 0], stray]), np.zeros((2, 3), np.uint8))
