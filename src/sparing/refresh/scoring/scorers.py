"""Scorers: from cached distributions to what running a candidate is predicted to bring."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sparing.cache.encodings import Encoded, encoded
from sparing.cache.encodings.scoring import uncertainty
from sparing.errors import InputError
from sparing.numerics.distributions import UNCERTAINTY

Benefits = npt.NDArray[np.float32]

NAMES = (*UNCERTAINTY, "random")


class Score(Protocol):
    """From distributions, (m, C) or encoded, tie keys (m,) and what rows hold to benefits (m, n)."""

    def __call__(
        self,
        rows: Encoded | npt.NDArray[np.float32],
        ties: npt.NDArray[np.uint64],
        holders: Sequence[str] = (),
        held: npt.NDArray[np.int64] | None = None,
    ) -> Benefits:
        """Score rows: `held` (m,) gives positions in `holders`; only some scorers look at it."""


@dataclass(frozen=True)
class Scorer:
    """What ranks the rows of a round.

    Attributes:
        name: how reports call it.
        digest: what it is; equal digests give equal benefits.
        benefits: from rows to benefits (m, n), one column per candidate; -inf where a candidate is not to be
            run.
    """

    name: str
    digest: str
    benefits: Score


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
        raise InputError(f"there is no scorer {name!r}: choose one of {', '.join(NAMES)}, or give a ranker")
    column = list(candidates).index(target)

    def benefits(
        rows: Encoded | npt.NDArray[np.float32],
        ties: npt.NDArray[np.uint64],
        holders: Sequence[str] = (),  # noqa: ARG001 -- only some scorers look at what rows hold
        held: npt.NDArray[np.int64] | None = None,  # noqa: ARG001
    ) -> Benefits:
        result = np.full((len(rows), len(candidates)), -np.inf, dtype=np.float32)
        if name == "random":
            # The tie keys are already a seeded hash of the ids: the same row gets the same number every time.
            result[:, column] = (ties >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
        else:
            result[:, column] = uncertainty(encoded(rows), name)
        return result

    return Scorer(name, name, benefits)
