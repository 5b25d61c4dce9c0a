"""Which expert gets which sample: the largest gain after its price, and the price that a budget asks for."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.errors import BudgetError, InputError

Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int32]

ROUNDING = 1e-12
"""Share of a budget by which a mean cost may exceed it: neither 6 ms nor a mean of costs is an exact float,
so that a choice which meets a budget would be refused on one processor and not on another."""


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


def mean_cost(chosen: Indices, costs: Floats) -> float:
    """Mean cost per sample of a choice.

    Args:
        chosen: shape (m,), m >= 1, indices of experts.
        costs: shape (n,).

    Returns:
        The mean, in the unit of `costs`.
    """
    # Not a matrix product, whose last bit depends on the processor.
    return math.fsum(np.bincount(chosen, minlength=len(costs)) * costs) / len(chosen)


def solve_multiplier(gains: Floats, costs: Floats, budget: float) -> float:
    """Find the smallest multiplier at which `choose` stays within a mean cost.

    The mean cost falls in steps as the multiplier grows, by one sample's difference in cost at a time unless
    several samples change their mind at the same multiplier. So what is spent is at most the budget, to a
    relative rounding of `ROUNDING`, and below it by up to one step. Floats from 0 up are ordered as their
    bits are, so that at most 63 halvings find the exact one.

    Args:
        gains: shape (m, n), m >= 1, finite.
        costs: shape (n,), finite, from 0 up.
        budget: mean cost per sample, in the unit of `costs`.

    Returns:
        The multiplier, from 0 up; 0 where the budget does not bind.

    Raises:
        BudgetError: the budget is below the cheapest expert's cost, which is named.
        InputError: the shapes do not match, there are no samples, or a value is not finite.
    """
    gains, costs = gains.astype(np.float64), costs.astype(np.float64)
    if gains.ndim != 2 or costs.shape != gains.shape[1:] or not gains.size:
        raise InputError(f"gains of shape {gains.shape} do not match costs of shape {costs.shape}")
    if not (np.isfinite(gains).all() and np.isfinite(costs).all() and (costs >= 0).all()):
        raise InputError("gains and costs must be finite numbers, and costs not negative")
    cheapest = float(costs.min())
    allowed = budget * (1 + ROUNDING)
    if not cheapest <= allowed:
        raise BudgetError(f"a mean cost of {budget:g} cannot be met: the least possible is {cheapest:g}")

    def fits(multiplier: float) -> bool:
        return mean_cost(choose(gains, costs, multiplier), costs) <= allowed

    if fits(0.0):
        return 0.0
    pricier = costs > cheapest
    ahead = gains[:, pricier] - gains[:, ~pricier].max(axis=1, keepdims=True)
    enough = max(float((ahead / (costs[pricier] - cheapest)).max()), np.finfo(np.float64).tiny)
    while not fits(enough):  # rounding may leave the last sample just over its breakpoint
        enough *= 2
    low, high = 0, int(np.float64(enough).view(np.int64))
    while high - low > 1:
        middle = (low + high) // 2
        if fits(float(np.int64(middle).view(np.float64))):
            high = middle
        else:
            low = middle
    return float(np.int64(high).view(np.float64))
