"""One line of a comparison."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A policy on some samples.

    Attributes:
        kind: "router", "expert", "oracle", or the kind of one of `baselines.BASELINES`.
        name: which of its kind: an expert, "a | b" for a mixture, "a > b" for a cascade.
        accuracy: in [0, 1].
        latency: mean seconds per sample, everything included.
        p95: seconds that 95 % of the samples stay within, when every call takes its expert's median; None
            where it is not known.
        shares: share of samples that each expert answers; None where it is not known.
        headroom: share of the way from the random mixture to the oracle at this latency; NaN where the two
            are equal.
        behind: the router's accuracy less this one's.
        error: standard error of `behind`, paired by sample; None where it is not known.
    """

    kind: str
    name: str
    accuracy: float
    latency: float
    p95: float | None
    shares: tuple[float, ...] | None
    headroom: float
    behind: float
    error: float | None
