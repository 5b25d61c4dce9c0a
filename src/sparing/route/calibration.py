"""Operating points: scores become chances of being right, and budgets become multipliers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.data.samples import Samples
from sparing.errors import InputError
from sparing.images import CLEAN, Corruption
from sparing.progress import OnProgress
from sparing.route.chances import Bools, calibration_errors, fit_calibration
from sparing.route.choosing import Floats, choose, mean_cost, solve_multiplier
from sparing.route.judging import (
    Profiled,
    Timing,
    check_experts,
    gather,
    join,
    measured_calls,
    shares_of,
    timing,
)
from sparing.route.labels import known_labels
from sparing.route.latency import measure_router
from sparing.route.limits import Limit, cost_limit, latency_limit, quantile_limit
from sparing.route.router import Calibration, Point, Router, with_point, write_router

UNSPENT = 0.03
"""A budget of which more than this share is left is worth a note."""


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
    times, calls = timing(router, profile, batched=batched), measured_calls(profile, batched=batched)
    limits = [
        latency_limit(text, times, names, calls)
        if q is None
        else quantile_limit(text, q, times, names, calls)
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
