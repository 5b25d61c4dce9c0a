"""Scorers that learn nothing: by how unsure a cached distribution is, by chance, or by disagreement."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sparing.cache.encodings.scoring import uncertainty
from sparing.numerics.distributions import entropy
from sparing.refresh.scoring.scorer import Floats, Need, Scorer, ScoringRows, on_target


class Entropy(Scorer):
    """The entropy of the cached distribution, in nats."""

    name = "entropy"

    def benefits(self, rows: ScoringRows) -> Floats:
        """Return entropies."""
        return on_target(rows, uncertainty(rows.encoded, "entropy"))


class LeastConfidence(Scorer):
    """One minus the largest probability."""

    name = "least-confidence"

    def benefits(self, rows: ScoringRows) -> Floats:
        """Return numbers in [0, 1]."""
        return on_target(rows, uncertainty(rows.encoded, "least-confidence"))


class Margin(Scorer):
    """One minus the difference of the two largest probabilities."""

    name = "margin"

    def benefits(self, rows: ScoringRows) -> Floats:
        """Return numbers in [0, 1]."""
        return on_target(rows, uncertainty(rows.encoded, "margin"))


class Dkd(Entropy):
    """DKD as PURE's appendix B.6 describes it: ranking by entropy."""

    name = "dkd"


class Cema(Scorer):
    """CEMA (PURE, B.6): by entropy, inside the band up to H_max = 0.4 ln C.

    H_min is where the rate cuts this ranking. When the band holds fewer rows than the rate asks for, the
    rest come from just above its upper edge.
    """

    name = "cema"

    def benefits(self, rows: ScoringRows) -> Floats:
        """Return the entropy inside the band, minus the entropy above it."""
        values = entropy(rows.probs)
        return on_target(rows, np.where(values <= cema_limit(rows.probs.shape[1]), values, -values))


def cema_limit(n_classes: int) -> float:
    """Return H_max = 0.4 ln C, in nats."""
    return 0.4 * float(np.log(n_classes))


class Random(Scorer):
    """Chance: uniform numbers, the same for the same rows and seed."""

    name = "random"
    any_kind = True

    def benefits(self, rows: ScoringRows) -> Floats:
        """Return numbers in [0, 1)."""
        # The tie keys are already a seeded hash of the ids: the same row gets the same number every time.
        return on_target(rows, (rows.ties >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24))


class Agreement(Scorer):
    """Disagreement of the cached model with further cached models: how many differ, then how far apart."""

    name = "agreement"
    needs: ClassVar[frozenset[Need]] = frozenset({"others"})

    def benefits(self, rows: ScoringRows) -> Floats:
        """Return the share of models that differ, and less than one vote more by the entropy of the mean."""
        everyone: Floats = np.stack([rows.probs, *rows.others])
        differing = (everyone.argmax(axis=2) != rows.probs.argmax(axis=1)).mean(axis=0)
        # The entropy of the mean settles equal counts; scaled so that it never outweighs one vote.
        spread = entropy(everyone.mean(axis=0)) / np.log(rows.probs.shape[1])
        score: npt.NDArray[np.floating[Any]] = differing + spread * 0.999 / len(everyone)
        return on_target(rows, score)
