import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparing.bounds import (
    Bound,
    conservative,
    constant_alpha,
    continuous,
    dynamic_range,
    frontier_of_errors,
    smallest_state_limit,
    two_states,
)
from sparing.errors import InputError
from sparing.numerics.frontier import oracle_frontier


def ordered_states(seed, n):
    rng = np.random.default_rng(seed)
    return np.sort(rng.random(n)) * 10 + 0.1, np.sort(rng.random(n))


spaces = st.builds(ordered_states, st.integers(0, 10**6), st.integers(1, 9))


@given(spaces)
def test_equation_9_equals_equation_10(space):
    costs, accuracies = space
    tenth = costs[0] + (accuracies[-1] - accuracies[0]) * (costs[-1] - costs[0])
    tenth -= (np.diff(accuracies) * (costs[-1] - costs[1:])).sum()
    bound = conservative(costs, accuracies)
    assert bound.cost == pytest.approx(tenth)
    assert bound.accuracy == accuracies[-1]


@given(spaces)
def test_constant_alpha_of_one_is_conservative(space):
    assert constant_alpha(*space, 1.0).cost == pytest.approx(conservative(*space).cost)
    assert constant_alpha(*space, 1.0).accuracy == pytest.approx(conservative(*space).accuracy)


@given(st.integers(0, 10**6), st.integers(2, 9), st.floats(0, 1))
def test_equation_8_as_printed(seed, n, alpha):
    costs, accuracies = ordered_states(seed, n)
    first, last = costs[0], costs[-1]
    steps = sum((costs[i] - costs[i - 1]) * (1 - accuracies[i - 1]) for i in range(2, n))
    printed = first + (costs[1] - first) * (1 - accuracies[0])
    printed += alpha * (steps - (last - first) * (1 - accuracies[-1]))
    bound = constant_alpha(costs, accuracies, alpha)
    assert bound.cost == pytest.approx(printed)
    assert bound.accuracy == pytest.approx(1 - alpha * (1 - accuracies[-1]))


@pytest.mark.parametrize(
    ("best", "alpha", "printed"), [(0.8395, 0.58, 0.9067), (0.6708, 0.88, 0.7113), (0.8379, 0.90, 0.8543)]
)
def test_table_1_optimistic_accuracy(best, alpha, printed):
    # EfficientNet, Pythia and Llama-2. The printed alphas have two digits, so they fix the accuracy to 0.002.
    bound = constant_alpha(np.array([1.0, 2.0]), np.array([0.5, best]), alpha)
    assert bound.accuracy == pytest.approx(printed, abs=0.005 * (1 - best) + 0.0001)


@given(spaces)
def test_equation_11_is_the_limit_of_ever_more_states(space):
    costs, accuracies = space
    fine = np.interp(np.linspace(0, len(costs) - 1, 20_001), np.arange(len(costs)), costs)
    many = conservative(fine, np.interp(fine, costs, accuracies))
    assert continuous(costs, accuracies).cost == pytest.approx(many.cost, rel=1e-3)
    assert continuous(costs, accuracies).cost <= conservative(costs, accuracies).cost + 1e-12


@given(spaces)
def test_the_frontier_for_alpha_one_ends_at_the_conservative_bound(space):
    costs, accuracies = space
    curve = frontier_of_errors(costs, 1 - accuracies)
    assert curve.costs[-1] == pytest.approx(conservative(costs, accuracies).cost)
    assert curve.accuracies[-1] == pytest.approx(accuracies[-1])


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_the_exact_frontier_of_ordered_states_keeps_the_conservative_promise(seed, n):
    rng = np.random.default_rng(seed)
    correct = rng.random((40, n)) < rng.random(n)
    correct = correct[:, np.argsort(correct.mean(axis=0), kind="stable")]
    accuracies, costs = correct.mean(axis=0), np.sort(rng.random(n))
    exact = oracle_frontier(correct, costs)
    promised = frontier_of_errors(costs, 1 - accuracies)
    for cost in np.linspace(costs[0], costs[-1], 11):
        assert exact.accuracy_at(cost) >= promised.accuracy_at(cost) - 1e-9
    assert exact.cost_at(accuracies[-1]) <= conservative(costs, accuracies).cost + 1e-9


def test_the_conservative_bound_is_no_lower_bound_on_the_cost_of_the_oracle():
    # Both states are right on half of the samples, and never on the same: Equation 9 sees nothing to gain.
    correct = np.array([[1, 0], [0, 1]], bool)
    costs = np.array([1.0, 3.0])
    bound = conservative(costs, correct.mean(axis=0))
    oracle = oracle_frontier(correct, costs)
    assert (bound.cost, bound.accuracy) == (1.0, 0.5)
    assert (oracle.costs[-1], oracle.accuracies[-1]) == (2.0, 1.0)


def test_two_states_by_hand():
    bound = two_states(np.array([1.0, 2.0, 11.0]), np.array([0.5, 0.7, 0.8]))
    assert bound.cost == pytest.approx(1 + 0.3 * 10)  # Equation 15
    assert bound.ratio == pytest.approx(11 / 4)
    assert bound.saving == pytest.approx(7)


@given(spaces)
def test_a_wider_range_is_more_accurate_and_dearer(space):
    ends, full = zip(*dynamic_range(*space), strict=True)
    assert ends[-1] == two_states(*space)
    assert full[-1] == conservative(*space)
    for bounds in (ends, full):
        assert [b.accuracy for b in bounds] == list(space[1])
    assert (np.diff([b.cost for b in full]) >= -1e-12).all()
    assert all(f.cost <= e.cost + 1e-12 for e, f in zip(ends, full, strict=True))


@settings(max_examples=300)
@given(st.integers(0, 10**6), st.integers(2, 7), st.integers(2, 1000))
def test_equation_16_says_when_a_free_guess_is_better(seed, n, classes):
    costs, accuracies = ordered_states(seed, n)
    guess_costs, guess_accuracies = costs.copy(), accuracies.copy()
    guess_costs[0], guess_accuracies[0] = 0, 1 / classes
    with_state = conservative(costs, accuracies).cost
    with_guess = conservative(guess_costs, guess_accuracies).cost
    limit = smallest_state_limit(costs, accuracies, classes)
    assert (costs[0] < limit) == (with_state < with_guess)


def test_adaptation_cost_and_the_table_2_arithmetic():
    bound = Bound(16.07, 0.9088, 2586.0, 0.9088)  # Table 2, ImageNet
    assert bound.saving == pytest.approx(2569.93)
    assert bound.ratio == pytest.approx(160.94, abs=0.05)
    paid = bound.with_adaptation_cost(2.0, 0.5)
    assert paid.cost == pytest.approx(2 + 1.5 * 16.07)
    assert paid.baseline_cost == 2586.0


def test_free_states():
    assert conservative(np.zeros(1), np.array([0.5])).ratio == 1
    assert conservative(np.array([0.0, 1.0]), np.array([0.5, 0.5])).ratio == 1
    assert Bound(0.0, 0.5, 1.0, 0.5).ratio == math.inf


def test_arguments_out_of_range():
    space = np.array([1.0, 2.0]), np.array([0.5, 0.6])
    with pytest.raises(InputError, match=r"alpha is 1\.5"):
        constant_alpha(*space, 1.5)
    with pytest.raises(InputError, match="adaptation cost"):
        conservative(*space).with_adaptation_cost(-1)
    with pytest.raises(InputError, match="two classes"):
        smallest_state_limit(*space, 1)
