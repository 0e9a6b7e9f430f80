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
    PACKS,
    bits_at,
    count_before,
    count_bits,
    count_within,
    highest,
    load,
    lowest,
    numbered,
    packed,
    splat,
    store,
    truncated,
    where_greater,
    widened,
)


@njit
def _lanes(a, b, out, wide, places):
    x, y = load(a, 3), load(b, 1)
    three = splat(a.dtype.type(3))
    store(out, 0, (x + y) * three - x)
    store(out, LANES, where_greater(x, y, x, three))
    store(wide, 0, widened(x) + widened(y))
    return count_within(x, y), count_before(x, load(places, 3), splat(a[5]), splat(places[5]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lanes_are_numpys_elements(dtype):
    rng = np.random.default_rng(0)
    a, b = rng.integers(-4, 4, (2, LANES + 3)).astype(dtype)
    a[4] = np.nan
    places = rng.permutation(LANES + 3).astype(np.uint32)
    out, wide = np.empty(2 * LANES, dtype), np.empty(LANES, np.float64)
    within, before = _lanes(a, b, out, wide, places)
    x, y = a[3:], b[1 : LANES + 1]
    np.testing.assert_array_equal(out[:LANES], (x + y) * 3 - x)
    np.testing.assert_array_equal(out[LANES:], np.where(x > y, x, 3))
    np.testing.assert_array_equal(wide, x.astype(np.float64) + y)
    assert within == (x <= y).sum()
    assert before == ((x < a[5]) | ((x == a[5]) & (places[3:] < places[5]))).sum()


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
def _packed(values, table, places, out):
    chosen = bits_at(table, load(places, 0))
    store(out, 0, packed(load(values, 0), chosen))
    return count_bits(chosen)


@pytest.mark.skipif(not PACKS, reason="needs AVX-512 or AVX2")
@pytest.mark.parametrize("dtype", [np.float32, np.uint32])
def test_chosen_lanes_move_to_the_front(dtype):
    rng = np.random.default_rng(0)
    values, places = rng.integers(0, 99, LANES).astype(dtype), rng.integers(0, 32 * LANES, LANES).astype(np.uint32)
    table, out = rng.integers(0, 2**32, LANES, np.uint32), np.empty(LANES, dtype)
    chosen = (table[places >> 5] >> (places & 31) & 1).astype(bool)
    assert _packed(values, table, places, out) == chosen.sum()
    np.testing.assert_array_equal(out[: chosen.sum()], values[chosen])


@pytest.mark.parametrize("gather", [ranks.gather_one_by_one, ranks.gather_packed])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_candidates_of_wanted_bins_are_gathered_bin_by_bin(gather, dtype):
    if gather is ranks.gather_packed and not PACKS:
        pytest.skip("needs AVX-512 or AVX2")
    rng = np.random.default_rng(0)
    count, wanted = 300, [3, 77, 255]
    bins = rng.integers(0, ranks.BINS, count + LANES).astype(np.uint32)
    bins[:60] = rng.choice(wanted, 60)
    keys, columns = rng.random(count + LANES).astype(dtype), rng.permutation(count + LANES).astype(np.uint32)
    expected = [sorted(zip(keys[:count][bins[:count] == b], columns[:count][bins[:count] == b])) for b in wanted]
    table, few_keys, few_columns = np.zeros(LANES, np.uint32), np.empty(count, dtype), np.empty(count, np.uint32)
    starts = np.full(ranks.BINS, count - 1, np.uint32)
    first = 5
    for b, members in zip(wanted, expected):
        table[b // 32] |= np.uint32(1 << b % 32)
        starts[b] = first
        first += len(members)
    gather(keys, columns, bins, count, table, starts, few_keys, few_columns, np.empty(count + LANES, np.uint32))
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
    files = [str(Path(__file__).parent / f"test_{name}.py") for name in ("neighbors", "lower_bounds", "simd", "edges")]
    chosen = ["-m", "not slow", "-k", "ties or misleads or bounds or lanes or front or gathered or extremum or moments"]
    command = [sys.executable, "-m", "pytest", "-q", *chosen, "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
