"""An analysis as plain data, which is what `sparing bounds --json` prints."""

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.bounds.analysis import Analysis, Exact, Selection
from sparing.bounds.approximate import Bound
from sparing.bounds.states import States
from sparing.numerics.frontier import Curve

CURVE_POINTS = 200
"""Curves with more points than this are thinned out."""


def summarise(analysis: Analysis) -> dict[str, Any]:
    """Turn an analysis into dictionaries, lists, numbers and strings; absent parts are left out.

    Args:
        analysis: from `analyse`.

    Returns:
        What `sparing bounds --json` prints. `frontier` and `mixture` are the curves of the best accuracy at
        every mean cost.
    """
    best = int(analysis.kept.accuracies.argmax())
    result: dict[str, Any] = {
        "states": _states(analysis.states),
        "baseline": _states(analysis.kept.take([best]))[0],
        "dropped": [asdict(dropped) for dropped in analysis.dropped],
        "conservative": _bound(analysis.conservative),
        "continuous": _bound(analysis.continuous),
        "two_states": _bound(analysis.two_states),
    }
    result["dynamic_range"] = [
        {"largest": name, "two_states": _bound(ends), "all_states": _bound(full)}
        for name, (ends, full) in zip(analysis.kept.names, analysis.ranges, strict=True)
    ]
    if analysis.constant_alpha:
        alpha, bound = analysis.constant_alpha
        result["constant_alpha"] = {**_bound(bound), "alpha": alpha}
    if analysis.smallest_limit is not None:
        result["smallest_state"] = {
            "name": analysis.kept.names[0],
            "cost": float(analysis.kept.costs[0]),
            "limit": analysis.smallest_limit,
            "worth_it": bool(analysis.kept.costs[0] < analysis.smallest_limit),
        }
    if analysis.exact:
        result["samples"] = analysis.exact.samples
        result["exact"] = _exact(analysis.exact, analysis.states)
        result["chance"] = _chance(analysis.exact, analysis.states)
    if analysis.selected:
        result["selected"] = [_selection(selection, analysis) for selection in analysis.selected]
    result["mixture"] = _curve(analysis.mixture)
    result["frontier"] = _curve(analysis.frontier)
    result["warnings"] = analysis.warnings
    return result


def _states(states: States) -> list[dict[str, Any]]:
    rows = zip(states.names, states.costs.tolist(), states.accuracies.tolist(), strict=True)
    return [{"name": name, "cost": cost, "accuracy": accuracy} for name, cost, accuracy in rows]


def _bound(bound: Bound) -> dict[str, float]:
    return {
        "cost": bound.cost,
        "accuracy": bound.accuracy,
        "saving": bound.saving,
        "ratio": bound.ratio,
        "accuracy_gain": bound.accuracy_gain,
    }


def _exact(exact: Exact, states: States) -> dict[str, Any]:
    oracle, intervals = exact.oracle, exact.intervals
    choices = np.bincount(oracle.bought.choice + 1, minlength=len(states) + 1) / exact.samples
    result: dict[str, Any] = {
        **_bound(exact.bound),
        "alpha": oracle.alphas.tolist(),
        "p_errors": oracle.p_errors.tolist(),
        "labels": dict(zip(states.names, choices[1:][oracle.order].tolist(), strict=True)),
        "unsolved": float(choices[0]),
        "equal_accuracy": _bound(exact.equal_accuracy),
    }
    if exact.at_mean_prices:
        result["at_mean_prices"] = _bound(exact.at_mean_prices)
    if intervals:
        ends: dict[str, Any] = {
            key: value.tolist() if isinstance(value, np.ndarray) else list(value)
            for key, value in vars(intervals).items()
        }
        result["intervals"] = ends
    return result


def _chance(exact: Exact, states: States) -> dict[str, Any]:
    place = {int(column): i for i, column in enumerate(exact.oracle.order)}
    result: dict[str, Any] = {"independent": _end(exact.independent, exact)}
    if exact.guessing is not None:
        result["guessing"] = _end(exact.guessing, exact)
    result["small_sets"] = [
        {**asdict(small), "states": [states.names[place[column]] for column in small.states]}
        for small in exact.small_sets
    ]
    return result


def _end(curve: Curve, exact: Exact) -> dict[str, float]:
    return {
        "cost": float(curve.costs[-1]),
        "accuracy": float(curve.accuracies[-1]),
        "equal_accuracy_cost": curve.cost_at(exact.bound.baseline_accuracy),
    }


def _selection(selection: Selection, analysis: Analysis) -> dict[str, Any]:
    def part(states: States, bound: Bound) -> dict[str, Any]:
        return {
            "states": list(states.names),
            "cost": bound.cost,
            "ratio": bound.ratio,
            "share": bound.ratio / analysis.conservative.ratio,
        }

    result = {
        "size": len(selection.states),
        **part(selection.states, selection.bound),
        "with_smallest": part(*selection.with_smallest),
    }
    if selection.greedy:
        result["greedy"] = part(*selection.greedy)
    return result


def _curve(curve: Curve) -> dict[str, list[float]]:
    chosen: npt.NDArray[np.intp] = np.arange(len(curve.costs))
    if len(chosen) > CURVE_POINTS:
        chosen = np.unique(np.linspace(0, len(chosen) - 1, CURVE_POINTS).round().astype(np.intp))
    return {"cost": curve.costs[chosen].tolist(), "accuracy": curve.accuracies[chosen].tolist()}
