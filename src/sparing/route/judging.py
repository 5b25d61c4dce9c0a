"""What a router and its experts say about labelled samples, as arrays."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sparing.data.samples import Samples
from sparing.errors import InputError
from sparing.images import CLEAN, Corruption
from sparing.models.digests import same_model
from sparing.progress import OnProgress
from sparing.route.choosing import Floats
from sparing.route.experts import Expert, Latency
from sparing.route.labels import check_classes, known_labels
from sparing.route.router import Router

BATCH = 256
"""How many samples the router scores at a time."""


class Profiled(Protocol):
    """What is needed of a profile: the experts, and what they answer."""

    @property
    def experts(self) -> tuple[Expert, ...]:
        """The experts, with their latencies."""

    @property
    def decoding(self) -> Latency | None:
        """How long the decoding takes that router and experts share."""

    def outputs(
        self, samples: Samples, variant: Corruption = CLEAN, *, progress: OnProgress | None = None
    ) -> npt.NDArray[np.float32]:
        """Log-probabilities, shape (m, n, C)."""


@dataclass(frozen=True)
class Judged:
    """What is known of m samples and n experts.

    Attributes:
        scores: shape (m, n), the router's.
        correct: shape (m, n), whether expert i is right.
        statistics: by name, what the baselines need of each expert's distributions, shape (m, n).
    """

    scores: npt.NDArray[np.float32]
    correct: npt.NDArray[np.bool_]
    statistics: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class Timing:
    """Mean seconds per sample: T = decoding + router + expert.

    Attributes:
        experts: shape (n,), each expert's own.
        router: the router's own.
        decoding: of one image, once for whoever sees it; 0 where there is none, or it is not known.
    """

    experts: npt.NDArray[np.float64]
    router: float
    decoding: float = 0.0

    @property
    def alone(self) -> npt.NDArray[np.float64]:
        """Shape (n,), of a sample that goes to expert i without a router."""
        return self.decoding + self.experts

    @property
    def routed(self) -> npt.NDArray[np.float64]:
        """Shape (n,), of a sample that the router sends to expert i."""
        return self.decoding + self.router + self.experts


def timing(router: Router, profile: Profiled, *, batched: bool = False) -> Timing:
    """Read latencies: the experts' from the profile, the router's from its description.

    Args:
        router: the router.
        profile: of its experts.
        batched: take the latency per sample of a batch, not of one sample at a time.
    """
    own = router.description
    return Timing(
        np.array([latency.per_sample for latency in measured_calls(profile, batched=batched)]),
        (own.batched if batched else own.single).per_sample,
        0.0 if profile.decoding is None else profile.decoding.per_sample,
    )


def measured_calls(profile: Profiled, *, batched: bool = False) -> list[Latency]:
    """Return how long the calls of each expert took, one sample at a time or in batches."""
    return [expert.batched if batched else expert.single for expert in profile.experts]


def check_experts(router: Router, profile: Profiled) -> None:
    """Raise InputError unless the router was trained for the very experts of the profile, in their order."""
    trained = [(expert.name, expert.digest) for expert in router.experts]
    found = [(expert.name, expert.digest) for expert in profile.experts]
    if [name for name, _ in trained] != [name for name, _ in found]:
        raise InputError(
            f"{router.path}: the router picks among {', '.join(name for name, _ in trained)}, but the "
            f"profile is of {', '.join(name for name, _ in found)}; use the profile that it was trained on"
        )
    pairs = zip(trained, found, strict=True)
    changed = [name for (name, digest), (_, other) in pairs if not same_model(digest, other)]
    if changed:
        raise InputError(
            f"{router.path}: the router was trained for another {', '.join(changed)} than the profile holds "
            "(the digests differ); train the router again"
        )


def gather(
    router: Router,
    profile: Profiled,
    samples: Samples,
    variant: Corruption = CLEAN,
    statistics: Mapping[str, Callable[[Floats], Floats]] | None = None,
    *,
    progress: OnProgress | None = None,
) -> Judged:
    """Score samples with the router, and see which experts are right on them.

    Args:
        router: the router.
        profile: of its experts; what it does not hold yet, it runs and stores.
        samples: labelled.
        variant: how the samples are corrupted.
        statistics: by name, from one expert's distributions of shape (m, C) to shape (m,).
        progress: called while experts run.

    Returns:
        What was found on the m samples, in their order.

    Raises:
        InputError: router and profile do not belong together, a label is missing or no class of the experts,
            or a sample is not an input of the router.
        ModelError: the router or an expert failed.
    """
    check_experts(router, profile)
    labels = known_labels(samples)
    logs = profile.outputs(samples, variant, progress=progress)
    check_classes(samples, labels, logs.shape[2])
    scores = []
    for start in range(0, len(samples), BATCH):
        ids = samples.ids[start : start + BATCH]
        values = samples.fetch(np.arange(start, start + len(ids)))
        scores.append(router.scores(ids.to_pylist(), variant.apply(ids, values)))
    return judge(np.concatenate(scores), logs, labels, statistics or {})


def judge(
    scores: npt.NDArray[np.float32],
    logs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    statistics: Mapping[str, Callable[[Floats], Floats]],
) -> Judged:
    """Compare experts with labels, and reduce their distributions to statistics.

    Args:
        scores: shape (m, n), the router's.
        logs: shape (m, n, C), the experts' log-probabilities.
        labels: shape (m,).
        statistics: by name, from one expert's distributions of shape (m, C) to shape (m,).
    """
    probs = np.exp(logs)
    return Judged(
        scores,
        logs.argmax(axis=2) == labels[:, None],
        {
            name: np.stack([of(probs[:, i]) for i in range(probs.shape[1])], axis=1).astype(np.float32)
            for name, of in statistics.items()
        },
    )


def join(parts: Sequence[Judged]) -> Judged:
    """Put what is known of several variants below each other."""
    return Judged(
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.correct for part in parts]),
        {name: np.concatenate([part.statistics[name] for part in parts]) for name in parts[0].statistics},
    )


def shares_of(chosen: npt.NDArray[np.integer[Any]], n: int) -> npt.NDArray[np.float64]:
    """Share of samples per expert, shape (n,), summing to 1."""
    counts = np.bincount(chosen, minlength=n)
    shares: npt.NDArray[np.float64] = counts / len(chosen)
    return shares


def quantile(values: Floats, shares: Floats, q: float = 0.95) -> float:
    """Smallest of the values that a share q of the samples stays within.

    Args:
        values: shape (k,).
        shares: shape (k,), how much of the samples has each value, summing to 1.
        q: in [0, 1].
    """
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(shares[order])
    at = min(int(np.searchsorted(reached, q - 1e-9)), len(order) - 1)
    return float(values[order[at]])
