"""What a baseline is: a policy without a router, which runs the same experts at the router's mean latency.

To add one, write a class with the members of `Baseline` in a module of this package, and add an instance to
`BASELINES` in `__init__.py`: `evaluate`, its advice, its curves and the command line read that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sparing.route.judging import Judged, Timing

Floats = npt.NDArray[np.floating[Any]]
Curve = tuple[Floats, Floats]
"""Mean latency in seconds, decoding included, and accuracy, both of shape (p,)."""


@dataclass(frozen=True)
class Policy:
    """One way to answer m samples with n experts.

    Attributes:
        name: which experts it uses and how, such as "small > large".
        right: shape (m,), the chance that each sample is answered right.
        latency: mean seconds per sample, decoding included.
        p95: seconds that 95 % of the samples stay within, when every call takes its expert's median.
        shares: shape (n,), share of samples that each expert answers.
    """

    name: str
    right: npt.NDArray[np.float64]
    latency: float
    p95: float
    shares: npt.NDArray[np.float64]


class Baseline(Protocol):
    """A kind of policy that a router is compared with."""

    @property
    def kind(self) -> str:
        """What its rows are called, such as "confidence cascade"; unique."""

    @property
    def family(self) -> str:
        """Kinds that are alike: advice names the best policy of each family."""

    @property
    def note(self) -> str:
        """A caveat about the comparison, in sentences; empty for none."""

    @property
    def statistics(self) -> Mapping[str, Callable[[Floats], Floats]]:
        """What it needs of each expert's distributions, by name: functions of (m, C) that return (m,)."""

    def policies(self, seen: Judged, times: Timing, names: Sequence[str], latency: float) -> list[Policy]:
        """Return the policies of this kind that take a mean latency.

        Args:
            seen: what is known of m samples; `statistics` is in it.
            times: latencies.
            names: n, of the experts.
            latency: mean seconds per sample, decoding included.

        Returns:
            None or more; those that cannot be so fast are left out.
        """

    def curves(self, seen: Judged, times: Timing, names: Sequence[str]) -> dict[str, Curve]:
        """Return accuracy over latency, by the name of a policy."""

    def describe(self, name: str) -> str:
        """Return how a sentence refers to a policy, such as "the cascade small > large by confidence"."""

    def beats(self, figures: str, *, surely: bool) -> str:
        """Return a sentence that says it does as well as the router, or surely better.

        Args:
            figures: "... reaches ..., the router ...", a clause that ends in a full stop.
            surely: whether the difference is more than noise.
        """
