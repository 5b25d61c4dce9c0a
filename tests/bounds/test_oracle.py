import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparing.bounds import conservative, constant_alpha, exact_oracle, from_alphas
from sparing.errors import InputError


def outcomes(seed, m, n):
    rng = np.random.default_rng(seed)
    return rng.random((m, n)) < rng.random(n), rng.permutation(n) + 1.0


cases = st.builds(outcomes, st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 6))


def simulate(correct, costs):
    """Definition 2.1, sample by sample."""
    spent = solved = 0.0
    prices = np.broadcast_to(costs, correct.shape)
    for right, price in zip(correct, prices, strict=True):
        able = [p for r, p in zip(right, price, strict=True) if r]
        spent += min(able) if able else min(price)
        solved += bool(able)
    return spent / len(correct), solved / len(correct)


@given(cases)
def test_the_oracle_equals_its_simulation(case):
    oracle = exact_oracle(*case)
    assert (oracle.bound.cost, oracle.bound.accuracy) == pytest.approx(simulate(*case))


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 5))
def test_costs_per_sample_equal_their_simulation(seed, m, n):
    correct, _ = outcomes(seed, m, n)
    costs = np.random.default_rng(seed).random((m, n))
    oracle = exact_oracle(correct, costs)
    assert (oracle.bound.cost, oracle.bound.accuracy) == pytest.approx(simulate(correct, costs))
    np.testing.assert_allclose(oracle.costs, costs.mean(axis=0))


@given(cases)
def test_equation_5_as_printed_and_equation_7(case):
    correct, costs = case
    oracle = exact_oracle(correct, costs)
    ranked, errors = costs[oracle.order], oracle.p_errors
    printed = ranked[0] * (1 - errors[0] + errors[-1])
    printed += sum(ranked[i] * (errors[i - 1] - errors[i]) for i in range(1, len(costs)))
    assert oracle.bound.cost == pytest.approx(printed)
    assert oracle.bound.accuracy == pytest.approx(1 - errors[-1])
    seventh = from_alphas(ranked, oracle.accuracies[oracle.order], oracle.alphas)
    assert seventh.cost == pytest.approx(oracle.bound.cost)
    assert seventh.accuracy == pytest.approx(oracle.bound.accuracy)


@given(cases)
def test_alpha_is_the_conditional_probability(case):
    correct, costs = case
    oracle = exact_oracle(correct, costs)
    for i in range(len(costs)):
        wrong = ~correct[:, oracle.order[i]]
        smaller = ~correct[:, oracle.order[:i]]
        if wrong.any():
            assert oracle.alphas[i] == pytest.approx(smaller[wrong].all(axis=1).mean())
        else:
            assert np.isnan(oracle.alphas[i])


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 6))
def test_nested_outcomes_give_alpha_one_and_the_conservative_bound(seed, m, n):
    rng = np.random.default_rng(seed)
    skill = np.sort(rng.random(n))
    correct = rng.random((m, 1)) < skill
    costs = np.sort(rng.random(n))
    oracle = exact_oracle(correct, costs)
    assert np.all((oracle.alphas == 1) | np.isnan(oracle.alphas))
    bound = conservative(costs, correct.mean(axis=0))
    assert oracle.bound.cost == pytest.approx(bound.cost)
    assert oracle.bound.accuracy == pytest.approx(bound.accuracy)
    assert oracle.equal_accuracy.cost == pytest.approx(bound.cost)
    assert constant_alpha(costs, correct.mean(axis=0), 1.0).cost == pytest.approx(bound.cost)


@settings(max_examples=50)
@given(cases)
def test_equal_accuracy_lies_between_the_cheapest_state_and_the_oracle(case):
    oracle = exact_oracle(*case)
    assert oracle.costs.min() - 1e-9 <= oracle.equal_accuracy.cost <= oracle.bound.cost + 1e-9
    assert oracle.equal_accuracy.cost <= oracle.costs[oracle.baseline] + 1e-9
    assert oracle.accuracies[oracle.baseline] == oracle.accuracies.max()


def test_labels_by_hand():
    correct = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0]], bool)
    oracle = exact_oracle(correct, np.array([3.0, 2.0, 5.0]))
    assert oracle.bought.choice.tolist() == [0, 1, -1]
    assert oracle.order.tolist() == [1, 0, 2]
    assert oracle.p_errors.tolist() == pytest.approx([2 / 3, 1 / 3, 1 / 3])
    assert oracle.alphas.tolist() == pytest.approx([1, 0.5, 1])
    assert oracle.baseline == 2
    assert oracle.bound.cost == pytest.approx((3 + 2 + 2) / 3)


def test_tied_costs_do_not_change_the_oracle():
    correct, _ = outcomes(5, 200, 4)
    oracle = exact_oracle(correct, np.ones(4))
    assert oracle.bound.cost == 1
    assert oracle.bound.accuracy == pytest.approx(correct.any(axis=1).mean())
    assert (np.diff(oracle.accuracies[oracle.order]) >= 0).all()


def test_all_wrong_and_all_right():
    nothing = exact_oracle(np.zeros((5, 3), bool), np.array([1.0, 2.0, 3.0]))
    assert (nothing.bound.cost, nothing.bound.accuracy) == (1, 0)
    assert nothing.alphas.tolist() == [1, 1, 1]
    everything = exact_oracle(np.ones((5, 3), bool), np.array([1.0, 2.0, 3.0]))
    assert (everything.bound.cost, everything.bound.accuracy) == (1, 1)
    assert np.isnan(everything.alphas).all()
    assert everything.baseline == 0


def test_nothing_given():
    with pytest.raises(InputError, match="0 samples"):
        exact_oracle(np.ones((0, 2), bool), np.ones(2))
