"""Pooling: a refreshed row has two distributions, and together they know more than the new one alone.

The pooled distribution is a weighted sum of temperature-calibrated log-probabilities, renormalised. A weight
w on log-probabilities at temperature T acts as one exponent w / T, so one number per distribution says both.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.errors import InputError
from sparing.numerics.distributions import softmax

Floats = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.integer[Any]]

FEWEST_LABELS = 50
"""With fewer labelled rows exponents are not fitted."""

SHARED_WEIGHT = 50.0
"""How many rows the shared exponents are worth to a set of models with labelled rows of its own."""

FOLDS = 5
_FLOOR = np.float32(1e-8)


@dataclass(frozen=True)
class Pooling:
    """How two distributions become one: softmax(old * log p_old + new * log p_new).

    Attributes:
        old: exponent of the cached distribution; not negative.
        new: exponent of the new model's; not negative. `REPLACE` keeps the new one alone.
    """

    old: float
    new: float

    def apply(self, old: Floats, new: Floats) -> npt.NDArray[np.float32]:
        """Pool rows.

        Args:
            old: shape (m, C), cached distributions.
            new: shape (m, C), the new model's.

        Returns:
            Shape (m, C), float32, rows summing to 1.
        """
        if self == REPLACE:
            return new.astype(np.float32)
        return softmax(self.old * _logs(old) + self.new * _logs(new)).astype(np.float32)


REPLACE = Pooling(0.0, 1.0)
"""Store the new distribution as it is."""

UNLABELLED = Pooling(0.3, 1.0)
"""What is done without labels. Equal weights gain more when the models are about equally good, but lose
accuracy when the old one is much weaker; at 0.3 no pair of models that we measured lost any."""


@dataclass(frozen=True)
class Judgement:
    """What labelled rows say of pooling.

    Attributes:
        pooling: what to use: `REPLACE` when pooling would hurt.
        pooled: held-out accuracy of pooling; None without enough labels.
        replaced: accuracy of the new distribution alone; None without enough labels.
        rows: labelled rows.
    """

    pooling: Pooling
    pooled: float | None
    replaced: float | None
    rows: int


def fit_pooling(
    old: Floats, new: Floats, labels: Labels, prior: Pooling = UNLABELLED, weight: float = 10.0
) -> Pooling:
    """Find the exponents that minimise the negative log-likelihood of labels, by L-BFGS.

    A pull towards a prior keeps few labels from extremes.

    Args:
        old: shape (m, C), cached distributions.
        new: shape (m, C), the new model's.
        labels: shape (m,), class indices in [0, C).
        prior: the exponents to stay near.
        weight: how many rows the prior is worth.

    Returns:
        The exponents, each in [0, 10].

    Raises:
        InputError: no rows, or shapes that do not match.
    """
    from scipy.optimize import minimize

    if len(labels) == 0 or old.shape != new.shape or len(old) != len(labels):
        raise InputError(
            f"pooling cannot be fitted on {len(labels)} labels for shapes {old.shape} and {new.shape}"
        )
    logs = np.stack([_logs(old), _logs(new)])
    rows = np.arange(len(labels))
    picked = logs[:, rows, labels].mean(axis=1)
    start = np.array([prior.old, prior.new])
    pull = weight / len(labels)

    def objective(exponents: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        mixed = np.tensordot(exponents, logs, axes=1)
        peak = mixed.max(axis=1, keepdims=True)
        weights = np.exp(mixed - peak)
        total = weights.sum(axis=1)
        away = exponents - start
        loss = (np.log(total) + peak[:, 0]).mean() - exponents @ picked + pull * away @ away
        expected = (weights * logs).sum(axis=2) / total
        return float(loss), expected.mean(axis=1) - picked + 2 * pull * away

    solution = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=[(0, 10), (0, 10)])
    return Pooling(float(solution.x[0]), float(solution.x[1]))


def choose_pooling(
    old: Floats,
    new: Floats,
    labels: Labels,
    seed: int = 0,
    prior: Pooling = UNLABELLED,
    weight: float = 10.0,
) -> Judgement:
    """Decide by labelled rows whether to pool, and how; without enough of them, as the prior says.

    The exponents are fitted on four fifths of the rows and judged on the rest, five times over. When that
    is less accurate than the new model alone by more than the standard error of the difference, pooling
    hurts, and the new distribution is to be stored. (Without that margin a few hundred labels would reject
    pooling almost as often where it helps as where it hurts.)

    Args:
        old: shape (m, C), cached distributions of labelled rows.
        new: shape (m, C), the new model's.
        labels: shape (m,), class indices.
        seed: fixes the folds.
        prior: the exponents to stay near.
        weight: how many rows the prior is worth.

    Returns:
        The judgement.
    """
    m = len(labels)
    if m < FEWEST_LABELS:
        return Judgement(prior, None, None, m)
    fold = np.random.default_rng(seed).permutation(m) % FOLDS
    gain = np.zeros(m)
    after = new.argmax(axis=1) == labels
    for k in range(FOLDS):
        out = fold == k
        fitted = fit_pooling(old[~out], new[~out], labels[~out], prior, weight)
        pooled_right = fitted.apply(old[out], new[out]).argmax(axis=1) == labels[out]
        gain[out] = pooled_right.astype(float) - after[out]
    hurts = gain.mean() < -gain.std() / np.sqrt(m)
    chosen = REPLACE if hurts else fit_pooling(old, new, labels, prior, weight)
    replaced = float(after.mean())
    pooled = replaced + float(gain.mean())
    return Judgement(chosen, pooled, replaced, m)


def choose_by_members(
    old: Floats, new: Floats, labels: Labels, members: npt.NDArray[np.int64], seed: int = 0
) -> tuple[dict[int, Judgement], Judgement]:
    """Decide for each set of models that rows hold, each near what all rows together say.

    Args:
        old: shape (m, C), cached distributions of labelled rows.
        new: shape (m, C), the new model's.
        labels: shape (m,), class indices.
        members: shape (m,), which set of models each row holds.
        seed: fixes the folds.

    Returns:
        The judgement by set, for sets of at least `2 * FEWEST_LABELS` rows, and the shared one for others.
    """
    shared = choose_pooling(old, new, labels, seed)
    own = {}
    for index in np.unique(members).tolist():
        mine = members == index
        if 2 * FEWEST_LABELS <= mine.sum() < len(mine):
            own[index] = choose_pooling(
                old[mine], new[mine], labels[mine], seed, prior=shared.pooling, weight=SHARED_WEIGHT
            )
    return own, shared


def _logs(probs: Floats) -> Floats:
    result: Floats = np.log(np.maximum(probs, _FLOOR))
    return result
