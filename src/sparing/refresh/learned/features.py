"""From what a cache holds, and from columns of the samples, to the numbers that a refresh learns from.

Everything that is fitted here is fitted on what is known of all rows before anything is run, chunk by chunk.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.data.columns import ColumnKind
from sparing.numerics import distributions
from sparing.refresh.learned.columns import ColumnEncoder, ColumnFit, one_hot

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Columns = Mapping[str, Any]
"""Values of m rows by column: a list of strings or None, or an array of numbers (m,) or of vectors (m, d)."""

FLOOR = 1e-6
"""Probabilities below this count as this: float16 caches hold nothing smaller."""
LOG_SCALE = 0.2
"""Scale of log-probabilities beside one-hot features: ln(1e6) becomes 2.8."""
MAX_LOGS = 256
LEAST_PAIRS = 2
"""Rarer pairs of a class and a category say nothing about another row."""
FOLDS = 5

PENALTIES = {
    "uncertainty": 0.1,
    "shape": 10.0,
    "class": 3.0,
    "held": 0.3,
    "columns": 1.0,
    "pairs": 1.0,
    "logs": 1.0,
}
"""Blocks of features, in the order of their columns, and the ridge penalty of each of their coefficients."""


@dataclass(frozen=True)
class Known:
    """What is known of m rows before anything is run.

    Attributes:
        probs: shape (m, C), cached distributions.
        held: shape (m,), which model a row holds.
        keys: shape (m,), seeded hashes of the ids.
        columns: columns of the samples.
    """

    probs: Floats
    held: Integers
    keys: npt.NDArray[np.uint64]
    columns: Columns


@dataclass(frozen=True)
class RowFeatures:
    """Features of m rows.

    Attributes:
        inputs: CSR matrix (m, d), float64, all blocks side by side.
        logs: shape (m, C), log-probabilities of the cached output above their floor, at least 0.
        entropy: shape (m,), of the cached output, nats.
        cached: shape (m,), the cached class.
        keys: shape (m,), seeded hashes of the ids; they fix the folds.
    """

    inputs: Any
    logs: Floats
    entropy: Doubles
    cached: Integers
    keys: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.cached)

    @property
    def folds(self) -> Integers:
        """The fold of each row, (m,).

        The probe is chosen by the size of the key, that is by its high bits; other bits keep the two
        independent.
        """
        return ((self.keys >> np.uint64(16)) % np.uint64(FOLDS)).astype(np.int64)

    def take(self, rows: npt.NDArray[Any]) -> "RowFeatures":
        """Select rows, by position or by a mask."""
        return RowFeatures(
            self.inputs[rows], self.logs[rows], self.entropy[rows], self.cached[rows], keys=self.keys[rows]
        )


def join_features(parts: Sequence[RowFeatures]) -> RowFeatures:
    """Put features of the same encoder one after the other."""
    from scipy.sparse import vstack

    return RowFeatures(
        vstack([part.inputs for part in parts]).tocsr(),
        np.concatenate([part.logs for part in parts]),
        np.concatenate([part.entropy for part in parts]),
        np.concatenate([part.cached for part in parts]),
        keys=np.concatenate([part.keys for part in parts]),
    )


@dataclass(frozen=True)
class FeatureEncoder:
    """Turns what is known of rows into features; make it with `fit_features`.

    Attributes:
        n_classes: C. models: how many models rows may hold; 0 when all hold the same. columns: encoders of
        the samples' columns, by name. pairs: by category, the pairs (class, code) that occur often enough,
        as class * width + code, ascending.
    """

    n_classes: int
    models: int
    columns: Mapping[str, ColumnEncoder]
    pairs: Mapping[str, Integers]

    @property
    def widths(self) -> dict[str, int]:
        """Number of features of each block that has any, in order."""
        found = {
            "uncertainty": 3,
            "shape": 4 if self.n_classes > 2 else 2,
            "class": self.n_classes,
            "held": 2 * self.models,
            "columns": sum(encoder.width for encoder in self.columns.values()),
            "pairs": sum(len(pairs) for pairs in self.pairs.values()),
            "logs": min(self.n_classes, MAX_LOGS),
        }
        return {name: found[name] for name in PENALTIES if found[name]}

    def encode(self, known: Known) -> RowFeatures:
        """Return the features of m rows."""
        from scipy.sparse import csr_matrix, hstack

        probs = known.probs
        cached = probs.argmax(axis=1).astype(np.int64)
        entropy = distributions.entropy(probs).astype(np.float64)
        parts = [
            csr_matrix(uncertainty_features(entropy, self.n_classes)),
            csr_matrix(shape_features(probs)),
            one_hot(cached, self.n_classes),
        ]
        if self.models:
            models = one_hot(known.held, self.models)
            parts += [models, models.multiply(2 * (entropy / np.log(self.n_classes))[:, None])]
        parts += [e.encode(known.columns[name]) for name, e in self.columns.items() if e.width]
        for name, pairs in self.pairs.items():
            joint = self._joint(name, cached, known.columns)
            at = np.searchsorted(pairs, joint)
            found = pairs[np.minimum(at, len(pairs) - 1)] == joint if len(pairs) else np.zeros(len(at), bool)
            parts.append(one_hot(np.where(found, at, -1), len(pairs)))
        parts.append(csr_matrix(log_features(probs)))
        logs = (np.log(np.maximum(probs, FLOOR)) - np.log(FLOOR)).astype(np.float32)
        inputs = hstack([part.astype(np.float64) for part in parts]).tocsr()
        return RowFeatures(inputs, logs, entropy, cached, keys=known.keys)

    def _joint(self, name: str, cached: Integers, columns: Columns) -> Integers:
        encoder = self.columns[name]
        return cached * encoder.width + encoder.codes(columns[name])


def fit_features(
    chunks: Iterable[Known], n_classes: int, kinds: Mapping[str, ColumnKind] | None = None
) -> FeatureEncoder:
    """Look at all rows once, and fix the features.

    Args:
        chunks: the rows; read twice when there are categories, so give something that can be iterated again.
        n_classes: C.
        kinds: what each column is.

    Returns:
        The encoder.
    """
    fits = {name: ColumnFit(kind) for name, kind in (kinds or {}).items()}
    held: set[int] = set()
    for chunk in chunks:
        held.update(np.unique(chunk.held).tolist())
        for name, fit in fits.items():
            fit.update(chunk.columns[name])
    encoders = {name: fit.finish() for name, fit in fits.items()}
    models = max(held, default=0) + 1 if len(held) > 1 else 0
    alone = FeatureEncoder(n_classes, models, encoders, {})
    crossed = [name for name, encoder in encoders.items() if encoder.kind == "category" and encoder.width]
    counts = {name: np.zeros(n_classes * encoders[name].width, dtype=np.int64) for name in crossed}
    for chunk in chunks if crossed else ():
        cached = chunk.probs.argmax(axis=1).astype(np.int64)
        for name in crossed:
            joint = alone._joint(name, cached, chunk.columns)
            counts[name] += np.bincount(joint, minlength=len(counts[name]))
    pairs = {name: np.flatnonzero(count >= LEAST_PAIRS) for name, count in counts.items()}
    return FeatureEncoder(n_classes, models, encoders, pairs)


def uncertainty_features(entropy: Doubles, n_classes: int) -> Doubles:
    """Describe how unsure rows are, by their entropy alone.

    Args:
        entropy: shape (m,), nats.
        n_classes: C.

    Returns:
        Shape (m, 3), float64: one, the entropy and its logarithm, both scaled to about unit range. Scales
        depend on C only, so that rows may come in chunks.
    """
    scaled = entropy / np.log(n_classes)
    return np.column_stack([np.ones(len(entropy)), 2 * scaled, np.log(np.maximum(scaled, 1e-5)) / 3 + 1])


def shape_features(probs: Floats) -> Floats:
    """Describe the head of each distribution beyond its entropy.

    Args:
        probs: shape (m, C).

    Returns:
        Shape (m, 4), or (m, 2) for two classes, where the others follow from them: log(1 - p1), p1 - p2,
        log(p2), log(p3), scaled to about unit range.
    """
    count = min(3, probs.shape[1])
    top = -np.sort(-np.partition(probs, -count, axis=1)[:, -count:], axis=1)
    logs = np.log(np.maximum(top, FLOOR))
    parts = [np.log(np.maximum(1 - top[:, 0], FLOOR)) / 4 + 1, 2 * (top[:, 0] - top[:, 1])]
    if count > 2:
        parts += [logs[:, 1] / 4 + 1, logs[:, 2] / 4 + 1]
    return np.column_stack(parts).astype(np.float32)


def log_features(probs: Floats, *, width: int = MAX_LOGS) -> Floats:
    """Return log-probabilities above the floor, scaled to stand beside one-hot features.

    Args:
        probs: shape (m, C).
        width: more classes than this are projected to this many numbers, by a fixed random matrix.

    Returns:
        Shape (m, min(C, width)), at least 0 where nothing is projected.
    """
    logs = (np.log(np.maximum(probs, FLOOR)) - np.log(FLOOR)) * LOG_SCALE
    if probs.shape[1] <= width:
        return np.ascontiguousarray(logs, dtype=np.float32)
    draw = np.random.default_rng(probs.shape[1])
    matrix = draw.standard_normal((probs.shape[1], width)).astype(np.float32) / np.sqrt(np.float32(width))
    projected: Floats = logs.astype(np.float32) @ matrix
    return projected
