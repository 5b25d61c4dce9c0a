"""What a cache remembers of its rounds: which models refreshed it, and what each round predicted."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sparing.cache import Rows
from sparing.cache.metadata import Metadata
from sparing.numerics.selection import tie_keys
from sparing.refresh.correction.rules import normalised_benefit
from sparing.refresh.scoring.ranker import Ranker
from sparing.refresh.scoring.ranking import Ranking, make_ranking
from sparing.refresh.scoring.scorer import ScoringRows

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PastRound:
    """One earlier round.

    Attributes:
        round: its number.
        names: its candidates.
        scorer: what ranked its rows.
        seed: what broke its ties.
    """

    round: int
    names: tuple[str, ...]
    scorer: Ranking
    seed: int

    def benefits(self, rows: Rows, which: npt.NDArray[np.int64], holders: list[str]) -> Floats:
        """Predict again what this round predicted, for those rows that have not changed since.

        Args:
            rows: m rows.
            which: shape (k,), positions among them.
            holders: names of the models that rows may hold.

        Returns:
            Shape (k, n).
        """
        ties = tie_keys(rows.ids.take(pa.array(which)), self.seed)
        outputs, held = rows.probs[which], rows.models[which]
        return self.scorer.benefits(ScoringRows(outputs=outputs, ties=ties, holders=holders, held=held))


def past_rounds(metadata: Metadata) -> list[PastRound]:
    """Read the rounds of a cache from its history, oldest first; a rollback takes its rounds with it."""
    return [_read(entry, metadata) for entry in metadata.rounds]


def accumulate(past: list[PastRound], rows: Rows, holders: list[str]) -> Floats:
    """Add up the normalised benefits of the rounds since each row's last effective refresh.

    Nothing per row is stored for this: a row that was not refreshed has not changed, so the rankers that the
    cache keeps give the same scores again.

    Args:
        past: the rounds so far.
        rows: m rows.
        holders: names of the models that rows may hold.

    Returns:
        Shape (m,).
    """
    total = np.zeros(len(rows), dtype=np.float32)
    for earlier in past:
        skipped = np.flatnonzero(rows.rounds < earlier.round)
        if len(skipped):
            best = earlier.benefits(rows, skipped, holders).max(axis=1)
            total[skipped] += normalised_benefit(best).astype(np.float32)
    return total


def recent_models(metadata: Metadata, names: list[str]) -> list[str]:
    """List the models of refresh rounds, the least recent first, this round's candidates last."""
    last: dict[str, None] = {}
    for name in _in_order(metadata, names):
        last.pop(name, None)
        last[name] = None
    return list(last)


def _in_order(metadata: Metadata, names: list[str]) -> Iterator[str]:
    for entry in metadata.rounds:
        yield from entry["digests"]
    yield from names


def _read(entry: dict[str, Any], metadata: Metadata) -> PastRound:
    names = tuple(entry["digests"])
    digest: str = entry["scorer"]
    # A scorer that learned is NAME:DIGEST of its ranker; of rankers of format 1, PURE's router is DIGEST.
    name, _, rest = digest.partition(":")
    if name == "sha256":
        name, rest = "router", digest
    ranker = Ranker.from_bytes(metadata.ranker(rest)) if rest else None
    scorer = make_ranking(name, names, entry["target"], ranker=ranker)
    return PastRound(entry["round"], names, scorer, entry.get("seed", 0))
