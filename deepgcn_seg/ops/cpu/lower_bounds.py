"""Lower bounds of the distances between points, far cheaper than the distances (numba).

- Along one axis, the one they vary most along: in order along it, who may be near a point is in a window around it.
- Between points rounded to 16 bits a channel, two channels to a word: products take half the time of float32's.

Points come as in :mod:`.lists`: (G, C, LANES), and half their squared norms (G * LANES,), infinite for those
that are nobody's neighbour.
"""

import numpy as np

from ...kernel_cache import kernel
from .simd import LANES

# Rounds of the power method: the axis need not be exact.
ROUNDS = 8
# Length of rounded points, whose squared distances fit into 31 bits.
LONGEST = 23170
# Points beyond so many times the mean length are drawn in: what projects onto a ball comes no farther
# apart, and a few outliers do not make the rest coarse.
WITHIN = 4.0
# Of shorter points squares lose digits in float32; all are rounded to zero.
SHORTEST = 1e-18
# Minus half of a squared distance that no two rounded points have.
NOWHERE = -(2**30) - 2**22


def put_in_order(
    points: np.ndarray, present: np.ndarray, mean: np.ndarray, step: int, order: np.ndarray, along: np.ndarray
) -> None:
    """Order points by how far they are from the mean along the axis that every so manyth varies most along.

    Args:
        points: (N, C). present: (N,) bool; absent ones come last. mean: (C,).
        order: (N,), written: points, in order. along: (N or more,), written: how far, in order; infinite for the absent
            and at the end.
    """
    along[:] = np.inf
    places = along[: len(points)]
    _write_along(points, present, mean, step, places)
    order[:] = places.argsort()
    places[:] = places[order]


@kernel(fastmath={"reassoc", "contract", "nsz"})
def _write_along(points, present, mean, step, along):
    """Write how far along the axis each of (N, C) points is, infinite where it is absent or not a number."""
    count, channels = len(points), len(mean)
    sample = np.zeros((-(-count // step), channels), np.float32)
    largest = np.float32(0)
    for s in range(len(sample)):
        if present[s * step]:
            for channel in range(channels):
                sample[s, channel] = points[s * step, channel] - mean[channel]
                largest = max(largest, abs(sample[s, channel]))
    axis, following = np.zeros(channels, np.float32), np.empty(channels, np.float32)
    # Without a scale, or with points that are not numbers, there is no axis: all are at its origin.
    if 0 < largest < np.inf:
        for s in range(len(sample)):
            for channel in range(channels):
                sample[s, channel] /= largest
        longest = 0
        for s in range(len(sample)):
            if _dot(sample[s], sample[s]) > _dot(sample[longest], sample[longest]):
                longest = s
        for channel in range(channels):
            axis[channel] = sample[longest, channel]
        for _ in range(ROUNDS):
            following[:] = 0
            for s in range(len(sample)):
                how_far = _dot(sample[s], axis)
                for channel in range(channels):
                    following[channel] += how_far * sample[s, channel]
            length = np.sqrt(_dot(following, following))
            for channel in range(channels):
                axis[channel] = following[channel] / length
    for p in range(count):
        total = np.float32(0)
        for channel in range(channels):
            total += (points[p, channel] - mean[channel]) * axis[channel]
        along[p] = total if present[p] and not np.isnan(total) else np.inf


@kernel(fastmath={"reassoc", "contract", "nsz"})
def _dot(x, y):
    total = np.float32(0)
    for channel in range(len(x)):
        total += x[channel] * y[channel]
    return total


@kernel()
def write_reaches(thresholds, half_norms, channels, reaches, spans):
    """Write within which squared distance of each point x are those y where ``|y|^2 / 2 - x.y`` is at most a threshold.

    Args:
        spans: (G * LANES,), written: how far from x they can be along any axis, errors of rounding included.
    """
    largest = 0.0
    for half_norm in half_norms:
        if half_norm < np.inf:
            largest = max(largest, half_norm)
    slack = channels * 2.0**-22 * np.sqrt(2 * largest)
    for place in range(len(spans)):
        reach = 2 * (np.float64(thresholds[place]) + half_norms[place])
        reaches[place] = min(max(reach, 0), np.finfo(np.float32).max)
        # A difference of numbers of the size of squared norms is not known better.
        span = 1.00001 * np.sqrt(reaches[place] + 1e-6 * largest) + slack
        spans[place] = span if half_norms[place] < np.inf else 0


@kernel()
def write_rounded(tiles, half_norms, reaches, words, norms, limits):
    """Round points so that two within a distance stay within a limit.

    Args:
        reaches: of :func:`write_reaches`.
        words: (G, C / 2 rounded up, LANES) int32, written: of each point two channels to a word.
        norms: (G * LANES,) int32, written: minus half the squared norms of rounded points; ``x.y`` and the norms of x
            and y add up to minus half the squared distance.
        limits: (G * LANES,) int32, written: what this exceeds where two points are in reach.
    """
    groups, channels, _ = tiles.shape
    points, total, largest = 0, 0.0, 0.0
    for half_norm in half_norms:
        if half_norm < np.inf:
            points += 1
            length = np.sqrt(2 * np.float64(half_norm))
            total += length
            largest = max(largest, length)
    radius = min(largest, WITHIN * total / max(points, 1))
    scale = LONGEST / radius if radius > SHORTEST else 0.0
    scales, squares, error = np.empty(LANES, np.float32), np.empty(LANES, np.int32), np.empty(LANES, np.float32)
    errors = np.zeros(len(norms), np.float32)
    largest_error = np.float32(0)
    for group in range(groups):
        first = group * LANES
        for lane in range(LANES):
            length = np.sqrt(2 * np.float64(half_norms[first + lane]))
            scales[lane] = min(scale, LONGEST / length) if 0 < length < np.inf else scale
        squares[:] = 0
        error[:] = 0
        words[group] = 0
        for channel in range(channels):
            word, bits = channel // 2, np.int32(channel % 2 * 16)
            for lane in range(LANES):
                value = tiles[group, channel, lane] * scales[lane]
                whole = np.floor(value + np.float32(0.5))
                integer = np.int32(whole)
                error[lane] += (value - whole) * (value - whole)
                squares[lane] += integer * integer
                words[group, word, lane] |= (integer & np.int32(0xFFFF)) << bits
        for lane in range(LANES):
            present = half_norms[first + lane] < np.inf
            norms[first + lane] = -(squares[lane] >> 1) if present else NOWHERE
            if present:
                errors[first + lane] = np.sqrt(error[lane])
                largest_error = max(largest_error, errors[first + lane])
    # What float32 does not hold of a channel, too.
    theirs = largest_error + 0.01 * np.sqrt(channels)
    for point in range(len(norms)):
        apart = 1.000001 * scale * np.sqrt(np.float64(reaches[point])) + errors[point] + theirs
        limits[point] = np.int32(max(-apart * apart / 2 - 1, NOWHERE))
