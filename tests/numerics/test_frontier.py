import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from sparing.errors import InputError
from sparing.numerics import frontier as f


def random_case(seed, m, n, per_sample):
    rng = np.random.default_rng(seed)
    correct = rng.random((m, n)) < rng.random(n)
    costs = rng.integers(0, 6, (m, n) if per_sample else n).astype(float)
    return correct, costs


def every_policy(correct, costs):
    """Mean cost and accuracy of all N^m ways to give every sample a state."""
    m, n = correct.shape
    prices = np.broadcast_to(costs, (m, n))
    for choice in itertools.product(range(n), repeat=m):
        rows = np.arange(m), list(choice)
        yield prices[rows].mean(), correct[rows].mean()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_no_policy_beats_the_frontier_and_its_corners_are_reached(seed, m, n, per_sample):
    correct, costs = random_case(seed, m, n, per_sample)
    curve = f.oracle_frontier(correct, costs)
    policies = list(every_policy(correct, costs))
    for cost, accuracy in policies:
        assert accuracy <= curve.accuracy_at(cost + 1e-9) + 1e-9
    for corner in zip(curve.costs, curve.accuracies, strict=True):
        assert any(np.allclose(corner, policy) for policy in policies)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 5), st.booleans(), st.floats(0, 6))
def test_frontier_equals_the_linear_programme(seed, m, n, per_sample, cost):
    correct, costs = random_case(seed, m, n, per_sample)
    prices = np.broadcast_to(costs, (m, n))
    answer = linprog(
        -correct.ravel().astype(float) / m,
        A_ub=prices.reshape(1, -1) / m,
        b_ub=[cost],
        A_eq=np.kron(np.eye(m), np.ones(n)),
        b_eq=np.ones(m),
        bounds=(0, 1),
    )
    value = f.oracle_frontier(correct, costs).accuracy_at(cost)
    if answer.status == 2:
        assert math.isnan(value)
    else:
        assert value == pytest.approx(-answer.fun, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.floats(0, 6))
def test_mixture_equals_the_linear_programme(seed, n, cost):
    rng = np.random.default_rng(seed)
    costs, accuracies = rng.integers(0, 6, n).astype(float), rng.integers(0, 5, n) / 4
    curve = f.static_mixture(costs, accuracies)
    answer = linprog(
        -accuracies, A_ub=costs[None], b_ub=[cost], A_eq=np.ones((1, n)), b_eq=[1], bounds=(0, 1)
    )
    if answer.status == 2:
        assert math.isnan(curve.accuracy_at(cost))
    else:
        assert curve.accuracy_at(cost) == pytest.approx(-answer.fun, abs=1e-7)
    assert (np.diff(curve.costs) > 0).all()
    assert (np.diff(curve.accuracies) > 0).all()


@given(st.integers(0, 10**6), st.booleans())
def test_the_frontier_is_never_below_the_mixture(seed, per_sample):
    correct, costs = random_case(seed, 30, 4, per_sample)
    mean_costs = costs.mean(axis=0) if per_sample else costs
    mixture = f.static_mixture(mean_costs, correct.mean(axis=0))
    frontier = f.oracle_frontier(correct, costs)
    for cost in np.linspace(mean_costs.min(), mean_costs.max() + 1, 9):
        assert frontier.accuracy_at(cost) >= mixture.accuracy_at(cost) - 1e-12


def test_by_hand():
    # Four samples; a cheap state right on the first two, a dear one right on the first and the third.
    correct = np.array([[1, 1], [1, 0], [0, 1], [0, 0]], bool)
    costs = np.array([1.0, 5.0])
    bought = f.purchases(correct, costs)
    assert bought.choice.tolist() == [0, 0, 1, -1]
    assert bought.extra.tolist() == [0, 0, 4, math.inf]
    curve = f.oracle_frontier(correct, costs)
    assert curve.costs.tolist() == [1, 2]
    assert curve.accuracies.tolist() == [0.5, 0.75]
    assert curve.accuracy_at(1.5) == 0.625
    assert curve.cost_at(0.75) == 2
    assert curve.cost_at(0.4) == 1
    assert math.isnan(curve.cost_at(0.8))
    mixture = f.static_mixture(costs, correct.mean(axis=0))
    assert (mixture.costs.tolist(), mixture.accuracies.tolist()) == ([1], [0.5])


def test_headroom_by_hand():
    mixture = f.Curve(np.array([1.0, 5.0]), np.array([0.5, 0.9]))
    frontier = f.Curve(np.array([1.0, 2.0]), np.array([0.5, 1.0]))
    # At a mean cost of 2 the mixture reaches 0.6 and the frontier 1.
    assert f.headroom_at_cost(2, 0.7, mixture, frontier) == pytest.approx(0.25)
    assert f.headroom_at_cost(2, 0.6, mixture, frontier) == pytest.approx(0)
    assert f.headroom_at_cost(2, 0.5, mixture, frontier) < 0
    assert math.isnan(f.headroom_at_cost(0.5, 0.5, mixture, frontier))
    assert math.isnan(f.headroom_at_cost(1, 0.5, mixture, frontier))


@pytest.mark.parametrize("per_sample", [False, True])
def test_chunks_do_not_change_the_result(monkeypatch, per_sample):
    correct, costs = random_case(3, 101, 7, per_sample)
    whole = f.purchases(correct, costs)
    monkeypatch.setattr(f, "CHUNK_VALUES", 20)
    pieces = f.purchases(np.asfortranarray(correct), costs)
    for name in ("choice", "base", "extra"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(pieces, name))


def test_ties_in_cost_go_to_the_state_given_first():
    correct = np.array([[0, 1, 1]], bool)
    assert f.purchases(correct, np.array([2.0, 1.0, 1.0])).choice.tolist() == [1]
    assert f.purchases(correct, np.array([[2.0, 1.0, 1.0]])).choice.tolist() == [1]


@pytest.mark.parametrize(
    ("correct", "costs", "message"),
    [
        (np.ones((2, 2)), np.ones(2), "expected booleans"),
        (np.ones(2, bool), np.ones(2), "one row per sample"),
        (np.ones((2, 2), bool), np.ones(3), "one cost per state or one per outcome"),
        (np.ones((2, 2), bool), np.array([1, -1.0]), "not negative"),
        (np.ones((2, 2), bool), np.array([1, np.nan]), "finite"),
        (np.ones((0, 2), bool), np.ones(2), "no samples"),
    ],
)
def test_bad_input(correct, costs, message):
    with pytest.raises(InputError, match=message):
        f.oracle_frontier(correct, costs)
