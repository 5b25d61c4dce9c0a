"""Columns of the samples as features: categories, numbers, short texts and embeddings.

What is fitted here (vocabularies, bins, scales) is fitted on the columns of all rows, which are known
before anything is run, and never on what a model answered. Columns are fitted and encoded chunk by chunk;
equal columns give equal features, in whatever chunks they come.
"""

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.data.columns import ColumnKind

Integers = npt.NDArray[np.integer[Any]]

MAX_CATEGORIES = 4096
OTHER_BUCKETS = 64
BINS = 24
TEXT_BUCKETS = 1 << 14
SAMPLE = 100_000


@dataclass
class ColumnFit:
    """Collects what is known of one column before anything is run; `update` per chunk, then `finish`.

    Attributes:
        kind: "category" (any hashable, None is missing), "number" (NaN is missing), "text" (None is missing)
            or "vector" (arrays of one length; a row with NaN is missing).
    """

    kind: ColumnKind
    _rows: int = 0
    _counts: Counter[str] = field(default_factory=Counter)
    _numbers: list[npt.NDArray[np.float64]] = field(default_factory=list)
    _buckets: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(TEXT_BUCKETS, dtype=np.int64))
    _moments: tuple[int, Any, Any] = (0, 0.0, 0.0)

    def update(self, values: Sequence[Any] | npt.NDArray[Any]) -> None:
        """Take in a chunk of the column."""
        self._rows += len(values)
        if self.kind == "category":
            self._counts.update(str(value) for value in values if value is not None)
        elif self.kind == "number":
            numbers = np.asarray(values, dtype=np.float64)
            self._numbers.append(numbers[np.isfinite(numbers)])
        elif self.kind == "text":
            hashed = _hash_texts(values)
            self._buckets += np.bincount(hashed.indices, minlength=TEXT_BUCKETS)
        else:
            vectors = np.asarray(values, dtype=np.float64)
            vectors = vectors[np.isfinite(vectors).all(axis=1)]
            count, total, squares = self._moments
            self._moments = (
                count + len(vectors),
                total + vectors.sum(axis=0),
                squares + (vectors**2).sum(axis=0),
            )

    def finish(self) -> "ColumnEncoder":
        """Fix the vocabulary, the bins or the scale; a column that never varies gets no features."""
        if self.kind == "category":
            if self._rows in self._counts.values() or not self._counts:
                return ColumnEncoder("category", constant=True)
            # Ties by name, so that the order of rows does not matter; a value that occurs once teaches
            # nothing about another row and goes to the hashed rest.
            ranked = sorted((-count, name) for name, count in self._counts.items() if count > 1)
            return ColumnEncoder("category", categories=tuple(name for _, name in ranked[:MAX_CATEGORIES]))
        if self.kind == "number":
            numbers = np.sort(np.concatenate([np.empty(0), *self._numbers]))
            if not len(numbers) or (len(numbers) == self._rows and numbers[0] == numbers[-1]):
                return ColumnEncoder("number", constant=True)
            numbers = numbers[:: max(1, len(numbers) // SAMPLE)]
            edges = np.unique(np.quantile(numbers, np.linspace(0, 1, BINS + 1)[1:-1]))
            return ColumnEncoder("number", edges=edges[edges > numbers[0]])
        if self.kind == "text":
            # A bucket that one row uses, or every row, says nothing.
            return ColumnEncoder("text", buckets=np.flatnonzero(self._buckets > 1))
        count, total, squares = self._moments
        mean = np.atleast_1d(total / max(count, 1))
        spread = np.sqrt(np.maximum(np.atleast_1d(squares / max(count, 1)) - mean**2, 0))
        return ColumnEncoder("vector", mean=mean, spread=np.where(spread > 1e-9 * (1 + abs(mean)), spread, 0))


@dataclass(frozen=True)
class ColumnEncoder:
    """Turns one column into features; make it with `ColumnFit`.

    Attributes:
        kind: of the column.
        constant: a category or a number that is the same in every row.
        categories: the known values, the most frequent first.
        edges: ascending bounds between the bins of a number.
        buckets: hash buckets of texts that are in use.
        mean: shape (d,), of a vector.
        spread: shape (d,), its standard deviation; entries of zero are left out.
    """

    kind: ColumnKind
    constant: bool = False
    categories: tuple[str, ...] = ()
    edges: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    buckets: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    mean: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    spread: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    @property
    def width(self) -> int:
        """Number of features; 0 for a column that says nothing."""
        if self.constant:
            return 0
        if self.kind == "category":
            return len(self.categories) + OTHER_BUCKETS + 1
        if self.kind == "number":
            return len(self.edges) + 2
        return len(self.buckets) if self.kind == "text" else int((self.spread > 0).sum())

    def codes(self, values: Sequence[Any] | npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Return the category or the bin of each row, to pair with the cached class.

        Args:
            values: m values of a category or a number.

        Returns:
            Shape (m,), in [0, width): unknown categories share hashed codes, missing values have the last
            one. -1 for a constant column.
        """
        if self.constant:
            return np.full(len(values), -1, dtype=np.int64)
        if self.kind == "number":
            numbers = np.asarray(values, dtype=np.float64)
            bins = np.searchsorted(self.edges, numbers, side="right")
            return np.where(np.isfinite(numbers), bins, len(self.edges) + 1).astype(np.int64)
        known = {name: code for code, name in enumerate(self.categories)}
        rest, missing = len(known), len(known) + OTHER_BUCKETS
        result = np.empty(len(values), dtype=np.int64)
        for index, value in enumerate(values):
            if value is None:
                result[index] = missing
                continue
            name = str(value)
            code = known.get(name)
            result[index] = rest + zlib.crc32(name.encode()) % OTHER_BUCKETS if code is None else code
        return result

    def encode(self, values: Sequence[Any] | npt.NDArray[Any]) -> Any:
        """Turn a chunk of the column into features.

        Args:
            values: m values.

        Returns:
            A CSR matrix (m, width), float32. A missing text or vector is a row of zeros.
        """
        from scipy.sparse import csr_matrix

        if self.kind in ("category", "number"):
            return one_hot(self.codes(values), self.width)
        if self.kind == "text":
            return _hash_texts(values)[:, self.buckets].tocsr()
        vectors = np.asarray(values, dtype=np.float64)
        used = self.spread > 0
        scaled = np.clip((vectors[:, used] - self.mean[used]) / self.spread[used], -5, 5)
        scaled /= np.sqrt(max(used.sum(), 1))
        scaled[~np.isfinite(vectors).all(axis=1)] = 0
        return csr_matrix(4 * scaled.astype(np.float32))


def _hash_texts(values: Sequence[Any] | npt.NDArray[Any]) -> Any:
    """Hash words and pairs of words; each row has length 2."""
    from sklearn.feature_extraction.text import HashingVectorizer

    hasher = HashingVectorizer(
        n_features=TEXT_BUCKETS,
        ngram_range=(1, 2),
        alternate_sign=False,
        norm="l2",
        token_pattern=r"(?u)\w+",  # noqa: S106 -- not a password
        dtype=np.float32,
    )
    texts = ["" if value is None else str(value) for value in values]
    return (hasher.transform(texts) * np.float32(2)).tocsr()


def one_hot(codes: Integers, width: int) -> Any:
    """Mark one feature per row; codes outside [0, width) mark none.

    Args:
        codes: shape (m,).
        width: number of features.

    Returns:
        A CSR matrix (m, width), float32.
    """
    from scipy.sparse import csr_matrix

    inside = (codes >= 0) & (codes < width)
    ends = np.concatenate([[0], np.cumsum(inside)])
    values = np.ones(int(inside.sum()), dtype=np.float32)
    return csr_matrix((values, codes[inside], ends), shape=(len(codes), width))
