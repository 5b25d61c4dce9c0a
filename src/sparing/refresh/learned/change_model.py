"""The probability that a row's class changes, learned from the rows that a refresh has run.

A logistic regression starts from the row's entropy and adds the shape of the distribution, the change rate
of its class, the samples' columns and all log-probabilities, each with a ridge penalty, which shrinks the
rate of a class or of a category that few rows have shown towards what entropy says (the ridge does here
what smoothing does in target encoding, and a row's own outcome cannot leak into its rate). Which of these
to add, and how strongly to shrink, is decided by cross-validation over the rows run so far; where no choice
is clearly better than entropy alone, rows are ranked by entropy, exactly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.refresh.learned.features import PENALTIES, RowFeatures
from sparing.refresh.learned.logistic import cross_fit, fit_logistic, log_loss, sigmoid

Doubles = npt.NDArray[np.float64]

LEVELS = ("held", "pairs", "logs")
"""Where a level of features ends: each has all blocks up to this one, in the order of `PENALTIES`."""
STRENGTHS = (4.0, 1.0, 0.3)
"""Factors on the penalties, strongest first: each fit begins where the one before ended."""
REVIEW_GROWTH = 1.4
"""Choices are reviewed when this many times as many rows have been run."""
REVIEW_ROWS = 10_000
"""Choices are made on at most so many rows, evenly spaced among those kept."""
LEAST_CHANGES = 10
STANDARD_ERRORS = 1.0


@dataclass(frozen=True)
class Choice:
    """What cross-validation over the rows so far decided.

    Attributes:
        width: how many of the leading features are in use; those of entropy alone where `learned` is False.
        strength: factor on the blocks' penalties.
        loss: mean log-loss on held-out rows, nats; NaN before anything was compared.
        plain_loss: of entropy alone.
        learned: whether more than entropy is in use.
    """

    width: int
    strength: float = 1.0
    loss: float = float("nan")
    plain_loss: float = float("nan")
    learned: bool = False


class ChangeModel:
    """Predicts whether rows change; refitted to more and more rows, each time from where it stood.

    Its state is a function of the calls of `fit`, in order: the same slices give the same bits on the same
    machine.
    """

    def __init__(self, widths: Mapping[str, int], n_classes: int) -> None:
        """Begin with a model that ranks by entropy.

        Args:
            widths: number of features by block; see `FeatureEncoder.widths`.
            n_classes: C.
        """
        self._ceiling = float(np.log(n_classes))
        self._penalties = np.concatenate([np.full(width, PENALTIES[name]) for name, width in widths.items()])
        self._plain = widths["uncertainty"]
        ends = dict(zip(widths, np.cumsum(list(widths.values())).tolist(), strict=True))
        order = list(PENALTIES)
        levels = (max(ends[b] for b in order[: order.index(end) + 1] if b in ends) for end in LEVELS)
        self._levels = list(dict.fromkeys(levels))
        self._reviewed = 0
        self._weights: Doubles | None = None
        self.choice = Choice(self._plain)
        """What is in use, and the figures behind it."""

    def fit(self, rows: RowFeatures, changed: Doubles, seen: int) -> bool:
        """Continue the fit on rows that were run.

        Args:
            rows: k rows, the earlier ones included.
            changed: shape (k,), 1 where the new model's class is another than the cached one, else 0.
            seen: how many rows were run in all; more than k where only some are kept.

        Returns:
            Whether the choice was reviewed.
        """
        reviewed = seen >= REVIEW_GROWTH * self._reviewed
        if reviewed:
            self._reviewed = seen
            before = self.choice
            some = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), REVIEW_ROWS)).astype(np.int64))
            self.choice = self._review(rows.take(some), changed[some])
            if before.width != self.choice.width:
                self._weights = None
        used = rows.inputs[:, : self.choice.width]
        penalties = self._scaled(self.choice.width, self.choice.strength)
        self._weights = fit_logistic(used, changed, penalties, start=self._weights)
        return reviewed

    def benefit(self, rows: RowFeatures) -> Doubles:
        """Score rows, (m,) in [0, 1], higher is more worth running; compare scores within one fit only."""
        return self.probability(rows) if self.choice.learned else rows.entropy / self._ceiling

    def probability(self, rows: RowFeatures) -> Doubles:
        """Predict how likely the class of rows changes, (m,) in [0, 1], also where entropy ranks."""
        if self._weights is None:
            return rows.entropy / self._ceiling
        return sigmoid(rows.inputs[:, : self.choice.width] @ self._weights)

    def held_out(self, rows: RowFeatures, changed: Doubles) -> Doubles:
        """Predict rows that were run, each from the other folds: log-odds of a change, (k,)."""
        return self._cross_fit(rows, changed, self.choice.width, self.choice.strength)

    def _scaled(self, width: int, strength: float) -> Doubles:
        result: Doubles = self._penalties[:width] * np.where(np.arange(width) < self._plain, 1.0, strength)
        return result

    def _cross_fit(
        self,
        rows: RowFeatures,
        changed: Doubles,
        width: int,
        strength: float,
        starts: dict[int, Doubles] | None = None,
    ) -> Doubles:
        inputs: Any = rows.inputs[:, :width]
        return cross_fit(inputs, changed, self._scaled(width, strength), rows.folds, starts=starts)

    def _review(self, rows: RowFeatures, changed: Doubles) -> Choice:
        changes = int(changed.sum())
        if min(changes, len(changed) - changes) < LEAST_CHANGES:
            return Choice(self._plain)
        plain = log_loss(self._cross_fit(rows, changed, self._plain, 1.0), changed)
        plain_loss = float(plain.mean())
        best, best_loss = Choice(self._plain, 1.0, plain_loss, plain_loss), plain
        for width in self._levels:
            starts: dict[int, Doubles] = {}
            for strength in STRENGTHS:
                loss = log_loss(self._cross_fit(rows, changed, width, strength, starts), changed)
                mean = float(loss.mean())
                if mean < best.loss:
                    best, best_loss = Choice(width, strength, mean, plain_loss, learned=True), loss
        gain = plain - best_loss
        if gain.mean() <= STANDARD_ERRORS * gain.std() / np.sqrt(len(gain)):
            return Choice(self._plain, 1.0, plain_loss, plain_loss)
        return best
