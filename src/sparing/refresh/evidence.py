"""What rows held out of a fit say: how consistent the cache would be at a budget, before spending it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.distributions import Floats
from sparing.refresh.scorers import UNCERTAINTY

Classes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Prediction:
    """A predicted share and what it rests on.

    Attributes:
        consistency: predicted share of rows that agree with a full re-run of the target.
        error: its standard error.
        accuracy: predicted accuracy; None without labels.
        rows: number of held-out rows that it rests on.
    """

    consistency: float
    error: float
    accuracy: float | None
    rows: int


@dataclass(frozen=True)
class Evidence:
    """Held-out rows: how each scorer ranks them, and what keeping or refreshing them would store.

    Attributes:
        names: the n candidates.
        router: shape (h, n), benefits by a router that was fitted without these rows.
        uncertainty: shape (h, k), one column per scorer of `UNCERTAINTY`, in its order.
        cached: shape (h,), class that the cache holds.
        outputs: shape (h, n), class that each candidate gives.
        labels: shape (h,), -1 where unknown.
    """

    names: tuple[str, ...]
    router: Floats
    uncertainty: Floats
    cached: Classes
    outputs: Classes
    labels: Classes

    def predict(self, scorer: str, candidates: Sequence[str], target: str, share: float) -> Prediction:
        """Predict what refreshing a share of the rows would give.

        Args:
            scorer: "router" or the name of another scorer.
            candidates: the candidates of the round, each among `names`.
            target: the candidate whose full re-run is the reference.
            share: share of rows to be refreshed, in [0, 1].

        Returns:
            The prediction.
        """
        columns = [self.names.index(name) for name in candidates]
        wanted = self.outputs[:, self.names.index(target)]
        if scorer == "router":
            benefits = self.router[:, columns]
            choice = np.asarray(columns)[benefits.argmax(axis=1)]
            score = benefits.max(axis=1)
        else:
            choice = np.full(len(self.cached), self.names.index(target))
            if scorer == "random":
                score = np.random.default_rng(0).random(len(self.cached))
            else:
                score = self.uncertainty[:, list(UNCERTAINTY).index(scorer)]
        refreshed = np.zeros(len(score), dtype=bool)
        refreshed[np.argsort(-score, kind="stable")[: round(share * len(score))]] = True
        stored = np.where(refreshed, self.outputs[np.arange(len(score)), choice], self.cached)
        hit = float((stored == wanted).mean())
        known = self.labels >= 0
        accuracy = float((stored[known] == self.labels[known]).mean()) if known.any() else None
        return Prediction(hit, math.sqrt(hit * (1 - hit) / len(score)), accuracy, len(score))

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Give the arrays that a router's file holds."""
        return {
            "evidence_names": np.array(self.names),
            "evidence_router": self.router,
            "evidence_uncertainty": self.uncertainty,
            "evidence_cached": self.cached,
            "evidence_outputs": self.outputs,
            "evidence_labels": self.labels,
        }

    @classmethod
    def from_arrays(cls, arrays: Any) -> "Evidence":
        """Read what `to_arrays` gave."""
        return cls(
            tuple(str(name) for name in arrays["evidence_names"]),
            *(arrays[f"evidence_{key}"] for key in ("router", "uncertainty", "cached", "outputs", "labels")),
        )


def gather_evidence(
    names: Sequence[str],
    router: Floats,
    old: Floats,
    new: Sequence[Floats],
    labels: Classes,
) -> Evidence:
    """Put together what held-out rows say.

    Args:
        names: n candidates.
        router: shape (h, n), predicted benefits.
        old: shape (h, C), cached distributions.
        new: n arrays of shape (h, C), the candidates' distributions.
        labels: shape (h,), -1 where unknown.
    """
    return Evidence(
        tuple(names),
        router,
        np.stack([score(old) for score in UNCERTAINTY.values()], axis=1).astype(np.float32),
        old.argmax(axis=1),
        np.stack([outputs.argmax(axis=1) for outputs in new], axis=1),
        labels,
    )
