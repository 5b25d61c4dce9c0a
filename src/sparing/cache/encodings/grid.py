"""The grids that probabilities are rounded to.

The power-law grid stores each probability as a ratio to the largest of its row, on a scale that is fine near
zero: level = round(steps * ratio^(1/4)). The largest is always the highest level, so nothing is lost when all
probabilities are small, and the tail, which decides the entropy, keeps its shape. What top-k leaves out is
stored as one number, the missing mass, on a square-root scale.

The uniform grid, level = round(steps * p), is the form in the caption of PURE's Table 10.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

POWER = 4
"""A ratio is the fourth power of its level's share of the steps."""

FIRST = np.float32(1 + 2**-20)
"""Weight of the first listed class: just above any class whose level is as high, so that it stays first."""


def ratio_levels(probs: Float32, steps: int) -> UInt8:
    """Round each row on the power-law grid.

    Args:
        probs: shape (m, C), rows with a positive largest entry.
        steps: the highest level, 15 or 255.

    Returns:
        Shape (m, C), uint8; the first largest level of a row is that of its first largest entry.
    """
    ratios = probs / probs.max(axis=1, keepdims=True)
    levels: UInt8 = np.rint(np.sqrt(np.sqrt(ratios)) * steps).astype(np.uint8)
    keep_first(levels, probs)
    return levels


def uniform_levels(probs: Float32, steps: int) -> UInt8:
    """Round each entry to a multiple of 1 / steps.

    Returns:
        Shape (m, C), uint8.
    """
    levels: UInt8 = np.rint(probs * steps).astype(np.uint8)
    return levels


def weights_of(steps: int, uniform: bool) -> Float32:
    """Return the weight of each level, before a row is brought to sum to 1.

    Returns:
        Shape (steps + 1,), from 0 to 1.
    """
    share = np.arange(steps + 1) / steps
    weights: Float32 = (share if uniform else share**POWER).astype(np.float32)
    return weights


def missing_levels(listed: Float32, n_classes: int) -> UInt8:
    """Round the mass that a list of k classes leaves out, relative to the most it can be.

    Args:
        listed: shape (m, k), the k largest probabilities of each row.
        n_classes: C.

    Returns:
        Shape (m,), levels from 0 to 15.
    """
    most = 1 - listed.shape[1] / n_classes
    missing = 1 - listed.sum(axis=1, dtype=np.float64)
    levels: UInt8 = np.rint(15 * np.sqrt(np.clip(missing / most, 0, 1))).astype(np.uint8)
    return levels


def unlisted_weight(level: UInt8, listed: Float32, n_classes: int) -> Float32:
    """Spread the missing mass over the classes that are not listed.

    Args:
        level: shape (m,), from `missing_levels`.
        listed: shape (m, k), weights of the listed classes, largest first.
        n_classes: C.

    Returns:
        Shape (m,), the weight of each unlisted class: never above that of the last listed one.
    """
    share = unlisted_share(level, listed.shape[1], n_classes) * listed.sum(axis=1)
    weight: Float32 = np.minimum(share, np.minimum(listed[:, -1], 1)).astype(np.float32)
    return weight


def unlisted_share(level: UInt8, k: int, n_classes: int) -> npt.NDArray[np.float64]:
    """Return what the missing mass would be per unlisted class, relative to the sum of the k listed weights.

    Args:
        level: shape (m,), from `missing_levels`.
        k: how many classes are listed, below C.
        n_classes: C.

    Returns:
        Shape (m,), not negative.
    """
    missing = (level / 15) ** 2 * (1 - k / n_classes)
    share: npt.NDArray[np.float64] = missing / (1 - missing) / (n_classes - k)
    return share


def keep_first(codes: npt.NDArray[Any], probs: Float32) -> None:
    """Lower, in place, the codes that rounding made equal to that of a row's first largest entry.

    Args:
        codes: shape (m, C), unsigned integers in the order of what they stand for.
        probs: shape (m, C).
    """
    first = probs.argmax(axis=1)
    rows = np.flatnonzero(codes.argmax(axis=1) != first)
    if len(rows):
        some, at = codes[rows], first[rows, None]
        before = np.arange(codes.shape[1]) < at
        some[before & (some == np.take_along_axis(some, at, axis=1))] -= 1
        codes[rows] = some
