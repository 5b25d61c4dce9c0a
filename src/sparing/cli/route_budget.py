"""How a mean cost is printed beside the budget that it counts against."""

from sparing.cli.output import share


def budget_cost(cost: float, unit: str) -> str:
    """Format a mean cost in the unit of its operating point; see `sparing.route.Point`."""
    if unit == "seconds":
        return f"{1000 * cost:.3f} ms"
    return f"{share(cost)} over the limit" if unit == "share" else f"{cost:.4g} {unit}"
