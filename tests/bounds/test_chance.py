from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparing.bounds import best_small_sets, exact_oracle, guessing_frontier, independent_frontier
from sparing.errors import InputError


def test_26_models_that_only_guess():
    # With ten options, each guesser is right on a tenth: 1 - 0.9^26.
    curve = guessing_frontier(np.arange(26.0), np.full(26, 0.1), 10)
    assert curve.accuracies[-1] == pytest.approx(0.9354, abs=5e-5)


def test_independent_errors_as_simulated():
    rng = np.random.default_rng(0)
    accuracies, costs = np.array([0.5, 0.4, 0.7]), np.array([1.0, 2.0, 5.0])
    oracle = exact_oracle(rng.random((200_000, 3)) < accuracies, costs)
    curve = independent_frontier(costs, accuracies)
    assert curve.accuracies[-1] == pytest.approx(1 - 0.5 * 0.6 * 0.3)
    assert curve.accuracies[-1] == pytest.approx(oracle.bound.accuracy, abs=0.003)
    assert curve.costs[-1] == pytest.approx(oracle.bound.cost, rel=0.01)
    assert curve.cost_at(0.7) == pytest.approx(oracle.frontier.cost_at(0.7), rel=0.01)


def test_guessing_as_simulated_with_options_that_vary():
    rng = np.random.default_rng(1)
    options = rng.integers(2, 11, 200_000)
    guesses = rng.random((len(options), 2)) < 1 / options[:, None]
    best = rng.random((len(options), 1)) < 0.6
    correct = np.concatenate([guesses[:, :1], best, guesses[:, 1:]], axis=1)
    costs = np.array([1.0, 2.0, 3.0])
    oracle = exact_oracle(correct, costs)
    curve = guessing_frontier(costs, np.array([0.3, 0.6, 0.3]), options)
    assert curve.accuracies[-1] == pytest.approx(oracle.bound.accuracy, abs=0.003)
    assert curve.costs[-1] == pytest.approx(oracle.bound.cost, rel=0.01)


def test_a_guess_needs_options():
    with pytest.raises(InputError, match="at least one option"):
        guessing_frontier(np.ones(2), np.ones(2), 0)


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(2, 6))
def test_small_sets_equal_exhaustive_search(seed, m, n):
    correct = np.random.default_rng(seed).random((m, n)) < 0.4
    for small in best_small_sets(correct):
        size = len(small.states)
        best = max(correct[:, list(s)].any(axis=1).mean() for s in combinations(range(n), size))
        assert small.exhaustive
        assert small.accuracy == pytest.approx(best)
        assert small.accuracy == pytest.approx(correct[:, list(small.states)].any(axis=1).mean())
        shares = correct[:, list(small.states)].mean(axis=0)
        assert small.best_single == pytest.approx(shares.max())
        assert small.independent == pytest.approx(1 - np.prod(1 - shares))


def test_large_searches_extend_the_smaller_set():
    correct = np.random.default_rng(2).random((50, 9)) < 0.3
    pair, triple = best_small_sets(correct, search_bytes=0)
    best = int(correct.mean(axis=0).argmax())
    assert not pair.exhaustive
    assert best in pair.states
    assert set(pair.states) < set(triple.states)
    extended = max(correct[:, [best, j]].any(axis=1).mean() for j in range(9))
    assert pair.accuracy == pytest.approx(extended)


def test_one_model_has_no_pairs():
    assert best_small_sets(np.ones((3, 1), bool)) == []
