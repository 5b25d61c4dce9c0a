"""The change rate of each class, by itself."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from sparing.refresh.scoring.change import SMOOTHING, changed
from sparing.refresh.scoring.scorer import Arrays, Floats, Pairs, Scorer, ScoringRows


@dataclass(frozen=True)
class ClassChange(Scorer):
    """How often running a candidate brought rows of the same cached class into agreement with the target.

    Attributes:
        rates: shape (C, n), in [0, 1], each smoothed by ten rows of the mean rate.
    """

    rates: Floats

    name = "class-change"
    learns = True

    @classmethod
    def fit(cls, pairs: Pairs, seed: int) -> Self:  # noqa: ARG003 -- nothing is drawn
        """Count the changes of each class."""
        cached, changes = changed(pairs)
        n_classes = pairs.old.shape[1]
        rows = np.bincount(cached, minlength=n_classes)
        rates = [
            (np.bincount(cached, weights=column, minlength=n_classes) + SMOOTHING * column.mean())
            / (rows + SMOOTHING)
            for column in changes.T
        ]
        return cls(np.stack(rates, axis=1).astype(np.float32))

    def benefits(self, rows: ScoringRows) -> Floats:
        """Return the rates of the rows' classes."""
        rates: Floats = self.rates[rows.probs.argmax(axis=1)]
        return rates

    def to_arrays(self) -> Arrays:
        """Return the rates."""
        return {"rates": self.rates}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """Read what `to_arrays` returned."""
        return cls(arrays["rates"])
