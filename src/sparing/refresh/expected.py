"""What a promise is expected to take, by the rows that `fit` has run."""

from dataclasses import dataclass

import numpy as np

from sparing.numerics.certificate import allowed_wrong, plan_audit
from sparing.numerics.distributions import entropy
from sparing.refresh.round import Round

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CONFIDENCE = 0.95
BINS = 20
FEWEST = 30


@dataclass(frozen=True)
class CurvePoint:
    """Consistency at a share of the forwards.

    Attributes:
        forwards: share of a full re-run's.
        consistency: expected.
        low, high: where it is with 95 % confidence, by the number of rows that it rests on.
    """

    forwards: float
    consistency: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """What is to be expected when rows are run in the order of their entropy.

    Attributes:
        rows: how many rows it rests on.
        points: by share of forwards, ascending.
        needed: share of the forwards that the promise is expected to take, its audit included.
    """

    rows: int
    points: tuple[CurvePoint, ...]
    needed: float


def expected_curve(round_: Round) -> Curve | None:
    """Estimate consistency by share of forwards from rows that were drawn at random; None with too few.

    The binomial intervals are Clopper and Pearson's. Learning may do better than the order by entropy.
    """
    from scipy.stats import beta

    known = round_.known[round_.names.index(round_.target)]
    if (
        known is None
        or len(known.ids) < FEWEST
        or round_.promise is None
        or round_.promise.consistency is None
    ):
        return None
    n = len(round_.cache)
    unsure = np.concatenate([entropy(rows.probs) for rows in round_.cache.scan()])
    held = round_.cache.get(known.ids)
    new = dict(zip(known.ids.to_pylist(), known.outputs.argmax(axis=1).tolist(), strict=True))
    answers = np.array([new[name] for name in held.ids.to_pylist()])
    changed = held.probs.argmax(axis=1) != answers
    # Where the rows that were run stand in the order of all rows, as a share.
    rank = np.searchsorted(np.sort(-unsure), -entropy(held.probs)) / n
    m = len(changed)
    points = []
    for share in SHARES:
        wrong = int((changed & (rank >= share)).sum())
        low = float(beta.ppf((1 + CONFIDENCE) / 2, wrong + 1, m - wrong)) if wrong < m else 1.0
        high = float(beta.ppf((1 - CONFIDENCE) / 2, wrong, m - wrong + 1)) if wrong else 0.0
        points.append(CurvePoint(share, 1 - wrong / m, 1 - low, 1 - high))
    bins = np.minimum((rank * BINS).astype(int), BINS - 1)
    rates = (np.bincount(bins, changed, BINS) + 0.25) / (np.bincount(bins, minlength=BINS) + 1)
    chances = rates[np.minimum(np.arange(n) * BINS // n, BINS - 1)]
    plan = plan_audit(chances, allowed_wrong(n, round_.promise.consistency), round_.promise.alpha)
    return Curve(m, tuple(points), min((plan.forwards(n)) / n, 1.0))
