"""Sequential correction (PURE, 3.3 and E.1): which skipped rows look stale, and what a vote makes of them.

Pure functions of arrays. A round from the second on takes these steps: `omission_risk` ranks the rows that it
did not select, the riskiest are screened, `best_alternative` names the recent model that each is compared
with, the Jensen-Shannon divergence of the two distributions ranks the screened rows, and the most unstable
are settled by `vote`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.errors import InputError

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Step:
    """What one round of correction may do.

    Attributes:
        screen: share of all rows that is screened.
        correct: share of the screened rows that is settled by vote.
        window: how many models vote, the current one included.
    """

    screen: float
    correct: float
    window: int

    def screened(self, rows: int) -> int:
        """Count the rows to screen: floor(screen * rows), in decimals."""
        return int(Decimal(str(self.screen)) * rows)

    def corrected(self, screened: int) -> int:
        """Count the rows to correct: floor(correct * screened), in decimals."""
        return int(Decimal(str(self.correct)) * screened)


@dataclass(frozen=True)
class Schedule:
    """The correction protocol (PURE, Table 3).

    Attributes:
        steps: what rounds 2, 3, ... do; rounds beyond the last do as the last.
        beta: weight of the stale-error term of the risk.
        sigma: width of its Gaussian kernel; positive.
        initial: score of a row at round 0, before any benefit was predicted; in [0, 1].
    """

    steps: tuple[Step, ...] = (Step(0.10, 0.45, 2), Step(0.12, 0.50, 3), Step(0.14, 0.55, 3))
    beta: float = 1.5
    sigma: float = 0.22
    initial: float = 0.5

    def __post_init__(self) -> None:
        if not self.steps or not self.sigma > 0 or not 0 <= self.initial <= 1 or not self.beta >= 0:
            raise InputError(
                "a correction schedule needs a step, beta >= 0, sigma > 0 and an initial score in [0, 1]"
            )
        for step in self.steps:
            if not (0 <= step.screen <= 1 and 0 <= step.correct <= 1 and step.window >= 1):
                raise InputError(
                    f"{step}: the shares screened and corrected lie in [0, 1], the window is 1 or more"
                )

    def at(self, round_: int) -> Step | None:
        """Return what a round does; None before round 2."""
        return None if round_ < 2 else self.steps[min(round_ - 2, len(self.steps) - 1)]


def schedule_risk(accumulated: Floats, last: Floats, schedule: Schedule) -> Floats:
    """Score how likely a skipped row is stale, by the weights of a schedule; see `omission_risk`."""
    return omission_risk(accumulated, last, schedule.beta, schedule.sigma)


@dataclass(frozen=True)
class Variant:
    """How a correction is carried out: as PURE does by default, the other ways are its ablations.

    Attributes:
        risk: from accumulated and last benefits, each of shape (m,), to what the rows are screened by (m,).
        compare: whether screened rows are compared with another model, and settled where the two diverge
            most; otherwise the riskiest are settled.
        voting: whether a settled row holds what the vote chose; otherwise the most recent model's output.
    """

    risk: Callable[[Floats, Floats, Schedule], Floats] = schedule_risk
    compare: bool = True
    voting: bool = True


PAPER = Variant()


def normalised_benefit(benefits: Floats) -> Floats:
    """Bring predicted entropy decreases into [0, 1] (PURE, Equations 6 and 13).

    Args:
        benefits: any shape, nats; -inf where no candidate could be run.

    Returns:
        Same shape: (1 + tanh(benefit)) / 2, above 0.5 where entropy is predicted to fall.
    """
    result: Floats = (1 + np.tanh(benefits)) / 2
    return result


def omission_risk(accumulated: Floats, last: Floats, beta: float, sigma: float) -> Floats:
    """Score how likely a skipped row is stale (PURE, Equations 7 and 12).

    Args:
        accumulated: shape (m,), sum of the normalised benefits of every round after the row's last effective
            refresh, this round included.
        last: shape (m,), normalised benefit in the round of that refresh.
        beta: weight of the second term.
        sigma: width of its kernel.

    Returns:
        Shape (m,): accumulated + beta * exp(-last^2 / (2 sigma^2)); higher is riskier.
    """
    result: Floats = accumulated + beta * np.exp(-(last**2) / (2 * sigma**2))
    return result


def best_alternative(benefits: Floats, stored: Integers) -> Integers:
    """Choose the model that a screened row is compared with (PURE, 3.3).

    Args:
        benefits: shape (m, k), predicted benefit of each of the k recent models, oldest first; -inf for one
            that cannot be run.
        stored: shape (m,), which of them the row holds; -1 for a model outside the window.

    Returns:
        Shape (m,): the model of largest predicted benefit that the row does not hold, among equals the most
        recent; the most recent of all when there is no such model.
    """
    k = benefits.shape[1]
    open_ = np.where(np.arange(k) == stored[:, None], -np.inf, benefits)
    choice: Integers = k - 1 - open_[:, ::-1].argmax(axis=1)
    choice[~np.isfinite(open_).any(axis=1)] = k - 1
    return choice


def vote(probs: Floats, voting: Bools) -> Integers:
    """Let models vote on labels (PURE, 3.3 and Table 3).

    The label with most votes wins, among equals the one to which the voting models give the larger mean
    probability. Stored is the most recent distribution that predicts it.

    Args:
        probs: shape (k, m, C), the k models' distributions, oldest first; anything where they do not vote.
        voting: shape (k, m), who votes on which row; at least one on each.

    Returns:
        Shape (m,), the model whose distribution is stored.
    """
    k, m, _ = probs.shape
    labels = probs.argmax(axis=2)
    rows = np.arange(m)
    best = np.full((m, 2), -1.0)
    winner = np.zeros(m, dtype=np.int64)
    for j in range(k):
        agreeing = voting & (labels == labels[j])
        confidence = np.where(voting, probs[:, rows, labels[j]], 0).sum(axis=0) / voting.sum(axis=0)
        votes = agreeing.sum(axis=0)
        # At a full tie the later model wins: it is the more recent one.
        better = (votes > best[:, 0]) | ((votes == best[:, 0]) & (confidence >= best[:, 1]))
        taken = voting[j] & better
        winner[taken] = j
        best[taken, 0], best[taken, 1] = votes[taken], confidence[taken]
    return winner


def missing_votes(stored: Integers, alternative: Integers, runnable: Bools) -> Bools:
    """Return which voting models still have to be run on corrected rows: what is known is reused (Table 4).

    Args:
        stored: shape (m,), which model of the window the row holds; -1 for one outside it.
        alternative: shape (m,), the model that screening ran.
        runnable: shape (k,), which models of the window can be run.

    Returns:
        Shape (m, k), True where a forward is needed.
    """
    models = np.arange(len(runnable))
    known = (models == stored[:, None]) | (models == alternative[:, None])
    result: Bools = runnable & ~known
    return result
