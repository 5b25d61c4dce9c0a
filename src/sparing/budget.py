"""What a round may spend, and from benefits and costs to a plan that spends it."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sparing.errors import BudgetError, InputError
from sparing.numerics.selection import Cut, Items, find_cut

KEEP = -1
"""The assignment of a sample whose cached answer is kept."""

Unit = Literal["share", "rows", "seconds", "cost"]
_SECONDS = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
_DIGITS = 18
_FORMS = "write a share (50% or 0.5), rows (5000rows), time (90s, 10m, 2h) or cost (12.5cost)"


@dataclass(frozen=True)
class Budget:
    """What a round may spend.

    Attributes:
        amount: how much, as an exact decimal; not negative.
        unit: "share" of all rows of the cache (0 to 1), "rows", "seconds" or units of "cost".
    """

    amount: Decimal
    unit: Unit

    def __post_init__(self) -> None:
        if not self.amount.is_finite() or self.amount < 0:
            raise BudgetError(f"a budget cannot be {self.amount}: {_FORMS}")
        _check_size(self.amount)
        if self.unit == "share" and self.amount > 1:
            raise BudgetError(f"a budget of {self.amount * 100}% is more than all rows: {_FORMS}")
        if self.unit == "rows" and self.amount != int(self.amount):
            raise BudgetError(f"a budget of {self.amount} rows is not a whole number")

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read a budget as a person writes it.

        Args:
            text: "50%", "0.5", "5000rows", "90s", "10m", "2h", "12.5cost".

        Returns:
            The budget; rates are kept as decimals, so that 0.29 of 100 rows is 29.

        Raises:
            BudgetError: negative, above 100 %, or not understood.
        """
        match = re.fullmatch(r"([+-]?[0-9.,_eE+-]+?)\s*(%|[a-z]*)", text.strip().lower())
        if not match:
            raise BudgetError(f"cannot read the budget {text!r}: {_FORMS}")
        number, unit = match.groups()
        try:
            amount = Decimal(number.replace("_", ""))
        except InvalidOperation:
            raise BudgetError(f"cannot read the budget {text!r}: {_FORMS}") from None
        _check_size(amount)
        if unit == "%":
            return cls(amount / 100, "share")
        if unit == "":
            if amount > 1 or (amount == 1 and "." not in number):
                raise BudgetError(f"the budget {text!r} could be rows or percent: {_FORMS}")
            return cls(amount, "share")
        if unit in ("row", "rows"):
            return cls(amount, "rows")
        if unit in _SECONDS:
            return cls(amount * _SECONDS[unit], "seconds")
        if unit in ("cost", "units"):
            return cls(amount, "cost")
        raise BudgetError(f"cannot read the unit {unit!r} of the budget {text!r}: {_FORMS}")

    def rows(self, total: int) -> int:
        """Count the rows that a share or a number of rows allows: floor(u * m).

        Args:
            total: rows of the cache.

        Returns:
            At most `total`.

        Raises:
            BudgetError: the budget is in seconds or cost.
        """
        if self.unit == "share":
            return int(self.amount * total)
        if self.unit == "rows":
            return min(int(self.amount), total)
        raise BudgetError(f"a budget in {self.unit} is no number of rows")

    def __str__(self) -> str:
        if self.unit == "share":
            percent = f"{self.amount * 100:f}"
            return (percent.rstrip("0").rstrip(".") if "." in percent else percent) + "%"
        return f"{self.amount:f} {self.unit}"


def _check_size(amount: Decimal) -> None:
    # Decimals hold 1e9999999, whose digits nobody can wait for.
    if amount.is_finite() and amount and abs(amount.adjusted()) > _DIGITS:
        raise BudgetError(f"a budget of {amount} is too large or too small to mean anything: {_FORMS}")


def affordable(amount: float, cost: float) -> int:
    """Count how often a cost fits into an amount, forgiving the rounding of decimals: 1 s holds 200 of 5 ms.

    Args:
        amount: not negative.
        cost: positive.
    """
    return math.floor(min(amount / cost * (1 + 1e-12), 2.0**62))


@dataclass(frozen=True)
class Plan:
    """A policy: for any chunk of samples, which keep the cached answer and which candidate the others get.

    Under a budget of rows the samples are ranked by their best benefit, whatever it costs. Under a budget of
    seconds or cost this is the multiple-choice knapsack by a Lagrange multiplier: a sample moves up its
    concave hull of (cost, benefit) as long as the next step brings more per unit of cost than the multiplier,
    which is the score of the cut.

    Attributes:
        costs: cost of each candidate; None when rows are counted.
        cut: the first step that no longer fits; None when all do.
        only_positive: whether samples that no candidate is predicted to improve are left alone.
    """

    costs: tuple[float, ...] | None
    cut: Cut | None
    only_positive: bool = False

    def steps(
        self, benefits: npt.NDArray[Any], ties: npt.NDArray[np.uint64], ids: npt.NDArray[Any]
    ) -> "Steps":
        """List what the samples of a chunk compete with, in the form that `find_cut` ranks."""
        if self.costs is None:
            return _best_candidate(benefits, ties, ids, self.only_positive)
        return _hull_steps(benefits, np.asarray(self.costs, dtype=np.float64), ties, ids)

    def assign(
        self, benefits: npt.NDArray[Any], ties: npt.NDArray[np.uint64], ids: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[np.int64]:
        """Apply the policy to a chunk.

        Args:
            benefits: shape (m, n); -inf where a candidate is not to be run on a sample.
            ties: shape (m,), uint64.
            ids: shape (m,), sortable; positions when absent.

        Returns:
            Shape (m,): `KEEP` (-1) or the candidate's index.
        """
        steps = self.steps(benefits, ties, _positions(ids, len(benefits)))
        taken = np.ones(len(steps.row), dtype=bool) if self.cut is None else self.cut.takes(steps.items)
        assignment = np.full(len(benefits), KEEP, dtype=np.int64)
        # Steps of one sample come in the order in which they are climbed, so the last one taken counts.
        assignment[steps.row[taken]] = steps.candidate[taken]
        return assignment


@dataclass(frozen=True)
class Steps:
    """What samples compete with: step i moves sample `row[i]` to `candidate[i]`."""

    items: Items
    row: npt.NDArray[np.int64]
    candidate: npt.NDArray[np.int64]


Chunk = tuple[npt.NDArray[Any], npt.NDArray[np.uint64], npt.NDArray[Any]]


def make_plan(
    chunks: Callable[[], Iterable[Chunk]],
    capacity: float,
    costs: Sequence[float] | None = None,
    only_positive: bool = False,
) -> Plan:
    """Find the plan that spends a capacity best, over a stream of chunks in bounded memory.

    Args:
        chunks: called once per pass; yields (benefits (m, n), ties (m,), ids (m,)), the same every time.
        capacity: rows when `costs` is None, else what the runs may cost in sum, in the unit of `costs`.
        costs: cost of each candidate, not negative; None to count rows.
        only_positive: leave alone samples whose every benefit is negative or zero; always so under costs.

    Returns:
        The plan. Under rows it takes exactly min(capacity, eligible samples). Under costs it is never over
        the capacity and within one step of the optimum.

    Raises:
        InputError: NaN benefits, negative costs, or shapes that do not match.
    """
    if costs is not None:
        _check_costs(costs)
    plan = Plan(None if costs is None else tuple(float(cost) for cost in costs), None, only_positive)
    weights = [1.0] if costs is None else _step_weights(np.asarray(costs, dtype=np.float64))

    def items() -> Iterator[Items]:
        for benefits, ties, ids in chunks():
            yield plan.steps(benefits, ties, ids).items

    return replace(plan, cut=find_cut(items, capacity, weights))


def plan(
    benefits: npt.NDArray[Any],
    costs: Sequence[float],
    ties: npt.NDArray[np.uint64],
    budget: Budget,
    *,
    ids: npt.NDArray[Any] | None = None,
    only_positive: bool = False,
) -> npt.NDArray[np.int64]:
    """Decide for each sample whether to keep its cached answer or which candidate to run (Equations 1 and 5).

    Args:
        benefits: shape (m, n): what running candidate j on sample i is predicted to bring; -inf where it is
            not to be run.
        costs: shape (n,): cost of one run of each candidate, in the budget's unit; ignored under a budget of
            rows, which counts rows whatever they cost.
        ties: shape (m,), uint64, from `sparing.numerics.selection.tie_keys`.
        budget: a share of the m rows, rows, seconds or units of cost.
        ids: shape (m,), sortable; the last resort between equal ties; positions when absent.
        only_positive: leave alone samples whose every benefit is negative or zero.

    Returns:
        Shape (m,): `KEEP` (-1) or the candidate's index.

    Raises:
        InputError: NaN benefits, negative costs, or shapes that do not match.
    """
    benefits = np.asarray(benefits, dtype=np.float64)
    if benefits.ndim != 2 or len(ties) != len(benefits) or len(costs) != benefits.shape[1]:
        raise InputError(
            f"benefits of shape {benefits.shape} do not match {len(ties)} tie keys and {len(costs)} costs"
        )
    names = _positions(ids, len(benefits))
    by_rows = budget.unit in ("share", "rows")
    made = make_plan(
        lambda: [(benefits, ties, names)],
        budget.rows(len(benefits)) if by_rows else float(budget.amount),
        None if by_rows else costs,
        only_positive,
    )
    return made.assign(benefits, ties, names)


def _positions(ids: npt.NDArray[Any] | None, m: int) -> npt.NDArray[Any]:
    return np.arange(m) if ids is None else ids


def _check_costs(costs: Sequence[float]) -> None:
    for index, cost in enumerate(costs):
        if not (np.isfinite(cost) and cost >= 0):
            raise InputError(
                f"the cost of candidate {index} is {cost}: costs must be finite and not negative"
            )


def _check_benefits(benefits: npt.NDArray[Any]) -> None:
    if np.isnan(benefits).any():
        row = int(np.isnan(benefits).any(axis=1).argmax())
        raise InputError(f"the benefit of row {row} is NaN: rows cannot be ranked by it")


def _best_candidate(
    benefits: npt.NDArray[Any], ties: npt.NDArray[np.uint64], ids: npt.NDArray[Any], only_positive: bool
) -> Steps:
    _check_benefits(benefits)
    candidate = benefits.argmax(axis=1)
    best = benefits[np.arange(len(benefits)), candidate]
    row = np.flatnonzero(best > (0 if only_positive else -np.inf))
    return Steps(Items(best[row], ties[row], ids[row]), row, candidate[row])


def _step_weights(costs: npt.NDArray[np.float64]) -> list[float]:
    """Weight of each kind of step: kind a * n + b moves from candidate a - 1 (or keeping) to candidate b."""
    start = np.concatenate([[0.0], costs])
    weights = costs[None, :] - start[:, None]
    return [float(weight) for weight in np.maximum(weights, 0).ravel()]


def _hull_steps(
    benefits: npt.NDArray[Any],
    costs: npt.NDArray[np.float64],
    ties: npt.NDArray[np.uint64],
    ids: npt.NDArray[Any],
) -> Steps:
    """Climb each sample's upper concave hull of (cost, benefit) from (0, 0), one array operation per step."""
    _check_benefits(benefits)
    m, n = benefits.shape
    benefits = benefits.astype(np.float64)
    # Of candidates that bring the same, the cheapest; of the same cost, the best: both by this slope rule.
    here = np.zeros(m)
    spent = np.zeros(m)
    state = np.zeros(m, dtype=np.int64)
    active = np.arange(m)
    rows, candidates, kinds, slopes = [], [], [], []
    for _ in range(n):
        gain = benefits[active] - here[active, None]
        extra = costs[None, :] - spent[active, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = np.where((gain > 0) & (extra >= 0), gain / extra, -np.inf)
        best = slope.max(axis=1)
        # Among equal slopes climb furthest: points on one line of the hull make one step.
        reach = np.where(slope == best[:, None], gain, -np.inf)
        choice = reach.argmax(axis=1)
        going = best > 0
        active, choice, best = active[going], choice[going], best[going]
        if not len(active):
            break
        rows.append(active)
        candidates.append(choice)
        kinds.append(state[active] * n + choice)
        slopes.append(best)
        here[active] = benefits[active, choice]
        spent[active] = costs[choice]
        state[active] = choice + 1
    if not rows:
        none = np.zeros(0, dtype=np.int64)
        return Steps(Items(np.zeros(0), ties[:0], ids[:0], none), none, none)
    row = np.concatenate(rows)
    items = Items(np.concatenate(slopes), ties[row], ids[row], np.concatenate(kinds))
    return Steps(items, row, np.concatenate(candidates))
