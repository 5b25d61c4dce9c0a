"""From scores to chances of being right: Platt scaling, and how far chances are from what came out."""

import numpy as np
import numpy.typing as npt

from sparing.errors import InputError
from sparing.route.choosing import Floats
from sparing.route.router import Calibration

Bools = npt.NDArray[np.bool_]

BINS = 15


def fit_calibration(scores: Floats, correct: Bools) -> Calibration:
    """Fit Platt scaling, expert by expert: the chance of being right is `sigmoid(scale * score + bias)`.

    Targets are smoothed as by Platt (1999), (r + 1) / (r + 2) for the r samples that are right and
    1 / (w + 2) for the w that are wrong, which regularises: an expert that is always right, or scores that
    tell right from wrong without error, still get finite chances. Slopes are not negative, since a score that
    ranks the wrong way on these samples is more likely noise than a rule.

    Args:
        scores: shape (m, n), m >= 1, finite.
        correct: shape (m, n), whether expert i is right.

    Returns:
        n slopes and intercepts.

    Raises:
        InputError: the shapes differ, there are no samples, or a score is not finite.
    """
    if scores.shape != correct.shape or scores.ndim != 2 or not scores.size:
        raise InputError(f"calibration: scores of shape {scores.shape}, outcomes of shape {correct.shape}")
    if not np.isfinite(scores).all():
        raise InputError("calibration: every score must be a finite number")
    fitted = [_platt(scores[:, i].astype(np.float64), correct[:, i]) for i in range(scores.shape[1])]
    return Calibration(
        tuple(scale for scale, _ in fitted), tuple(bias for _, bias in fitted), samples=len(scores)
    )


def _platt(scores: npt.NDArray[np.float64], correct: Bools) -> tuple[float, float]:
    from scipy.optimize import minimize

    right = int(correct.sum())
    targets = np.where(correct, (right + 1) / (right + 2), 1 / (len(correct) - right + 2))
    centre, spread = scores.mean(), scores.std()
    # Without spread there is no slope to find; the intercept then says all there is.
    units = (scores - centre) / spread if spread > 0 else np.zeros(len(scores))

    def objective(parameters: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        logits = parameters[0] * units + parameters[1]
        loss = float((np.logaddexp(0, logits) - targets * logits).mean())
        off = 1 / (1 + np.exp(-np.clip(logits, -700, 700))) - targets
        return loss, np.array([(off * units).mean(), off.mean()])

    start = np.array([0.0, np.log(targets.mean() / (1 - targets.mean()))])
    solution = minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None), (None, None)],
        options={"ftol": 1e-14, "gtol": 1e-10},
    )
    scale = float(solution.x[0] / spread) if spread > 0 else 0.0
    return scale, float(solution.x[1] - scale * centre)


def expected_calibration_error(chances: Floats, correct: Bools, bins: int = BINS) -> float:
    """Mean gap between predicted chance and share of right answers, over bins of equal width (Guo, 2017).

    Args:
        chances: shape (m,), m >= 1, in [0, 1].
        correct: shape (m,).
        bins: how many.

    Returns:
        A mean over samples, in [0, 1]; 0 is best. Chance alone makes it positive, about the square root of
        bins / m.
    """
    bin_of = np.minimum((chances * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(bin_of, weights=chances - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(chances))


def calibration_errors(chances: Floats, correct: Bools) -> tuple[float, ...]:
    """Expected calibration error of each expert's chances, both of shape (m, n)."""
    return tuple(expected_calibration_error(chances[:, i], correct[:, i]) for i in range(chances.shape[1]))
