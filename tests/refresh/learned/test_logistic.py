import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from sparing.refresh.learned.logistic import cross_fit, fit_around, fit_logistic, log_loss, log_odds, sigmoid


def made(m=400, d=3):
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(m, d))
    return inputs, (draw.random(m) < expit(inputs @ np.arange(d))).astype(float)


def test_it_finds_what_scikit_learn_finds():
    inputs, outcomes = made()
    reference = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-8, max_iter=1000).fit(inputs, outcomes)
    for matrix in (inputs, csr_matrix(inputs)):
        found = fit_logistic(matrix, outcomes, np.full(3, 2.0))
        np.testing.assert_allclose(found, reference.coef_[0], atol=2e-3)


def test_features_that_no_row_has_cost_nothing_and_weigh_nothing():
    inputs, outcomes = made()
    wide = np.zeros((400, 50))
    wide[:, [4, 20, 33]] = inputs
    found = fit_logistic(csr_matrix(wide), outcomes, np.full(50, 2.0), start=np.zeros(50))
    np.testing.assert_allclose(found[[4, 20, 33]], fit_logistic(inputs, outcomes, np.full(3, 2.0)), atol=1e-3)
    assert np.count_nonzero(found) == 3


def test_constant_outcomes_stay_finite():
    inputs, _ = made()
    assert np.isfinite(fit_logistic(inputs, np.ones(400), np.full(3, 0.1))).all()


def test_a_row_is_predicted_without_its_own_fold():
    inputs, outcomes = made(60)
    folds = np.arange(60) % 3
    before = cross_fit(inputs, outcomes, np.ones(3), folds)
    flipped = np.where(folds == 1, 1 - outcomes, outcomes)
    after = cross_fit(inputs, flipped, np.ones(3), folds)
    np.testing.assert_array_equal(before[folds == 1], after[folds == 1])
    assert not np.allclose(before[folds == 0], after[folds == 0])
    assert (cross_fit(inputs, outcomes, np.ones(3), np.zeros(60, int)) == 0).all()


def test_few_rows_stay_near_the_prior():
    prior = np.array([0.0, 1.0, -0.5])
    np.testing.assert_allclose(fit_around(np.empty((0, 3)), np.empty(0), prior), prior)
    inputs, outcomes = made()
    far = fit_around(np.repeat(inputs, 50, axis=0), np.repeat(outcomes, 50), prior)
    np.testing.assert_allclose(far, [0, 1, 2], atol=0.5)


def test_loss_and_odds():
    p = np.array([0.1, 0.5, 0.99])
    np.testing.assert_allclose(sigmoid(log_odds(p)), p)
    np.testing.assert_allclose(log_loss(log_odds(p), np.ones(3)), -np.log(p))
    np.testing.assert_allclose(log_loss(log_odds(p), np.zeros(3)), -np.log(1 - p))
    assert np.isfinite(log_odds(np.array([0.0, 1.0]))).all()
    assert sigmoid(np.array([-1e4, 1e4])).tolist() == [0, 1]
