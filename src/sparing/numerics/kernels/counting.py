"""Loops over sort keys: histograms of a digit, which rows share a prefix (`sparing.numerics.selection`)."""

from typing import Any

import numpy as np

from sparing.numerics.kernels.scalars import bits_of_double, compiled


@compiled(inline="always")
def _key(score: Any) -> Any:
    """Map a score to an integer whose ascending order is the descending order of the scores."""
    bits = bits_of_double(np.float64(score) + 0.0)  # -0.0 and 0.0 are the same score
    return bits if bits >> np.uint64(63) else ~(bits | np.uint64(1) << np.uint64(63))


@compiled()
def count_digits(
    scores: Any,
    ties: Any,
    kinds: Any,
    score: Any,
    score_bits: Any,
    tie: Any,
    tie_bits: Any,
    width: Any,
    counts: Any,
) -> Any:
    """Count rows by the next digit of their key, among those that share the prefix.

    Args:
        scores: shape (m,), float32 or float64.
        ties: shape (m,), uint64.
        kinds: shape (m,), int64, or None.
        score: the leading `score_bits` bits of the score's key, uint64.
        score_bits: how many of them are given, 0 to 64.
        tie: the leading `tie_bits` bits of the tie key, uint64.
        tie_bits: how many of them are given; 0 while score_bits is below 64.
        width: bits of the digit.
        counts: shape (kinds, 2**width), int64; added to.

    Returns:
        The lowest and the highest score key of the rows counted, and whether a score was NaN.
    """
    low, high, nan = ~np.uint64(0), np.uint64(0), False
    drop = np.uint64(64 - width)
    score_shift, tie_shift = np.uint64(64 - score_bits), np.uint64(64 - tie_bits)
    for i in range(len(scores)):
        nan |= scores[i] != scores[i]
        key = _key(scores[i])
        if score_bits > 0 and key >> score_shift != score:
            continue
        low, high = min(low, key), max(high, key)
        if score_bits < 64:
            digit = key << np.uint64(score_bits) >> drop
        else:
            if tie_bits > 0 and ties[i] >> tie_shift != tie:
                continue
            digit = ties[i] << np.uint64(tie_bits) >> drop
        if kinds is None:
            counts[0, digit] += 1
        else:
            counts[kinds[i], digit] += 1
    return low, high, nan


@compiled()
def match(scores: Any, ties: Any, score: Any, score_bits: Any, tie: Any, tie_bits: Any, matches: Any) -> None:
    """Mark the rows that share the prefix; arguments as for `count_digits`, `matches` of shape (m,), bool."""
    score_shift, tie_shift = np.uint64(64 - score_bits), np.uint64(64 - tie_bits)
    for i in range(len(scores)):
        same = score_bits == 0 or _key(scores[i]) >> score_shift == score
        matches[i] = same and (tie_bits == 0 or ties[i] >> tie_shift == tie)
