"""Everything that can be said about a state space at once: approximate bounds, and exact ones if known."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.bounds.approximate import (
    Bound,
    conservative,
    constant_alpha,
    continuous,
    dynamic_range,
    frontier_of_errors,
    smallest_state_limit,
    two_states,
)
from sparing.bounds.chance import SmallSet, best_small_sets, guessing_frontier, independent_frontier
from sparing.bounds.intervals import Intervals, oracle_intervals
from sparing.bounds.oracle import Oracle, exact_oracle, shared_errors, state_accuracies
from sparing.bounds.outcomes import Options, Outcomes
from sparing.bounds.state_selection import select_greedy, select_optimal
from sparing.bounds.states import Dropped, Envelope, States, envelope, make_states
from sparing.errors import InputError
from sparing.numerics.frontier import Curve, headroom_at_cost, static_mixture

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Selection:
    """The best states to keep, for one size of the set.

    Attributes:
        states: the set with the lowest conservative bound.
        bound: its conservative bound.
        with_smallest: the best set that contains the smallest state, and its bound.
        greedy: the paper's set, and its bound; None for a single state.
    """

    states: States
    bound: Bound
    with_smallest: tuple[States, Bound]
    greedy: tuple[States, Bound] | None


@dataclass(frozen=True)
class Exact:
    """The part of an analysis that needs outcomes.

    Attributes:
        oracle: the exact oracle, without adaptation cost; its columns are those of the outcomes.
        bound: its bound, with adaptation cost.
        equal_accuracy: the cheapest point at the baseline's accuracy, with adaptation cost.
        intervals: confidence intervals of both, with adaptation cost; None if not wanted.
        at_mean_prices: the bound if every sample had the mean costs; None if it does.
        independent: the frontier that independent errors of the same accuracies would give.
        guessing: the frontier if all models but the best guessed; None if the options are not known.
        small_sets: the pair and the triple of models that solve most.
        samples: how many samples there are.
    """

    oracle: Oracle
    bound: Bound
    equal_accuracy: Bound
    intervals: Intervals | None
    at_mean_prices: Bound | None
    independent: Curve
    guessing: Curve | None
    small_sets: list[SmallSet]
    samples: int


@dataclass(frozen=True)
class Analysis:
    """The bounds of a state space; costs include the adaptation cost, apart from the states' own.

    Attributes:
        states: all states, cheapest first.
        kept: the states that the approximate bounds use.
        dropped: the other ones, with the reason.
        conservative: Equation 9.
        continuous: Equation 11.
        two_states: Equation 15.
        ranges: for every kept state as the largest one, the bounds of the two ends and of all states below.
        constant_alpha: Equation 8 and its alpha; None if alpha was neither given nor can be measured.
        smallest_limit: Equation 16, below which the smallest state is worth its cost; None if not known.
        selected: the best sets by size; empty if not wanted.
        exact: what the outcomes say; None without outcomes.
        mixture: what mixing the states blindly reaches.
        promised: the frontier for alpha = 1, which ends at the conservative bound.
        frontier: what no policy can beat at a mean cost: exact if known, otherwise `promised`.
        warnings: what a reader should know before believing a figure.
    """

    states: States
    kept: States
    dropped: list[Dropped]
    conservative: Bound
    continuous: Bound
    two_states: Bound
    ranges: list[tuple[Bound, Bound]]
    constant_alpha: tuple[float, Bound] | None
    smallest_limit: float | None
    selected: list[Selection]
    exact: Exact | None
    mixture: Curve
    promised: Curve
    frontier: Curve
    warnings: list[str]

    def headroom(self, cost: float, accuracy: float) -> float:
        """Share of the way from the mixture to the frontier that a policy covers at its mean cost.

        Args:
            cost: the policy's mean cost per sample, its own overhead included.
            accuracy: its accuracy, in [0, 1].

        Returns:
            1 on the frontier, 0 on the mixture; NaN where they meet.
        """
        return headroom_at_cost(cost, accuracy, self.mixture, self.frontier)


def analyse(
    states: States,
    *,
    outcomes: Outcomes | None = None,
    costs: Floats | None = None,
    alpha: float | None = None,
    beta0: float = 0.0,
    beta1: float = 0.0,
    kind: Envelope = "pareto",
    select: int | None = None,
    classes: float | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> Analysis:
    """Compute all bounds that the given information allows.

    Args:
        states: names, mean costs and accuracies.
        outcomes: which model is right on which sample, if known; its models are the states.
        costs: shape (N,) or (m, N), in the order of the outcomes' columns; needed with outcomes.
        alpha: for Equation 8; None measures the smallest alpha if there are outcomes.
        beta0: fixed adaptation cost per sample.
        beta1: adaptation cost per unit of the chosen state's cost.
        kind: which states the approximate bounds use, see `envelope`.
        select: size up to which the best sets are looked for; None looks for none.
        classes: how many options a guess chooses from, if the outcomes do not say.
        replicates: of the bootstrap; 0 leaves the intervals out.
        seed: of the bootstrap.

    Returns:
        The bounds.

    Raises:
        InputError: an argument out of range, or outcomes without costs.
    """
    kept, dropped = envelope(states, kind)

    def pay(bound: Bound) -> Bound:
        return bound.with_adaptation_cost(beta0, beta1)

    exact, warnings = None, []
    options = classes if outcomes is None or classes is not None else outcomes.classes
    if outcomes is not None:
        if costs is None:
            raise InputError("outcomes need costs: one per model, or one per model and sample")
        exact = _exact(
            outcomes, costs, beta0=beta0, beta1=beta1, classes=options, replicates=replicates, seed=seed
        )
        warnings += _chance_warnings(exact)
        if alpha is None and len(kept) > 1:
            columns = np.array([outcomes.names.index(name) for name in kept.names])
            _, alphas = shared_errors(outcomes.correct, columns, exact.oracle.accuracies)
            alpha = None if np.isnan(alphas[1:]).all() else float(np.nanmin(alphas[1:]))
    promised = frontier_of_errors(kept.costs, 1 - kept.accuracies)
    frontier = exact.oracle.frontier if exact else promised
    bound = pay(conservative(kept.costs, kept.accuracies))
    if len(states) == 1:
        warnings.append("there is one state, so there is nothing to choose from")
    if select is not None and select > len(kept) and len(states) > 1:
        warnings.append(f"only {len(kept)} states can be kept, so larger sets were not looked for")
    if bound.ratio < 1 and len(kept) > 1:
        warnings.append("with this adaptation cost, the conservative bound costs more than the best model")
    return Analysis(
        states=states,
        kept=kept,
        dropped=dropped,
        conservative=bound,
        continuous=pay(continuous(kept.costs, kept.accuracies)),
        two_states=pay(two_states(kept.costs, kept.accuracies)),
        ranges=[(pay(ends), pay(full)) for ends, full in dynamic_range(kept.costs, kept.accuracies)],
        constant_alpha=None
        if alpha is None
        else (alpha, pay(constant_alpha(kept.costs, kept.accuracies, alpha))),
        smallest_limit=smallest_state_limit(kept.costs, kept.accuracies, float(options))
        if isinstance(options, int | float) and options >= 2 and len(kept) > 1
        else None,
        selected=[] if select is None else _selected(kept, min(select, len(kept)), beta0, beta1),
        exact=exact,
        mixture=static_mixture(states.costs, states.accuracies),
        promised=Curve(beta0 + (1 + beta1) * promised.costs, promised.accuracies),
        frontier=Curve(beta0 + (1 + beta1) * frontier.costs, frontier.accuracies),
        warnings=warnings,
    )


def states_of(outcomes: Outcomes, costs: Floats) -> States:
    """Return the state space of outcomes: mean costs and accuracies.

    Args:
        outcomes: m samples of N models.
        costs: shape (N,) or (m, N).

    Returns:
        N states, cheapest first.
    """
    mean_costs = costs if costs.ndim == 1 else costs.mean(axis=0)
    return make_states(outcomes.names, mean_costs, state_accuracies(outcomes.correct))


def _exact(
    outcomes: Outcomes,
    costs: Floats,
    *,
    beta0: float,
    beta1: float,
    classes: float | Options,
    replicates: int,
    seed: int,
) -> Exact:
    oracle = exact_oracle(outcomes.correct, costs)
    ordered = oracle.costs[oracle.order], oracle.accuracies[oracle.order]
    return Exact(
        oracle=oracle,
        bound=oracle.bound.with_adaptation_cost(beta0, beta1),
        equal_accuracy=oracle.equal_accuracy.with_adaptation_cost(beta0, beta1),
        intervals=oracle_intervals(
            oracle, outcomes.correct, costs, beta0=beta0, beta1=beta1, replicates=replicates, seed=seed
        )
        if replicates
        else None,
        at_mean_prices=None
        if costs.ndim == 1
        else exact_oracle(outcomes.correct, oracle.costs).bound.with_adaptation_cost(beta0, beta1),
        independent=independent_frontier(*ordered),
        guessing=None if classes is None else guessing_frontier(*ordered, classes),
        small_sets=best_small_sets(outcomes.correct),
        samples=len(outcomes.correct),
    )


def _chance_warnings(exact: Exact) -> list[str]:
    gain = exact.bound.accuracy_gain
    if gain <= 0:
        return []
    warnings = []
    if exact.guessing is not None:
        guessed = float(exact.guessing.accuracies[-1])
        share = (guessed - exact.bound.baseline_accuracy) / gain
        if guessed >= (exact.intervals.accuracy[0] if exact.intervals else exact.bound.accuracy):
            warnings.append(
                "chance explains the oracle: if all models but the best merely guessed, hindsight would "
                f"reach {guessed:.4f}, and the oracle reaches {exact.bound.accuracy:.4f}. It does not show "
                "that any policy could be more accurate than the best model; look at pairs and triples"
            )
        elif share >= 0.25:
            warnings.append(
                f"guessing by all models but the best would give the oracle {100 * share:.0f} % of its lead "
                f"in accuracy ({guessed:.4f} of {exact.bound.accuracy:.4f})"
            )
    independent = float(exact.independent.accuracies[-1])
    if exact.intervals and exact.intervals.accuracy[0] <= independent <= exact.intervals.accuracy[1]:
        warnings.append(
            f"the oracle's accuracy is what independent errors would give ({independent:.4f}): the errors "
            "show no structure that a policy could use to be more accurate than the best model"
        )
    return warnings


def _selected(kept: States, size: int, beta0: float, beta1: float) -> list[Selection]:
    def chosen(indices: list[int]) -> tuple[States, Bound]:
        states = kept.take(indices)
        bound = conservative(states.costs, states.accuracies)
        return states, bound.with_adaptation_cost(beta0, beta1)

    free = select_optimal(kept.costs, kept.accuracies, size)
    ends = select_optimal(kept.costs, kept.accuracies, size, keep_smallest=True)
    greedy = [None] + (
        [] if size < 2 else [chosen(s) for s in select_greedy(kept.costs, kept.accuracies, size)]
    )
    return [
        Selection(*chosen(best), with_smallest=chosen(tied), greedy=grown)
        for best, tied, grown in zip(free, ends, greedy, strict=True)
    ]
