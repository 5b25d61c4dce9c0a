"""When predicted answers may stand in for cached ones."""

import numpy as np
import pytest

from sparing.refresh.learned.imputing import Evidence, Left, impute, weigh
from sparing.refresh.learned.label_model import Guess
from sparing.refresh.learned.learner import HeldOut


def world(n, right, seed=0):
    """Rows whose class is predicted to go from 0 to 1; the prediction is right for a share of them."""
    rng = np.random.default_rng(seed)
    new = (rng.random(n) < right).astype(np.int64)
    top = np.clip(right + rng.normal(0, 0.05, n), 0.05, 0.95)
    guess = Guess(np.ones(n, np.int64), top, 1 - top)
    return new, guess, np.zeros(n, np.int64)


def decide(n, right):
    new, guess, cached = world(n, right)
    held = HeldOut(new, cached, guess, np.log(guess.top / (1 - guess.top)))
    _, left, still = world(400, right, seed=1)
    return impute(held, Left(left, left.top, still))


def test_predictions_that_win_are_stored_with_how_often_they_do():
    found = decide(800, 0.8)
    assert found.evidence.pays
    assert found.imputed.all()
    assert (found.labels == 1).all()
    assert found.probability.mean() == pytest.approx(0.8, abs=0.1)
    assert found.gain == pytest.approx(400 * 0.6, rel=0.3)


@pytest.mark.parametrize(("n", "right"), [(200, 0.5), (200, 0.2), (10, 1.0)])
def test_predictions_that_do_not_win_leave_everything_as_it_is(n, right):
    found = decide(n, right)
    assert not found.evidence.pays
    assert not found.imputed.any()
    assert (found.labels == 0).all()
    assert found.gain == 0


def test_the_evidence_counts_rows_as_those_that_are_left_are():
    # Where predictions look sure they win, elsewhere they lose; all that is left looks unsure.
    high, low = np.linspace(0.8, 0.95, 100), np.linspace(0.05, 0.2, 100)
    margin = np.r_[high, low]
    gain = np.r_[np.ones(100), -np.ones(100)]
    unsure = weigh(margin, gain, np.linspace(0.06, 0.19, 300))
    assert unsure.losses > unsure.wins
    assert not unsure.pays
    sure = weigh(margin, gain, np.r_[np.linspace(0.81, 0.94, 280), np.linspace(0.06, 0.19, 20)])
    assert sure.wins == pytest.approx(0.93, abs=0.1)
    assert sure.pays


def test_a_handful_of_rows_is_no_evidence():
    assert weigh(np.full(19, 0.9), np.ones(19), np.full(50, 0.9)) == Evidence()
    assert weigh(np.full(50, 0.9), np.ones(50), np.zeros(0)) == Evidence()
