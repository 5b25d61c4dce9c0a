from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparing.bounds import conservative, select_greedy, select_optimal
from sparing.errors import InputError


def space(seed, n):
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.exponential(size=n) ** 3 + 0.01), np.sort(rng.random(n))


def cost_of(costs, accuracies, chosen):
    return conservative(costs[list(chosen)], accuracies[list(chosen)]).cost


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.booleans())
def test_the_shortest_path_equals_exhaustive_search(seed, n, keep_smallest):
    costs, accuracies = space(seed, n)
    found = select_optimal(costs, accuracies, n, keep_smallest=keep_smallest)
    assert [len(chosen) for chosen in found] == list(range(1, n + 1))
    for chosen in found:
        sets = [
            (*others, n - 1)
            for others in combinations(range(n - 1), len(chosen) - 1)
            if not keep_smallest or len(chosen) == 1 or others[0] == 0
        ]
        best = min(cost_of(costs, accuracies, s) for s in sets)
        assert chosen == sorted(set(chosen))
        assert chosen[-1] == n - 1
        assert cost_of(costs, accuracies, chosen) == pytest.approx(best)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9))
def test_greedy_never_beats_the_optimum_and_is_greedy(seed, n):
    costs, accuracies = space(seed, n)
    greedy = select_greedy(costs, accuracies, n)
    best = select_optimal(costs, accuracies, n, keep_smallest=True)[1:]
    free = select_optimal(costs, accuracies, n)[1:]
    for grown, optimal, unbound in zip(greedy, best, free, strict=True):
        assert cost_of(costs, accuracies, optimal) <= cost_of(costs, accuracies, grown) + 1e-9
        assert cost_of(costs, accuracies, unbound) <= cost_of(costs, accuracies, optimal) + 1e-9
    for before, after in pairwise(greedy):
        assert set(before) < set(after)
        others = [sorted([*before, i]) for i in range(n) if i not in before]
        best_step = min(cost_of(costs, accuracies, s) for s in others)
        assert cost_of(costs, accuracies, after) == pytest.approx(best_step)


def test_greedy_is_not_optimal_here():
    # The state that helps most alone is in nobody's way, but two others do better together.
    costs = np.array([0.0, 1.0, 4.0, 6.0, 10.0])
    accuracies = np.array([0.0, 0.3, 0.5, 0.6, 1.0])
    greedy = select_greedy(costs, accuracies, 4)[-1]
    best = select_optimal(costs, accuracies, 4, keep_smallest=True)[-1]
    assert cost_of(costs, accuracies, best) <= cost_of(costs, accuracies, greedy)
    assert select_greedy(costs, accuracies, 3)[-1] == [0, 2, 4]  # gains 2.7, 3.0 and 2.4


def test_the_algorithm_stops_at_the_size_asked_for():
    assert [len(s) for s in select_greedy(*space(1, 9), 5)] == [2, 3, 4, 5]


def test_the_smallest_state_may_be_left_out():
    costs, accuracies = np.array([1.0, 2.0, 100.0]), np.array([0.01, 0.8, 0.9])
    assert select_optimal(costs, accuracies, 2)[-1] == [1, 2]
    assert select_optimal(costs, accuracies, 2, keep_smallest=True)[-1] == [0, 2]


@pytest.mark.parametrize("size", [0, 4])
def test_sizes_out_of_range(size):
    with pytest.raises(InputError, match="size is"):
        select_optimal(*space(1, 3), size)
    with pytest.raises(InputError, match="size is"):
        select_greedy(*space(1, 3), size)
