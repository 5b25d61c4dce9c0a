"""Which rows that are not run store the answer that the new model is predicted to give.

The label model predicts the new model's class, for rows that are left and, held out, for rows that were run.
From the held-out answers two small logistic regressions learn, for rows whose predicted class is not the
cached one, how often the prediction is right and how often the cached answer still is. A row is imputed when
the first exceeds the second, and only while held-out rows, weighted to look like those that are left, show
that predicted answers win by more than chance.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparing.refresh.learned.label_model import Guess
from sparing.refresh.learned.learner import LIMIT, HeldOut
from sparing.refresh.learned.logistic import fit_around, fit_logistic, log_odds, sigmoid

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

STANDARD_ERRORS = 2.0
LEAST_ROWS = 20
BINS = 8
LARGEST_WEIGHT = 10.0


@dataclass(frozen=True)
class Evidence:
    """What held-out rows say of imputing, weighted to the rows that are left.

    Attributes:
        rows: held-out rows whose answer would have been replaced.
        wins: weighted share of them where only the predicted answer is right.
        losses: weighted share where only the cached answer is right.
        error: standard error of wins - losses.
        pays: whether rows are imputed.
    """

    rows: int = 0
    wins: float = 0.0
    losses: float = 0.0
    error: float = 0.0
    pays: bool = False


@dataclass(frozen=True)
class Left:
    """What is predicted of k rows that are left.

    Attributes:
        guess: the label model's predictions.
        change: shape (k,), the probability that the class changes.
        cached: shape (k,), the cached classes.
    """

    guess: Guess
    change: Doubles
    cached: Integers


@dataclass(frozen=True)
class Imputed:
    """What k rows that are left would store.

    Attributes:
        labels: shape (k,), the predicted class where `imputed`, else the cached one.
        probability: shape (k,), in [0, 1]: that the new model would give the stored answer.
        imputed: shape (k,), whether the stored answer is predicted; False where prediction and cache agree.
        gain: by how many of the k rows more than now is predicted to agree with the new model.
        evidence: what held-out rows say.
    """

    labels: Integers
    probability: Doubles
    imputed: Bools
    gain: float
    evidence: Evidence


def impute(held: HeldOut, left: Left) -> Imputed:
    """Decide what rows would store if they were not run.

    Args:
        held: what models that have not seen them say of rows that were run.
        left: k rows: all that are left, since the evidence is weighted to look like them.

    Returns:
        The cached answers, none of them imputed, where held-out rows do not show that predicted ones are
        better.
    """
    stay = np.clip(-log_odds(left.change), -LIMIT, LIMIT)
    right = (held.guess.label == held.new).astype(np.float64)
    still = (held.cached == held.new).astype(np.float64)
    differs = held.guess.label != held.cached
    nothing = Imputed(left.cached, 1 - left.change, np.zeros(len(stay), dtype=bool), 0.0, Evidence())
    if differs.sum() < LEAST_ROWS or not len(stay):
        return nothing
    inputs = _pair_inputs(held.guess, -held.logits)
    penalties = np.ones(inputs.shape[1])
    coefficients = [fit_logistic(inputs[differs], each[differs], penalties) for each in (right, still)]
    here = _margin(inputs, coefficients)
    there = _margin(_pair_inputs(left.guess, stay), coefficients)
    moved = left.guess.label != left.cached
    evidence = weigh(here[differs], (right - still)[differs], there[moved])
    if not evidence.pays:
        return Imputed(nothing.labels, nothing.probability, nothing.imputed, 0.0, evidence)
    would = differs & (here > 0)
    inputs = _stored_inputs(held.guess, -held.logits, held.cached, would)
    # The log-odds of the softmax regression have a prior coefficient of one, everything else of zero.
    prior = np.zeros(inputs.shape[1])
    prior[1] = 1.0
    stored = fit_around(inputs, np.where(would, right, still), prior)
    wanted = moved & (there > 0)
    probability = sigmoid(_stored_inputs(left.guess, stay, left.cached, wanted) @ stored)
    labels = np.where(wanted, left.guess.label, left.cached)
    return Imputed(labels, probability, wanted, float(there[wanted].sum()), evidence)


def weigh(margin: Doubles, gain: Doubles, left: Doubles) -> Evidence:
    """Weigh whether replacing answers pays, with held-out rows weighted to look like those that are left.

    Args:
        margin: shape (h,), of held-out rows whose predicted class is another: predicted gain, in [-1, 1].
        gain: shape (h,), what replacing brought: 1, 0 or -1.
        left: shape (k,), predicted gain of the rows that are left.

    Returns:
        The evidence: imputing pays when the weighted mean gain exceeds `STANDARD_ERRORS` standard errors.
    """
    margin, gain = margin[margin > 0], gain[margin > 0]
    left = left[left > 0]
    if len(margin) < LEAST_ROWS or not len(left):
        return Evidence()
    edges = np.unique(np.quantile(left, np.linspace(0, 1, BINS + 1)[1:-1]))
    here, there = np.searchsorted(edges, margin), np.searchsorted(edges, left)
    ratio = np.bincount(there, minlength=len(edges) + 1) / np.maximum(
        np.bincount(here, minlength=len(edges) + 1), 1
    )
    ratio = np.minimum(ratio, LARGEST_WEIGHT * len(left) / len(margin))
    weights = ratio[here] / ratio[here].sum()
    mean = float(weights @ gain)
    # The added term keeps a handful of unanimous rows from counting as certain.
    error = float(np.sqrt((weights**2 @ (gain - mean) ** 2) + (weights**2).sum() / len(gain)))
    wins, losses = float(weights @ (gain > 0)), float(weights @ (gain < 0))
    return Evidence(len(gain), wins, losses, error, mean > STANDARD_ERRORS * error)


def _margin(inputs: Doubles, coefficients: list[Doubles]) -> Doubles:
    """Return the probability that the prediction is right minus that the cached answer is."""
    right, still = coefficients
    return sigmoid(inputs @ right) - sigmoid(inputs @ still)


def _pair_inputs(guess: Guess, stay: Doubles) -> Doubles:
    return np.column_stack(
        [np.ones(len(stay)), log_odds(guess.top), log_odds(guess.kept, 1e-3) / 2, stay / 2]
    )


def _stored_inputs(guess: Guess, stay: Doubles, cached: Integers, wanted: Bools) -> Doubles:
    """One, log-odds of the stored answer by the softmax, and by the learner where it is kept, and offsets."""
    stored = log_odds(np.where(wanted, guess.top, guess.kept))
    differs = guess.label != cached
    return np.column_stack(
        [
            np.ones(len(stay)),
            stored,
            np.where(wanted, 0.0, stay),
            wanted,
            np.where(wanted, stay, 0.0),
            np.where(wanted, stored, 0.0),
            differs & ~wanted,
        ]
    )
