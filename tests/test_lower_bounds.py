"""Lower bounds of distances against the distances, in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepgcn_seg.ops.cpu.lower_bounds import put_in_order, write_reaches, write_rounded
from deepgcn_seg.ops.cpu.simd import LANES


def cloud(shape, kind, seed):
    """Points, which of them are present, and the mean of these."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=shape)
    if kind == "outlier":
        points[0] *= 1e5
    elif kind == "two clusters":
        points[::2] += 300
    elif kind == "duplicates":
        points = points[rng.integers(0, min(len(points), 5), len(points))]
    elif kind == "all equal":
        points[:] = 0.25
    elif kind == "tiny":
        points *= 10.0 ** -rng.integers(15, 25)
    elif kind == "large":
        points *= 1e12
    elif kind == "far from the origin":
        points += 4096
    points, present = points.astype(np.float32), rng.random(len(points)) < 0.9
    present[0] = True
    return points, present, points[present].mean(0)


def squared_distances(points):
    apart = points[:, None].astype(np.float64) - points
    return (apart * apart).sum(-1)


def tiled(points, present):
    """Points less their mean, in groups of lanes, and half their squared norms."""
    missing = -len(points) % LANES
    filled = np.pad(np.where(present[:, None], points, 0), ((0, missing), (0, 0)))
    half_norms = (filled * filled).sum(1, dtype=np.float32) / np.float32(2)
    half_norms[: len(points)][~present] = np.inf
    half_norms[len(points) :] = np.inf
    return np.ascontiguousarray(filled.reshape(-1, LANES, points.shape[1]).transpose(0, 2, 1)), half_norms


clouds = given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 70)),
    kind=st.sampled_from(
        ["normal", "outlier", "two clusters", "duplicates", "all equal", "tiny", "large", "far from the origin"]
    ),
    seed=st.integers(0, 99),
    share=st.floats(0, 1),
)


def in_reach(points, half_norms, share):
    """Squared distances, and reaches and spans for thresholds that let such a share through."""
    distances = squared_distances(points)
    thresholds = np.zeros(len(half_norms), np.float32)
    thresholds[: len(points)] = np.quantile(distances, share, axis=1) / 2 - half_norms[: len(points)]
    reaches, spans = np.empty((2, len(half_norms)), np.float32)
    write_reaches(thresholds, half_norms, points.shape[1], reaches, spans)
    return distances, reaches[: len(points)], reaches, spans[: len(points)]


@settings(max_examples=80, deadline=None)
@clouds
def test_bounds_of_rounded_points_leave_out_nobody_in_reach(shape, kind, seed, share):
    points, present, mean = cloud(shape, kind, seed)
    tiles, half_norms = tiled(points - mean, present)
    distances, own_reaches, reaches, _ = in_reach(points - mean, half_norms, share)
    nearness, limits = nearness_of_rounded(tiles, half_norms, reaches, len(points))
    pairs = present[:, None] & present
    assert (nearness > limits[:, None])[pairs & (distances <= own_reaches[:, None])].all()
    assert not (nearness > limits[:, None])[present[:, None] & ~present].any()


def nearness_of_rounded(tiles, half_norms, reaches, count):
    """Minus half the squared distances of rounded points, and what these must exceed."""
    words = np.empty((len(tiles), -(-tiles.shape[1] // 2), LANES), np.int32)
    norms, limits = np.empty((2, len(half_norms)), np.int32)
    write_rounded(tiles, half_norms, reaches, words, norms, limits)
    halves = words.view(np.int16).reshape(*words.shape, 2).transpose(0, 2, 1, 3).reshape(len(norms), -1)[:count]
    rounded = halves.astype(np.int64)
    # Sums must fit where the kernel adds them up.
    nearness = rounded @ rounded.T + norms[:count].astype(np.int64) + norms[:count, None]
    there = norms[:count] > norms.min() if (~np.isfinite(half_norms[:count])).any() else np.full(count, True)
    assert abs(nearness[there][:, there]).max() < 2**31
    return nearness, limits[:count]


def test_bounds_of_rounded_points_are_close():
    """Within a few hundredths, however far one point is from all others."""
    points = np.random.default_rng(0).random((400, 64), np.float32)
    points[7] += 1000
    present = np.full(400, True)
    centred = points - points.mean(0)
    tiles, half_norms = tiled(centred, present)
    distances, own_reaches, reaches, _ = in_reach(centred, half_norms, 0.3)
    nearness, limits = nearness_of_rounded(tiles, half_norms, reaches, 400)
    beyond = distances > 1.05 * own_reaches[:, None]
    beyond[7] = beyond[:, 7] = False
    assert not (nearness > limits[:, None])[beyond].any()


@settings(max_examples=80, deadline=None)
@clouds
def test_bounds_along_an_axis_leave_out_nobody_in_reach(shape, kind, seed, share):
    points, present, mean = cloud(shape, kind, seed)
    _, half_norms = tiled(points - mean, present)
    distances, reaches, _, spans = in_reach(points - mean, half_norms, share)
    order, along = np.empty(len(points), np.uint32), np.empty(len(points) + 5, np.float32)
    put_in_order(points, present, mean, 2, order, along)
    assert sorted(order) == list(range(len(points)))
    assert (np.isinf(along[: len(points)]) == ~present[order]).all()
    assert np.isinf(along[len(points) :]).all()
    along = along[: present.sum()]
    assert (np.diff(along) >= 0).all()
    order = order[: len(along)]
    apart = abs(along[:, None].astype(np.float64) - along)
    near = distances[order][:, order] <= reaches[order][:, None]
    assert (apart <= spans[order][:, None])[near].all()


def test_points_vary_most_along_the_axis():
    points = np.random.default_rng(0).normal(size=(1024, 40)).astype(np.float32) @ np.diag(np.linspace(3, 1, 40))
    points = points.astype(np.float32)
    points[:, 11] *= 4
    order, along = np.empty(1024, np.uint32), np.empty(1024, np.float32)
    put_in_order(points, np.full(1024, True), points.mean(0), 4, order, along)
    most = np.linalg.eigvalsh(np.cov(points.T))[-1]
    assert along.var() == pytest.approx(most, rel=0.05)
