"""What chance alone would give an oracle: models that err independently, or guess, look complementary.

An oracle picks the right answer with hindsight. Of many models that guess, one is nearly always right,
although no policy could know which. So an oracle's accuracy means something only beside what luck gives it.
"""

from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.bounds.approximate import frontier_of_errors
from sparing.errors import InputError
from sparing.numerics.frontier import CHUNK_VALUES, Curve

Floats = npt.NDArray[np.floating[Any]]
Outcomes = npt.NDArray[np.bool_]

SEARCH_BYTES = 4_000_000_000
"""How much an exhaustive search over sets of models may read: about two seconds."""


def independent_frontier(costs: Floats, accuracies: Floats) -> Curve:
    """The oracle frontier if the same models erred independently of each other, at these accuracies.

    Where errors are independent, no property of a sample says which model is right on it, and no policy beats
    the static mixture: all of this frontier's lead is hindsight.

    Args:
        costs: shape (N,), ascending.
        accuracies: shape (N,), in that order.

    Returns:
        The frontier; its last point is the oracle, at accuracy 1 - product of (1 - A_i).
    """
    return frontier_of_errors(costs, np.cumprod(1 - accuracies))


def guessing_frontier(
    costs: Floats, accuracies: Floats, classes: float | npt.NDArray[np.integer[Any]]
) -> Curve:
    """The oracle frontier if the most accurate model stayed as it is and all others merely guessed.

    Args:
        costs: shape (N,), ascending.
        accuracies: shape (N,), in that order.
        classes: how many options C a guess chooses from, or shape (m,), how many each sample offers; >= 1.

    Returns:
        The frontier; its last point is the oracle, at accuracy 1 - (1 - A_best) (1 - 1/C)^(N - 1).

    Raises:
        InputError: fewer than one option.
    """
    options, counts = np.unique(classes, return_counts=True)
    if options[0] < 1:
        raise InputError(f"chance: a guess needs at least one option, got {options[0]:g}")
    best = int(accuracies.argmax())
    failing = np.full((len(options), len(costs)), (1 - 1 / options)[:, None])
    failing[:, best] = 1 - accuracies[best]
    return frontier_of_errors(costs, counts @ np.cumprod(failing, axis=1) / counts.sum())


@dataclass(frozen=True)
class SmallSet:
    """The set of a few models that solves most together.

    Attributes:
        states: column indices, ascending.
        accuracy: share of samples on which at least one is right.
        best_single: accuracy of the best of them.
        independent: what independent errors of the same accuracies would give.
        exhaustive: whether all sets of the size were tried; otherwise the next smaller set was extended.
    """

    states: tuple[int, ...]
    accuracy: float
    best_single: float
    independent: float
    exhaustive: bool


def best_small_sets(
    correct: Outcomes, sizes: tuple[int, ...] = (2, 3), *, search_bytes: int = SEARCH_BYTES
) -> list[SmallSet]:
    """Find the pair, the triple, ... with the highest oracle accuracy: few models leave little to luck.

    Args:
        correct: shape (m, N), m >= 1, whether state j is right on sample i.
        sizes: ascending set sizes; those above N are left out.
        search_bytes: a size is searched exhaustively while sets times (m / 8 + 1000) stays below this.

    Returns:
        One set per size, ties to the set that comes first.
    """
    m, n = correct.shape
    wrong = _packed_errors(correct)
    errors = np.bitwise_count(wrong).sum(axis=1, dtype=np.int64)
    found: list[SmallSet] = []
    for size in sizes:
        if size > n:
            break
        exhaustive = comb(n, size) * (wrong.shape[1] + 1000) <= search_bytes
        if exhaustive:
            states = _search(wrong, size)
        else:
            states = found[-1].states if found else (int(errors.argmin()),)
            while len(states) < size:
                states = _extended(wrong, states)
        shares = errors[list(states)] / m
        unsolved = np.bitwise_count(np.bitwise_and.reduce(wrong[list(states)])).sum(dtype=np.int64)
        found.append(
            SmallSet(
                states,
                float(1 - unsolved / m),
                float(1 - shares.min()),
                float(1 - shares.prod()),
                exhaustive,
            )
        )
    return found


def _packed_errors(correct: Outcomes) -> npt.NDArray[np.uint8]:
    """One bit per outcome, one row per state: shape (N, ceil(m / 8)), set where the state is wrong."""
    m, n = correct.shape
    packed = np.empty((n, -(-m // 8)), np.uint8)
    step = max(8, CHUNK_VALUES // n // 8 * 8)
    for start in range(0, m, step):
        rows = ~correct[start : start + step]
        bits = np.zeros((-(-len(rows) // 8), n), np.uint8)
        for bit in range(8):  # several times as fast as np.packbits along the first axis
            every_eighth = rows[bit::8].view(np.uint8)
            bits[: len(every_eighth)] |= every_eighth << bit
        packed[:, start // 8 : start // 8 + len(bits)] = bits.T
    return packed


def _search(wrong: npt.NDArray[np.uint8], size: int) -> tuple[int, ...]:
    best, least = tuple(range(size)), np.iinfo(np.int64).max
    for head in combinations(range(len(wrong) - 1), size - 1):
        together = np.bitwise_and.reduce(wrong[list(head)])
        unsolved = np.bitwise_count(wrong[head[-1] + 1 :] & together).sum(axis=1, dtype=np.int64)
        if unsolved.min() < least:
            least = int(unsolved.min())
            best = (*head, head[-1] + 1 + int(unsolved.argmin()))
    return best


def _extended(wrong: npt.NDArray[np.uint8], states: tuple[int, ...]) -> tuple[int, ...]:
    together = np.bitwise_and.reduce(wrong[list(states)])
    unsolved = np.bitwise_count(wrong & together).sum(axis=1, dtype=np.int64)
    unsolved[list(states)] = np.iinfo(np.int64).max
    return tuple(sorted((*states, int(unsolved.argmin()))))
