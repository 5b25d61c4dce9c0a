"""The offload gate: which requests the edge answers by itself, and which are worth the uplink."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from sparing.errors import InputError
from sparing.numerics.distributions import entropy, margin

Floats = npt.NDArray[np.floating[Any]]
Measure = Literal["min-entropy", "entropy", "margin"]


def uncertainty(probs: Floats, measure: Measure = "min-entropy") -> Floats:
    """Measure how uncertain each distribution is; higher is less certain.

    Args:
        probs: shape (m, C).
        measure: "min-entropy" (-log2 of the largest probability), "entropy" (in bits), or "margin" (one minus
            the difference between the two largest).

    Returns:
        Shape (m,): in [0, log2 C] for the entropies, in [0, 1] for the margin.
    """
    if measure == "min-entropy":
        return np.asarray(np.maximum(-np.log2(probs.max(axis=1)), 0))
    if measure == "entropy":
        return np.asarray(entropy(probs) / np.log(2))
    return np.asarray(1 - margin(probs))


@dataclass(frozen=True)
class Gate:
    """Offload what is too uncertain for the edge.

    Attributes:
        measure: how uncertainty is measured.
        threshold: offload from this uncertainty on (the papers' eta; 1.0 with min-entropy offloads what has
            no probability above one half).
        share: instead of the threshold, offload this share of all requests; of each batch the most uncertain.

    Raises:
        InputError: an unknown measure, a negative threshold, or a share outside [0, 1].
    """

    measure: Measure = "min-entropy"
    threshold: float = 1.0
    share: float | None = None

    def __post_init__(self) -> None:
        if self.measure not in get_args(Measure):
            raise InputError(f"gate {self.measure!r}: expected one of {', '.join(get_args(Measure))}")
        if not self.threshold >= 0:
            raise InputError(f"the gate's threshold must be a number from 0 up, got {self.threshold}")
        if self.share is not None and not 0 <= self.share <= 1:
            raise InputError(f"the share to offload must lie in [0, 1], got {self.share}")

    def offloads(self, probs: Floats, *, seen: int = 0, offloaded: int = 0) -> npt.NDArray[np.bool_]:
        """Decide for a batch.

        Args:
            probs: shape (m, C), the edge's distributions.
            seen: requests before this batch; counts with a share only.
            offloaded: how many of them were offloaded.

        Returns:
            Shape (m,): True where the request is offloaded. With a share, as many as bring the total to the
            floor of share times all requests so far; among equals the earlier ones.
        """
        unsure = uncertainty(probs, self.measure)
        if self.share is None:
            return np.asarray(unsure >= self.threshold)
        chosen = np.zeros(len(probs), dtype=bool)
        # Over the running total: floored batch by batch, small batches would offload too little or nothing.
        due = int(self.share * (seen + len(probs)) + 1e-9) - offloaded
        chosen[np.argsort(-unsure, kind="stable")[: max(due, 0)]] = True
        return chosen
