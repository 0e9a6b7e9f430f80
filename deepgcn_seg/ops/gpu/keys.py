"""Integers in the order of floats, and the halving of an interval of them (Triton)."""

import triton
import triton.language as tl

# A bisection halves an interval of distances in this many steps, and then one of bit patterns in at most 32 more. The
# first kind soon leaves few distances, unless outliers make the interval wide; the second always ends. The number is
# that of thresholds.STEPS; others were not measured.
STEPS_BY_VALUE = tl.constexpr(12)


@triton.jit
def key_of(value):
    """Return integers in the order of the floats.

    The bits of positive floats are in order as they are. Those of negative floats are in reverse order; all of them but
    the sign are flipped.
    """
    bits = value.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def value_of(key):
    """Return the floats of :func:`key_of`'s integers."""
    return tl.where(key < 0, key ^ 0x7FFFFFFF, key).to(tl.float32, bitcast=True)


@triton.jit
def middle_key(low, high, step):
    """Return a key from ``low`` to below ``high``: halfway between the values in the first steps, then between keys."""
    middle = (low >> 1) + (high >> 1) + (low & high & 1)
    if step < STEPS_BY_VALUE:
        middle = key_of(0.5 * value_of(low) + 0.5 * value_of(high))
    return tl.minimum(tl.maximum(middle, low), high - 1)
