"""Best accuracy at every mean cost: the mixture of single models, the oracle, and the headroom between them.

A sample may get the answer of any one model (a state). `correct` says which answers are right; `costs` says
what a state costs, the same for every sample or sample by sample. No policy that answers every sample with
one of the states lies above the oracle frontier; one that looks at nothing does not lie above the static
mixture.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.errors import InputError
from sparing.numerics.metrics import headroom

Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int32]
Outcomes = npt.NDArray[np.bool_]

CHUNK_VALUES = 1 << 23
"""How many outcomes are looked at together: 8 MB of temporaries, 64 MB with costs per sample."""


ROUNDING = 1e-9
"""A mean of equal costs may differ from them by rounding; what is this close to a curve's end is on it."""


@dataclass(frozen=True)
class Curve:
    """Best accuracy at every mean cost: concave, linear between its points, flat after the last one.

    Attributes:
        costs: shape (k,), strictly ascending.
        accuracies: shape (k,), strictly ascending, in [0, 1].
    """

    costs: Floats
    accuracies: Floats

    def accuracy_at(self, cost: float) -> float:
        """Best accuracy at a mean cost: NaN below the first point, where not every sample can be answered."""
        if cost < self.costs[0] * (1 - ROUNDING):
            return float("nan")
        return float(np.interp(cost, self.costs, self.accuracies))

    def cost_at(self, accuracy: float) -> float:
        """Lowest mean cost of an accuracy: NaN above the last point."""
        if accuracy > self.accuracies[-1] * (1 + ROUNDING):
            return float("nan")
        return float(np.interp(accuracy, self.accuracies, self.costs))


def static_mixture(costs: Floats, accuracies: Floats) -> Curve:
    """Best accuracy of a random mixture of single states: the concave hull of the points.

    Args:
        costs: shape (N,), mean cost of each state, finite and not negative.
        accuracies: shape (N,), in [0, 1].

    Returns:
        The hull from the cheapest state to the most accurate one.
    """
    hull: list[tuple[float, float]] = []
    order = by_cost(costs, accuracies)
    for cost, accuracy in zip(costs[order].tolist(), accuracies[order].tolist(), strict=True):
        if hull and accuracy <= hull[-1][1]:
            continue
        if hull and cost == hull[-1][0]:
            hull.pop()
        while len(hull) > 1 and _turns_up(hull[-2], hull[-1], (cost, accuracy)):
            hull.pop()
        hull.append((cost, accuracy))
    return Curve(np.array([c for c, _ in hull]), np.array([a for _, a in hull]))


def _turns_up(first: tuple[float, float], middle: tuple[float, float], last: tuple[float, float]) -> bool:
    rise, run = middle[1] - first[1], middle[0] - first[0]
    return rise * (last[0] - middle[0]) <= (last[1] - middle[1]) * run


def by_cost(costs: Floats, accuracies: Floats) -> npt.NDArray[np.intp]:
    """Order states by cost, equal costs by accuracy, as the paper ranks them (Equations 2 and 3).

    Args:
        costs: shape (N,).
        accuracies: shape (N,).

    Returns:
        Shape (N,), state indices, cheapest first.
    """
    return np.lexsort((accuracies, costs))


@dataclass(frozen=True)
class Purchases:
    """What the oracle can buy: per sample, the cheapest answer and the cheapest right one.

    Attributes:
        choice: shape (m,), the cheapest right state (the paper's adaptation label), -1 where none is right.
        base: shape (m,), the cost of the sample's cheapest state, which every sample pays at least.
        extra: shape (m,), what the cheapest right state costs on top; infinite where none is right.
    """

    choice: Indices
    base: Floats
    extra: Floats


def purchases(correct: Outcomes, costs: Floats) -> Purchases:
    """Find for every sample its cheapest state and its cheapest right state, chunk by chunk.

    Args:
        correct: shape (m, N), whether state j is right on sample i.
        costs: shape (N,), or (m, N) where costs vary per sample; finite and not negative.

    Returns:
        Choices and costs for the m samples. Ties in cost go to the state given first.

    Raises:
        InputError: the shapes do not match, or a cost is negative or not finite.
    """
    check_outcomes(correct, costs)
    m, n = correct.shape
    if costs.ndim == 1:
        order = np.argsort(costs, kind="stable")
        rank = first_right(correct, order)
        choice = np.where(rank < 0, -1, order[rank]).astype(np.int32)
        extra = np.where(rank < 0, np.inf, costs[order[rank]] - costs[order[0]])
        return Purchases(choice, np.full(m, float(costs[order[0]])), extra)
    choice = np.empty(m, np.int32)
    base, extra = np.empty(m), np.empty(m)
    for rows in chunks(m, n):
        priced = np.where(correct[rows], costs[rows], np.inf)
        found = priced.argmin(axis=1)
        price = priced[np.arange(len(found)), found]
        base[rows] = costs[rows].min(axis=1)
        choice[rows] = np.where(np.isfinite(price), found, -1)
        extra[rows] = price - base[rows]
    return Purchases(choice, base, extra)


def first_right(correct: Outcomes, order: npt.NDArray[np.intp]) -> Indices:
    """Find for every sample the first state in a given order that is right, chunk by chunk.

    Args:
        correct: shape (m, N), whether state j is right on sample i.
        order: shape (k,), some or all of the state indices.

    Returns:
        Shape (m,), positions in `order`, -1 where no state is right.
    """
    m, n = correct.shape
    result = np.empty(m, np.int32)
    in_order = np.array_equal(order, np.arange(n))
    for rows in chunks(m, n):
        right = correct[rows] if in_order else correct[rows].take(order, axis=1)
        first = right.argmax(axis=1)
        result[rows] = np.where(right[np.arange(len(first)), first], first, -1)
    return result


def oracle_frontier(correct: Outcomes, costs: Floats) -> Curve:
    """Best accuracy that any policy over these states can reach at every mean cost.

    Each right answer costs at least the extra price of the sample's cheapest right state, so the best use of
    a mean cost is to buy the right answers in ascending order of that price. The last point is the oracle of
    Definition 2.1 (adaptive inference, Equation 5); the first is the cheapest state for every sample. Between
    points the curve is what a random mixture of the two reaches.

    Args:
        correct: shape (m, N), m >= 1, whether state j is right on sample i.
        costs: shape (N,), or (m, N) where costs vary per sample; finite and not negative.

    Returns:
        The frontier over the mean cost per sample, in the unit of `costs`.

    Raises:
        InputError: the shapes do not match, there are no samples, or a cost is negative or not finite.
    """
    return frontier_of(purchases(correct, costs))


def frontier_of(bought: Purchases) -> Curve:
    """The oracle frontier of purchases that are already known; see `oracle_frontier`."""
    m = len(bought.base)
    if m == 0:
        raise InputError("oracle frontier: there are no samples")
    prices, counts = np.unique(bought.extra[np.isfinite(bought.extra)], return_counts=True)
    if len(prices) == 0 or prices[0] > 0:
        prices, counts = np.append(0.0, prices), np.append(0, counts)
    return Curve(bought.base.mean() + np.cumsum(prices * counts) / m, np.cumsum(counts) / m)


def headroom_at_cost(cost: float, accuracy: float, mixture: Curve, frontier: Curve) -> float:
    """Share of the way from the best static mixture to the oracle frontier that a policy covers.

    Args:
        cost: the policy's mean cost per sample, everything included, in the unit of the curves.
        accuracy: the policy's accuracy, in [0, 1].
        mixture: what mixing single states blindly reaches, from `static_mixture`.
        frontier: what no policy can beat, from `oracle_frontier`.

    Returns:
        1 on the frontier, 0 on the mixture, negative below it; NaN where there is no room between the two,
        or where the cost is below the cheapest state's.
    """
    return headroom(accuracy, mixture.accuracy_at(cost), frontier.accuracy_at(cost))


def chunks(m: int, n: int) -> list[slice]:
    """Row slices that cover m rows of n values, about `CHUNK_VALUES` values each."""
    step = max(1, CHUNK_VALUES // max(n, 1))
    return [slice(start, min(start + step, m)) for start in range(0, m, step)]


def check_outcomes(correct: Outcomes, costs: Floats) -> None:
    """Raise InputError unless outcomes and costs are tables of the same states and samples."""
    if correct.ndim != 2 or correct.dtype != np.bool_:
        raise InputError(
            "outcomes: expected booleans with one row per sample and one column per state, "
            f"got shape {correct.shape} of {correct.dtype}"
        )
    if costs.shape not in ((correct.shape[1],), correct.shape):
        raise InputError(
            f"costs: outcomes of shape {correct.shape} need one cost per state or one per outcome, "
            f"got shape {costs.shape}"
        )
    if not (np.isfinite(costs) & (costs >= 0)).all():
        raise InputError("costs: every cost must be a finite number that is not negative")
