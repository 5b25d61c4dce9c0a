import numpy as np
import pytest

from sparing.bounds import bootstrap, exact_oracle, oracle_intervals
from sparing.errors import InputError
from sparing.numerics.frontier import headroom_at_cost, oracle_frontier, static_mixture


def outcomes(seed=0, m=2000, n=4):
    rng = np.random.default_rng(seed)
    difficulty = rng.random((m, 1))
    correct = 0.7 * difficulty + 0.3 * rng.random((m, n)) < np.linspace(0.4, 0.8, n)
    return correct, np.array([1.0, 3.0, 4.0, 9.0])[:n]


def test_accuracy_and_alpha_against_the_normal_approximation():
    correct, costs = outcomes()
    oracle = exact_oracle(correct, costs)
    found = oracle_intervals(oracle, correct, costs, replicates=4000)

    def expected(share, size):
        return share + np.array([-1.96, 1.96]) * np.sqrt(share * (1 - share) / size)

    assert found.accuracy == pytest.approx(expected(oracle.bound.accuracy, 2000), abs=0.002)
    for i, column in enumerate(oracle.order):
        wrong = (~correct[:, column]).sum()
        np.testing.assert_allclose(found.alphas[i], expected(oracle.alphas[i], wrong), atol=0.01)
        accuracy = oracle.accuracies[column]
        np.testing.assert_allclose(found.accuracies[i], expected(accuracy, 2000), atol=0.003)


@pytest.mark.parametrize("figure", ["cost", "accuracy_gain", "saving", "ratio", "equal_accuracy_cost"])
def test_against_plain_resampling(figure):
    correct, costs = outcomes()
    oracle = exact_oracle(correct, costs)
    base = oracle.baseline
    found = oracle_intervals(oracle, correct, costs, replicates=3000, beta0=0.5, beta1=0.1)

    def plain(rows):
        drawn = exact_oracle(correct[rows], costs)
        cost = 0.5 + 1.1 * drawn.bound.cost
        best = correct[rows, base].mean()
        return {
            "cost": cost,
            "accuracy_gain": drawn.bound.accuracy - best,
            "saving": costs[base] - cost,
            "ratio": costs[base] / cost,
            "equal_accuracy_cost": 0.5 + 1.1 * drawn.frontier.cost_at(best),
        }[figure]

    expected = bootstrap(plain, len(correct), replicates=1000, seed=5)
    width = expected[1] - expected[0]
    assert getattr(found, figure) == pytest.approx(expected, abs=0.15 * width)


def test_costs_per_sample_that_do_not_vary_give_the_same():
    correct, costs = outcomes()
    oracle = exact_oracle(correct, costs)
    same = np.tile(costs, (len(correct), 1))
    constant = oracle_intervals(oracle, correct, costs)
    varying = oracle_intervals(exact_oracle(correct, same), correct, same, seed=1)
    for name in ("cost", "accuracy", "accuracy_gain", "ratio", "equal_accuracy_ratio"):
        left, right = getattr(constant, name), getattr(varying, name)
        assert left == pytest.approx(right, abs=0.15 * (left[1] - left[0]))


def test_all_right_has_no_alpha_and_no_warning():
    correct, costs = np.ones((10, 2), bool), np.array([1.0, 2.0])
    found = oracle_intervals(exact_oracle(correct, costs), correct, costs, replicates=20)
    assert found.accuracy == (1, 1)
    assert np.isnan(found.alphas).all()


def test_headroom_interval_of_a_policy_holds_the_figure():
    correct, costs = outcomes()
    chosen = correct[:, 1]

    def covered(rows):
        mixture = static_mixture(costs, correct[rows].mean(axis=0))
        frontier = oracle_frontier(correct[rows], costs)
        return headroom_at_cost(3.0, chosen[rows].mean(), mixture, frontier)

    low, high = bootstrap(covered, len(correct), replicates=200)
    assert low < covered(np.arange(len(correct))) < high


def test_seeds_and_arguments():
    correct, costs = outcomes()
    oracle = exact_oracle(correct, costs)
    first = oracle_intervals(oracle, correct, costs, replicates=50, seed=3)
    again = oracle_intervals(oracle, correct, costs, replicates=50, seed=3)
    assert first.cost == again.cost
    with pytest.raises(InputError, match="0 replicates"):
        oracle_intervals(oracle, correct, costs, replicates=0)
    with pytest.raises(InputError, match="level 1"):
        bootstrap(len, 5, level=1)
