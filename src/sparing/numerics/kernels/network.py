"""The end of a router: its last two layers in one pass over the first one's products."""

from typing import Any

import numpy as np

from sparing.numerics.kernels.scalars import REASSOCIATE, compiled


@compiled(fastmath=REASSOCIATE)
def relu_dot(products: Any, biases: Any, weights: Any, bias: Any, out: Any) -> None:
    """Give max(products + biases, 0) @ weights + bias.

    Args:
        products: shape (m, h), float32.
        biases: shape (h,), float32.
        weights: shape (h,), float32.
        bias: float32.
        out: shape (m,), float32.
    """
    for i in range(len(products)):
        total = np.float32(0)
        for c in range(len(weights)):
            total += max(products[i, c] + biases[c], np.float32(0)) * weights[c]
        out[i] = total + bias
