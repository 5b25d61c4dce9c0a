"""The change predictor: how likely running a candidate makes a row agree with a full re-run.

A logistic regression per candidate on what a cache row says: its largest log-probabilities, its entropy, how
often rows of its class change, and which model it holds. The last is what counts over several rounds: a row
that holds last month's model will hardly change, whatever its entropy.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sparing.outputs import Classes
from sparing.refresh.scoring.scorer import Arrays, Floats, Integers, Pairs, Scorer, ScoringRows

SMOOTHING = 10.0
"""Prior rows behind a class's change rate."""


@dataclass(frozen=True)
class Change(Scorer):
    """Predicts, per candidate, whether running it brings a row into agreement with the target.

    Attributes:
        rates: shape (C, n), smoothed change rate of each cached class, as log-odds.
        holders: the models (by whatever the caller calls them) that the training rows held; none when all
            held the same.
        weights: shape (features, n).
        biases: shape (n,).
    """

    rates: Floats
    holders: tuple[str, ...]
    weights: Floats
    biases: Floats

    name = "change"
    learns = True

    @classmethod
    def fit(cls, pairs: Pairs, seed: int) -> Self:  # noqa: ARG003 -- nothing is drawn
        """Fit one logistic regression per candidate."""
        from sklearn.linear_model import LogisticRegression

        old = pairs.old
        cached, changes = changed(pairs)
        seen = np.unique(pairs.rows.holding)
        if len(seen) == 1:
            # When all rows hold the same model, holding it says nothing.
            seen = seen[:0]
        common = _features(old, np.searchsorted(seen, pairs.rows.holding), len(seen))
        per_class = np.bincount(cached, minlength=old.shape[1])
        rates, weights, biases = [], [], []
        for column in changes.T:
            hits = np.bincount(cached, weights=column, minlength=old.shape[1])
            mean = column.mean()
            # A row's own outcome is left out of its class's rate: else the rate would leak the answer.
            without = (hits[cached] - column + SMOOTHING * mean) / (per_class[cached] - 1 + SMOOTHING)
            rates.append(_log_odds((hits + SMOOTHING * mean) / (per_class + SMOOTHING)))
            inputs = np.column_stack([common, _log_odds(without)])
            if column.all() or not column.any():
                weights.append(np.zeros(inputs.shape[1]))
                biases.append(float(_log_odds(np.array([(column.sum() + 0.5) / (len(column) + 1)]))[0]))
                continue
            model = LogisticRegression(C=1.0, max_iter=1000).fit(inputs, column)
            weights.append(model.coef_[0])
            biases.append(float(model.intercept_[0]))
        return cls(
            np.stack(rates, axis=1).astype(np.float32),
            tuple(pairs.rows.holders[index] for index in seen),
            np.stack(weights, axis=1).astype(np.float32),
            np.array(biases, dtype=np.float32),
        )

    def benefits(self, rows: ScoringRows) -> Floats:
        """Return probabilities in [0, 1]."""
        where = np.array([_position(self.holders, name) for name in rows.holders], dtype=np.int64)
        common = _features(rows.probs, where[rows.holding], len(self.holders))
        rates = self.rates[rows.probs.argmax(axis=1)]
        logits = common @ self.weights[:-1] + rates * self.weights[-1] + self.biases
        result: Floats = (1 / (1 + np.exp(-logits))).astype(np.float32)
        return result

    def to_arrays(self) -> Arrays:
        """Return the regressions, and the names of the models held."""
        return {
            "rates": self.rates,
            "holders": np.array(self.holders, dtype=np.str_),
            "weights": self.weights,
            "biases": self.biases,
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """Read what `to_arrays` returned."""
        holders = tuple(str(name) for name in arrays["holders"])
        return cls(arrays["rates"], holders, arrays["weights"], arrays["biases"])


def changed(pairs: Pairs) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Return each row's cached class, (m,), and which candidates bring it into agreement, (m, n)."""
    cached, wanted = pairs.old.argmax(axis=1), pairs.wanted.argmax(axis=1)
    changes = [(outputs.argmax(axis=1) == wanted) & (cached != wanted) for outputs in pairs.new]
    return cached, np.stack(changes, axis=1)


def _position(known: tuple[str, ...], name: str) -> int:
    return known.index(name) if name in known else -1


def _features(probs: Floats, held: Integers, holders: int) -> Floats:
    """Log-probabilities, entropy, and per model held an intercept and a slope in entropy."""
    signal = Classes.of(probs).signal(probs)
    one_hot = (held[:, None] == np.arange(holders)).astype(np.float32)
    return np.hstack([signal, one_hot, one_hot * signal[:, -1:]])


def _log_odds(share: npt.NDArray[Any]) -> npt.NDArray[Any]:
    clipped = np.clip(share, 1e-4, 1 - 1e-4)
    result: npt.NDArray[Any] = np.log(clipped / (1 - clipped))
    return result
