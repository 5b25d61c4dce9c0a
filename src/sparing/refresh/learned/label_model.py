"""Predicts the new model's class of rows, and what it would have predicted for rows that were run.

Three softmax regressions, each fitted on two thirds of the rows run so far. Their mean predicts rows that
were not run; for a row that was run, the one that has not seen it says what would have been predicted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.refresh.learned.features import RowFeatures
from sparing.refresh.learned.softmax import SoftmaxRegression, SoftmaxRows

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

PARTS = 3
PENALTY = 1.0
LEAST_ROWS = 40
CHUNK = 8192


@dataclass(frozen=True)
class Guess:
    """Predictions for m rows.

    Attributes:
        label: shape (m,), the most probable class.
        top: shape (m,), its probability.
        kept: shape (m,), the probability of the cached class.
    """

    label: Integers
    top: Doubles
    kept: Doubles


def join_guesses(parts: Sequence[Guess]) -> Guess:
    """Put predictions one after the other."""
    return Guess(
        np.concatenate([np.empty(0, np.int64), *(part.label for part in parts)]),
        np.concatenate([np.empty(0), *(part.top for part in parts)]),
        np.concatenate([np.empty(0), *(part.kept for part in parts)]),
    )


class LabelModel:
    """Learns the new model's classes; every fit begins where the one before ended."""

    def __init__(self, widths: Mapping[str, int], size: int) -> None:
        """Begin with a model that knows nothing.

        Args:
            widths: number of features by block; see `FeatureEncoder.widths`.
            size: K, number of classes that the new model may answer; the first C are the cached model's.
        """
        ends = dict(zip(widths, np.cumsum(list(widths.values())).tolist(), strict=True))
        self._from, self._logs = ends["shape"], ends["logs"] - widths["logs"]
        features = 1 + ends["logs"] - self._from
        self._models = [SoftmaxRegression(size, features, PENALTY) for _ in range(PARTS)]
        self.ready = False
        """Whether enough rows were run to predict anything."""

    def fit(self, rows: RowFeatures, labels: Integers) -> None:
        """Continue the fit on k rows that were run, the earlier ones included; new classes (k,)."""
        part = _parts(rows)
        if len(rows) < LEAST_ROWS or len(np.unique(part)) < PARTS:
            return
        for number, model in enumerate(self._models):
            mine = np.flatnonzero(part != number)
            model.fit(self._arranged(rows.take(mine)), labels[mine])
        self.ready = True

    def guess(self, rows: RowFeatures) -> Guess:
        """Predict rows that were not run, by the mean of the regressions. Ask `ready` first."""
        classes = np.unique(np.concatenate([model.classes for model in self._models]))
        found = _nothing(len(rows))
        for start in range(0, len(rows), CHUNK):
            some = np.arange(start, min(start + CHUNK, len(rows)))
            data = self._arranged(rows.take(some))
            mean = np.zeros((len(data), len(classes)), dtype=np.float32)
            for model in self._models:
                mean[:, np.searchsorted(classes, model.classes)] += model.probabilities(data) / np.float32(
                    PARTS
                )
            _read_into(found, some, mean, classes, data.cached)
        return found

    def held_out(self, rows: RowFeatures) -> Guess:
        """Predict rows that were run, each by the regression that has not seen it. Ask `ready` first."""
        part = _parts(rows)
        found = _nothing(len(rows))
        for number, model in enumerate(self._models):
            mine = np.flatnonzero(part == number)
            for start in range(0, len(mine), CHUNK):
                some = mine[start : start + CHUNK]
                data = self._arranged(rows.take(some))
                _read_into(found, some, model.probabilities(data), model.classes, data.cached)
        return found

    def _arranged(self, rows: RowFeatures) -> SoftmaxRows:
        dense = rows.inputs[:, self._logs :].toarray()
        ones = np.ones((len(rows), 1))
        sparse: Any = rows.inputs[:, self._from : self._logs].astype(np.float32)
        return SoftmaxRows(np.hstack([ones, dense]).astype(np.float32), sparse, rows.logs, rows.cached)


def _parts(rows: RowFeatures) -> Integers:
    return ((rows.keys >> np.uint64(24)) % np.uint64(PARTS)).astype(np.int64)


def _nothing(m: int) -> Guess:
    return Guess(np.empty(m, dtype=np.int64), np.empty(m), np.empty(m))


def _read_into(
    found: Guess, at: Integers, probabilities: npt.NDArray[np.float32], classes: Integers, cached: Integers
) -> None:
    best = probabilities.argmax(axis=1)
    everyone = np.arange(len(best))
    found.label[at] = classes[best]
    found.top[at] = probabilities[everyone, best]
    found.kept[at] = probabilities[everyone, np.searchsorted(classes, cached)]
