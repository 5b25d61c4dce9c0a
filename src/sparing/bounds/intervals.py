"""How sure a bound is: bootstrap confidence intervals over the samples."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.bounds.oracle import Oracle
from sparing.errors import InputError

Floats = npt.NDArray[np.floating[Any]]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Intervals:
    """Confidence intervals of an oracle's figures; the baseline stays the model that is best on all samples.

    Attributes:
        cost: of the oracle's mean cost.
        accuracy: of the oracle's accuracy.
        accuracy_gain: of its lead over the baseline, on the same samples.
        saving: of the baseline's mean cost minus the oracle's.
        ratio: of the baseline's mean cost over the oracle's.
        equal_accuracy_cost: of the mean cost at which the frontier reaches the baseline's accuracy.
        equal_accuracy_ratio: of the baseline's mean cost over that cost.
        alphas: shape (N, 2), of each alpha, in the oracle's `order`.
        accuracies: shape (N, 2), of each state's accuracy, in the oracle's `order`.
    """

    cost: Interval
    accuracy: Interval
    accuracy_gain: Interval
    saving: Interval
    ratio: Interval
    equal_accuracy_cost: Interval
    equal_accuracy_ratio: Interval
    alphas: Floats
    accuracies: Floats


def oracle_intervals(
    oracle: Oracle,
    correct: npt.NDArray[np.bool_],
    costs: Floats,
    *,
    beta0: float = 0.0,
    beta1: float = 0.0,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Intervals:
    """Percentile bootstrap of an oracle's figures, by resampling the samples.

    With one cost per state, samples that look alike to the oracle are drawn together (a multinomial over at
    most 2 N + 2 kinds), so a million samples take no longer than a thousand. With costs per sample every
    replicate draws all m rows.

    Args:
        oracle: from `exact_oracle` on the same outcomes and costs.
        correct: shape (m, N).
        costs: shape (N,) or (m, N).
        beta0: fixed adaptation cost per sample, as in `Bound.with_adaptation_cost`.
        beta1: adaptation cost per unit of the chosen state's cost.
        replicates: how many resamplings, at least 1.
        level: share of the replicates inside the interval, in (0, 1).
        seed: of the random numbers.

    Returns:
        The intervals.

    Raises:
        InputError: replicates or level out of range.
    """
    _check(replicates, level)
    m = len(correct)
    rng = np.random.default_rng(seed)
    right = correct[:, oracle.baseline]
    if costs.ndim == 1:
        # The price, and so everything below, depends on the sample's choice and the baseline's answer only.
        _, first, counts = np.unique(
            oracle.bought.choice.astype(np.int64) * 2 + right, return_index=True, return_counts=True
        )
        paid = np.full(len(first), oracle.costs[oracle.baseline])
    else:
        first, counts = np.arange(m), np.ones(m, np.int64)
        paid = costs[:, oracle.baseline]
    extra = oracle.bought.extra[first]
    by_price = np.argsort(extra, kind="stable")
    first, counts, extra, paid = first[by_price], counts[by_price], extra[by_price], paid[by_price]
    solved = np.isfinite(extra)
    extra = np.where(solved, extra, 0.0)
    base, right = oracle.bought.base[first], right[first]

    names = ("cost", "accuracy", "accuracy_gain", "saving", "ratio", "equal_cost", "equal_ratio")
    drawn = np.empty((replicates, len(names)))
    for replicate in drawn:
        if len(first) == m:
            weights = np.bincount(rng.integers(0, m, m), minlength=m)
        else:
            weights = rng.multinomial(m, counts / m)
        answers = np.cumsum(weights * solved)
        prices = np.cumsum(weights * solved * extra)
        start, target, baseline = weights @ base, weights @ right, weights @ paid
        equal = np.interp(target, np.append(0, answers), np.append(0, prices))
        cost, equal = (m * beta0 + (1 + beta1) * (start + extras) for extras in (prices[-1], equal))
        with np.errstate(divide="ignore", invalid="ignore"):
            replicate[:] = (
                cost / m,
                answers[-1] / m,
                (answers[-1] - target) / m,
                (baseline - cost) / m,
                np.divide(baseline, cost),
                equal / m,
                np.divide(baseline, equal),
            )
    low, high = _percentiles(drawn, level)
    ends = {name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}

    # alpha_i is the share of S_i's errors that no smaller state solves: three kinds of samples per state.
    accuracies = oracle.accuracies[oracle.order]
    shares = np.stack([oracle.p_errors, 1 - accuracies - oracle.p_errors, accuracies], axis=1).clip(0)
    shares /= shares.sum(axis=1, keepdims=True)
    kinds = rng.multinomial(m, shares, size=(replicates, len(accuracies)))
    wrong = kinds[..., 0] + kinds[..., 1]
    alphas = np.divide(kinds[..., 0], wrong, out=np.full(wrong.shape, np.nan), where=wrong > 0)
    alphas[:, np.isnan(oracle.alphas)] = np.nan
    return Intervals(
        cost=ends["cost"],
        accuracy=ends["accuracy"],
        accuracy_gain=ends["accuracy_gain"],
        saving=ends["saving"],
        ratio=ends["ratio"],
        equal_accuracy_cost=ends["equal_cost"],
        equal_accuracy_ratio=ends["equal_ratio"],
        alphas=np.stack(_percentiles(alphas, level), axis=1),
        accuracies=np.stack(_percentiles(kinds[..., 2] / m, level), axis=1),
    )


def bootstrap(
    statistic: Callable[[npt.NDArray[np.intp]], float],
    samples: int,
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of any figure, such as the headroom that a policy covers.

    Args:
        statistic: takes the indices of the drawn samples, shape (samples,), and returns the figure.
        samples: how many samples there are.
        replicates: how many resamplings, at least 1.
        level: share of the replicates inside the interval, in (0, 1).
        seed: of the random numbers.

    Returns:
        The interval; NaN where the figure is NaN in every replicate, which is otherwise left out.

    Raises:
        InputError: replicates or level out of range.
    """
    _check(replicates, level)
    rng = np.random.default_rng(seed)
    drawn = [statistic(rng.integers(0, samples, samples)) for _ in range(replicates)]
    low, high = _percentiles(np.array(drawn)[:, None], level)
    return float(low[0]), float(high[0])


def _percentiles(drawn: Floats, level: float) -> tuple[Floats, Floats]:
    """Both ends of the interval of each column, NaN left out."""
    tail = (1 - level) / 2
    ends = np.full((2, drawn.shape[1]), np.nan)
    some = ~np.isnan(drawn).all(axis=0)
    if some.any():
        # No interpolation: between two infinite ratios there is nothing to interpolate.
        ends[:, some] = np.nanquantile(drawn[:, some], [tail, 1 - tail], axis=0, method="inverted_cdf")
    return ends[0], ends[1]


def _check(replicates: int, level: float) -> None:
    if replicates < 1 or not 0 < level < 1:
        raise InputError(
            f"bootstrap: {replicates} replicates at level {level:g}; "
            "give at least one replicate and a level between 0 and 1"
        )
