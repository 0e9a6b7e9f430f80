"""Vectors of sixteen inside compiled code, lane by lane against numpy."""

import numpy as np
import pytest
from numba import njit

from deepgcn_seg.ops.simd import LANES, count_before, load, splat, store, where_greater, widened


@njit
def _lanes(a, b, out, wide, places):
    x, y = load(a, 3), load(b, 1)
    three = splat(a.dtype.type(3))
    store(out, 0, (x + y) * three - x)
    store(out, LANES, where_greater(x, y, x, three))
    store(wide, 0, widened(x) + widened(y))
    return count_before(x, load(places, 3), splat(a[5]), splat(places[5]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lanes_are_numpys_elements(dtype):
    rng = np.random.default_rng(0)
    a, b = rng.integers(-4, 4, (2, LANES + 3)).astype(dtype)
    a[4] = np.nan
    places = rng.permutation(LANES + 3).astype(np.uint32)
    out, wide = np.empty(2 * LANES, dtype), np.empty(LANES, np.float64)
    before = _lanes(a, b, out, wide, places)
    x, y = a[3:], b[1 : LANES + 1]
    np.testing.assert_array_equal(out[:LANES], (x + y) * 3 - x)
    np.testing.assert_array_equal(out[LANES:], np.where(x > y, x, 3))
    np.testing.assert_array_equal(wide, x.astype(np.float64) + y)
    assert before == ((x < a[5]) | ((x == a[5]) & (places[3:] < places[5]))).sum()
