"""What rows held out of a fit say: how consistent the cache would be at a budget, before spending it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.numerics.distributions import UNCERTAINTY, Floats

Classes = npt.NDArray[np.int64]

RATES = (0.2, 0.5, 0.8)
"""Update rates that the advice averages over."""


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
class Holdout:
    """Held-out rows: how each scorer ranks them, and what keeping or refreshing them would store.

    Attributes:
        names: the n candidates.
        router: shape (h, n), benefits by PURE's router that was fitted without these rows.
        change: shape (h, n), benefits by a change predictor that was fitted without these rows.
        uncertainty: shape (h, k), one column per scorer of `UNCERTAINTY`, in its order.
        cached: shape (h,), class that the cache holds.
        outputs: shape (h, n), class that each candidate gives.
        labels: shape (h,), -1 where unknown.
    """

    names: tuple[str, ...]
    router: Floats
    change: Floats
    uncertainty: Floats
    cached: Classes
    outputs: Classes
    labels: Classes

    def predict(self, scorer: str, candidates: Sequence[str], target: str, share: float) -> Prediction:
        """Predict what refreshing a share of the rows would give.

        Args:
            scorer: "router", "change" or the name of another scorer.
            candidates: the candidates of the round, each among `names`.
            target: the candidate whose full re-run is the reference.
            share: share of rows to be refreshed, in [0, 1].

        Returns:
            The prediction.
        """
        stored = self._stored(scorer, candidates, target, share)
        wanted = self.outputs[:, self.names.index(target)]
        hit = float((stored == wanted).mean())
        known = self.labels >= 0
        accuracy = float((stored[known] == self.labels[known]).mean()) if known.any() else None
        return Prediction(hit, math.sqrt(hit * (1 - hit) / len(stored)), accuracy, len(stored))

    def advise(self, candidates: Sequence[str], target: str) -> tuple[str, str]:
        """Say which scorer to use: a learned one only where it beats entropy beyond its noise.

        Args:
            candidates: the candidates of the round, each among `names`.
            target: the candidate whose full re-run is the reference.

        Returns:
            The scorer's name ("random" when routing is not appropriate), and the reason in a sentence.
        """
        wanted = self.outputs[:, self.names.index(target)]

        def hits(scorer: str) -> Floats:
            stored = [self._stored(scorer, candidates, target, rate) for rate in RATES]
            shares: Floats = np.mean([classes == wanted for classes in stored], axis=0, dtype=np.float64)
            return shares

        entropy, chance = hits("entropy"), hits("random")
        root = math.sqrt(len(entropy))
        best, above, said = "entropy", entropy, []
        for name in ("router", "change"):
            found = hits(name)
            gain = found - entropy
            error = gain.std() / root
            said.append(f"{name} {100 * gain.mean():+.2f} ± {100 * error:.2f} points")
            if gain.mean() > 2 * error and found.mean() > above.mean():
                best, above = name, found
        lead = above - chance
        if lead.mean() <= 2 * lead.std() / root:
            return "random", (
                f"Routing is not appropriate here: on {len(entropy)} held-out rows no scorer keeps more "
                "consistency than chance. Refresh everything, or rows at random."
            )
        verb = "no learned scorer beats it" if best == "entropy" else "it beats entropy"
        return best, (
            f"Use {best}: {verb} beyond its noise on {len(entropy)} held-out rows (consistency against "
            f"entropy, mean over {', '.join(f'{rate:.0%}' for rate in RATES)}: {', '.join(said)})."
        )

    def _stored(self, scorer: str, candidates: Sequence[str], target: str, share: float) -> Classes:
        """Give the classes that the cache would hold after refreshing a share of the rows."""
        columns = [self.names.index(name) for name in candidates]
        if scorer in ("router", "change"):
            benefits = (self.router if scorer == "router" else self.change)[:, columns]
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
        return np.where(refreshed, self.outputs[np.arange(len(score)), choice], self.cached)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Give the arrays that a ranker's file holds."""
        return {
            "evidence_names": np.array(self.names),
            "evidence_router": self.router,
            "evidence_change": self.change,
            "evidence_uncertainty": self.uncertainty,
            "evidence_cached": self.cached,
            "evidence_outputs": self.outputs,
            "evidence_labels": self.labels,
        }

    @classmethod
    def from_arrays(cls, arrays: Any) -> "Holdout":
        """Read what `to_arrays` gave."""
        return cls(
            tuple(str(name) for name in arrays["evidence_names"]),
            *(
                arrays[f"evidence_{key}"]
                for key in ("router", "change", "uncertainty", "cached", "outputs", "labels")
            ),
        )


def gather_holdout(
    names: Sequence[str],
    router: Floats,
    old: Floats,
    new: Sequence[Floats],
    labels: Classes,
    change: Floats | None = None,
) -> Holdout:
    """Put together what held-out rows say.

    Args:
        names: n candidates.
        router: shape (h, n), predicted entropy decreases.
        old: shape (h, C), cached distributions.
        new: n arrays of shape (h, C), the candidates' distributions.
        labels: shape (h,), -1 where unknown.
        change: shape (h, n), predicted changes; none were fitted when absent.
    """
    return Holdout(
        names=tuple(names),
        router=router,
        change=np.zeros_like(router) if change is None else change,
        uncertainty=np.stack([score(old) for score in UNCERTAINTY.values()], axis=1).astype(np.float32),
        cached=old.argmax(axis=1),
        outputs=np.stack([outputs.argmax(axis=1) for outputs in new], axis=1),
        labels=labels,
    )
