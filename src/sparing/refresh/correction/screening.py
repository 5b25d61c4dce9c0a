"""Which rows a round's correction screens, and with which model each is compared."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sparing.cache import Cache, Rows, Store
from sparing.errors import BudgetError
from sparing.models import Model
from sparing.numerics.selection import Items, find_cut, in_order
from sparing.refresh.correction.past import PastRound, accumulate, past_rounds, recent_models
from sparing.refresh.correction.rules import (
    PAPER,
    Schedule,
    Step,
    Variant,
    best_alternative,
    normalised_benefit,
)
from sparing.refresh.options import Correction

Floats = npt.NDArray[np.float32]

COLUMNS = [
    *("id", "position", "model", "tie", "second", "label", "right"),
    *("score", "risk", "stored", "alternative", "held"),
]
"""What is known of a screened row."""


@dataclass(frozen=True)
class RoundCorrection:
    """What the correction of one round works with.

    Attributes:
        schedule: the protocol.
        step: what it says of this round.
        window: names of the voting models, oldest first.
        models: for each of them, how to run it; None where it was not given again.
        past: earlier rounds, oldest first.
        pooling: whether rows pool what correction runs, instead of voting.
        variant: how it is carried out.
    """

    schedule: Schedule
    step: Step
    window: tuple[str, ...]
    models: tuple[Model | None, ...]
    past: list[PastRound]
    pooling: bool = False
    variant: Variant = PAPER

    @property
    def given(self) -> list[Model]:
        """The models of the window that can be run, oldest first."""
        return [model for model in self.models if model is not None]

    @property
    def runnable(self) -> npt.NDArray[np.bool_]:
        """Which models of the window can be run, shape (k,)."""
        return np.array([model is not None for model in self.models])

    def describe(self) -> dict[str, Any]:
        """Describe it as JSON values, so that a restart can tell whether it is the same."""
        given = [None if model is None else model.digest for model in self.models]
        return {"schedule": asdict(self.schedule), "window": list(self.window), "given": given}

    def reserve(self, rows: int) -> int:
        """Count the forwards that correcting may take at most: one per screened row, then the other votes."""
        return self.forwards(self.step.screened(rows))

    def forwards(self, screened: int) -> int:
        """Count the forwards that correcting takes at most when so many rows are screened."""
        return screened + self.step.corrected(screened) * max(int(self.runnable.sum()) - 1, 0)

    def affordable(self, rows: int, forwards: float) -> int:
        """Return how many of `rows` the step screens when correcting may take at most so many forwards."""
        most = self.step.screened(rows)
        # The count grows with the rows screened, so the largest that fits is found by bisection.
        return bisect_right(range(1, most + 1), forwards, key=self.forwards)

    def columns(
        self, rows: Rows, benefits: Floats, names: Sequence[str], cache: Store
    ) -> dict[str, npt.NDArray[Any]]:
        """Compute what screening needs of a chunk of rows.

        Args:
            rows: m rows as the cache holds them.
            benefits: shape (m, n), this round's predictions.
            names: the n candidates.
            cache: the cache.

        Returns:
            Each of shape (m,). score: the largest benefit. risk: -inf where no model could bring anything.
            stored: which model of the window the row holds, or -1. alternative: which it is compared with,
            or -1. held: bits of the window's models that need no forward on it.
        """
        holders = [model.name for model in cache.metadata.models]
        best = benefits.max(axis=1)
        last = np.where(
            np.isnan(rows.scores), self.schedule.initial, normalised_benefit(np.nan_to_num(rows.scores))
        )
        accumulated = accumulate(self.past, rows, holders) + normalised_benefit(best)
        risk = self.variant.risk(accumulated, last, self.schedule)
        stored = np.full(len(rows), -1, dtype=np.int64)
        held = np.zeros(len(rows), dtype=np.int64)
        predicted = np.full((len(rows), len(self.window)), -np.inf, dtype=np.float32)
        for position, name in enumerate(self.window):
            own = cache.metadata.model_index(name)
            stored[rows.models == (-1 if own is None else own)] = position
            # A pool has its members' evidence already; a vote needs the member's own distribution.
            there = cache.metadata.holding(name) if self.pooling else [own]
            held[np.isin(rows.models, [i for i in there if i is not None])] |= 1 << position
            if self.models[position] is None:
                continue
            if name in names:
                predicted[:, position] = benefits[:, list(names).index(name)]
            else:
                before = next(earlier for earlier in reversed(self.past) if name in earlier.names)
                everything = np.arange(len(rows))
                scores = before.benefits(rows, everything, holders)
                predicted[:, position] = scores[:, before.names.index(name)]
        predicted[(held[:, None] & (1 << np.arange(len(self.window)))) > 0] = -np.inf
        alternative = best_alternative(predicted, stored)
        if not self.variant.compare:
            alternative = np.full_like(alternative, -1)
        if self.pooling:
            risk[~np.isfinite(predicted).any(axis=1)] = -np.inf
        return {
            "score": best,
            "risk": risk.astype(np.float32),
            "stored": stored,
            "alternative": alternative,
            "held": held,
        }


def prepare_correction(
    cache: Cache, candidates: Sequence[Model], asked: Correction, *, unit: str, pooling: bool
) -> RoundCorrection | None:
    """Decide how the next round corrects; None when the schedule leaves it alone.

    Args:
        cache: the cache before the round.
        candidates: the round's candidates.
        asked: the schedule, and the models of earlier rounds that can be run again.
        unit: unit of the round's budget.
        pooling: whether rows pool what correction runs, instead of voting.

    Raises:
        BudgetError: a budget in seconds leaves no skipped rows to screen.
    """
    if unit == "seconds":
        raise BudgetError(
            "correction looks at rows that the budget leaves out, but a budget of time runs until it is "
            "spent: give a share, rows or cost"
        )
    step = asked.schedule.at(cache.metadata.round + 1)
    if step is None:
        return None
    names = [model.name for model in candidates]
    window = recent_models(cache.metadata, names)[-step.window :]
    given = {model.name: model for model in (*asked.recent, *candidates)}
    return RoundCorrection(
        schedule=asked.schedule,
        step=step,
        window=tuple(window),
        models=tuple(given.get(name) for name in window),
        past=past_rounds(cache.metadata),
        pooling=pooling,
    )


def screen_rows(
    tables: Callable[[], Iterable[tuple[pa.Table, npt.NDArray[np.bool_]]]], count: int
) -> pa.Table:
    """Choose the riskiest of the rows that a round leaves alone.

    Args:
        tables: called once per pass; returns every spooled chunk and which of its rows may be screened.
        count: how many to screen.

    Returns:
        `COLUMNS`, riskiest first.
    """

    def items() -> Iterator[Items]:
        for table, free in tables():
            yield Items(*(table[name].to_numpy()[free] for name in ("risk", "tie", "second")))

    cut = find_cut(items, count)
    parts = []
    for table, free in tables():
        at = np.flatnonzero(free)
        if cut is not None:
            at = at[cut.takes(Items(*(table[n].to_numpy()[at] for n in ("risk", "tie", "second"))))]
        parts.append(table.select(COLUMNS).take(pa.array(at)))
    whole = pa.concat_tables(parts)
    best = in_order(Items(*(whole[name].to_numpy() for name in ("risk", "tie", "second"))))
    return whole.take(pa.array(best)).combine_chunks()
