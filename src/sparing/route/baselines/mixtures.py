"""The best random mixture of experts, which knows nothing about a sample."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from sparing.errors import InputError
from sparing.numerics.frontier import static_mixture
from sparing.route.baselines.contract import Curve, Floats, Policy
from sparing.route.judging import Judged, Timing, quantile


class Mixture:
    """Send each sample to one of two experts at random."""

    kind = "mixture"
    family = "mixture"
    note = ""
    statistics: Mapping[str, Callable[[Floats], Floats]] = {}

    def policies(self, seen: Judged, times: Timing, names: Sequence[str], latency: float) -> list[Policy]:
        """Return the mixture of that latency; see `Baseline.policies`."""
        shares = mixture_shares(times.alone, seen.correct.mean(axis=0), latency)
        return [
            Policy(
                " | ".join(names[i] for i in np.flatnonzero(shares).tolist()),
                seen.correct @ shares,
                float(shares @ times.alone),
                quantile(times.alone, shares),
                shares,
            )
        ]

    def curves(self, seen: Judged, times: Timing, names: Sequence[str]) -> dict[str, Curve]:  # noqa: ARG002
        """Return the hull of the experts; see `Baseline.curves`."""
        mixture = static_mixture(times.alone, seen.correct.mean(axis=0))
        return {"": (mixture.costs, mixture.accuracies)}

    def describe(self, name: str) -> str:
        """Refer to it in a sentence."""
        return f"sending samples to {name} at random"

    def beats(self, figures: str, *, surely: bool) -> str:  # noqa: ARG002
        """Say that it does as well."""
        return f"The router knows no better than chance: {figures}"


def mixture_shares(costs: Floats, accuracies: Floats, cost: float) -> npt.NDArray[np.float64]:
    """Share of samples per expert in the best random mixture of a mean cost.

    Args:
        costs: shape (n,), mean cost of each expert.
        accuracies: shape (n,), in [0, 1].
        cost: mean cost per sample.

    Returns:
        Shape (n,), summing to 1, at most two of them positive: neighbours on the hull of
        `frontier.static_mixture`, or its last point when the cost is beyond it.

    Raises:
        InputError: the cost is below the cheapest expert's.
    """
    hull = static_mixture(costs, accuracies)
    if np.isnan(hull.accuracy_at(cost)):
        raise InputError(f"no mixture costs {cost:g}: the cheapest expert costs {hull.costs[0]:g}")
    corners = [
        int(np.flatnonzero((costs == c) & (accuracies == a))[0])
        for c, a in zip(hull.costs, hull.accuracies, strict=True)
    ]
    place = float(np.interp(cost, hull.costs, np.arange(len(corners))))
    low = int(place)
    shares = np.zeros(len(costs))
    shares[corners[low]] = 1 - (place - low)
    if place > low:
        shares[corners[low + 1]] = place - low
    return shares
