"""Which states to keep: the paper's greedy selection, and the best set of every size by shortest path.

Both minimise the conservative bound (Equation 9) of the chosen set, whose last state is always the most
accurate one, so that the accuracy is the same for every set.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.errors import InputError

Floats = npt.NDArray[np.floating[Any]]


def select_greedy(costs: Floats, accuracies: Floats, size: int) -> list[list[int]]:
    """Grow a set state by state, each time by the one that lowers the bound most (Algorithm 1).

    The set starts with the first and the last state. As printed, the algorithm's loop ends with one state
    more than asked for; this one stops at `size`.

    Args:
        costs: shape (N,), strictly ascending.
        accuracies: shape (N,), not descending.
        size: the largest set wanted, from 2 to N.

    Returns:
        Ascending state indices of the set of every size from 2 to `size`; each contains the one before.

    Raises:
        InputError: a size outside [2, N].
    """
    n = len(costs)
    if not 2 <= size <= n:
        raise InputError(f"greedy selection: size is {size}; with {n} states it must lie in [2, {n}]")
    chosen = [0, n - 1]
    sets = [chosen]
    while len(chosen) < size:
        above = np.searchsorted(chosen, np.arange(n), side="right").clip(max=len(chosen) - 1)
        right = np.array(chosen)[above]
        left = np.array(chosen)[np.searchsorted(chosen, np.arange(n)).clip(min=1) - 1]
        gain = (costs[right] - costs) * (accuracies - accuracies[left])
        gain[chosen] = -np.inf
        chosen = sorted([*chosen, int(gain.argmax())])
        sets.append(chosen)
    return sets


def select_optimal(
    costs: Floats, accuracies: Floats, size: int, *, keep_smallest: bool = False
) -> list[list[int]]:
    """Find the set of every size with the lowest conservative bound, by shortest path.

    With A_0 = A_N - 1, Equation 9 is the sum of R_i (A_i - A_(i-1)) over neighbouring chosen states, a path
    from an imagined state 0 to state N that pays R_j (A_j - A_i) for going from i to j. The best set of k
    states is the shortest path of k steps. Time is O(size N^2), memory O(N^2).

    Args:
        costs: shape (N,), ascending.
        accuracies: shape (N,), not descending.
        size: the largest set wanted, from 1 to N.
        keep_smallest: whether every set of two or more must contain the smallest state, as the greedy's do.

    Returns:
        Ascending state indices of the best set of every size from 1 to `size`.

    Raises:
        InputError: a size outside [1, N].
    """
    n = len(costs)
    if not 1 <= size <= n:
        raise InputError(f"selection: size is {size}; with {n} states it must lie in [1, {n}]")
    step = np.where(
        np.tri(n, dtype=bool), np.inf, costs[None, :] * (accuracies[None, :] - accuracies[:, None])
    )
    start = costs * (accuracies - (accuracies[-1] - 1))
    sets = [[n - 1]]
    length = start.copy()
    if keep_smallest:
        length[1:] = np.inf
    parents: list[npt.NDArray[np.intp]] = []
    for _ in range(1, size):
        total = length[:, None] + step
        parents.append(total.argmin(axis=0))
        length = total[parents[-1], np.arange(n)]
        path = [n - 1]
        for parent in reversed(parents):
            path.append(int(parent[path[-1]]))
        sets.append(path[::-1])
    return sets
