import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparing.errors import InputError
from sparing.numerics.frontier import static_mixture
from sparing.route.baselines import BASELINES, STATISTICS
from sparing.route.baselines.cascades import cascade, cascade_orders, stops
from sparing.route.baselines.mixtures import mixture_shares

COSTS = np.array([1.0, 4.0])
CERTAINTY = np.array([[0.9, 0.9], [0.6, 0.9], [0.8, 0.9], [0.7, 0.9]])
CORRECT = np.array([[True, True], [False, True], [True, False], [False, True]])


def run_by_hand(certainty, correct, costs, order, threshold):
    """Run every sample through a cascade, one at a time."""
    spent, right = 0.0, 0
    for sure, hit in zip(certainty, correct, strict=True):
        for place, expert in enumerate(order):
            spent += costs[expert]
            if sure[expert] > threshold or place == len(order) - 1:
                right += hit[expert]
                break
    return spent / len(certainty), right / len(certainty)


def test_a_cascade_by_hand():
    traced = cascade(CERTAINTY, CORRECT, COSTS, (0, 1))
    assert traced.thresholds.tolist() == [-np.inf, 0.6, 0.7, 0.8, 0.9]
    assert traced.costs.tolist() == [1, 2, 3, 4, 5]
    assert traced.accuracies.tolist() == [0.5, 0.75, 1.0, 0.75, 0.75]


def test_between_thresholds_accuracy_is_interpolated():
    traced = cascade(CERTAINTY, CORRECT, COSTS, (0, 1))
    assert traced.accuracy_at(2.0) == 0.75
    assert traced.accuracy_at(2.25) == pytest.approx(0.75 + 0.25 * 0.25)
    assert traced.accuracy_at(1.0) == 0.5
    assert traced.accuracy_at(99.0) == 0.75
    assert traced.between(2.25) == [(0.6, 0.75), (0.7, 0.25)]
    with pytest.raises(InputError, match="first expert costs 1"):
        traced.accuracy_at(0.5)


@given(st.integers(1, 30), st.integers(2, 4), st.integers(2, 6), st.integers(0, 10_000))
def test_the_whole_curve_is_what_running_it_gives(m, n, levels, seed):
    rng = np.random.default_rng(seed)
    certainty = rng.integers(0, levels, (m, n)).astype(np.float32) / levels  # coarse, so that there are ties
    correct, costs = rng.random((m, n)) < 0.6, np.sort(rng.random(n)) + 0.1
    order = tuple(rng.permutation(n)[: rng.integers(2, n + 1)].tolist())
    traced = cascade(certainty, correct, costs, order)
    assert (np.diff(traced.thresholds) > 0).all()
    assert (np.diff(traced.costs) > 0).all()
    for threshold, cost, accuracy in zip(traced.thresholds, traced.costs, traced.accuracies, strict=True):
        assert (cost, accuracy) == pytest.approx(run_by_hand(certainty, correct, costs, order, threshold))
        ends = stops(certainty, order, threshold)
        answers = correct[np.arange(m), np.array(order)[ends]]
        assert answers.mean() == pytest.approx(accuracy)
        assert np.cumsum(costs[list(order)])[ends].mean() == pytest.approx(cost)


def test_every_pair_in_order_of_cost_and_all():
    assert cascade_orders(np.array([2.0, 9.0, 5.0])) == [(0, 2), (0, 1), (2, 1), (0, 2, 1)]
    assert cascade_orders(np.array([2.0, 1.0])) == [(1, 0)]


@given(st.integers(1, 5), st.floats(0, 1.5), st.integers(0, 10_000))
def test_mixture_shares_reach_the_hull(n, place, seed):
    rng = np.random.default_rng(seed)
    costs, accuracies = rng.integers(1, 9, n) / 4, rng.integers(0, 9, n) / 8
    cost = float(costs.min() + place * np.ptp(costs))
    shares = mixture_shares(costs, accuracies, cost)
    hull = static_mixture(costs, accuracies)
    assert shares.sum() == pytest.approx(1)
    assert (shares > 0).sum() <= 2
    assert (shares >= 0).all()
    assert shares @ accuracies == pytest.approx(hull.accuracy_at(cost))
    assert shares @ costs == pytest.approx(min(cost, hull.costs[-1]))


def test_no_mixture_below_the_cheapest_expert():
    with pytest.raises(InputError, match="cheapest expert costs 1"):
        mixture_shares(COSTS, np.array([0.5, 0.9]), 0.9)


def test_every_statistic_says_how_sure_a_distribution_is():
    probs = np.array([[0.5, 0.5, 0.0], [0.45, 0.3, 0.25], [0.7, 0.2, 0.1]], np.float32)
    order = {name: np.argsort(of(probs), kind="stable").tolist() for name, of in STATISTICS.items()}
    # The first is sure of two classes, and of neither: the margin ranks it last, the others do not.
    assert order == {"confidence": [1, 0, 2], "entropy": [1, 2, 0], "margin": [0, 1, 2]}


def test_baselines_are_known_by_their_kind():
    assert list(BASELINES) == ["mixture", "confidence cascade", "entropy cascade", "margin cascade"]
    assert {baseline.family for baseline in BASELINES.values()} == {"mixture", "cascade"}
