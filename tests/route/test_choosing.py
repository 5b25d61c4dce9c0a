from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparing.errors import BudgetError, InputError
from sparing.route.choosing import ROUNDING, choose, mean_cost, solve_multiplier


@st.composite
def problems(draw):
    """Gains and costs in quarters, so that every breakpoint is met exactly or missed clearly."""
    m, n = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    gains = np.array(draw(st.lists(st.integers(-8, 8), min_size=m * n, max_size=m * n))).reshape(m, n) / 4
    costs = np.array(draw(st.lists(st.integers(0, 8), min_size=n, max_size=n))) / 4
    return gains, costs


def breakpoints(gains, costs):
    """Every multiplier from 0 up at which two experts are worth the same to a sample, and 0."""
    found = {0.0}
    n = len(costs)
    for row in gains:
        for a in range(n):
            for b in range(n):
                if costs[a] > costs[b] and row[a] > row[b]:
                    found.add(float((row[a] - row[b]) / (costs[a] - costs[b])))
    return sorted(found)


def test_choose_takes_the_largest_net_gain_by_hand():
    gains, costs = np.array([[0.5, 0.9], [0.8, 0.9]]), np.array([1.0, 3.0])
    assert choose(gains, costs, 0.0).tolist() == [1, 1]
    assert choose(gains, costs, 0.1).tolist() == [1, 0]
    assert choose(gains, costs, 0.3).tolist() == [0, 0]


def test_ties_go_to_the_cheaper_then_to_the_first():
    gains = np.array([[1.0, 1.0, 1.0]])
    assert choose(gains, np.array([3.0, 2.0, 2.0]), 0.0).tolist() == [1]


@given(problems(), st.floats(0, 10), st.floats(0, 10))
def test_mean_cost_never_rises_with_the_multiplier(problem, first, second):
    gains, costs = problem
    low, high = sorted((round(first * 64) / 64, round(second * 64) / 64))
    assert mean_cost(choose(gains, costs, high), costs) <= mean_cost(choose(gains, costs, low), costs) + 1e-12


@given(problems(), st.integers(0, 96))
def test_the_multiplier_is_the_smallest_breakpoint_within_the_budget(problem, level):
    gains, costs = problem
    budget = level / 48 * max(costs.max(), 1)
    if budget < costs.min():
        with pytest.raises(BudgetError, match="least possible"):
            solve_multiplier(gains, costs, budget)
        return
    found = solve_multiplier(gains, costs, budget)
    # Just above a breakpoint nothing rounds back, and between breakpoints nothing changes.
    best = next(
        mu
        for mu in breakpoints(gains, costs)
        if mean_cost(choose(gains, costs, mu + 1e-9), costs) <= budget + 1e-9
    )
    assert found == pytest.approx(best, abs=1e-8)
    assert mean_cost(choose(gains, costs, found), costs) <= budget * (1 + ROUNDING)
    if found > 0:
        assert mean_cost(choose(gains, costs, np.nextafter(found, 0)), costs) > budget


@given(st.integers(1, 60), st.integers(0, 60), st.integers(1, 999), st.integers(1, 999))
def test_a_budget_that_a_choice_meets_exactly_is_spent_whole(few, many, cheap, extra):
    """The exact mean, in fractions, is no float, and neither are costs in milliseconds."""
    exact = Fraction(few * cheap + many * (cheap + extra), 1000 * (few + many))
    costs = np.array([cheap / 1000, (cheap + extra) / 1000])
    gains = np.stack([np.zeros(few + many), np.arange(few + many, dtype=float)], axis=1)
    chosen = choose(gains, costs, solve_multiplier(gains, costs, float(exact)))
    assert int(chosen.sum()) == min(many, few + many - 1)  # one sample gains nothing from the other
    assert mean_cost(chosen, costs) == pytest.approx(float(exact), rel=ROUNDING)


def test_distinct_gains_spend_the_budget_to_one_sample():
    rng = np.random.default_rng(0)
    gains, costs = rng.random((500, 3)), np.array([1.0, 3.0, 8.0])
    free = mean_cost(choose(gains, costs, 0.0), costs)
    for budget in np.linspace(1.01, free, 20):
        spent = mean_cost(choose(gains, costs, solve_multiplier(gains, costs, budget)), costs)
        assert budget - 7 / 500 <= spent <= budget * (1 + ROUNDING)


def test_the_budget_is_met_on_held_out_samples():
    rng = np.random.default_rng(1)
    costs = np.array([2.96, 11.41, 8.38])
    draw = lambda m: rng.beta(4, 2, (m, 3)) + np.array([0, 0.02, 0.2])  # noqa: E731
    multiplier = solve_multiplier(draw(20_000), costs, 5.4)
    assert mean_cost(choose(draw(20_000), costs, multiplier), costs) == pytest.approx(5.4, rel=0.03)


def test_equal_gains_stay_under_the_budget():
    gains, costs = np.tile([0.5, 0.9], (10, 1)), np.array([1.0, 2.0])
    multiplier = solve_multiplier(gains, costs, 1.5)
    assert choose(gains, costs, multiplier).tolist() == [0] * 10
    assert multiplier == pytest.approx(0.4)


def test_a_budget_above_all_costs_is_free():
    assert solve_multiplier(np.array([[0.1, 0.9]]), np.array([1.0, 2.0]), 99.0) == 0


def test_the_cheapest_cost_itself_is_a_budget():
    gains, costs = np.random.default_rng(0).random((7, 2)), np.array([0.1, 0.3])
    multiplier = solve_multiplier(gains, costs, 0.1)
    assert choose(gains, costs, multiplier).tolist() == [0] * 7


def test_large_and_tiny_gains():
    costs = np.array([1e-4, 3e-3])
    for size in (1e-12, 1.0, 1e6):
        gains = size * np.array([[0.0, 1.0], [0.0, 2.0]])
        multiplier = solve_multiplier(gains, costs, 2e-3)
        assert choose(gains, costs, multiplier).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("gains", "costs"),
    [
        (np.zeros((2, 3)), np.zeros(2)),
        (np.zeros((0, 2)), np.zeros(2)),
        (np.array([[np.nan, 0]]), np.ones(2)),
        (np.zeros((1, 2)), np.array([1, -1])),
    ],
)
def test_bad_input_is_named(gains, costs):
    with pytest.raises(InputError):
        solve_multiplier(gains, costs, 5.0)
