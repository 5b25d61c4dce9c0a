"""The gain predictor: how much accuracy pooling a candidate's output into a row is expected to bring."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.distributions import entropy

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.integer[Any]]

RIDGE = 3.0
"""Prior rows behind every coefficient: what few labels cannot tell stays near the shared answer."""


@dataclass(frozen=True)
class GainPredictor:
    """Expected gain in accuracy, linear in two uncertainties, with its own offset and slope per model held.

    Attributes:
        weights: shape (3,): offset, entropy, 1 - max p, shared by all rows.
        own: shape (holders, 3), what each held model adds to them.
    """

    weights: npt.NDArray[np.float64]
    own: npt.NDArray[np.float64]

    def gains(self, probs: Floats, held: Integers) -> Floats:
        """Score rows.

        Args:
            probs: shape (m, C), cached distributions.
            held: shape (m,), what each row holds; beyond the training rows' sets only the shared part counts.

        Returns:
            Shape (m,), expected gain in accuracy, in [-1, 1] or a little beyond.
        """
        inputs = _inputs(probs)
        known = held < len(self.own)
        extra = np.where(known[:, None], self.own[np.where(known, held, 0)], 0)
        result: Floats = (inputs * (self.weights + extra)).sum(axis=1).astype(np.float32)
        return result


def train_gain(old: Floats, pooled: Floats, labels: Integers, held: Integers) -> GainPredictor:
    """Fit the predictor to labelled rows by ridge regression.

    Args:
        old: shape (m, C), cached distributions.
        pooled: shape (m, C), what the rows would hold after running the candidate.
        labels: shape (m,), class indices.
        held: shape (m,), which set of models each row holds.

    Returns:
        The predictor.
    """
    right_after = pooled.argmax(axis=1) == labels
    right_before = old.argmax(axis=1) == labels
    gain = right_after.astype(np.float64) - right_before
    inputs = _inputs(old)
    sets = int(held.max()) + 1
    own = np.zeros((len(old), sets, inputs.shape[1]))
    own[np.arange(len(old)), held] = inputs
    design = np.hstack([inputs, own.reshape(len(old), -1)])
    penalty = np.full(design.shape[1], RIDGE)
    penalty[: inputs.shape[1]] = 1e-6
    solved = np.linalg.solve(design.T @ design + np.diag(penalty), design.T @ gain)
    return GainPredictor(solved[: inputs.shape[1]], solved[inputs.shape[1] :].reshape(sets, -1))


def _inputs(probs: Floats) -> npt.NDArray[np.float64]:
    return np.column_stack([np.ones(len(probs)), entropy(probs), 1 - probs.max(axis=1)]).astype(np.float64)
