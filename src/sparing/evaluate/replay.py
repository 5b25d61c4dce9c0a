"""A whole deployment replayed from output tables: one cache, several model updates, every method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.budget import Budget
from sparing.errors import InputError
from sparing.evaluate.compare import align
from sparing.evaluate.deployment import COUNTS, Deployment, Learned
from sparing.evaluate.methods import METHODS, read_methods
from sparing.refresh.correction.rules import Schedule
from sparing.storage.files import scratch

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Replay:
    """One method over all rounds and seeds.

    Attributes:
        accuracy: shape (seeds, rounds + 1), over labelled rows; NaN without labels. Column 0 is round 0.
        consistency: shape (seeds, rounds + 1), with the newest model; column 0 is 1.
        updates: shape (seeds, rounds), forwards of the budgeted updates.
        screening: shape (seeds, rounds), forwards that screening added.
        voting: shape (seeds, rounds), forwards that correcting added.
        screened: shape (seeds, rounds), rows.
        corrected: shape (seeds, rounds), rows.
    """

    accuracy: npt.NDArray[np.float64]
    consistency: npt.NDArray[np.float64]
    updates: Integers
    screening: Integers
    voting: Integers
    screened: Integers
    corrected: Integers

    @property
    def forwards(self) -> Integers:
        """All forwards of every round, shape (seeds, rounds)."""
        return self.updates + self.screening + self.voting


@dataclass(frozen=True)
class Simulation:
    """What `simulate` found.

    Attributes:
        methods: by name, as the paper counts: correction comes on top of the budget.
        within_budget: by name, correction paid from the budget, so that all spend the same; only methods that
            correct are listed, the others are the same either way.
        rows: common rows.
        train_rows: rows that each half's learned parts were fitted on.
        labelled_rows: labels that pooling may read, per half.
        seeds: how many.
    """

    methods: dict[str, Replay]
    within_budget: dict[str, Replay]
    rows: int
    train_rows: int
    labelled_rows: int
    seeds: int


def simulate(
    rounds: Sequence[Any],
    *,
    methods: str = "pure,pure-no-correction,entropy,random,full",
    budget: str | Sequence[str] = "50%",
    seeds: int = 5,
    first_seed: int = 0,
    schedule: Schedule | None = None,
    train_rows: int | None = None,
    labelled_rows: int = 500,
    both: bool = True,
    on_step: Callable[[], None] | None = None,
) -> Simulation:
    """Replay a deployment: round 0 fills the cache from the first table, every other table is one update.

    Every row is judged. Learned parts are cross-fitted: the rows are halved anew per seed, and each half is
    scored by what the other half's rows taught, whose outputs count as known from elsewhere.

    Args:
        rounds: output tables (see `read_outputs`), oldest model first; rows are matched by id.
        methods: names in `METHODS`, separated by commas, or "all".
        budget: share of the rows that a round refreshes, or one share per round (the last for the rest).
        seeds: how many halvings.
        first_seed: number of the first of them.
        schedule: of corrections; by default Table 3's.
        train_rows: rows of each half to learn from; by default all, at most 5,000.
        labelled_rows: how many of them have a label that pooling may read.
        both: whether methods that correct are also replayed with correction paid from the budget.
        on_step: called after every replayed method and seed.

    Returns:
        The simulation.

    Raises:
        InputError: fewer than two tables, or as `align` raises.
        BudgetError: the budget is no share.
    """
    if len(rounds) < 2:
        raise InputError("a deployment needs two output tables or more: round 0 and at least one update")
    names = read_methods(methods)
    ids, pairs = align(rounds[0], rounds[1:], len(rounds) - 2)
    models = np.stack([pairs.old, *pairs.new])
    shares = [Budget.parse(text) for text in ([budget] if isinstance(budget, str) else budget)]
    if not shares or any(share.unit != "share" for share in shares):
        raise InputError(f"simulate takes shares of the rows as its budget, not {budget!r}")
    half = len(pairs) // 2
    train_rows = min(half, 5000) if train_rows is None else min(train_rows, half)
    labelled_rows = min(labelled_rows, train_rows)
    runs: dict[tuple[str, bool], list[Deployment]] = {}
    for seed in range(first_seed, first_seed + seeds):
        memory: Learned = {}
        for name in names:
            for within in (False, True) if both and METHODS[name].correct else (False,):
                deployment = Deployment(
                    ids=ids,
                    models=models,
                    labels=pairs.labels,
                    method=METHODS[name],
                    budgets=shares,
                    within=within,
                    schedule=schedule or Schedule(),
                    seed=seed,
                    train_rows=train_rows,
                    labelled_rows=labelled_rows,
                    memory=memory,
                )
                for round_ in range(1, len(models)):
                    with scratch() as folder:
                        deployment.update(round_, folder)
                runs.setdefault((name, within), []).append(deployment)
                if on_step is not None:
                    on_step()
    return Simulation(
        {name: _gather(runs[name, False]) for name in names},
        {name: _gather(runs[name, True]) for name in names if (name, True) in runs},
        rows=len(pairs),
        train_rows=train_rows,
        labelled_rows=labelled_rows,
        seeds=seeds,
    )


def _gather(runs: list[Deployment]) -> Replay:
    def table(key: str, first: int, kind: type[Any]) -> npt.NDArray[Any]:
        return np.array([[figures[key] for figures in run.figures[first:]] for run in runs], dtype=kind)

    return Replay(
        table("accuracy", 0, np.float64),
        table("consistency", 0, np.float64),
        *(table(key, 1, np.int64) for key in COUNTS),
    )
