"""What a router has to beat: the mixture of experts, cascades that run the cheap expert first, the oracle."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.errors import InputError
from sparing.frontier import static_mixture

Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]


def mixture_shares(costs: Floats, accuracies: Floats, cost: float) -> npt.NDArray[np.float64]:
    """Share of samples per expert in the best random mixture of a mean cost.

    Args:
        costs: shape (n,), mean cost of each expert.
        accuracies: shape (n,), in [0, 1].
        cost: mean cost per sample.

    Returns:
        Shape (n,), summing to 1, at most two of them positive: neighbours on the hull of
        `frontier.static_mixture`, or its last point when the cost is beyond it.

    Raises:
        InputError: the cost is below the cheapest expert's.
    """
    hull = static_mixture(costs, accuracies)
    if np.isnan(hull.accuracy_at(cost)):
        raise InputError(f"no mixture costs {cost:g}: the cheapest expert costs {hull.costs[0]:g}")
    corners = [
        int(np.flatnonzero((costs == c) & (accuracies == a))[0])
        for c, a in zip(hull.costs, hull.accuracies, strict=True)
    ]
    place = float(np.interp(cost, hull.costs, np.arange(len(corners))))
    low = int(place)
    shares = np.zeros(len(costs))
    shares[corners[low]] = 1 - (place - low)
    if place > low:
        shares[corners[low + 1]] = place - low
    return shares


@dataclass(frozen=True)
class Cascade:
    """Run the cheap expert first and the next one when it is unsure, paying for both: at every threshold.

    Attributes:
        order: k experts, as they are run.
        thresholds: shape (p,), ascending: a sample goes on while its certainty is at or under the threshold;
            the first is -inf, where nothing goes on.
        costs: shape (p,), mean cost per sample, ascending.
        accuracies: shape (p,).
    """

    order: tuple[int, ...]
    thresholds: npt.NDArray[np.float64]
    costs: npt.NDArray[np.float64]
    accuracies: npt.NDArray[np.float64]

    def between(self, cost: float) -> list[tuple[float, float]]:
        """Find the thresholds next to a mean cost, and how to mix them to meet it.

        Args:
            cost: mean cost per sample.

        Returns:
            One or two (threshold, share of samples), shares summing to 1: exactly the cost, or the last
            threshold when the cost is beyond it.

        Raises:
            InputError: the cost is below that of running the first expert alone.
        """
        if cost < self.costs[0] * (1 - 1e-9):
            raise InputError(f"no cascade costs {cost:g}: its first expert costs {self.costs[0]:g}")
        high = int(np.searchsorted(self.costs, cost))
        if high == len(self.costs):
            return [(float(self.thresholds[-1]), 1.0)]
        if high == 0 or self.costs[high] == cost:
            return [(float(self.thresholds[high]), 1.0)]
        share = float((cost - self.costs[high - 1]) / (self.costs[high] - self.costs[high - 1]))
        return [(float(self.thresholds[high - 1]), 1 - share), (float(self.thresholds[high]), share)]

    def accuracy_at(self, cost: float) -> float:
        """Accuracy at a mean cost, between adjacent thresholds by mixing them; flat after the last.

        Raises:
            InputError: the cost is below that of running the first expert alone.
        """
        at = np.searchsorted(self.thresholds, [threshold for threshold, _ in self.between(cost)])
        return float(self.accuracies[at] @ [share for _, share in self.between(cost)])


def cascade(certainty: Floats, correct: Bools, costs: Floats, order: Sequence[int]) -> Cascade:
    """Trace a cascade with one threshold for all its experts.

    Args:
        certainty: shape (m, n), m >= 1, how sure expert i is: its largest probability, or its entropy
            negated.
        correct: shape (m, n), whether expert i is right.
        costs: shape (n,), not negative.
        order: k >= 2 experts, as they are run; the last one always answers.

    Returns:
        The whole curve. A threshold that is picked on the samples it is judged on is picked in hindsight:
        a fair one is chosen on calibration samples, at the mean cost it has there.
    """
    first = order[0]
    # A sample that reaches stage j has been at or under the threshold in all stages before: its highest
    # certainty so far decides, so that every stage adds its own steps to cost and accuracy.
    highest = np.maximum.accumulate(certainty[:, list(order[:-1])].astype(np.float64), axis=1)
    right = correct[:, list(order)].astype(np.int64)
    events = highest.T.ravel()
    spent = np.repeat(costs[list(order[1:])].astype(np.float64), len(certainty))
    won = np.diff(right, axis=1).T.ravel()
    by_value = np.argsort(events, kind="stable")
    ordered = events[by_value]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    m = len(certainty)
    return Cascade(
        tuple(order),
        np.append(-np.inf, ordered[last]),
        np.append(costs[first], costs[first] + np.cumsum(spent[by_value])[last] / m),
        np.append(right[:, 0].sum(), right[:, 0].sum() + np.cumsum(won[by_value])[last]) / m,
    )


def stops(certainty: Floats, order: Sequence[int], threshold: float) -> npt.NDArray[np.int64]:
    """Find where each sample stops in a cascade.

    Args:
        certainty: shape (m, n), as for `cascade`.
        order: k experts, as they are run.
        threshold: go on at or under it.

    Returns:
        Shape (m,), the position in `order` of the expert that answers.
    """
    going = certainty[:, list(order[:-1])].astype(np.float64) <= threshold
    return np.asarray(np.logical_and.accumulate(going, axis=1).sum(axis=1))


def cascade_orders(costs: Floats) -> list[tuple[int, ...]]:
    """List the cascades worth tracing: every pair in order of cost, and all experts where there are more."""
    by_cost = [int(i) for i in np.argsort(costs, kind="stable")]
    orders: list[tuple[int, ...]] = list(combinations(by_cost, 2))
    return [*orders, tuple(by_cost)] if len(by_cost) > 2 else orders
