"""The exact cut: which rows come first by score when only so much fits, in memory or over a stream.

Rows are ordered by score (highest first), then by a seeded 64-bit hash of the id, then by the id itself.
Breaking ties by the id alone would starve the same rows in every round: a 4-bit top-1 cache has only 16
distinct scores.

A stream is read several times. Each pass counts rows by the next 16 bits of the sort key, so memory does not
grow with the number of rows; once few enough rows share the undecided prefix they are sorted outright.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sparing.errors import InputError
from sparing.ids import as_ids, hash_ids

UInt64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

_SORT_OUTRIGHT = 1 << 20
_DIGITS = 1 << 16


@dataclass(frozen=True)
class Items:
    """One chunk of things that compete for a budget.

    Attributes:
        scores: shape (m,), float; higher comes first; no NaN.
        ties: shape (m,), uint64, from `tie_keys`.
        ids: shape (m,), sortable; the last resort between equal ties.
        kinds: shape (m,), indices into the weights; None when everything weighs the same.
    """

    scores: npt.NDArray[np.floating[Any]]
    ties: UInt64
    ids: npt.NDArray[Any]
    kinds: npt.NDArray[np.integer[Any]] | None = None


@dataclass(frozen=True)
class Cut:
    """The first item that no longer fits: everything before it, in order, is taken.

    Attributes:
        score: its score.
        tie: its tie key.
        id: its id.
    """

    score: float
    tie: int
    id: Any

    def takes(self, items: Items) -> Bools:
        """Say which items come before the cut.

        Returns:
            Shape (m,), True where the item is taken.
        """
        scores = items.scores.astype(np.float64, copy=False)
        taken: Bools = scores > self.score
        level = scores == self.score
        if level.any():
            tie = np.uint64(self.tie)
            taken |= level & (items.ties < tie)
            last = level & (items.ties == tie)
            if last.any():
                taken[last] = items.ids[last] < self.id
        return taken


def tie_keys(ids: pa.Array | npt.NDArray[Any] | Sequence[Any], seed: int = 0) -> UInt64:
    """Hash ids to 64 bits, so that equal scores are ordered by chance but reproducibly.

    Args:
        ids: m strings or integers.
        seed: changes the order among equals.

    Returns:
        Shape (m,), uint64.

    Raises:
        InputError: ids of another type, or missing ids.
    """
    return hash_ids(as_ids(ids), seed)


def _descending(scores: npt.NDArray[np.floating[Any]]) -> UInt64:
    """Map scores to integers whose ascending order is the descending order of the scores."""
    values = scores.astype(np.float64) + 0.0  # -0.0 and 0.0 are the same score
    if np.isnan(values).any():
        raise InputError("a score is NaN: rows cannot be ranked by it")
    bits = values.view(np.uint64)
    sign = np.uint64(1) << np.uint64(63)
    ascending = np.where(bits & sign, ~bits, bits | sign)
    descending: UInt64 = ~ascending
    return descending


def find_cut(
    chunks: Callable[[], Iterable[Items]], capacity: float, weights: Sequence[float] = (1,)
) -> Cut | None:
    """Find where a budget runs out when items are taken in order until the first that does not fit.

    Args:
        chunks: called once per pass; yields the same items every time, in any order and chunking.
        capacity: what the taken items may weigh in sum; not negative.
        weights: weight of each kind of item, not negative.

    Returns:
        The first item that does not fit, or None when everything fits.

    Raises:
        InputError: a score is NaN.
    """
    prefix: list[int] = []
    before = np.zeros(len(weights), dtype=np.int64)
    while True:
        counts = np.zeros((len(weights), _DIGITS), dtype=np.int64)
        gathered: list[Items] | None = []
        waiting = 0
        for items in chunks():
            level = _matching(items, prefix)
            digit = _digit(level, len(prefix))
            kinds = np.zeros(len(digit), dtype=np.int64) if level.kinds is None else level.kinds
            for kind in range(len(weights)):
                counts[kind] += np.bincount(digit[kinds == kind], minlength=_DIGITS)
            waiting += len(digit)
            if gathered is not None and waiting <= _SORT_OUTRIGHT:
                gathered.append(level)
            else:
                gathered = None
        if gathered is not None:
            return _first_that_does_not_fit(gathered, before, capacity, weights)
        upto = before[:, None] + counts.cumsum(axis=1)
        over = _weigh(upto, weights) > capacity
        if not over.any():
            return None
        critical = int(over.argmax())
        before = before + counts[:, :critical].sum(axis=1)
        prefix.append(critical)
        if len(prefix) == 8:
            # Only ids still tell these apart: a crowd of this size shares score and hash.
            return _first_that_does_not_fit(
                [_matching(i, prefix) for i in chunks()], before, capacity, weights
            )


def _weigh(counts: npt.NDArray[np.int64], weights: Sequence[float]) -> npt.NDArray[Any]:
    # From counts, not by adding up weights: the sum must not depend on how the rows were chunked.
    total: npt.NDArray[Any] = counts[0] * weights[0]
    for kind in range(1, len(weights)):
        total = total + counts[kind] * weights[kind]
    return total


def _digit(items: Items, depth: int) -> npt.NDArray[np.int64]:
    key = _descending(items.scores) if depth < 4 else items.ties
    shift = np.uint64(48 - 16 * (depth % 4))
    digit: npt.NDArray[np.int64] = ((key >> shift) & np.uint64(0xFFFF)).astype(np.int64)
    return digit


def _matching(items: Items, prefix: list[int]) -> Items:
    for depth, digit in enumerate(prefix):
        chosen = _digit(items, depth) == digit
        items = Items(
            items.scores[chosen],
            items.ties[chosen],
            items.ids[chosen],
            None if items.kinds is None else items.kinds[chosen],
        )
    return items


def _first_that_does_not_fit(
    gathered: list[Items], before: npt.NDArray[np.int64], capacity: float, weights: Sequence[float]
) -> Cut | None:
    if not gathered:
        return None
    scores = np.concatenate([items.scores for items in gathered])
    ties = np.concatenate([items.ties for items in gathered])
    ids = np.concatenate([items.ids for items in gathered])
    order = np.lexsort((ids, ties, _descending(scores)))
    kinds = np.concatenate(
        [np.zeros(len(i.scores), np.int64) if i.kinds is None else i.kinds for i in gathered]
    )[order]
    running = np.stack([before[kind] + (kinds == kind).cumsum() for kind in range(len(weights))])
    over = _weigh(running, weights) > capacity
    if not over.any():
        return None
    first = order[int(over.argmax())]
    return Cut(float(scores[first]), int(ties[first]), ids[first])


def in_order(items: Items) -> npt.NDArray[np.int64]:
    """Order items by score, then tie key, then id.

    Returns:
        Shape (m,), positions, best first.
    """
    order: npt.NDArray[np.int64] = np.lexsort((items.ids, items.ties, _descending(items.scores)))
    return order
