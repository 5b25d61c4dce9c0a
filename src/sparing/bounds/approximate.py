"""Bounds from (cost, accuracy) alone: Equations 7 to 11, 15 and 16 of the adaptive-inference paper.

All functions take states in the paper's order: costs ascending, and accuracies not descending (Equations 2
and 3; `envelope` takes care of that). Costs may be in any unit; accuracies are shares in [0, 1].
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.errors import InputError
from sparing.numerics.frontier import Curve

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Bound:
    """What an oracle agent spends and reaches, beside the model it is compared with.

    Attributes:
        cost: mean cost per sample of the oracle, R_oracle.
        accuracy: accuracy of the oracle, A_oracle, in [0, 1].
        baseline_cost: mean cost of the most accurate state, R_N; the cheapest of them if there are several.
        baseline_accuracy: its accuracy, A_N.
    """

    cost: float
    accuracy: float
    baseline_cost: float
    baseline_accuracy: float

    @property
    def saving(self) -> float:
        """Cost saved per sample against the baseline, R_N - R_oracle; negative if adapting costs more."""
        return self.baseline_cost - self.cost

    @property
    def ratio(self) -> float:
        """How many times cheaper than the baseline, R_N / R_oracle; infinite for a free oracle."""
        if self.cost == 0:
            return 1.0 if self.baseline_cost == 0 else float("inf")
        return self.baseline_cost / self.cost

    @property
    def accuracy_gain(self) -> float:
        """Accuracy gained over the baseline, A_oracle - A_N."""
        return self.accuracy - self.baseline_accuracy

    def with_adaptation_cost(self, beta0: float = 0.0, beta1: float = 0.0) -> "Bound":
        """The same oracle paying for its own adaptation (section 4.2); the baseline pays nothing.

        Args:
            beta0: fixed cost per sample, such as the router's, in the unit of `cost`; not negative.
            beta1: cost per unit of the chosen state's cost, such as loading weights; not negative.

        Returns:
            A bound with cost beta0 + (1 + beta1) R_oracle.

        Raises:
            InputError: a coefficient is negative or not finite.
        """
        if not (np.isfinite([beta0, beta1]).all() and beta0 >= 0 and beta1 >= 0):
            raise InputError(f"adaptation cost: beta0 = {beta0:g} and beta1 = {beta1:g} must not be negative")
        return Bound(
            beta0 + (1 + beta1) * self.cost, self.accuracy, self.baseline_cost, self.baseline_accuracy
        )


def conservative(costs: Floats, accuracies: Floats) -> Bound:
    """The bound for alpha = 1: every error of a model is also an error of all smaller ones (Equation 9).

    For ordered states this is a promise about the oracle at equal accuracy: the oracle frontier reaches A_N
    at this cost or less, whatever the outcomes. It is not a lower bound on the cost of the exact oracle,
    which may spend more and be more accurate.

    Args:
        costs: shape (N,), ascending.
        accuracies: shape (N,), not descending.

    Returns:
        The bound; its accuracy is A_N.
    """
    gains = np.diff(accuracies, prepend=accuracies[0])
    return _bound(costs, accuracies, costs[0] + (costs - costs[0]) @ gains, accuracies[-1])


def constant_alpha(costs: Floats, accuracies: Floats, alpha: float) -> Bound:
    """The bound for one alpha at all states (Equation 8): a line from alpha = 0 to the conservative bound.

    Args:
        costs: shape (N,), ascending.
        accuracies: shape (N,), not descending.
        alpha: probability in [0, 1] that an error of a model is an error of all smaller ones.

    Returns:
        The bound; its accuracy is 1 - alpha (1 - A_N).

    Raises:
        InputError: alpha outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is {alpha:g}; it is a probability in [0, 1]")
    return from_alphas(costs, accuracies, np.full(len(costs), alpha))


def from_alphas(costs: Floats, accuracies: Floats, alphas: Floats) -> Bound:
    """The oracle from measured alphas (Equation 7; its proof shifts the index, the statement does not).

    Args:
        costs: shape (N,), ascending; accuracies need no order here.
        accuracies: shape (N,).
        alphas: shape (N,), alpha_i for state i; the first is not used, and NaN is allowed for a state without
            errors, where it has no meaning.

    Returns:
        The bound; with the alphas of the exact oracle it is the exact oracle.
    """
    errors = 1 - accuracies
    unsolved = np.where(errors > 0, alphas * errors, 0.0)
    unsolved[0] = errors[0]
    if len(costs) == 1:
        return _bound(costs, accuracies, costs[0], accuracies[0])
    steps = np.diff(costs)
    cost = costs[0] + steps @ unsolved[:-1] - unsolved[-1] * (costs[-1] - costs[0])
    return _bound(costs, accuracies, cost, 1 - unsolved[-1])


def continuous(costs: Floats, accuracies: Floats) -> Bound:
    """The conservative bound for infinitely many states between the given ones (Equation 11).

    The curve of accuracy over cost is interpolated linearly, so the states in between are hypothetical: this
    bounds what a finer family of models could bring, not what these models can.

    Args:
        costs: shape (N,), ascending.
        accuracies: shape (N,), not descending.

    Returns:
        The bound R_1 + A_h (R_h - R_1) - integral of A(R) dR; its accuracy is A_h.
    """
    area = float(np.trapezoid(accuracies, costs))
    cost = costs[0] + accuracies[-1] * (costs[-1] - costs[0]) - area
    return _bound(costs, accuracies, cost, accuracies[-1])


def two_states(costs: Floats, accuracies: Floats) -> Bound:
    """The conservative bound with the cheapest and the most accurate state only (Equation 15).

    Args:
        costs: shape (N,), ascending.
        accuracies: shape (N,), not descending.

    Returns:
        The bound that the dynamic range alone gives.
    """
    ends = [0, -1] if len(costs) > 1 else [0]
    return conservative(costs[ends], accuracies[ends])


def dynamic_range(costs: Floats, accuracies: Floats) -> list[tuple[Bound, Bound]]:
    """Bound every range of states: a wider one is more accurate and more expensive (section A.4).

    Args:
        costs: shape (N,), ascending.
        accuracies: shape (N,), not descending.

    Returns:
        For every state as the largest one, the bound of the two ends alone (Equation 15) and of all states up
        to it (Equation 9).
    """
    return [
        (two_states(costs[:end], accuracies[:end]), conservative(costs[:end], accuracies[:end]))
        for end in range(1, len(costs) + 1)
    ]


def smallest_state_limit(costs: Floats, accuracies: Floats, classes: float) -> float:
    """The cost below which the smallest state is worth having, against guessing for nothing (Equation 16).

    The paper prints R_N; its proof ends in R_2, which is what is used: replacing the smallest state by a free
    guess raises the conservative bound exactly if R_1 is below (A_1 - 1/C) R_2 / (1 - A_N + A_1).

    Args:
        costs: shape (N,), N >= 2, ascending.
        accuracies: shape (N,), not descending.
        classes: how many classes C a guess chooses from.

    Returns:
        The limit in the unit of `costs`; negative where the smallest state is worse than a guess.

    Raises:
        InputError: fewer than two states or classes.
    """
    if len(costs) < 2 or not classes >= 2:
        raise InputError(
            f"smallest state: needs two states and two classes, got {len(costs)} and {classes:g}"
        )
    share = 1 - accuracies[-1] + accuracies[0]
    lead = accuracies[0] - 1 / classes
    return float(lead * costs[1] / share) if share > 0 else float("-inf")


def frontier_of_errors(costs: Floats, p_errors: Floats) -> Curve:
    """The oracle frontier of states of which only P(e_i) is known (Equation 5).

    With p_errors = 1 - accuracies it is the frontier for alpha = 1, which ends at the conservative bound and
    which the exact frontier of ordered states never falls below.

    Args:
        costs: shape (N,), ascending.
        p_errors: shape (N,), share of samples on which the i cheapest states all fail; not ascending.

    Returns:
        The best accuracy at every mean cost.
    """
    bought = -np.diff(p_errors, prepend=1.0)
    spent = costs[0] + np.cumsum(bought * (costs - costs[0]))
    last = np.append(np.diff(spent) > 0, True)
    return Curve(spent[last], 1 - p_errors[last])


def _bound(costs: Floats, accuracies: Floats, cost: float, accuracy: float) -> Bound:
    best = int(accuracies.argmax())
    return Bound(float(cost), float(accuracy), float(costs[best]), float(accuracies[best]))
