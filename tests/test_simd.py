"""Vectors inside compiled code, lane by lane against numpy."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from llvmlite import binding as llvm
from numba import njit

from deepgcn_seg.ops.cpu import ranks
from deepgcn_seg.ops.cpu.simd import (
    AVX512,
    LANES,
    append,
    at_most,
    comes_before,
    count_bits,
    highest,
    load,
    lowest,
    numbered,
    splat,
    store,
    truncated,
    where_greater,
    widened,
)
from deepgcn_seg.ops.cpu.tiles import write_tile


@njit
def _lanes(a, b, out, wide, places):
    x, y = load(a, 3), load(b, 1)
    three = splat(a.dtype.type(3))
    store(out, 0, (x + y) * three - x)
    store(out, LANES, where_greater(x, y, x, three))
    store(wide, 0, widened(x) + widened(y))
    return at_most(x, y), comes_before(x, load(places, 3), splat(a[5]), splat(places[5])), count_bits(at_most(x, y))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lanes_are_numpys_elements(dtype):
    rng = np.random.default_rng(0)
    a, b = rng.integers(-4, 4, (2, LANES + 3)).astype(dtype)
    a[4] = np.nan
    places = rng.permutation(LANES + 3).astype(np.uint32)
    out, wide = np.empty(2 * LANES, dtype), np.empty(LANES, np.float64)
    within, before, number = _lanes(a, b, out, wide, places)
    x, y = a[3:], b[1 : LANES + 1]
    np.testing.assert_array_equal(out[:LANES], (x + y) * 3 - x)
    np.testing.assert_array_equal(out[LANES:], np.where(x > y, x, 3))
    np.testing.assert_array_equal(wide, x.astype(np.float64) + y)
    assert within == bitmask(x <= y)
    assert number == (x <= y).sum()
    assert before == bitmask((x < a[5]) | ((x == a[5]) & (places[3:] < places[5])))


def bitmask(lanes):
    return sum(1 << lane for lane in np.flatnonzero(lanes))


@njit
def _reduced(a, integers):
    x = load(a, 2)
    store(integers, 0, truncated(x))
    store(integers, LANES, numbered(np.uint32(7)))
    return lowest(x), highest(x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lowest_highest_and_integers(dtype):
    a = np.random.default_rng(0).uniform(0, 500, LANES + 2).astype(dtype)
    integers = np.empty(2 * LANES, np.uint32)
    assert _reduced(a, integers) == (a[2:].min(), a[2:].max())
    np.testing.assert_array_equal(integers[:LANES], a[2:].astype(np.uint32))
    np.testing.assert_array_equal(integers[LANES:], np.arange(7, 7 + LANES))


@njit
def _appended(values, limits, numbers, out):
    place = append(out, 2, load(numbers, 0), at_most(load(values, 0), load(limits, 0)))
    return append(out, place, load(numbers, LANES), at_most(load(values, LANES), load(limits, LANES)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint32])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_lanes_of_a_bitmask_are_appended(dtype, share):
    rng = np.random.default_rng(0)
    values, limits = rng.random(2 * LANES), np.full(2 * LANES, share)
    numbers, out = rng.integers(0, 99, 2 * LANES).astype(dtype), np.zeros(3 * LANES + 2, dtype)
    expected = numbers[values <= share]
    assert _appended(values, limits, numbers, out) == 2 + len(expected)
    np.testing.assert_array_equal(out[2 : 2 + len(expected)], expected)
    assert not out[:2].any()


@njit
def _tile(queries, points, half_norms, tile):
    write_tile(queries, 1, points, 2, half_norms, tile)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 7, 64])
def test_a_tile_is_a_product_of_matrices(dtype, channels):
    rng = np.random.default_rng(0)
    queries = rng.integers(-9, 9, (2, channels, LANES)).astype(dtype)
    points, half_norms = rng.integers(-9, 9, (3, channels, LANES)).astype(dtype), rng.integers(0, 9, 3 * LANES)
    tile = np.empty(LANES * LANES, dtype)
    _tile(queries, points, half_norms.astype(dtype), tile)
    np.testing.assert_array_equal(tile.reshape(LANES, LANES), half_norms[2 * LANES :] - queries[1].T @ points[2])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_candidates_of_wanted_bins_are_gathered_bin_by_bin(dtype):
    rng = np.random.default_rng(0)
    count, wanted = 300, [3, 77, ranks.BINS - 1]
    bins = rng.integers(0, ranks.BINS, count + LANES).astype(np.uint32)
    bins[:60] = rng.choice(wanted, 60)
    keys, columns = rng.random(count + LANES).astype(dtype), rng.permutation(count + LANES).astype(np.uint32)
    expected = [sorted(zip(keys[:count][bins[:count] == b], columns[:count][bins[:count] == b])) for b in wanted]
    few_keys, few_columns = np.empty(count, dtype), np.empty(count, np.uint32)
    starts = np.full(ranks.BINS, count - 1, np.uint32)
    first = 5
    for b, members in zip(wanted, expected):
        starts[b] = first
        first += len(members)
    ranks.gather(keys, columns, bins, count, starts, few_keys, few_columns)
    for b, members in zip(wanted, expected):
        found = slice(starts[b] - len(members), starts[b])
        assert sorted(zip(few_keys[found], few_columns[found])) == members


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cpu", "features"),
    [("haswell", "avx,avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt,sse4.2"), ("nehalem", "sse4.2,popcnt,cx16")],
    ids=["AVX2", "SSE"],
)
def test_kernels_on_lesser_cpus(cpu, features, tmp_path):
    """Tests of the compiled kernels, compiled for a CPU that has less than most."""
    lacking = [name for name in features.split(",") if not llvm.get_host_cpu_features().get(name)]
    if lacking:
        pytest.skip(f"this CPU has no {', '.join(lacking)}")
    if "avx2" in features and not AVX512:
        pytest.skip("this CPU has no more than that: all tests use it")
    has = ",".join(f"+{name}" for name in features.split(","))
    environment = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": has, "NUMBA_CACHE_DIR": str(tmp_path)}
    files = [str(Path(__file__).parent / f"test_{name}.py") for name in ("neighbors", "simd", "edges")]
    selection = [
        "-m",
        "not slow",
        "-k",
        "(ties or misleads or piled or lanes or tile or gathered or extremum or moments) and not torch",
    ]
    command = [sys.executable, "-m", "pytest", "-q", *selection, "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
