"""Loops over encoded rows: entropy, margin and least confidence, without decoding the table.

Rows come as integers: the bits of float32 (int32) or float16 (uint16), levels (uint8), or pairs of levels in
a byte (uint8). Each row is expanded to float32 weights in a buffer that stays in the processor's cache, and
is scored as if it had been divided by the sum of its weights. Non-negative floats sort like their bits, so
the largest two weights are found among integers, which vectorises.
"""

import math
from typing import Any

import numpy as np

from sparing.numerics.kernels.scalars import (
    REASSOCIATE,
    bits_of,
    compiled,
    exponent_of,
    float_of,
    float_of_byte,
    float_of_half,
    float_of_high,
    float_of_low,
    mantissa_of,
)

ENTROPY, MARGIN, LEAST_CONFIDENCE = 0, 1, 2
SCORES = {"entropy": ENTROPY, "margin": MARGIN, "least-confidence": LEAST_CONFIDENCE}
"""Scores with a compiled loop, by the names of `sparing.numerics.distributions.UNCERTAINTY`."""

HALVES, LEVELS, HALF_BYTES = 0, 1, 2

_F = np.float32
_LN2 = _F(math.log(2))
# ln(1 + x) / x on [sqrt(1/2) - 1, sqrt(2) - 1], fitted at Chebyshev nodes: absolute error below 3e-7.
_C0, _C1, _C2, _C3, _C4, _C5, _C6, _C7 = (
    _F(value)
    for value in np.polynomial.Polynomial.cast(
        np.polynomial.Chebyshev.interpolate(
            lambda x: np.log1p(x) / x, 7, domain=[math.sqrt(0.5) - 1, math.sqrt(2) - 1]
        )
    ).coef
)


@compiled(inline="always", fastmath=REASSOCIATE)
def ln(bits: Any) -> Any:
    """Return the logarithm of the float with these bits; some finite number at 0."""
    x = mantissa_of(bits) - _F(1)
    x2 = x * x
    low = (_C0 + _C1 * x) + (_C2 + _C3 * x) * x2
    high = (_C4 + _C5 * x) + (_C6 + _C7 * x) * x2
    return exponent_of(bits) * _LN2 + x * (low + high * (x2 * x2))


@compiled(inline="always", fastmath=REASSOCIATE)
def _largest_two(row: Any) -> Any:
    """Return the bits of the largest and the second largest weight."""
    first = np.int32(0)
    for j in range(len(row)):
        first = max(first, row[j])
    second, times = np.int32(0), np.int32(0)
    for j in range(len(row)):
        times += np.int32(row[j] == first)
        second = max(second, row[j] if row[j] < first else np.int32(0))
    return first, first if times > 1 else second


@compiled(inline="always", fastmath=REASSOCIATE)
def score(row: Any, total: Any, what: Any) -> Any:
    """Score one row of weights, given as bits, with their sum."""
    if what == ENTROPY:
        inner = _F(0)
        for j in range(len(row)):
            inner += float_of(row[j]) * ln(row[j])
        return max(ln(bits_of(total)) - inner / total, _F(0))
    first, second = _largest_two(row)
    if what == MARGIN:
        return (float_of(first) - float_of(second)) / total
    return _F(1) - float_of(first) / total


@compiled(fastmath=REASSOCIATE)
def score_floats(bits: Any, what: Any, out: Any) -> None:
    """Score rows of float32, each summing to 1.

    Args:
        bits: shape (m, C), int32.
        what: ENTROPY, MARGIN or LEAST_CONFIDENCE.
        out: shape (m,), float32.
    """
    for i in range(len(bits)):
        out[i] = score(bits[i], _F(1), what)


@compiled(fastmath=REASSOCIATE)
def score_codes(codes: Any, form: Any, steps: Any, uniform: Any, what: Any, scratch: Any, out: Any) -> None:
    """Score rows of float16 or of levels.

    Args:
        codes: shape (m, n), uint16 (HALVES) or uint8.
        form: HALVES, LEVELS or HALF_BYTES.
        steps: the highest level.
        uniform: whether a weight is its level's share of the steps; else the share's fourth power.
        what: ENTROPY, MARGIN or LEAST_CONFIDENCE.
        scratch: shape (C,), int32; overwritten.
        out: shape (m,), float32.
    """
    for i in range(len(codes)):
        total = expand(codes[i], form, steps, uniform, scratch)
        out[i] = score(scratch, total, what)


@compiled(inline="always", fastmath=REASSOCIATE)
def expand(row: Any, form: Any, steps: Any, uniform: Any, weights: Any) -> Any:
    """Write the bits of a row's weights, shape (C,), int32, and give their sum."""
    c = len(weights)
    scale = _F(1) / _F(steps)
    if form == HALVES:
        for j in range(c):
            weights[j] = bits_of(float_of_half(np.uint16(row[j])))
    elif form == LEVELS:
        for j in range(c):
            weights[j] = bits_of(float_of_byte(np.uint8(row[j])) * scale)
    else:
        for j in range(c // 2):
            weights[2 * j] = bits_of(float_of_low(np.uint8(row[j])) * scale)
            weights[2 * j + 1] = bits_of(float_of_high(np.uint8(row[j])) * scale)
        if c % 2:
            weights[c - 1] = bits_of(float_of_byte(np.uint8(row[c // 2])) * scale)
    if form != HALVES and not uniform:
        for j in range(c):
            square = float_of(weights[j]) * float_of(weights[j])
            weights[j] = bits_of(square * square)
    total = _F(0)
    for j in range(c):
        total += float_of(weights[j])
    if total == 0:
        # On a uniform grid a flat row can round to nothing.
        for j in range(c):
            weights[j] = bits_of(_F(1))
        total = _F(c)
    return total
