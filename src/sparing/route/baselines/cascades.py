"""Cascades: run the cheap expert first, and the next one when it is unsure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from sparing.errors import InputError
from sparing.route.baselines.contract import Curve, Floats, Policy
from sparing.route.judging import Judged, Timing, quantile, shares_of

Bools = npt.NDArray[np.bool_]

HINDSIGHT = (
    "Cascades are picked in hindsight, which flatters them: each threshold is the one that meets the "
    "router's mean latency on these very samples, and the best cascade is the one most accurate on them. "
    "The fair comparison chooses both on calibration samples."
)
CURVE_POINTS = 101


@dataclass(frozen=True)
class Cascading:
    """Cascades by one kind of certainty, of every pair of experts and of all of them.

    Attributes:
        by: what the certainty is called, such as "confidence".
        certainty: from distributions of shape (m, C) to shape (m,), larger where an expert is surer.
    """

    by: str
    certainty: Callable[[Floats], Floats]

    family = "cascade"
    note = HINDSIGHT

    @property
    def kind(self) -> str:
        """What its rows are called."""
        return f"{self.by} cascade"

    @property
    def statistics(self) -> Mapping[str, Callable[[Floats], Floats]]:
        """The certainty."""
        return {self.by: self.certainty}

    def policies(self, seen: Judged, times: Timing, names: Sequence[str], latency: float) -> list[Policy]:
        """Return every cascade at that latency; see `Baseline.policies`."""
        certainty, found = seen.statistics[self.by], []
        for order in cascade_orders(times.experts):
            traced = cascade(certainty, seen.correct, times.experts, order)
            # Where the router spends less than the cascade's first expert, there is no such cascade.
            if latency < times.decoding + traced.costs[0]:
                continue
            right, stages = _at(traced, latency - times.decoding, certainty, seen.correct)
            ends = times.decoding + np.cumsum(times.experts[list(order)])
            shares = np.zeros(len(names))
            shares[list(order)] = stages
            found.append(
                Policy(_named(order, names), right, float(stages @ ends), quantile(ends, stages), shares)
            )
        return found

    def curves(self, seen: Judged, times: Timing, names: Sequence[str]) -> dict[str, Curve]:
        """Return every cascade's curve, thinned for drawing; see `Baseline.curves`."""
        found: dict[str, Curve] = {}
        for order in cascade_orders(times.experts):
            traced = cascade(seen.statistics[self.by], seen.correct, times.experts, order)
            keep = np.unique(np.linspace(0, len(traced.costs) - 1, CURVE_POINTS).astype(np.int64))
            found[_named(order, names)] = (times.decoding + traced.costs[keep], traced.accuracies[keep])
        return found

    def describe(self, name: str) -> str:
        """Refer to a cascade in a sentence."""
        return f"the cascade {name} by {self.by}"

    def beats(self, figures: str, *, surely: bool) -> str:
        """Say that a cascade does as well or better, and that its threshold flatters it."""
        return (
            f"A cascade {'is better' if surely else 'does as well'} at equal latency: {figures} Its "
            "threshold was picked in hindsight on these samples, which flatters it; choose it on calibration "
            "samples first."
        )


@dataclass(frozen=True)
class Cascade:
    """Run the cheap expert first and the next one when it is unsure, paying for both: at every threshold.

    Attributes:
        order: k experts, as they are run.
        thresholds: shape (p,), ascending: a sample continues while its certainty is at or under the
            threshold; the first is -inf, where nothing continues.
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
        threshold: a sample continues at or under it.

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


def _named(order: Sequence[int], names: Sequence[str]) -> str:
    return " > ".join(names[i] for i in order)


def _at(
    traced: Cascade, cost: float, certainty: Floats, correct: Bools
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Chance of a right answer per sample, and share of samples per stage, at a mean cost."""
    order = np.array(traced.order)
    right, stages = np.zeros(len(correct)), np.zeros(len(order))
    for threshold, share in traced.between(cost):
        at = stops(certainty, traced.order, threshold)
        right += share * correct[np.arange(len(at)), order[at]]
        stages += share * shares_of(at, len(order))
    return right, stages
