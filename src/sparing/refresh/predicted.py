"""Answers of rows that a round did not run: what the target is predicted to give."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


@dataclass(frozen=True)
class Predicted:
    """What rows that were not run store beside their outputs, and what that is expected to bring.

    Attributes:
        ids: of the k rows whose predicted answer changes.
        positions: shape (k,), in the order of the cache's scan.
        classes: shape (k,), the predicted classes; -1 for rows that answer by their outputs again.
        probabilities: shape (k,), that the target would give these answers.
        report: "stored" (whether rows store predicted answers), "rows" (how many do, or would), "gain" (the
            share of the cache's rows by which consistency is expected to rise), and what the held-out rows
            say that this rests on: their number ("held_out"), and of those, weighted, the shares where only
            the predicted answer is right ("wins") and where only the cached one is ("losses"). None where
            nothing can be predicted.
    """

    ids: pa.Array
    positions: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    report: dict[str, Any] | None = None
