import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparing.errors import InputError
from sparing.numerics.distributions import js_divergence
from sparing.refresh.correction.rules import (
    Schedule,
    Step,
    best_alternative,
    missing_votes,
    normalised_benefit,
    omission_risk,
    vote,
)


def test_normalised_benefit_by_hand():
    # Equation 6: tanh(ln 2) = (2 - 1/2) / (2 + 1/2) = 0.6.
    np.testing.assert_allclose(
        normalised_benefit(np.array([0.0, math.log(2), -math.log(2), np.inf, -np.inf])), [0.5, 0.8, 0.2, 1, 0]
    )


def test_omission_risk_by_hand():
    # Equation 7 with sigma^2 = 1/8: exp(-S^2 / (2/8)) = exp(-4 S^2).
    risk = omission_risk(np.array([1.3, 0.0]), np.array([0.5, 0.0]), beta=2.0, sigma=math.sqrt(1 / 8))
    np.testing.assert_allclose(risk, [1.3 + 2 / math.e, 2.0])


@given(st.floats(0, 10), st.floats(0, 1), st.floats(0, 1))
def test_risk_grows_with_neglect_and_with_a_weak_last_refresh(total, last, more):
    def risk(a, s):
        return omission_risk(np.array([a]), np.array([s]), 1.5, 0.22)[0]

    assert risk(total + more, last) >= risk(total, last)
    assert risk(total, last) >= risk(total, min(last + more, 1.0))


def test_instability_by_hand():
    # Equation 8 in bits: two certain, different rows are one bit apart; a half and a half against certain:
    # m = (3/4, 1/4): (log2(4/3) + (1/2) log2(2/3) + (1/2) log2(2)) / 2.
    p = np.array([[1.0, 0.0], [1.0, 0.0]])
    q = np.array([[0.0, 1.0], [0.5, 0.5]])
    expected = (math.log2(4 / 3) + 0.5 * math.log2(2 / 3) + 0.5) / 2
    np.testing.assert_allclose(js_divergence(p, q), [1.0, expected])


def test_the_schedule_is_table_3():
    schedule = Schedule()
    assert (schedule.beta, schedule.sigma, schedule.initial) == (1.5, 0.22, 0.5)
    assert schedule.at(0) is None
    assert schedule.at(1) is None
    assert schedule.at(2) == Step(0.10, 0.45, 2)
    assert schedule.at(3) == Step(0.12, 0.50, 3)
    assert schedule.at(4) == schedule.at(9) == Step(0.14, 0.55, 3)


def test_shares_are_decimals():
    assert Step(0.29, 0.29, 2).screened(100) == 29  # floor(0.29 * 100) is 28 in floats
    assert Step(0.29, 0.29, 2).corrected(100) == 29


@pytest.mark.parametrize(
    ("round_", "screened", "corrected", "reused", "upper"),
    [(2, 1000, 450, 1000, 1900), (3, 1200, 600, 1800, 3000), (4, 1400, 770, 2170, 3710)],
)
def test_counts_of_table_4(round_, screened, corrected, reused, upper):
    step = Schedule().at(round_)
    assert step.screened(10_000) == screened
    assert step.corrected(screened) == corrected
    # Every stored model lies inside the window, as Table 4 presumes.
    rng = np.random.default_rng(round_)
    stored = rng.integers(0, step.window, screened)
    alternative = best_alternative(rng.random((screened, step.window)), stored)
    assert (alternative != stored).all()
    needed = missing_votes(stored[:corrected], alternative[:corrected], np.ones(step.window, bool))
    assert screened + needed.sum() == reused
    assert screened + corrected * step.window == upper


def test_a_model_outside_the_window_costs_one_more():
    everything = np.ones(3, bool)
    needed = missing_votes(np.array([-1, 0, 2]), np.array([2, 2, 0]), everything)
    np.testing.assert_array_equal(needed, [[1, 1, 0], [0, 1, 0], [0, 1, 0]])
    # What cannot be run is not asked for.
    needed = missing_votes(np.array([-1]), np.array([2]), np.array([False, True, True]))
    np.testing.assert_array_equal(needed, [[0, 1, 0]])


def test_best_alternative():
    benefits = np.array([[0.9, 0.1, 0.5], [0.9, 0.1, 0.5], [0.3, 0.3, 0.1], [-np.inf, -np.inf, 0.2]])
    stored = np.array([0, 2, -1, 2])
    # Not the stored one; among equals the later; with none left, the most recent of all.
    np.testing.assert_array_equal(best_alternative(benefits, stored), [2, 0, 1, 2])


def test_a_vote_by_hand():
    a, b, c = [0.6, 0.4, 0.0], [0.3, 0.7, 0.0], [0.0, 0.1, 0.9]
    d = [0.5, 0.3, 0.2]
    probs = np.array([[a, a, a, b], [d, b, b, a], [b, b, c, c]])
    everyone = np.ones((3, 4), bool)
    # Row 0: class 0 twice, its most recent voter is model 1. Row 1: class 1 twice, most recent model 2.
    # Row 2: one vote each; mean probability of class 0: 0.3, of class 1: 0.4, of class 2: 0.3 -> model 1.
    # Row 3: one vote each; class 0: 0.3, class 1: 0.4, class 2: 0.3 -> model 0.
    np.testing.assert_array_equal(vote(probs, everyone), [1, 2, 1, 0])
    some = everyone.copy()
    some[1] = False
    # Without model 1: row 0 ties between 0 (0.45) and 1 (0.55); row 2: class 0 0.3, class 2 0.45.
    np.testing.assert_array_equal(vote(probs, some), [2, 2, 2, 2])


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(2, 4))
def test_a_vote_against_counting_labels(seed, k, c):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(c), (k, 5)).astype(np.float32)
    voting = rng.random((k, 5)) < 0.7
    voting[-1] |= ~voting.any(axis=0)
    chosen = vote(probs, voting)
    for row in range(5):
        voters = [j for j in range(k) if voting[j, row]]
        labels = {j: int(probs[j, row].argmax()) for j in voters}

        def merit(label, voters=voters, labels=labels, row=row):
            mean = np.mean([probs[j, row, label] for j in voters])
            return sum(x == label for x in labels.values()), mean

        best = max(set(labels.values()), key=merit)
        winner = int(chosen[row])
        assert voting[winner, row]
        assert merit(labels[winner])[0] == merit(best)[0]
        assert merit(labels[winner])[1] == pytest.approx(merit(best)[1])
        assert winner == max(j for j in voters if labels[j] == labels[winner])


def test_bad_schedules():
    for bad in ({"sigma": 0.0}, {"beta": -1.0}, {"initial": 2.0}, {"steps": ()}):
        with pytest.raises(InputError, match="correction schedule"):
            Schedule(**bad)
    with pytest.raises(InputError, match="window"):
        Schedule(steps=(Step(0.1, 1.5, 2),))
