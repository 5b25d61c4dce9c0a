"""The exact oracle of a set of outcomes: Definition 2.1 and Equations 4 to 7 of the paper."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.bounds.approximate import Bound
from sparing.errors import InputError
from sparing.numerics.frontier import (
    Curve,
    Purchases,
    by_cost,
    check_outcomes,
    chunks,
    first_right,
    frontier_of,
    purchases,
)

Floats = npt.NDArray[np.floating[Any]]
Outcomes = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Oracle:
    """What an agent that knows every outcome spends and reaches.

    States keep the order of the input columns, apart from `order`, `p_errors` and `alphas`.

    Attributes:
        bound: mean cost and accuracy of the oracle (Equation 5), beside the most accurate state.
        bought: per sample, the cheapest right state and its price; `bought.choice` are the paper's
            adaptation labels, -1 where no state is right (the oracle then uses the cheapest state).
        frontier: the best accuracy at every mean cost; its last point is `bound`.
        equal_accuracy: the oracle that stops at the baseline's accuracy: the most that a policy can save
            without being less accurate.
        costs: shape (N,), mean cost of each state.
        accuracies: shape (N,).
        baseline: index of the most accurate state, the cheapest of them if there are several.
        order: shape (N,), state indices by mean cost, equal costs by accuracy: position i is the paper's S_i.
        p_errors: shape (N,), P(e_i), the share of samples on which the i cheapest states all fail.
        alphas: shape (N,), alpha_i = P(e_i) / (1 - A_i) (Equation 6); the first is 1 by definition, NaN where
            a state makes no error.
    """

    bound: Bound
    bought: Purchases
    frontier: Curve
    equal_accuracy: Bound
    costs: Floats
    accuracies: Floats
    baseline: int
    order: npt.NDArray[np.intp]
    p_errors: Floats
    alphas: Floats


def exact_oracle(correct: Outcomes, costs: Floats) -> Oracle:
    """Compute the exact oracle; no ordering of the accuracies is needed.

    With costs per sample, which the paper does not treat, the oracle takes each sample's cheapest right state
    at that sample's prices, and where none is right the sample's cheapest state. P(e_i) and the alphas then
    follow the order of the mean costs, and Equation 7 no longer gives the oracle's cost from them.

    Args:
        correct: shape (m, N), m >= 1, N >= 1, whether state j is right on sample i.
        costs: shape (N,), or (m, N) where costs vary per sample; finite and not negative.

    Returns:
        The oracle, in time O(m N) and with temporaries of a few tens of megabytes.

    Raises:
        InputError: no samples or states, shapes that do not match, or a cost negative or not finite.
    """
    check_outcomes(correct, costs)
    m, n = correct.shape
    if m == 0 or n == 0:
        raise InputError(f"outcomes: {m} samples and {n} states; at least one of each is needed")
    accuracies = state_accuracies(correct)
    mean_costs = costs if costs.ndim == 1 else costs.mean(axis=0)
    order = by_cost(mean_costs, accuracies)
    p_errors, alphas = shared_errors(correct, order, accuracies)
    bought = purchases(correct, costs)
    frontier = frontier_of(bought)
    baseline = int(np.lexsort((mean_costs, -accuracies))[0])
    best_cost, best_accuracy = float(mean_costs[baseline]), float(accuracies[baseline])
    bound = Bound(float(frontier.costs[-1]), float(frontier.accuracies[-1]), best_cost, best_accuracy)
    equal = Bound(frontier.cost_at(best_accuracy), best_accuracy, best_cost, best_accuracy)
    return Oracle(
        bound=bound,
        bought=bought,
        frontier=frontier,
        equal_accuracy=equal,
        costs=mean_costs,
        accuracies=accuracies,
        baseline=baseline,
        order=order,
        p_errors=p_errors,
        alphas=alphas,
    )


def shared_errors(
    correct: Outcomes, order: npt.NDArray[np.intp], accuracies: Floats
) -> tuple[Floats, Floats]:
    """How often the first i states all fail, and how often they do where the i-th fails (Equation 6).

    Args:
        correct: shape (m, N), m >= 1.
        order: shape (k,), some or all of the states, cheapest first.
        accuracies: shape (N,), of all states.

    Returns:
        P(e_i) and alpha_i, shape (k,) each, in [0, 1]; alpha is NaN where a state makes no error.
    """
    m = len(correct)
    rank = first_right(correct, order)
    unsolved = m - np.cumsum(np.bincount(rank[rank >= 0], minlength=len(order)))
    wrong = np.rint(m * (1 - accuracies[order]))
    return unsolved / m, np.divide(unsolved, wrong, out=np.full(len(order), np.nan), where=wrong > 0)


def state_accuracies(correct: Outcomes) -> Floats:
    """Accuracy of every state, counted chunk by chunk.

    Args:
        correct: shape (m, N), m >= 1.

    Returns:
        Shape (N,), in [0, 1].
    """
    m, n = correct.shape
    right = np.zeros(n, np.int64)
    for rows in chunks(m, n):
        right += correct[rows].sum(axis=0, dtype=np.int32)
    accuracies: Floats = right / m
    return accuracies
