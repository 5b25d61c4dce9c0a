"""How good a result is: accuracy, consistency with a full re-run, and the headroom that a policy covers."""

from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.errors import InputError

Labels = npt.NDArray[np.integer[Any]]


def accuracy(predicted: Labels, labels: Labels) -> float:
    """Share of samples whose predicted class is the label.

    Args:
        predicted: shape (m,), class indices.
        labels: shape (m,), class indices.

    Returns:
        A share in [0, 1]; NaN when there are no samples.

    Raises:
        InputError: the shapes differ.
    """
    return _share_equal(predicted, labels, "labels")


def consistency(stored: Labels, full: Labels) -> float:
    """Share of samples whose stored class is what a full re-run would have stored (PURE, Equation 2).

    Args:
        stored: shape (m,), class indices in the cache.
        full: shape (m,), class indices of the full re-run.

    Returns:
        A share in [0, 1]; NaN when there are no samples.

    Raises:
        InputError: the shapes differ.
    """
    return _share_equal(stored, full, "outputs of the full re-run")


def headroom(policy: float, baseline: float, best: float) -> float:
    """Share of the way from a baseline to the best possible that a policy covers.

    At equal mean cost the baseline is the best random mixture of single models and the best is the oracle
    frontier; at a fixed update rate they are random selection and the oracle's.

    Args:
        policy: what the policy reached (accuracy or consistency).
        baseline: what the baseline reaches at the same cost.
        best: what no policy can beat at the same cost; at least `baseline`.

    Returns:
        1 at the best, 0 at the baseline, negative below it; NaN when there is no room between them.
    """
    room = best - baseline
    return (policy - baseline) / room if room > 0 else float("nan")


def _share_equal(left: Labels, right: Labels, what: str) -> float:
    if left.shape != right.shape or left.ndim != 1:
        raise InputError(f"{what}: expected one per sample, got shapes {left.shape} and {right.shape}")
    return float((left == right).mean()) if len(left) else float("nan")
