"""A router beside its baselines on labelled samples: accuracy, latency, shares and headroom, by variant."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparing.data.samples import Samples
from sparing.errors import InputError
from sparing.images import CLEAN, Corruption
from sparing.numerics.frontier import headroom_at_cost, oracle_frontier, static_mixture
from sparing.progress import OnProgress
from sparing.route.advice import advise
from sparing.route.baselines import BASELINES, STATISTICS, Curve, Policy
from sparing.route.chances import calibration_errors
from sparing.route.choosing import Indices, mean_cost
from sparing.route.judging import (
    Judged,
    Profiled,
    Timing,
    gather,
    join,
    quantile,
    shares_of,
    timing,
)
from sparing.route.router import Point, Router
from sparing.route.rows import Row


@dataclass(frozen=True)
class Part:
    """The comparison on one variant, or on all of them together.

    Attributes:
        name: of the variant; "overall" for all.
        samples: how many.
        rows: the router first, then each expert alone, and at the router's mean latency the mixture, the
            cascades and the oracle.
        calibration_error: by expert, of the chances on these samples; None unless the objective is `benefit`.
    """

    name: str
    samples: int
    rows: tuple[Row, ...]
    calibration_error: dict[str, float] | None


@dataclass(frozen=True)
class PointReport:
    """One operating point.

    Attributes:
        budget: of the point; None for a router as it was trained.
        unit: of the budget; see `Point`.
        spent: mean of the point's own costs, in the budget's unit; None without a point.
        parts: overall first, then by variant where there are several.
        advice: sentences, the most important first.
    """

    budget: str | None
    unit: str | None
    spent: float | None
    parts: tuple[Part, ...]
    advice: tuple[str, ...]


@dataclass(frozen=True)
class RouteReport:
    """What `evaluate` found. Latencies are seconds per sample, decoding included where it is known.

    Attributes:
        objective: the router's.
        samples: how many, before corruption.
        variants: their names.
        batched: whether latencies are those of batches.
        decoding: seconds of decoding in every latency; None where it is not known.
        router: the router's own seconds.
        experts: by name, each expert's own seconds.
        points: the operating points.
        curves: by policy, mean latency and accuracy over all variants: mixture, oracle, and every cascade.
        notes: caveats about the comparison, in sentences.
    """

    objective: str
    samples: int
    variants: tuple[str, ...]
    batched: bool
    decoding: float | None
    router: float
    experts: dict[str, float]
    points: tuple[PointReport, ...]
    curves: dict[str, dict[str, list[float]]]
    notes: tuple[str, ...]


def compare(
    seen: Judged, chosen: Indices, times: Timing, names: Sequence[str], *, repeats: int = 1
) -> tuple[Row, ...]:
    """Put a router's choices beside every baseline on the same samples.

    Args:
        seen: on m samples.
        chosen: shape (m,), the experts that the router picks.
        times: latencies.
        names: n, of the experts.
        repeats: how many variants of the same samples `seen` holds, below each other: their errors are not
            independent.

    Returns:
        One row per policy; see `Part.rows`.
    """
    n = len(names)
    mixture = static_mixture(times.alone, seen.correct.mean(axis=0))
    frontier = oracle_frontier(seen.correct, times.alone)
    routed = seen.correct[np.arange(len(chosen)), chosen].astype(np.float64)
    shares = shares_of(chosen, n)
    target = float(shares @ times.routed)

    def row(kind: str, policy: Policy) -> Row:
        accuracy = float(policy.right.mean())
        ahead, error = (0.0, 0.0) if kind == "router" else paired_difference(routed - policy.right, repeats)
        return Row(
            kind=kind,
            name=policy.name,
            accuracy=accuracy,
            latency=policy.latency,
            p95=policy.p95,
            shares=tuple(policy.shares.tolist()),
            headroom=headroom_at_cost(policy.latency, accuracy, mixture, frontier),
            behind=ahead,
            error=error,
        )

    rows = [row("router", Policy("router", routed, target, quantile(times.routed, shares), shares))]
    for i, name in enumerate(names):
        alone = float(times.alone[i])
        right = seen.correct[:, i].astype(np.float64)
        rows.append(row("expert", Policy(name, right, alone, alone, np.eye(n)[i])))
    for baseline in BASELINES.values():
        rows += [row(baseline.kind, policy) for policy in baseline.policies(seen, times, names, target)]
    best = frontier.accuracy_at(target)
    oracle = Row(
        kind="oracle",
        name="oracle",
        accuracy=best,
        latency=target,
        p95=None,
        shares=None,
        headroom=1.0,
        behind=float(routed.mean()) - best,
        error=None,
    )
    return (*rows, oracle)


def paired_difference(differences: npt.NDArray[np.float64], repeats: int = 1) -> tuple[float, float]:
    """Mean difference in accuracy between two policies on the same samples, and its standard error.

    With answers that are right or wrong this is Wald's form of McNemar's test. Variants of one sample are
    averaged first, since the sample is what was drawn.

    Args:
        differences: shape (repeats * m,), per sample how much more often the first policy is right.
        repeats: variants of the same m samples, below each other.

    Returns:
        The mean and its standard error; the error is infinite for a single sample.
    """
    means = differences.reshape(repeats, -1).mean(axis=0)
    if len(means) < 2:
        return float(means.mean()), float("inf")
    return float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means)))


def evaluate(
    router: Router,
    profile: Profiled,
    samples: Samples,
    *,
    variants: Sequence[Corruption] = (CLEAN,),
    budget: str | None = None,
    batched: bool = False,
    progress: OnProgress | None = None,
) -> RouteReport:
    """Judge a router on samples that neither it, its experts nor its calibration have seen.

    Args:
        router: the router, with operating points unless it was trained for one trade-off.
        profile: of its experts.
        samples: labelled.
        variants: each sample is judged once in every variant.
        budget: the operating point to judge; None for all, and for the trade-off that it was trained for.
        batched: take the latency per sample of batches.
        progress: called while experts run.

    Returns:
        The comparison and the advice.

    Raises:
        InputError: no labels, no operating point, or router and profile do not belong together.
        ModelError: the router or an expert failed.
    """
    points = _points(router, budget)
    names = tuple(expert.name for expert in profile.experts)
    times = timing(router, profile, batched=batched)
    parts = [gather(router, profile, samples, variant, STATISTICS, progress=progress) for variant in variants]
    everything = join(parts)
    chances = router.description.objective == "benefit"

    def judge(name: str, seen: Judged, point: Point | None, repeats: int = 1) -> Part:
        rows = compare(seen, router.choose(seen.scores, point), times, names, repeats=repeats)
        errors = calibration_errors(router.gains(seen.scores), seen.correct) if chances else None
        return Part(
            name, len(seen.scores), rows, None if errors is None else dict(zip(names, errors, strict=True))
        )

    reports = []
    for point in points:
        overall = judge("overall", everything, point, len(parts))
        by_variant = [
            judge(variant.severity, seen, point)
            for variant, seen in zip(variants, parts, strict=True)
            if len(parts) > 1
        ]
        spent = (
            None
            if point is None
            else mean_cost(router.choose(everything.scores, point), np.array(point.costs))
        )
        advice = advise(
            overall.rows, names, times.router, times.experts.tolist(), samples=len(everything.scores)
        )
        reports.append(
            PointReport(
                budget=None if point is None else point.budget,
                unit=None if point is None else point.unit,
                spent=spent,
                parts=(overall, *by_variant),
                advice=advice,
            )
        )
    return RouteReport(
        objective=router.description.objective,
        samples=len(samples),
        variants=tuple(variant.name for variant in variants),
        batched=batched,
        decoding=None if profile.decoding is None else times.decoding,
        router=times.router,
        experts=dict(zip(names, times.experts.tolist(), strict=True)),
        points=tuple(reports),
        curves=curves(everything, times, names),
        notes=tuple(dict.fromkeys(one.note for one in BASELINES.values() if one.note)),
    )


def _points(router: Router, budget: str | None) -> list[Point | None]:
    if budget is not None:
        return [router.point(budget)]
    trained: list[Point | None] = [None] if router.description.objective == "trade-off" else []
    if not trained and not router.description.points:
        raise InputError(f"{router.path}: no operating point yet; run `sparing route calibrate`")
    return [*trained, *router.description.points]


def curves(seen: Judged, times: Timing, names: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """Trace accuracy over mean latency for every policy that has a knob, thinned for drawing.

    Args:
        seen: on m samples.
        times: latencies.
        names: n, of the experts.

    Returns:
        By policy, "latency" in seconds, decoding included, and "accuracy".
    """
    frontier = oracle_frontier(seen.correct, times.alone)
    found: dict[str, Curve] = {}
    for baseline in BASELINES.values():
        for name, curve in baseline.curves(seen, times, names).items():
            found[f"{baseline.kind} {name}".strip()] = curve
    found["oracle"] = (frontier.costs, frontier.accuracies)
    return {
        name: {"latency": costs.tolist(), "accuracy": accuracies.tolist()}
        for name, (costs, accuracies) in found.items()
    }
