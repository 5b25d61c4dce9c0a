"""Selection policies: which patches to send, as functions of attention, embeddings and a number of patches.

All are batched: m images of n patches in a grid; each returns positions of shape (m, k), first pick first.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from sparing.errors import InputError

Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int64]

POLICIES = ("random", "grid", "importance", "cumulative", "sage", "coverage", "spread")
"""Names that `select` knows."""


def select(
    policy: str, attention: Floats, embeddings: Floats, cols: int, k: int, *, seed: int = 0
) -> Indices:
    """Choose k patches of each image by the name of a policy, with that policy's usual parameters.

    Args:
        policy: one of `POLICIES`. For "cumulative", images whose attention is concentrated get fewer than k
            patches, and the rest of their row is -1.
        attention: shape (m, n).
        embeddings: shape (m, n, d).
        cols: columns of the grid of patches.
        k: patches per image, 0 <= k <= n.
        seed: of the random policy.

    Returns:
        Shape (m, k), positions in [0, n), distinct within a row, first pick first.

    Raises:
        InputError: an unknown policy, k out of range, or shapes that do not agree.
    """
    m, n = attention.shape
    if not 0 <= k <= n:
        raise InputError(f"cannot choose {k} of {n} patches")
    if embeddings.shape[:2] != (m, n) or n % cols:
        raise InputError(
            f"attention of shape {attention.shape}, embeddings of shape {embeddings.shape} and "
            f"{cols} columns do not belong together"
        )
    match policy:
        case "random":
            return random(m, n, k, seed=seed)
        case "grid":
            return np.tile(grid(n // cols, cols, k), (m, 1))
        case "importance":
            return importance(attention, k)
        case "cumulative":
            chosen = importance(attention, k)
            counts = cumulative_counts(attention, CUMULATIVE)
            return np.where(np.arange(k) < counts[:, None], chosen, -1)
        case "sage":
            return sage(attention, embeddings, k)
        case "coverage":
            return sage(attention, embeddings, k, pool_ratio=None)
        case "spread":
            return spread(attention, embeddings, cols, k)
    raise InputError(f"unknown policy {policy!r}: expected one of {', '.join(POLICIES)}")


CUMULATIVE = 0.97
"""The share of attention that the policy "cumulative" keeps (the predecessor paper's threshold)."""


def random(m: int, n: int, k: int, *, seed: int = 0) -> Indices:
    """Choose k of n patches at random, for each image anew."""
    return np.argsort(np.random.default_rng(seed).random((m, n)), axis=1)[:, :k]


def grid(rows: int, cols: int, k: int) -> Indices:
    """Choose k patches spread evenly over the grid, whatever the image: the first k of an ordered dither.

    Args:
        rows: rows of patches.
        cols: columns of patches.
        k: how many, 0 <= k <= rows * cols.

    Returns:
        Shape (k,), positions. Every power of 4 of a square grid is a regular sub-grid.
    """
    row, col = np.divmod(np.arange(rows * cols), cols)
    rank = np.zeros(rows * cols, dtype=np.int64)
    for bit in range(max(rows, cols).bit_length()):
        # The lowest bits of row and column decide first (Bayer's threshold matrix).
        rank = 4 * rank + 2 * ((row ^ col) >> bit & 1) + (row >> bit & 1)
    return np.argsort(rank, kind="stable")[:k]


def importance(attention: Floats, k: int) -> Indices:
    """Choose the k patches with most attention; among equals the first.

    Args:
        attention: shape (m, n).
        k: 0 <= k <= n.

    Returns:
        Shape (m, k).
    """
    return np.asarray(np.argsort(-attention, axis=1, kind="stable")[:, :k])


def cumulative_counts(attention: Floats, share: float) -> Indices:
    """Count the most attended patches that together hold a share of the attention.

    Args:
        attention: shape (m, n), not negative.
        share: in [0, 1].

    Returns:
        Shape (m,), at least 1.
    """
    ordered = -np.sort(-attention.astype(np.float64), axis=1)
    reached = np.cumsum(ordered, axis=1) >= share * ordered.sum(axis=1, keepdims=True) - 1e-12
    return np.asarray(np.argmax(reached, axis=1) + 1)


def sage(attention: Floats, embeddings: Floats, k: int, *, pool_ratio: float | None = 2) -> Indices:
    """Choose k patches by importance filtering and farthest-point sampling (SAGE).

    The pool is the `pool_ratio * k` patches with most attention. The first pick is the one with most; each
    next one is the patch of the pool whose largest cosine similarity to those picked is smallest.

    Args:
        attention: shape (m, n).
        embeddings: shape (m, n, d).
        k: 0 <= k <= n.
        pool_ratio: 1 is `importance`; None takes all patches into the pool (pure coverage).

    Returns:
        Shape (m, k); equals go to the patch with more attention.
    """
    n = attention.shape[1]
    pool = importance(attention, n if pool_ratio is None else min(n, round(pool_ratio * k)))
    return _farthest(pool, k, lambda rows: _similarity(embeddings[rows], pool[rows]))


def spread(
    attention: Floats, embeddings: Floats, cols: int, k: int, *, position_weight: float = 0.75
) -> Indices:
    """Choose k patches that cover positions and embeddings together, starting from the most attended one.

    Args:
        attention: shape (m, n).
        embeddings: shape (m, n, d).
        cols: columns of the grid.
        k: 0 <= k <= n.
        position_weight: from 0 (embeddings only, as "coverage") to 1 (positions only).

    Returns:
        Shape (m, k).
    """
    n = attention.shape[1]
    pool = importance(attention, n)
    where = np.stack(np.divmod(np.arange(n), cols), axis=1).astype(np.float32)
    apart = np.sqrt(((where[:, None] - where) ** 2).sum(axis=2))
    near = 1 - 2 * apart / apart.max() if n > 1 else np.ones((1, 1), dtype=np.float32)
    near = position_weight * near.astype(np.float32)

    def similarity(rows: slice) -> npt.NDArray[np.float32]:
        by_position = near[pool[rows][:, :, None], pool[rows][:, None, :]]
        both = (1 - position_weight) * _similarity(embeddings[rows], pool[rows]) + by_position
        return np.asarray(both, dtype=np.float32)

    return _farthest(pool, k, similarity)


def _similarity(embeddings: Floats, pool: Indices) -> npt.NDArray[np.float32]:
    """Cosine similarities within each pool, shape (m, pool, pool); a zero vector is similar to nothing."""
    chosen = np.take_along_axis(embeddings, pool[:, :, None], axis=1).astype(np.float32)
    chosen /= np.maximum(np.linalg.norm(chosen, axis=2, keepdims=True), np.finfo(np.float32).tiny)
    similarity: npt.NDArray[np.float32] = chosen @ chosen.transpose(0, 2, 1)
    return similarity


BLOCK = 1 << 24
"""Similarities held at once, 64 MiB: the pairs of patches of thousands of images would fill the memory."""


def _farthest(pool: Indices, k: int, similarity: Callable[[slice], npt.NDArray[np.float32]]) -> Indices:
    """Pick k of each pool, given a function from rows to their similarities (rows, pool, pool)."""
    picks = np.empty((len(pool), k), dtype=np.int64)
    rows = max(BLOCK // max(pool.shape[1] ** 2, 1), 1)
    for start in range(0, len(pool), rows):
        part = slice(start, start + rows)
        picks[part] = _farthest_points(np.ascontiguousarray(similarity(part)), k)
    return np.take_along_axis(pool, picks, axis=1)


@njit(cache=True)
def _farthest_points(similarity: Any, k: int) -> Any:
    """Greedy picks (m, k) from similarities (m, p, p), starting with 0; among equals the first."""
    m, p, _ = similarity.shape
    picks = np.zeros((m, k), dtype=np.int64)
    for row in range(m):
        if k == 0:
            break
        nearest = similarity[row, 0].copy()
        nearest[0] = np.inf
        for at in range(1, k):
            best = 0
            for candidate in range(1, p):
                if nearest[candidate] < nearest[best]:
                    best = candidate
            picks[row, at] = best
            for candidate in range(p):
                nearest[candidate] = max(nearest[candidate], similarity[row, best, candidate])
            nearest[best] = np.inf
    return picks
