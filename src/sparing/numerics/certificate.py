"""How many rows must be run so that few of the others are wrong: a certificate from a random sample.

The rows are a finite population in a fixed order. Each is right or wrong, which is known once it is looked
at. Nothing is assumed of the rows, of their order, or of what was predicted of them: only the draw of the
audited rows is random. `docs/promise.md` has the proofs.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]

GROWTH = 1.2
"""Sample sizes are tried in steps of this factor: the cost is flat around the best one."""
FEWEST = 20
"""Smaller samples are not tried."""


def allowed_wrong(rows: int, share: Fraction) -> int:
    """Return how many of some rows may be wrong when at least a share of them must be right.

    Args:
        rows: how many there are.
        share: in [0, 1], exact, so that 95 % of 10,000 rows are 9,500.
    """
    return rows - math.ceil(rows * share)


@dataclass(frozen=True)
class AuditPlan:
    """How to audit rows in a fixed order, decided before any of them is looked at.

    Attributes:
        draws: how many rows to audit; 0 when all rows above `cut` are simply run.
        limit: at most how many rows below the cut may be wrong before those that the audit finds are put
            right.
        cut: how many rows are expected to be run, in order, beside the audited rows below them.
    """

    draws: int
    limit: int
    cut: int

    def forwards(self, rows: int) -> int:
        """Count the rows that are expected to be run in all, of so many."""
        return self.cut + round(self.draws * (rows - self.cut) / rows) if rows else 0


def plan_audit(wrong: Doubles, allowed: int, alpha: float) -> AuditPlan:
    """Choose the sample size that is expected to keep a promise with the fewest forwards.

    A bad prediction costs forwards, never the promise.

    Args:
        wrong: shape (n,), how likely each row is wrong, in the order in which they are run.
        allowed: how many rows may stay wrong, at least 0.
        alpha: the accepted probability of a miss, in (0, 1).

    Returns:
        The plan.
    """
    n = len(wrong)
    if n <= allowed:
        return AuditPlan(0, allowed, 0)
    best, fewest = AuditPlan(0, allowed, n - allowed), n - allowed
    if allowed == 0:
        return best
    left = np.arange(n, 0, -1, dtype=np.float64)
    expected = np.cumsum(wrong[::-1])[::-1]

    draws = FEWEST
    while draws < fewest:
        # Where the cut is accepted if the sample holds as many wrong rows as expected.
        rate = draws / n
        found = expected * rate
        spread = np.sqrt((1 - rate) * np.maximum(1 - expected / left, 0))
        above = found + (_upper(found, alpha) - found) * spread
        cut = int(np.append((above / rate - found <= allowed) | (left <= allowed), True).argmax())
        limit = largest_limit(n - cut, round(rate * (n - cut)), allowed, alpha)
        plan = AuditPlan(draws, limit or 0, cut)
        if limit is not None and plan.forwards(n) < fewest:
            best, fewest = plan, plan.forwards(n)
        draws = math.ceil(draws * GROWTH)
    return best


def largest_limit(rows: int, audited: int, allowed: int, alpha: float) -> int | None:
    """Find the largest limit that leaves at most `allowed` rows wrong once the audit put its own right.

    Args:
        rows: below the cut.
        audited: how many of them are audited.
        allowed: how many may stay wrong.
        alpha: the accepted probability of a miss.

    Returns:
        allowed + x, where x is the largest count of wrong audited rows at which that limit is certified;
        None when not even a sample without one certifies it.
    """
    low, high = -1, min(audited, max(rows - allowed - 1, 0))
    while low < high:
        x = (low + high + 1) // 2
        if _certified(x, rows, audited, allowed + x, alpha):
            low = x
        else:
            high = x - 1
    return allowed + low if low >= 0 else None


def certified_cut(audited: Integers, wrong: Bools, rows: int, limit: int, alpha: float) -> int:
    """Return how many rows to run, in order, so that at most `limit` of the others were wrong.

    Cuts are tried from `rows` downwards until one is not accepted. A cut k leaves u = rows - k rows, of which
    a were audited and x were found wrong; it is accepted when u <= limit, or when

        P(X <= x) <= alpha,  X ~ Hypergeometric(u, limit + 1, a).

    With probability at least 1 - alpha over the draw of the audited rows, at most `limit` rows after the
    returned cut are wrong, the audited ones included: cuts are nested, and the first from below that
    has one wrong row too many would have to be accepted (fixed-sequence testing).

    Args:
        audited: positions of the audited rows in the order, ascending, shape (s,); drawn uniformly without
            replacement after everything else was fixed.
        wrong: whether each of them was wrong, shape (s,).
        rows: how many rows there are.
        limit: fixed before the rows were audited, at least 0.
        alpha: the accepted probability of a miss, in (0, 1).

    Returns:
        The smallest accepted cut, in [0, rows].
    """
    drawn = np.asarray(audited, dtype=np.int64)
    found = np.append(np.cumsum(np.asarray(wrong, dtype=np.int64)[::-1])[::-1], 0)
    many = np.arange(len(drawn), -1, -1)
    # Between two audited rows only u changes: the larger it is, the harder to accept.
    lowest, highest = np.append(-1, drawn) + 1, np.append(drawn, rows)
    ends = np.flatnonzero(~_certified(found, rows - lowest, many, limit, alpha))
    if not len(ends):
        return 0
    last = int(ends[-1])
    low, high, x, a = int(lowest[last]), int(highest[last]), found[last], many[last]
    if not _certified(x, rows - high, a, limit, alpha):
        # The row that was audited last was one wrong row too many.
        return int(lowest[last + 1]) if last + 1 < len(lowest) else rows
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _certified(x, rows - middle, a, limit, alpha) else (middle, high)
    return high


def _certified(x: Any, rows: Any, audited: Any, limit: int, alpha: float) -> Any:
    """Return whether x wrong rows among those audited rule out that more than `limit` of all are wrong."""
    from scipy.stats import hypergeom

    few = np.asarray(rows) <= limit
    return few | (hypergeom.cdf(x, np.maximum(rows, limit + 1), limit + 1, audited) <= alpha)


def _upper(found: Doubles, alpha: float) -> Doubles:
    """Return about the upper confidence limit of a Poisson mean (Wilson and Hilferty)."""
    from scipy.stats import norm

    m = found + 1
    result: Doubles = m * (1 - 1 / (9 * m) + norm.isf(alpha) / (3 * np.sqrt(m))) ** 3
    return result
