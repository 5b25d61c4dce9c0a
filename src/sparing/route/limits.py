"""Budgets as `solve_multiplier` takes them: of the mean latency, its quantile, or stated costs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparing.budget import Budget
from sparing.errors import BudgetError
from sparing.route.experts import Expert, Latency
from sparing.route.judging import Timing


@dataclass(frozen=True)
class Limit:
    """A budget as `solve_multiplier` takes it.

    Attributes:
        budget: what the point is called: "5ms", "p95 20ms" or "0.4 dollars".
        costs: n, what each expert counts against it.
        most: the mean cost that is allowed.
        unit: what the costs are; see `Point`.
        notes: caveats, in sentences.
    """

    budget: str
    costs: tuple[float, ...]
    most: float
    unit: str
    notes: tuple[str, ...] = ()


def latency_limit(text: str, times: Timing, names: Sequence[str], measured: Sequence[Latency]) -> Limit:
    """Limit the mean latency, decoding and router included.

    Args:
        text: a time, such as "5ms".
        times: mean latencies of the experts and the router.
        names: n, of the experts.
        measured: n, how long their calls took.

    Raises:
        BudgetError: not a time, or less than the router and the fastest expert take.
    """
    seconds, name = _seconds(text)
    least = float(times.routed.min())
    if seconds < least:
        raise BudgetError(f"a mean latency of {name} cannot be met: {_least(times)}")
    return Limit(name, tuple(times.routed.tolist()), seconds, "seconds", _unknown(names, measured))


def quantile_limit(
    text: str, q: float, times: Timing, names: Sequence[str], measured: Sequence[Latency]
) -> Limit:
    """Limit a quantile of the latency: at most a share 1 - q of the samples may take longer.

    An expert counts with the share of its own calls that took longer than what decoding and the router, by
    their means, leave of the limit.

    Args:
        text: a time, such as "20ms".
        q: the quantile, above 0 and below 1.
        times: mean latencies of the experts and the router.
        names: n, of the experts.
        measured: n, how long their calls took.

    Raises:
        BudgetError: not a time or not a quantile, or less than the router and the fastest expert take.
    """
    seconds, name = _seconds(text)
    if not 0 < q < 1:
        raise BudgetError(f"a quantile of {q:g} is invalid: it must lie above 0 and below 1, such as 0.95")
    left = seconds - times.router - times.decoding
    over = [latency.share_over(left) for latency in measured]
    budget = f"p{100 * q:g} {name}"
    if min(over) > 1 - q:
        best = int(np.argmin(over))
        raise BudgetError(
            f"the latency limit {budget} cannot be met: {_least(times)}, and {over[best]:.0%} of the calls "
            f"of {names[best]} would be over {name}"
        )
    return Limit(budget, tuple(over), 1 - q, "share", _unknown(names, measured))


def cost_limit(amount: float, experts: Sequence[Expert]) -> Limit:
    """Limit the mean of the experts' stated costs.

    Args:
        amount: mean cost per sample, in the unit of the stated costs.
        experts: each with a stated cost, all in one unit.

    Raises:
        BudgetError: no such costs, or none that fits into the amount.
    """
    unstated = [expert.name for expert in experts if expert.cost is None]
    if unstated:
        raise BudgetError(
            f"a cost budget needs the cost of every expert, and none is stated for {', '.join(unstated)}; "
            "profile again with --cost NAME=COST"
        )
    if not np.isfinite(amount):
        raise BudgetError(f"a cost budget is a finite number, got {amount:g}")
    units = sorted({expert.unit for expert in experts})
    if len(units) > 1:
        raise BudgetError(f"a cost budget needs all costs in one unit; the experts state {', '.join(units)}")
    costs = tuple(float(expert.cost or 0) for expert in experts)
    if not amount >= min(costs):
        raise BudgetError(
            f"a mean cost of {amount:g} {units[0]} cannot be met: the least possible is {min(costs):g} "
            f"({experts[costs.index(min(costs))].name})"
        )
    note = f"the router's own cost in {units[0]} is not known and not counted"
    return Limit(f"{amount:g} {units[0]}", costs, float(amount), units[0], (note,))


def _unknown(names: Sequence[str], measured: Sequence[Latency]) -> tuple[str, ...]:
    return tuple(
        f"{name} was profiled by a release that kept the median of its calls alone, and counts by it: "
        "its mean may be higher; profile again"
        for name, latency in zip(names, measured, strict=True)
        if not latency.times
    )


def _seconds(text: str) -> tuple[float, str]:
    name = "".join(text.split())
    try:
        budget = Budget.parse(name)
    except BudgetError as error:
        raise BudgetError(f"the latency {text!r} is not a time: write 5ms or 0.2s") from error
    if budget.unit != "seconds":
        raise BudgetError(f"the latency {text!r} is not a time: write 5ms or 0.2s")
    return float(budget.amount), name


def _least(times: Timing) -> str:
    router, expert = 1000 * times.router, 1000 * times.experts.min()
    decoding = f" and decoding {1000 * times.decoding:.3g} ms" if times.decoding else ""
    return (
        f"the least possible is {1000 * times.routed.min():.4g} ms (the router takes {router:.3g} ms, "
        f"the fastest expert {expert:.3g} ms{decoding})"
    )
