"""What rows held out of a fit say: how consistent the cache would be at a budget, before spending it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.refresh.scoring import SCORERS
from sparing.refresh.scoring.scorer import Floats, Pairs, Scorer

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
        benefits: by scorer, what it says when fitted without these rows: shape (h, n); or shape (h,) for a
            scorer that learns nothing, which picks the target, whatever that is.
        cached: shape (h,), class that the cache holds.
        outputs: shape (h, n), class that each candidate gives.
        labels: shape (h,), -1 where unknown.
    """

    names: tuple[str, ...]
    benefits: Mapping[str, npt.NDArray[np.floating[Any]]]
    cached: Classes
    outputs: Classes
    labels: Classes

    def predict(self, scorer: str, candidates: Sequence[str], target: str, share: float) -> Prediction | None:
        """Predict what refreshing a share of the rows would give.

        Args:
            scorer: the name of a scorer.
            candidates: the candidates of the round, each among `names`.
            target: the candidate whose full re-run is the reference.
            share: share of rows to be refreshed, in [0, 1].

        Returns:
            The prediction; None for a scorer that was not judged on these rows.
        """
        if scorer not in self.benefits:
            return None
        stored, refreshed = self._stored(scorer, candidates, target, share)
        right = stored == self.outputs[:, self.names.index(target)]
        known = self.labels >= 0
        accuracy = float((stored[known] == self.labels[known]).mean()) if known.any() else None
        return Prediction(float(right.mean()), _error(right, refreshed), accuracy, len(stored))

    def advise(self, candidates: Sequence[str], target: str) -> tuple[str, str]:
        """Say which scorer to use: a learned one only where it beats entropy beyond its noise.

        Args:
            candidates: the candidates of the round, each among `names`.
            target: the candidate whose full re-run is the reference.

        Returns:
            The scorer's name ("random" when routing is not appropriate), and the reason in a sentence.
        """
        wanted = self.outputs[:, self.names.index(target)]

        def hits(scorer: str) -> npt.NDArray[np.float64]:
            stored = [self._stored(scorer, candidates, target, rate)[0] for rate in RATES]
            shares: npt.NDArray[np.float64] = np.mean(
                [classes == wanted for classes in stored], axis=0, dtype=np.float64
            )
            return shares

        entropy, chance = hits("entropy"), hits("random")
        root = math.sqrt(len(entropy))
        best, above, said = "entropy", entropy, []
        for name in self.learned:
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

    @property
    def learned(self) -> list[str]:
        """The scorers that learned something, by name."""
        return [name for name, benefits in self.benefits.items() if benefits.ndim == 2]

    def _stored(
        self, scorer: str, candidates: Sequence[str], target: str, share: float
    ) -> tuple[Classes, npt.NDArray[np.bool_]]:
        """Return the classes that the cache would hold after refreshing a share of the rows, and those rows.

        Rows that another candidate than the target refreshes do not count among those.
        """
        columns = [self.names.index(name) for name in candidates]
        score = self.benefits[scorer]
        choice = np.full(len(score), self.names.index(target))
        if score.ndim == 2:
            score = score[:, columns]
            choice, score = np.asarray(columns)[score.argmax(axis=1)], score.max(axis=1)
        refreshed = np.zeros(len(score), dtype=bool)
        refreshed[np.argsort(-score, kind="stable")[: round(share * len(score))]] = True
        stored = np.where(refreshed, self.outputs[np.arange(len(score)), choice], self.cached)
        return stored, refreshed & (choice == self.names.index(target))


def _error(right: npt.NDArray[np.bool_], sure: npt.NDArray[np.bool_]) -> float:
    """Return the standard error of a share of rows that are right, where some are so by definition.

    Of the others, two more are counted right and two more wrong (Agresti and Coull 1998): of a few rows that
    all are right it does not follow that all rows are.
    """
    open_rows = right[~sure]
    if not len(open_rows):
        return 0.0
    share = (open_rows.sum() + 2) / (len(open_rows) + 4)
    return float(len(open_rows) / len(right) * math.sqrt(share * (1 - share) / (len(open_rows) + 4)))


def gather_holdout(names: Sequence[str], pairs: Pairs, learned: Mapping[str, Scorer]) -> Holdout:
    """Return what held-out rows say of every scorer that a refresh can rank by.

    Args:
        names: n candidates.
        pairs: the h rows.
        learned: scorers that were fitted without these rows, by name.
    """
    chance = np.random.default_rng(0).integers(2**64 - 1, size=len(pairs), dtype=np.uint64, endpoint=True)
    rows = replace(pairs.rows, ties=chance)
    benefits: dict[str, Floats] = {name: scorer.benefits(rows) for name, scorer in learned.items()}
    for name, scorer in SCORERS.items():
        if not scorer.learns and not scorer.needs:
            benefits[name] = scorer().benefits(rows)[:, rows.target]
    return Holdout(
        names=tuple(names),
        benefits=benefits,
        cached=pairs.old.argmax(axis=1),
        outputs=np.stack([outputs.argmax(axis=1) for outputs in pairs.new], axis=1),
        labels=pairs.labels,
    )
