"""Which expert gets which sample: the largest gain after its price."""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int32]


def choose(gains: Floats, costs: Floats, multiplier: float) -> Indices:
    """Pick for every sample the expert with the largest `gain - multiplier * cost`.

    Args:
        gains: shape (m, n), what expert i is predicted to bring on each sample.
        costs: shape (n,), what expert i costs per sample.
        multiplier: the price of one unit of cost, from 0 up.

    Returns:
        Shape (m,), the index of the expert; ties go to the cheaper one, then to the one given first.
    """
    by_cost = np.argsort(costs, kind="stable")
    net = gains[:, by_cost] - multiplier * costs[by_cost]
    chosen: Indices = by_cost[net.argmax(axis=1)].astype(np.int32)
    return chosen
