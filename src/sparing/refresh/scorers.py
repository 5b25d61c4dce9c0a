"""Scorers: from cached distributions to what running a candidate is predicted to bring."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.distributions import entropy, least_confidence, margin
from sparing.errors import InputError

Benefits = npt.NDArray[np.float32]

UNCERTAINTY: dict[str, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    "entropy": entropy,
    "least-confidence": least_confidence,
    "margin": lambda probs: 1 - margin(probs),
}
"""Scorers that look at the cached distribution alone; higher is less sure."""

NAMES = (*UNCERTAINTY, "random")


@dataclass(frozen=True)
class Scorer:
    """What ranks the rows of a round.

    Attributes:
        name: how reports call it.
        digest: what it is; equal digests give equal benefits.
        benefits: from distributions (m, C) and tie keys (m,) to benefits (m, n), one column per candidate;
            -inf where a candidate is not to be run.
    """

    name: str
    digest: str
    benefits: Callable[[npt.NDArray[np.float32], npt.NDArray[np.uint64]], Benefits]


def named_scorer(name: str, candidates: Sequence[str], target: str) -> Scorer:
    """Make a scorer that knows nothing of the candidates: it always picks the target.

    Args:
        name: one of `NAMES`.
        candidates: names of the n candidates.
        target: the candidate that gets the rows.

    Returns:
        The scorer; its benefits are entropies in nats, 1 - max p, 1 - margin, or uniform random numbers.

    Raises:
        InputError: an unknown name.
    """
    if name not in NAMES:
        raise InputError(f"there is no scorer {name!r}: choose one of {', '.join(NAMES)}, or give a router")
    column = list(candidates).index(target)

    def benefits(probs: npt.NDArray[np.float32], ties: npt.NDArray[np.uint64]) -> Benefits:
        result = np.full((len(probs), len(candidates)), -np.inf, dtype=np.float32)
        if name == "random":
            # The tie keys are already a seeded hash of the ids: the same row gets the same number every time.
            result[:, column] = (ties >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
        else:
            result[:, column] = UNCERTAINTY[name](probs)
        return result

    return Scorer(name, name, benefits)
