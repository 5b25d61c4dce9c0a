"""Binary logistic regression with one ridge penalty per feature, for small fits that are repeated often."""

from typing import Any

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

MAX_ITERATIONS = 100


def fit_logistic(
    inputs: Any, outcomes: Doubles, penalties: Doubles, *, start: Doubles | None = None
) -> Doubles:
    """Minimise the log-loss plus half the penalised sum of squares, by L-BFGS.

    Args:
        inputs: shape (m, d), a SciPy CSR matrix or a dense array, float64. There is no hidden intercept: give
            a column of ones with a small penalty.
        outcomes: shape (m,), 0 or 1.
        penalties: shape (d,), positive. A penalty p is a Gaussian prior with variance 1 / p on the
            coefficient.
        start: shape (d,), where to begin; zeros when None.

    Returns:
        Shape (d,), the coefficients. Finite, also for constant outcomes, because every feature is penalised.
    """
    from scipy.optimize import minimize

    if hasattr(inputs, "tocsr"):
        used = np.unique(inputs.indices)
        if 2 * len(used) < inputs.shape[1]:
            # The coefficient of a feature that no row has is zero, and need not be carried along.
            result = np.zeros(inputs.shape[1])
            begin = None if start is None else start[used]
            result[used] = fit_logistic(inputs[:, used], outcomes, penalties[used], start=begin)
            return result
    transposed = inputs.T.tocsr() if hasattr(inputs, "tocsr") else inputs.T

    def objective(weights: Doubles) -> tuple[float, Doubles]:
        logits = inputs @ weights
        loss = np.logaddexp(0.0, logits).sum() - outcomes @ logits + 0.5 * (penalties * weights) @ weights
        return float(loss), transposed @ (sigmoid(logits) - outcomes) + penalties * weights

    begin = np.zeros(inputs.shape[1]) if start is None else start
    solution = minimize(
        objective, begin, jac=True, method="L-BFGS-B", options={"maxiter": MAX_ITERATIONS, "ftol": 1e-8}
    )
    found: Doubles = solution.x
    return found


def cross_fit(
    inputs: Any,
    outcomes: Doubles,
    penalties: Doubles,
    folds: npt.NDArray[np.integer[Any]],
    *,
    starts: dict[int, Doubles] | None = None,
) -> Doubles:
    """Predict every row from the rows of the other folds.

    Args:
        inputs: shape (m, d).
        outcomes: shape (m,), 0 or 1.
        penalties: shape (d,).
        folds: shape (m,), the fold of each row.
        starts: where each fold's fit begins, by fold; overwritten with where it ended, for another fit with
            the same features and folds. A start must come from the same fold: another one has seen these
            rows.

    Returns:
        Shape (m,), logits; 0 where no other fold has rows.
    """
    logits = np.zeros(len(outcomes))
    known = {} if starts is None else starts
    for fold in np.unique(folds).tolist():
        held = folds == fold
        if held.all():
            continue
        known[fold] = fit_logistic(inputs[~held], outcomes[~held], penalties, start=known.get(fold))
        logits[held] = inputs[held] @ known[fold]
    return logits


def fit_around(inputs: Doubles, outcomes: Doubles, prior: Doubles) -> Doubles:
    """Fit a logistic regression whose coefficients are drawn to `prior` instead of to zero, penalty 1.

    Args:
        inputs: shape (m, d), d small.
        outcomes: shape (m,), 0 or 1.
        prior: shape (d,).

    Returns:
        Shape (d,).
    """
    from scipy.optimize import minimize

    def objective(weights: Doubles) -> tuple[float, Doubles]:
        logits, away = inputs @ weights, weights - prior
        loss = np.logaddexp(0.0, logits).sum() - outcomes @ logits + 0.5 * away @ away
        return float(loss), inputs.T @ (sigmoid(logits) - outcomes) + away

    result: Doubles = minimize(objective, prior, jac=True, method="L-BFGS-B").x
    return result


def log_loss(logits: Doubles, outcomes: Doubles) -> Doubles:
    """Compute the loss of each row in nats: shapes (m,), (m,) to (m,), at least 0."""
    result: Doubles = np.logaddexp(0.0, logits) - outcomes * logits
    return result


def sigmoid(logits: Doubles) -> Doubles:
    """Return log-odds as into probabilities, without overflow; any shape."""
    result: Doubles = 0.5 * (1.0 + np.tanh(0.5 * logits))
    return result


def log_odds(shares: Doubles, floor: float = 1e-6) -> Doubles:
    """Return probabilities as log-odds, clipped to [floor, 1 - floor]; any shape."""
    clipped = np.clip(shares, floor, 1 - floor)
    result: Doubles = np.log(clipped) - np.log1p(-clipped)
    return result
