"""Entropy after temperature scaling."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from sparing.numerics.distributions import apply_temperature, entropy, fit_temperature
from sparing.refresh.scoring.scorer import Arrays, Floats, Pairs, Scorer, ScoringRows, on_target

LEAST_ROWS = 50
"""A model gets a temperature of its own from this many rows that hold it."""


@dataclass(frozen=True)
class CalibratedEntropy(Scorer):
    """Entropy after temperature scaling (PURE, B.2): to labels, or without any to the target's classes.

    One temperature per model held, since each is off in its own way.

    Attributes:
        everyone: the temperature of rows that hold another model.
        holders: names of the models that have one of their own.
        temperatures: shape (holders,).
    """

    everyone: float
    holders: tuple[str, ...]
    temperatures: npt.NDArray[np.float64]

    name = "calibrated-entropy"
    learns = True

    @classmethod
    def fit(cls, pairs: Pairs, seed: int) -> Self:  # noqa: ARG003 -- nothing is drawn
        """Fit the temperatures."""
        used, truth = pairs.labels >= 0, pairs.labels
        if not used.any():
            used, truth = np.ones(len(pairs), dtype=bool), pairs.wanted.argmax(axis=1)
        holders, temperatures = [], []
        for holder in np.unique(pairs.rows.holding):
            mine = used & (pairs.rows.holding == holder)
            if mine.sum() >= LEAST_ROWS:
                holders.append(pairs.rows.holders[holder])
                temperatures.append(fit_temperature(pairs.old[mine], truth[mine]))
        everyone = fit_temperature(pairs.old[used], truth[used])
        return cls(everyone, tuple(holders), np.array(temperatures, dtype=np.float64))

    def benefits(self, rows: ScoringRows) -> Floats:
        """Return entropies of the scaled distributions, in nats."""
        known = dict(zip(self.holders, self.temperatures.tolist(), strict=True))
        result = np.empty(len(rows), dtype=np.float32)
        for holder in np.unique(rows.holding):
            mine = rows.holding == holder
            temperature = known.get(rows.holders[holder], self.everyone)
            result[mine] = entropy(apply_temperature(rows.probs[mine], temperature))
        return on_target(rows, result)

    def to_arrays(self) -> Arrays:
        """Return the temperatures and whose they are."""
        return {
            "everyone": np.array(self.everyone),
            "holders": np.array(self.holders, dtype=np.str_),
            "temperatures": self.temperatures,
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """Read what `to_arrays` returned."""
        holders = tuple(str(name) for name in arrays["holders"])
        return cls(float(arrays["everyone"]), holders, arrays["temperatures"])
