"""The exact cut: which rows come first by score when only so much fits, in memory or over a stream.

Rows are ordered by score (highest first), then by a seeded 64-bit hash of the id, then by the id itself.
Breaking ties by the id alone would starve the same rows in every round: a 4-bit top-1 cache has only 16
distinct scores.

A stream is read several times. Each pass counts rows by the next digit of the sort key, so memory does not
grow with the number of rows; once few enough rows share the undecided prefix they are ranked outright.
"""

import sys
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

_SORT_OUTRIGHT = 1 << 18
_WORTH_LOADING = 1 << 22
_DIGIT_BITS = 20
_DIGIT_BITS_OF_MANY = 16
_BLOCK = 1 << 20
_NAN = "a score is NaN: rows cannot be ranked by it"


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

    def where(self, mask: Bools) -> "Items":
        """Keep some of the items."""
        kinds = None if self.kinds is None else self.kinds[mask]
        return Items(self.scores[mask], self.ties[mask], self.ids[mask], kinds)

    def all_kinds(self) -> npt.NDArray[np.integer[Any]]:
        """Return the kinds, shape (m,)."""
        return np.zeros(len(self.scores), dtype=np.int64) if self.kinds is None else self.kinds


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
        taken: Bools = np.empty(len(items.scores), dtype=bool)
        tie = np.uint64(self.tie)
        # Block by block: comparing as float64 must not copy all scores at once.
        for start in range(0, len(taken), _BLOCK):
            block = slice(start, start + _BLOCK)
            scores = items.scores[block].astype(np.float64, copy=False)
            np.greater(scores, self.score, out=taken[block])
            level = np.flatnonzero(scores == self.score) + start
            ties = items.ties[level]
            taken[level[ties < tie]] = True
            last = level[ties == tie]
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
        raise InputError(_NAN)
    bits = values.view(np.uint64)
    sign = np.uint64(1) << np.uint64(63)
    ascending = np.where(bits & sign, ~bits, bits | sign)
    descending: UInt64 = ~ascending
    return descending


@dataclass(frozen=True)
class _Prefix:
    """The leading bits of the cut's key, as far as they are known: rows that share them are undecided."""

    score: int = 0
    score_bits: int = 0
    tie: int = 0
    tie_bits: int = 0

    @property
    def known(self) -> int:
        return self.score_bits + self.tie_bits

    def digit_width(self, most: int) -> int:
        """Bits of the next digit, which does not straddle the score and the tie key."""
        return min(most, 64 - self.known % 64)

    def extended(self, digit: int, width: int) -> "_Prefix":
        if self.score_bits < 64:
            return _Prefix(self.score << width | digit, self.score_bits + width)
        return _Prefix(self.score, 64, self.tie << width | digit, self.tie_bits + width)

    def arguments(self) -> dict[str, np.uint64 | int]:
        return {
            "score": np.uint64(self.score),
            "score_bits": self.score_bits,
            "tie": np.uint64(self.tie),
            "tie_bits": self.tie_bits,
        }

    def matches(self, items: Items, compiled: bool) -> Bools:
        """Say which items share the prefix, shape (m,)."""
        mask: Bools = np.ones(len(items.scores), dtype=bool)
        if compiled:
            from sparing.numerics.kernels.counting import match

            match(items.scores, items.ties, **self.arguments(), matches=mask)
            return mask
        if self.score_bits:
            mask &= _descending(items.scores) >> np.uint64(64 - self.score_bits) == self.score
        if self.tie_bits:
            mask &= items.ties >> np.uint64(64 - self.tie_bits) == self.tie
        return mask


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
    before = np.zeros(len(weights), dtype=np.int64)
    few = _all_if_few(chunks())
    if few is not None:
        return _first_that_does_not_fit(few, before, capacity, weights)
    prefix = _Prefix()
    most = _DIGIT_BITS if len(weights) == 1 else _DIGIT_BITS_OF_MANY
    undecided = _SORT_OUTRIGHT + 1
    while prefix.known < 128 and undecided > _SORT_OUTRIGHT:
        width = prefix.digit_width(most)
        tally = _Tally(len(weights), width)
        for items in chunks():
            tally.add(items, prefix)
        over = _weigh(before[:, None] + tally.counts.cumsum(axis=1), weights) > capacity
        if not over.any():
            return None
        critical = int(over.argmax())
        before = before + tally.counts[:, :critical].sum(axis=1)
        undecided = int(tally.counts[:, critical].sum())
        prefix = prefix.extended(critical, width)
        if prefix.score_bits < 64 and tally.low == tally.high:
            # One score is left, and only the tie keys tell its rows apart.
            prefix = _Prefix(tally.low, 64)
    # Beyond 128 bits only ids tell the rows apart: a crowd of them shares score and hash.
    left = []
    for items in chunks():
        mask = prefix.matches(items, _compiled(len(items.scores)))
        if mask.any():
            left.append(items.where(mask))
    return _first_that_does_not_fit(left, before, capacity, weights)


def _all_if_few(chunks: Iterable[Items]) -> list[Items] | None:
    gathered, rows = [], 0
    for items in chunks:
        gathered.append(items)
        rows += len(items.scores)
        if rows > _SORT_OUTRIGHT:
            return None
    return gathered


class _Tally:
    """Counts of one pass."""

    def __init__(self, kinds: int, width: int) -> None:
        self.counts = np.zeros((kinds, 1 << width), dtype=np.int64)
        self.width = width
        self.rows = 0
        self.low = (1 << 64) - 1
        self.high = 0

    def add(self, items: Items, prefix: _Prefix) -> None:
        """Count a chunk by the next digit of its keys, among the rows that share the prefix."""
        self.rows += len(items.scores)
        if _compiled(self.rows):
            from sparing.numerics.kernels.counting import count_digits

            kinds = None if items.kinds is None else items.kinds.astype(np.int64, copy=False)
            low, high, nan = count_digits(
                items.scores, items.ties, kinds, **prefix.arguments(), width=self.width, counts=self.counts
            )
            if nan:
                raise InputError(_NAN)
        else:
            items = items.where(prefix.matches(items, compiled=False))
            keys = _descending(items.scores)
            low, high = keys.min(initial=~np.uint64(0)), keys.max(initial=0)
            digits = keys if prefix.score_bits < 64 else items.ties
            digits = digits << np.uint64(prefix.known % 64) >> np.uint64(64 - self.width)
            for kind, counts in enumerate(self.counts):
                chosen = digits if items.kinds is None else digits[items.kinds == kind]
                np.add.at(counts, chosen.astype(np.int64), 1)
        self.low, self.high = min(self.low, int(low)), max(self.high, int(high))


def _compiled(rows: int) -> bool:
    """Whether to use compiled loops: they give the same cut, and loading them takes as long as many rows."""
    return rows >= _WORTH_LOADING or "sparing.numerics.kernels.counting" in sys.modules


def _weigh(counts: npt.NDArray[np.int64], weights: Sequence[float]) -> npt.NDArray[Any]:
    # From counts, not by adding up weights: the sum must not depend on how the rows were chunked.
    total: npt.NDArray[Any] = counts[0] * weights[0]
    for kind in range(1, len(weights)):
        total = total + counts[kind] * weights[kind]
    return total


def _first_that_does_not_fit(
    gathered: list[Items], before: npt.NDArray[np.int64], capacity: float, weights: Sequence[float]
) -> Cut | None:
    if not gathered:
        return None
    scores = np.concatenate([items.scores for items in gathered])
    ties = np.concatenate([items.ties for items in gathered])
    ids = np.concatenate([items.ids for items in gathered])
    keys = _descending(scores)
    if len(weights) == 1:
        over = _weigh(before[:, None] + np.arange(1, len(keys) + 1), weights) > capacity
        if not over.any():
            return None
        first = _ranked(int(over.argmax()), keys, ties, ids)
    else:
        order = np.lexsort((ids, ties, keys))
        kinds = np.concatenate([items.all_kinds() for items in gathered])[order]
        running = np.stack([before[kind] + (kinds == kind).cumsum() for kind in range(len(weights))])
        over = _weigh(running, weights) > capacity
        if not over.any():
            return None
        first = int(order[int(over.argmax())])
    return Cut(float(scores[first]), int(ties[first]), ids[first])


def _ranked(rank: int, *columns: npt.NDArray[Any]) -> int:
    """Find the row that comes at a rank when rows are sorted by the first column, then the next."""
    rows = np.arange(len(columns[0]))
    for column in columns:
        values = column[rows]
        level = np.partition(values, rank)[rank]
        rank -= int((values < level).sum())
        rows = rows[values == level]
    return int(rows[rank])


def in_order(items: Items) -> npt.NDArray[np.int64]:
    """Order items by score, then tie key, then id.

    Returns:
        Shape (m,), positions, best first.
    """
    order: npt.NDArray[np.int64] = np.lexsort((items.ids, items.ties, _descending(items.scores)))
    return order
