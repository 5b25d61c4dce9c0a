"""Figures 2, 3, 4 and 6 of the adaptive-inference paper for the user's own states, as one HTML page."""

from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from sparing.bounds.analysis import Analysis
from sparing.numerics.frontier import Curve
from sparing.pages import write_page

CURVE_POINTS = 400
SIZES_SHOWN = 12


def write_figures(path: str | Path, analysis: Analysis, *, unit: str = "cost") -> None:
    """Write a self-contained HTML page with the figures that the analysis allows.

    Args:
        path: the file to write.
        analysis: from `analyse`.
        unit: what the costs are, for the axes.

    Raises:
        StorageError: the file could not be written.
    """
    bound = analysis.conservative
    parts: list[Any] = [
        f"<p>{len(analysis.states)} states, of which {len(analysis.kept)} are on the envelope. "
        f"With alpha = 1 an oracle is as accurate as the best model ({bound.accuracy:.4f}) "
        f"at a mean cost of {bound.cost:.4g} instead of {bound.baseline_cost:.4g}: {bound.ratio:.2f}x.</p>"
    ]
    parts += [f"<p><strong>Note:</strong> {escape(warning)}.</p>" for warning in analysis.warnings]
    parts.append(operating_points(analysis, unit))
    if analysis.constant_alpha or analysis.exact:
        parts.append(bounds_and_oracle(analysis, unit))
    if analysis.exact and len(analysis.states) > 1:
        parts.append(alphas(analysis))
    if analysis.selected:
        parts.append(selected_states(analysis, unit))
    write_page(path, "What no adaptive policy can beat", parts)


def operating_points(analysis: Analysis, unit: str = "cost") -> Any:
    """The states, and where adaptive inference could operate under alpha = 1 (the paper's Figure 3)."""
    import plotly.graph_objects as go

    kept, bound = analysis.kept, analysis.conservative
    figure = go.Figure()
    _area(figure, analysis.mixture, analysis.promised, "within reach of an oracle")
    figure.add_scatter(
        x=kept.costs, y=kept.accuracies, text=_texts(kept.names), mode="lines+markers", name="states"
    )
    others = [i for i, name in enumerate(analysis.states.names) if name not in set(kept.names)]
    if others:
        figure.add_scatter(
            x=analysis.states.costs[others],
            y=analysis.states.accuracies[others],
            text=_texts([analysis.states.names[i] for i in others]),
            mode="markers",
            marker={"color": "lightgrey"},
            name="left out",
        )
    _point(figure, bound.cost, bound.accuracy, f"alpha = 1: {bound.ratio:.1f}x", "star")
    between = analysis.continuous
    _point(figure, between.cost, between.accuracy, f"continuous states: {between.ratio:.1f}x", "diamond")
    return _finish(figure, analysis, unit, "Operating points under alpha = 1")


def bounds_and_oracle(analysis: Analysis, unit: str = "cost") -> Any:
    """The constant-alpha bounds beside the exact oracle and what chance would give (the paper's Figure 4)."""
    import plotly.graph_objects as go

    figure = go.Figure()
    exact = analysis.exact
    if exact:
        _area(figure, analysis.mixture, analysis.frontier, "within reach of an oracle")
        _curve(figure, analysis.frontier, "oracle frontier")
        _curve(figure, analysis.mixture, "static mixture")
        _curve(figure, exact.independent, "independent errors", dash="dot")
        if exact.guessing is not None:
            _curve(figure, exact.guessing, "best model, others guess", dash="dash")
        bound = exact.bound
        errors = {}
        if exact.intervals:
            cost, accuracy = exact.intervals.cost, exact.intervals.accuracy
            errors = {
                "error_x": _error(bound.cost, *cost),
                "error_y": _error(bound.accuracy, *accuracy),
            }
        _point(figure, bound.cost, bound.accuracy, f"exact oracle: {bound.ratio:.1f}x", "star", **errors)
    if analysis.constant_alpha:
        alpha, optimistic = analysis.constant_alpha
        safe = analysis.conservative
        figure.add_scatter(
            x=[safe.cost, optimistic.cost],
            y=[safe.accuracy, optimistic.accuracy],
            mode="lines+markers",
            name=f"constant alpha, 1 to {alpha:.2f}",
        )
    figure.add_scatter(
        x=analysis.states.costs,
        y=analysis.states.accuracies,
        text=_texts(analysis.states.names),
        mode="markers",
        name="states",
    )
    return _finish(figure, analysis, unit, "Bounds and the exact oracle")


def alphas(analysis: Analysis) -> Any:
    """Measured alpha of every state, with its interval (the paper's Figure 2)."""
    import plotly.graph_objects as go

    if analysis.exact is None:
        raise ValueError("alphas are measured from outcomes")
    measured, intervals = analysis.exact.oracle.alphas, analysis.exact.intervals
    bars = None
    if intervals:
        ends = intervals.alphas
        bars = {"symmetric": False, "array": ends[:, 1] - measured, "arrayminus": measured - ends[:, 0]}
    figure = go.Figure()
    figure.add_scatter(x=_texts(analysis.states.names), y=measured, mode="markers", error_y=bars)
    figure.update_layout(
        title="alpha: how often all smaller states fail where a state fails",
        yaxis={"title": "alpha", "range": [0, 1.05]},
    )
    return figure


def selected_states(analysis: Analysis, unit: str = "cost") -> Any:
    """The best sets of every size; what a set has and the next smaller one lacks is red (Figure 6)."""
    from plotly.subplots import make_subplots

    shown = [selection for selection in analysis.selected if len(selection.states) > 1][:SIZES_SHOWN]
    columns = min(3, max(1, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[f"{len(s.states)} states: {s.bound.ratio:.1f}x" for s in shown],
    )
    before: set[str] = set()
    for i, selection in enumerate(shown):
        row, column = i // columns + 1, i % columns + 1
        figure.add_scatter(
            x=analysis.kept.costs,
            y=analysis.kept.accuracies,
            mode="lines",
            line={"color": "lightgrey"},
            row=row,
            col=column,
        )
        new = [name not in before and i > 0 for name in selection.states.names]
        figure.add_scatter(
            x=selection.states.costs,
            y=selection.states.accuracies,
            text=_texts(selection.states.names),
            mode="lines+markers",
            line={"color": "steelblue"},
            marker={"color": ["red" if fresh else "steelblue" for fresh in new], "size": 8},
            row=row,
            col=column,
        )
        before = set(selection.states.names)
    figure.update_layout(title="Which states to keep", showlegend=False, height=260 * rows + 120)
    figure.update_xaxes(title=unit, type=_scale(analysis))
    figure.update_yaxes(title="accuracy")
    return figure


def _texts(names: Any) -> list[str]:
    # Plotly reads a little HTML in texts; a name is not HTML.
    return [escape(name) for name in names]


def _error(value: float, low: float, high: float) -> dict[str, Any]:
    return {"symmetric": False, "array": [high - value], "arrayminus": [value - low]}


def _point(figure: Any, cost: float, accuracy: float, name: str, symbol: str, **errors: Any) -> None:
    marker = {"symbol": symbol, "size": 12}
    figure.add_scatter(x=[cost], y=[accuracy], mode="markers", marker=marker, name=name, **errors)


def _drawn(curve: Curve) -> tuple[Any, Any]:
    # Straight in cost is bent on a logarithmic axis, so a curve is drawn from many points.
    costs = np.unique(
        np.concatenate(
            [
                np.geomspace(curve.costs[0], curve.costs[-1], CURVE_POINTS)
                if curve.costs[0] > 0
                else np.linspace(0, curve.costs[-1], CURVE_POINTS),
                curve.costs[:: len(curve.costs) // CURVE_POINTS + 1],
            ]
        )
    ).clip(curve.costs[0], curve.costs[-1])
    return costs, np.interp(costs, curve.costs, curve.accuracies)


def _curve(figure: Any, curve: Curve, name: str, dash: str = "solid") -> None:
    costs, accuracies = _drawn(curve)
    figure.add_scatter(x=costs, y=accuracies, mode="lines", line={"dash": dash}, name=name)


def _area(figure: Any, low: Curve, high: Curve, name: str) -> None:
    start, end = max(low.costs[0], high.costs[0]), max(low.costs[-1], high.costs[-1])
    both = np.concatenate([_drawn(low)[0], _drawn(high)[0], [start, end]])
    costs = np.unique(both[(both >= start) & (both <= end)])
    figure.add_scatter(
        x=np.concatenate([costs, costs[::-1]]),
        y=np.concatenate(
            [
                np.interp(costs, high.costs, high.accuracies),
                np.interp(costs, low.costs, low.accuracies)[::-1],
            ]
        ),
        fill="toself",
        fillcolor="rgba(70,130,180,0.15)",
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        name=name,
    )


def _scale(analysis: Analysis) -> str:
    return "log" if analysis.states.costs[0] > 0 else "linear"


def _finish(figure: Any, analysis: Analysis, unit: str, title: str) -> Any:
    figure.update_layout(
        title=title, xaxis={"title": unit, "type": _scale(analysis)}, yaxis={"title": "accuracy"}
    )
    return figure
