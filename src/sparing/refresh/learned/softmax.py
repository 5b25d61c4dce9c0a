"""Multinomial logistic regression that knows the old answer, for many classes and sparse features.

The logit of class c is a * (log-probability of c in the cached output) + b * (c is the cached class) + w_c
. x. The two shared coefficients a and b say, from the first rows on, how much the new model keeps of the
old answer; the weights w_c, with a ridge penalty, say what it answers otherwise. With no rows at all it
predicts the old answer.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.integer[Any]]

SHARED_PENALTY = 0.1
ITERATIONS = 40
CORRECTIONS = 10


@dataclass(frozen=True)
class SoftmaxRows:
    """What a softmax regression reads of m rows.

    Attributes:
        dense: shape (m, d1), float32; a column of ones included.
        sparse: CSR matrix (m, d2), float32.
        logs: shape (m, C), log-probabilities of the cached output above their floor, at least 0.
        cached: shape (m,), the cached class, in [0, C).
    """

    dense: Floats
    sparse: Any
    logs: Floats
    cached: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.cached)


class SoftmaxRegression:
    """A model that is refitted to more and more rows, each time from where it stood.

    Attributes:
        classes: the classes that it can answer, ascending: [0, C), and further ones that it has seen.
        shared: the coefficients a and b.
    """

    def __init__(self, size: int, features: int, penalty: float) -> None:
        """Begin with a model that predicts the old answer.

        Args:
            size: K, number of classes that the new model may answer; the first C are the cached model's.
            features: d1 + d2.
            penalty: ridge penalty of each weight, positive.
        """
        self._weights = np.zeros((features, size), dtype=np.float32)
        self._penalty = penalty
        self.classes = np.empty(0, dtype=np.int64)
        self.shared = np.array([1.0, 1.0])

    def fit(self, rows: SoftmaxRows, labels: Integers, *, iterations: int = ITERATIONS) -> None:
        """Continue the fit on rows that were run.

        Args:
            rows: k rows, the earlier ones included; k >= 1.
            labels: shape (k,), the new model's classes, in [0, K).
            iterations: L-BFGS steps at most.
        """
        from scipy.optimize import minimize

        self.classes = np.unique(np.concatenate([labels, np.arange(rows.logs.shape[1])]))
        count, width, features = len(rows), len(self.classes), len(self._weights)
        d1 = rows.dense.shape[1]
        position = np.full(self._weights.shape[1], -1)
        position[self.classes] = np.arange(width)
        target, kept, everyone = position[labels], position[rows.cached], np.arange(count)
        old = self._old_logs(rows)
        dense_t, sparse_t = np.ascontiguousarray(rows.dense.T), rows.sparse.T.tocsr()

        def objective(point: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
            a, b = point[0], point[1]
            weights = point[2:].reshape(features, width).astype(np.float32)
            z = rows.dense @ weights[:d1]
            z += rows.sparse @ weights[d1:]
            z += np.float32(a) * old
            z[everyone, kept] += np.float32(b)
            z -= z.max(axis=1, keepdims=True)
            right = z[everyone, target].astype(np.float64)
            np.exp(z, out=z)
            total = z.sum(axis=1, dtype=np.float64)
            loss = float((np.log(total) - right).sum())
            z /= total[:, None].astype(np.float32)
            z[everyone, target] -= 1
            gradient = np.empty(len(point))
            block = gradient[2:].reshape(features, width)
            block[:d1] = dense_t @ z
            block[d1:] = sparse_t @ z
            gradient[0] = np.einsum("ij,ij->", z, old, dtype=np.float64) + SHARED_PENALTY * (a - 1)
            gradient[1] = z[everyone, kept].sum(dtype=np.float64) + SHARED_PENALTY * (b - 1)
            gradient[2:] += self._penalty * point[2:]
            loss += 0.5 * self._penalty * float(point[2:] @ point[2:])
            loss += 0.5 * SHARED_PENALTY * float((a - 1) ** 2 + (b - 1) ** 2)
            return loss / count, gradient / count

        start = np.concatenate([self.shared, self._weights[:, self.classes].astype(np.float64).ravel()])
        solution = minimize(
            objective,
            start,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": iterations, "maxcor": CORRECTIONS, "ftol": 1e-7, "gtol": 1e-6},
        )
        self.shared = solution.x[:2]
        self._weights[:, self.classes] = solution.x[2:].reshape(features, width)

    def probabilities(self, rows: SoftmaxRows) -> Floats:
        """Predict the new model's answer.

        Args:
            rows: m rows.

        Returns:
            Shape (m, len(classes)), rows summing to 1.
        """
        d1 = rows.dense.shape[1]
        weights = self._weights[:, self.classes]
        z = rows.dense @ weights[:d1]
        z += rows.sparse @ weights[d1:]
        z += np.float32(self.shared[0]) * self._old_logs(rows)
        z[np.arange(len(rows)), np.searchsorted(self.classes, rows.cached)] += np.float32(self.shared[1])
        z -= z.max(axis=1, keepdims=True)
        np.exp(z, out=z)
        z /= z.sum(axis=1, keepdims=True)
        result: Floats = z
        return result

    def _old_logs(self, rows: SoftmaxRows) -> Floats:
        """Return cached log-probabilities in the order of `classes`; a class that is new has none."""
        result = np.zeros((len(rows), len(self.classes)), dtype=np.float32)
        result[:, : rows.logs.shape[1]] = rows.logs
        return result
