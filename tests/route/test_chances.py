import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from sparing.errors import InputError
from sparing.route.chances import (
    expected_calibration_error,
    fit_calibration,
)


def platt_by_sklearn(scores, correct):
    """Smoothed targets are pairs of weighted samples to a logistic regression without a penalty."""
    right = correct.sum()
    target = np.where(correct, (right + 1) / (right + 2), 1 / (len(correct) - right + 2))
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        np.tile(scores, 2)[:, None],
        np.repeat([1, 0], len(scores)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    return fitted.coef_[0, 0], fitted.intercept_[0]


def test_platt_scaling_is_a_logistic_regression():
    rng = np.random.default_rng(0)
    scores = rng.normal(3, 2, (300, 2))
    correct = rng.random((300, 2)) < 1 / (1 + np.exp(-(0.4 * scores - 1)))
    fitted = fit_calibration(scores, correct)
    for i in range(2):
        assert (fitted.scale[i], fitted.bias[i]) == pytest.approx(
            platt_by_sklearn(scores[:, i], correct[:, i]), rel=1e-4
        )
    assert fitted.samples == 300


@given(st.integers(2, 40), st.integers(0, 10_000), st.floats(-3, 3), st.floats(0.01, 100))
def test_nothing_in_reach_fits_better(m, seed, slope, spread):
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, spread, (m, 1))
    correct = rng.random((m, 1)) < 1 / (1 + np.exp(-np.clip(slope * scores / spread, -50, 50)))
    fitted = fit_calibration(scores, correct)
    right = correct.sum()
    target = np.where(correct[:, 0], (right + 1) / (right + 2), 1 / (m - right + 2))

    def loss(parameters):
        logits = parameters[0] * scores[:, 0] / spread + parameters[1]
        return (np.logaddexp(0, logits) - target * logits).mean()

    found = np.array([fitted.scale[0] * spread, fitted.bias[0]])
    assert fitted.scale[0] >= 0
    brute = minimize(loss, [1.0, 0.0], method="Nelder-Mead", bounds=[(0, None), (None, None)])
    assert loss(found) <= brute.fun + 1e-6


def test_an_expert_that_is_always_right_or_wrong_gets_finite_chances():
    scores = np.random.default_rng(0).normal(size=(50, 2))
    correct = np.tile([True, False], (50, 1))
    fitted = fit_calibration(scores, correct)
    assert fitted.scale == pytest.approx((0, 0), abs=1e-3)
    chances = 1 / (1 + np.exp(-np.array(fitted.bias)))
    assert chances == pytest.approx([51 / 52, 1 / 52], abs=1e-4)


def test_perfect_scores_stay_finite_and_constant_scores_carry_nothing():
    scores = np.stack([np.repeat([-1.0, 1.0], 10), np.full(20, 4.0)], axis=1)
    correct = np.stack([np.repeat([False, True], 10), np.repeat([False, True], 10)], axis=1)
    fitted = fit_calibration(scores, correct)
    # Two levels of scores with smoothed targets 1/12 and 11/12 are met exactly.
    assert fitted.scale[0] == pytest.approx(np.log(11), rel=1e-4)
    assert fitted.bias[0] == pytest.approx(0, abs=1e-4)
    assert (fitted.scale[1], fitted.bias[1]) == pytest.approx((0, 0), abs=1e-6)


def test_a_score_that_ranks_the_wrong_way_gets_slope_zero():
    scores = np.linspace(-1, 1, 40)[:, None]
    assert fit_calibration(scores, scores < 0).scale == (0.0,)


@pytest.mark.parametrize("scores", [np.zeros((0, 1)), np.zeros((2, 2)), np.array([[np.inf], [0.0]])])
def test_bad_scores_are_named(scores):
    with pytest.raises(InputError, match="calibration"):
        fit_calibration(scores, np.ones((len(scores), 1), bool))


def test_expected_calibration_error_by_hand():
    chances = np.array([0.05, 0.15, 0.95, 0.95])
    correct = np.array([False, True, True, False])
    # Bins of width 0.1: |0.05| + |0.15 - 1| + |1.9 - 1|, over four samples.
    assert expected_calibration_error(chances, correct, bins=10) == pytest.approx((0.05 + 0.85 + 0.9) / 4)
    assert expected_calibration_error(np.ones(3), np.ones(3, bool)) == 0
