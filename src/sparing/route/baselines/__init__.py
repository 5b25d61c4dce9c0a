"""What a router has to beat without being one, in the order of the tables; `contract` says how to add one."""

from collections.abc import Callable

from sparing.numerics.distributions import entropy, margin
from sparing.route.baselines.cascades import Cascading
from sparing.route.baselines.contract import Baseline, Curve, Floats, Policy
from sparing.route.baselines.mixtures import Mixture

BASELINES: dict[str, Baseline] = {
    baseline.kind: baseline
    for baseline in (
        Mixture(),
        Cascading("confidence", lambda probs: probs.max(axis=1)),
        Cascading("entropy", lambda probs: -entropy(probs)),
        Cascading("margin", margin),
    )
}
"""By kind."""

STATISTICS: dict[str, Callable[[Floats], Floats]] = {
    name: function for baseline in BASELINES.values() for name, function in baseline.statistics.items()
}
"""What the baselines need of each expert's distributions, by name."""

__all__ = ["BASELINES", "STATISTICS", "Baseline", "Curve", "Policy"]
