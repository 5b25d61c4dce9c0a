"""Operating points: scores become chances of being right, and budgets become multipliers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.budget import Budget
from sparing.data.samples import Samples
from sparing.errors import BudgetError, InputError
from sparing.images import CLEAN, Corruption
from sparing.progress import OnProgress
from sparing.route.choosing import Floats, choose, mean_cost, solve_multiplier
from sparing.route.experts import Expert
from sparing.route.judging import (
    Profiled,
    Timing,
    check_experts,
    gather,
    join,
    shares_of,
    tails,
    timing,
)
from sparing.route.labels import known_labels
from sparing.route.latency import measure_router
from sparing.route.router import Calibration, Point, Router, with_point, write_router

Bools = npt.NDArray[np.bool_]

BINS = 15
UNSPENT = 0.03
"""A budget of which more than this share is left is worth a note."""


def fit_calibration(scores: Floats, correct: Bools) -> Calibration:
    """Fit Platt scaling, expert by expert: the chance of being right is `sigmoid(scale * score + bias)`.

    Targets are smoothed as by Platt (1999), (r + 1) / (r + 2) for the r samples that are right and
    1 / (w + 2) for the w that are wrong, which regularises: an expert that is always right, or scores that
    tell right from wrong without error, still get finite chances. Slopes are not negative, since a score that
    ranks the wrong way on these samples is more likely noise than a rule.

    Args:
        scores: shape (m, n), m >= 1, finite.
        correct: shape (m, n), whether expert i is right.

    Returns:
        n slopes and intercepts.

    Raises:
        InputError: the shapes differ, there are no samples, or a score is not finite.
    """
    if scores.shape != correct.shape or scores.ndim != 2 or not scores.size:
        raise InputError(f"calibration: scores of shape {scores.shape}, outcomes of shape {correct.shape}")
    if not np.isfinite(scores).all():
        raise InputError("calibration: every score must be a finite number")
    fitted = [_platt(scores[:, i].astype(np.float64), correct[:, i]) for i in range(scores.shape[1])]
    return Calibration(
        tuple(scale for scale, _ in fitted), tuple(bias for _, bias in fitted), samples=len(scores)
    )


def _platt(scores: npt.NDArray[np.float64], correct: Bools) -> tuple[float, float]:
    from scipy.optimize import minimize

    right = int(correct.sum())
    targets = np.where(correct, (right + 1) / (right + 2), 1 / (len(correct) - right + 2))
    centre, spread = scores.mean(), scores.std()
    # Without spread there is no slope to find; the intercept then says all there is.
    units = (scores - centre) / spread if spread > 0 else np.zeros(len(scores))

    def objective(parameters: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        logits = parameters[0] * units + parameters[1]
        loss = float((np.logaddexp(0, logits) - targets * logits).mean())
        off = 1 / (1 + np.exp(-np.clip(logits, -700, 700))) - targets
        return loss, np.array([(off * units).mean(), off.mean()])

    start = np.array([0.0, np.log(targets.mean() / (1 - targets.mean()))])
    solution = minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None), (None, None)],
        options={"ftol": 1e-14, "gtol": 1e-10},
    )
    scale = float(solution.x[0] / spread) if spread > 0 else 0.0
    return scale, float(solution.x[1] - scale * centre)


def expected_calibration_error(chances: Floats, correct: Bools, bins: int = BINS) -> float:
    """Mean gap between predicted chance and share of right answers, over bins of equal width (Guo, 2017).

    Args:
        chances: shape (m,), m >= 1, in [0, 1].
        correct: shape (m,).
        bins: how many.

    Returns:
        A mean over samples, in [0, 1]; 0 is best. Chance alone makes it positive, about the square root of
        bins / m.
    """
    bin_of = np.minimum((chances * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(bin_of, weights=chances - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(chances))


def calibration_errors(chances: Floats, correct: Bools) -> tuple[float, ...]:
    """Expected calibration error of each expert's chances, both of shape (m, n)."""
    return tuple(expected_calibration_error(chances[:, i], correct[:, i]) for i in range(chances.shape[1]))


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


def latency_limit(text: str, times: Timing) -> Limit:
    """Limit the mean latency, decoding and router included.

    Args:
        text: a time, such as "5ms".
        times: latencies of the experts and the router.

    Raises:
        BudgetError: not a time, or less than the router and the fastest expert take.
    """
    seconds, name = _seconds(text)
    least = float(times.routed.min())
    if seconds < least:
        raise BudgetError(f"a mean latency of {name} cannot be met: {_least(times)}")
    return Limit(name, tuple(times.routed.tolist()), seconds, "seconds")


def quantile_limit(text: str, q: float, times: Timing, names: Sequence[str], tails: Floats) -> Limit:
    """Limit a quantile of the latency: at most a share 1 - q of the samples goes to experts that take longer.

    An expert counts as within the limit when decoding, router and its median are. How its own calls vary is
    not known well enough to count; where its P95 is over the limit, a note says so.

    Args:
        text: a time, such as "20ms".
        q: the quantile, above 0 and below 1.
        times: latencies of the experts and the router.
        names: n, of the experts.
        tails: shape (n,), seconds by which an expert's own P95 exceeds its median.

    Raises:
        BudgetError: not a time or not a quantile, or less than the router and the fastest expert take.
    """
    seconds, name = _seconds(text)
    if not 0 < q < 1:
        raise BudgetError(f"a quantile of {q:g} is invalid: it must lie above 0 and below 1, such as 0.95")
    over = times.routed > seconds
    budget = f"p{100 * q:g} {name}"
    if over.all():
        raise BudgetError(f"the latency limit {budget} cannot be met: {_least(times)}")
    slow = times.routed + tails
    notes = [
        f"{names[i]} counts as within {name} by its median; with its own P95 it takes {1000 * slow[i]:.3g} ms"
        for i in np.flatnonzero(~over & (slow > seconds)).tolist()
    ]
    return Limit(budget, tuple(over.astype(float).tolist()), 1 - q, "share", tuple(notes))


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


@dataclass(frozen=True)
class Solved:
    """An operating point and what it does on the calibration samples.

    Attributes:
        point: as it is kept in `router.json`.
        most: the mean cost that was allowed, in the point's unit.
        latency: mean seconds per sample, decoding and router included.
        shares: n, share of samples per expert.
        notes: caveats, in sentences.
    """

    point: Point
    most: float
    latency: float
    shares: tuple[float, ...]
    notes: tuple[str, ...]


def solve(limit: Limit, gains: Floats, correct: Bools, times: Timing) -> Solved:
    """Find the operating point of a budget.

    Args:
        limit: the budget.
        gains: shape (m, n), what the router predicts.
        correct: shape (m, n), what came out.
        times: latencies, for the record.
    """
    costs = np.array(limit.costs)
    multiplier = solve_multiplier(gains, costs, limit.most)
    chosen = choose(gains, costs, multiplier)
    spent = mean_cost(chosen, costs)
    notes = list(limit.notes)
    if spent < (1 - UNSPENT) * limit.most and limit.unit != "share":
        why = (
            "the router expects no more from spending more"
            if multiplier == 0
            else "many samples have the same scores and would all go to a more expensive expert at once"
        )
        notes.append(f"{100 * spent / limit.most:.0f} % of the budget is spent: {why}")
    point = Point(
        budget=limit.budget,
        unit=limit.unit,
        costs=limit.costs,
        multiplier=multiplier,
        expected_cost=spent,
        expected_accuracy=float(correct[np.arange(len(chosen)), chosen].mean()),
    )
    shares = shares_of(chosen, len(costs))
    return Solved(
        point=point,
        most=limit.most,
        latency=float(shares @ times.routed),
        shares=tuple(shares.tolist()),
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class Calibrated:
    """What `calibrate` found.

    Attributes:
        objective: the router's.
        experts: their names.
        samples: how many images or other samples, before corruption.
        variants: names of the variants that every sample was seen in.
        calibration: of the chances; None unless the objective is `benefit`.
        errors_before: n, expected calibration error of the raw scores read as logits, on these samples.
        errors_after: n, the same after scaling, on the samples that it was fitted on.
        points: the operating points, as asked for.
        dropped: budgets of former points, which another calibration made void.
    """

    objective: str
    experts: tuple[str, ...]
    samples: int
    variants: tuple[str, ...]
    calibration: Calibration | None
    errors_before: tuple[float, ...] | None
    errors_after: tuple[float, ...] | None
    points: tuple[Solved, ...]
    dropped: tuple[str, ...]


def calibrate(
    router: Router,
    profile: Profiled,
    samples: Samples,
    *,
    latencies: Sequence[str] = (),
    q: float | None = None,
    cost_budgets: Sequence[float] = (),
    batched: bool = False,
    variants: Sequence[Corruption] = (CLEAN,),
    progress: OnProgress | None = None,
) -> Calibrated:
    """Fit the chances, solve the budgets and keep both in the router's folder.

    The router's own latency is measured again, so that it is that of this machine, as the profile's.

    The samples should be none that the experts or the router were trained on, and as hard as those to come:
    a budget is met on samples like these.

    Args:
        router: the router; `router.json` in its folder is rewritten, and `router.description` replaced.
        profile: of its experts.
        samples: labelled.
        latencies: limits on the mean latency, such as "5ms", or on its quantile `q`.
        q: limit this quantile of the latency instead of the mean.
        cost_budgets: limits on the mean of the experts' stated costs.
        batched: count the latencies of batches.
        variants: each sample is seen once in every variant.
        progress: called while experts run.

    Returns:
        What was found. The last budget becomes the router's default.

    Raises:
        BudgetError: a budget is invalid, or below the least possible.
        InputError: no budget, no labels, or router and profile do not belong together.
        ModelError: the router or an expert failed.
    """
    if not latencies and not cost_budgets:
        raise InputError("calibrate needs a budget: --latency 5ms or --cost-budget 0.4")
    if q is not None and not latencies:
        raise InputError("--quantile limits a quantile of the latency: add --latency, such as --latency 20ms")
    check_experts(router, profile)
    known_labels(samples)
    single, own = measure_router(
        router.network,
        samples,
        batch_size=profile.experts[0].batched.batch_size,
        shared=profile.decoding is not None,
    )
    router.description = replace(router.description, experts=profile.experts, single=single, batched=own)
    names = tuple(expert.name for expert in profile.experts)
    times, late = timing(router, profile, batched=batched), tails(profile, batched=batched)
    limits = [
        latency_limit(text, times) if q is None else quantile_limit(text, q, times, names, late)
        for text in latencies
    ]
    limits += [cost_limit(amount, profile.experts) for amount in cost_budgets]
    seen = join([gather(router, profile, samples, variant, progress=progress) for variant in variants])
    old = router.description
    fitted, before, after = None, None, None
    if old.objective == "benefit":
        fitted = fit_calibration(seen.scores, seen.correct)
        before = calibration_errors(_gains(router, None, seen.scores), seen.correct)
        after = calibration_errors(_gains(router, fitted, seen.scores), seen.correct)
    new = replace(old, calibration=fitted)
    if fitted != old.calibration:
        new = replace(new, points=())
    gains = _gains(router, fitted, seen.scores)
    solved = tuple(solve(limit, gains, seen.correct, times) for limit in limits)
    for one in solved:
        new = with_point(new, one.point)
    write_router(router.path, new)
    router.description = new
    kept = {point.budget for point in new.points}
    return Calibrated(
        objective=old.objective,
        experts=names,
        samples=len(samples),
        variants=tuple(variant.name for variant in variants),
        calibration=fitted,
        errors_before=before,
        errors_after=after,
        points=solved,
        dropped=tuple(point.budget for point in old.points if point.budget not in kept),
    )


def _gains(
    router: Router, fitted: Calibration | None, scores: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    described = replace(router.description, calibration=fitted)
    return Router(router.path, described, router.network).gains(scores)


def to_json(result: Calibrated) -> dict[str, Any]:
    """Return a calibration as JSON values, expert by expert and point by point."""
    fitted, before, after = result.calibration, result.errors_before, result.errors_after
    chances = None
    if fitted is not None and before is not None and after is not None:
        chances = {
            name: {
                "scale": fitted.scale[i],
                "bias": fitted.bias[i],
                "calibration_error_before": before[i],
                "calibration_error_after": after[i],
            }
            for i, name in enumerate(result.experts)
        }
    return {
        "objective": result.objective,
        "samples": result.samples,
        "variants": list(result.variants),
        "chances": chances,
        "points": [
            {
                "budget": one.point.budget,
                "unit": one.point.unit,
                "allowed": one.most,
                "spent": one.point.expected_cost,
                "multiplier": one.point.multiplier,
                "accuracy": one.point.expected_accuracy,
                "latency": one.latency,
                "shares": dict(zip(result.experts, one.shares, strict=True)),
                "notes": list(one.notes),
            }
            for one in result.points
        ],
        "dropped": list(result.dropped),
    }
