"""A whole deployment replayed from output tables: one cache, several model updates, every method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.budget import Budget
from sparing.errors import InputError
from sparing.evaluate.compare import align
from sparing.evaluate.methods import METHODS, Method, read_methods
from sparing.evaluate.scorers import SCORERS, Pairs, Score
from sparing.numerics.distributions import js_divergence
from sparing.numerics.selection import Items, in_order, tie_keys
from sparing.refresh.correction.rules import (
    Schedule,
    Step,
    best_alternative,
    missing_votes,
    normalised_benefit,
    omission_risk,
    vote,
)
from sparing.refresh.pooling.exponents import REPLACE, Judgement, choose_by_members

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


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
        budget: share of the rows that a round refreshes, or one share per round (the last goes on).
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
    runs: dict[tuple[str, bool], list[_Deployment]] = {}
    for seed in range(first_seed, first_seed + seeds):
        memory: _Memory = {}
        for name in names:
            for within in (False, True) if both and METHODS[name].correct else (False,):
                deployment = _Deployment(
                    models=models,
                    labels=pairs.labels,
                    ties=tie_keys(ids, seed),
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
                    deployment.update(round_)
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


_Memory = dict[tuple[Any, ...], Score]


@dataclass
class _Deployment:
    """One cache of one method under one seed."""

    models: Floats
    labels: Integers
    ties: npt.NDArray[np.uint64]
    method: Method
    budgets: list[Budget]
    within: bool
    schedule: Schedule
    seed: int
    train_rows: int
    labelled_rows: int
    memory: _Memory
    figures: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        m = self.models.shape[1]
        self.probs = self.models[0].copy()
        # Which models a row's distribution is made of, one bit each; unpooled rows hold one.
        self.members = np.ones(m, dtype=np.int64)
        self.accumulated = np.zeros(m, dtype=np.float32)
        self.last = np.full(m, self.schedule.initial, dtype=np.float32)
        order = np.random.default_rng([self.seed, 1]).permutation(m)
        halves = order[: m // 2], order[m // 2 :]
        self.test = [np.sort(half) for half in halves]
        # Each half learns from the first rows of the other; of those the first have labels to read.
        self.train = [np.sort(half[: self.train_rows]) for half in reversed(halves)]
        labelled = [half[: self.labelled_rows] for half in reversed(halves)]
        self.marked = [rows[self.labels[rows] >= 0] for rows in labelled]
        self.scores: list[tuple[Score, Score] | None] = [None]
        self.judge(0, {})

    def update(self, t: int) -> None:
        """Replay one round."""
        m = len(self.labels)
        counts = dict.fromkeys(("updates", "screening", "voting", "screened", "corrected"), 0)
        step = self.schedule.at(t) if self.method.correct else None
        window = np.arange(max(t - step.window + 1, 1) if step is not None else t, t + 1)
        self.poolings = self.choose_poolings(window) if self.method.pool else {}
        if self.method.scorer == "full":
            benefits = np.ones(m, dtype=np.float32)
            capacity = m
        else:
            self.scores.append(self.learn(t))
            benefits = self.benefits(t, t)
            capacity = self.budgets[min(t, len(self.budgets)) - 1].rows(m)
        if step is not None and self.within:
            reserved = step.screened(m) + step.corrected(step.screened(m)) * (min(step.window, t) - 1)
            capacity = max(capacity - reserved, 0)
        chosen = np.zeros(m, dtype=bool)
        chosen[self.order(benefits)[:capacity]] = True
        chosen &= benefits > -np.inf
        normalised = normalised_benefit(benefits)
        self.accumulated += normalised.astype(np.float32)
        fresh = np.flatnonzero(chosen)
        settled = [fresh]
        if step is not None:
            settled.append(self.correct(t, step, window, chosen, counts))
        self.write(fresh, t)
        counts["updates"] = len(fresh)
        done = np.concatenate(settled)
        self.last[done], self.accumulated[done] = normalised[done], 0
        self.judge(t, counts)

    def learn(self, t: int) -> tuple[Score, Score]:
        """Fit the scorer on both halves' training rows, unless the same cache state taught it before."""
        made = []
        for side, train in enumerate(self.train):
            pairs = self.pairs(train, t)
            key = (self.method.scorer, t, side, hash(pairs.old.tobytes()), hash(pairs.holders.tobytes()))
            if key not in self.memory:
                self.memory[key] = SCORERS[self.method.scorer](pairs, self.seed + 97 * t)
            made.append(self.memory[key])
        return made[0], made[1]

    def benefits(self, fitted: int, model: int) -> Floats:
        """Score all rows as the cache stands, by what round `fitted` learned; -inf for rows that hold it."""
        result = np.empty(len(self.labels), dtype=np.float32)
        scores = self.scores[fitted]
        if scores is None:
            raise AssertionError("round 0 learns nothing")
        for score, test in zip(scores, self.test, strict=True):
            result[test] = score(self.pairs(test, model)).max(axis=1)
        result[(self.members & (1 << model)) > 0] = -np.inf
        return result

    def correct(
        self, t: int, step: Step, window: Integers, chosen: Bools, counts: dict[str, int]
    ) -> Integers:
        """Screen, compare and settle rows that were not chosen; returns those effectively refreshed."""
        m = len(self.labels)
        risk = omission_risk(self.accumulated, self.last, self.schedule.beta, self.schedule.sigma)
        if self.method.screen == "chance":
            risk = np.random.default_rng([self.seed, t]).random(m)
        ranked = self.order(np.where(chosen, -np.inf, risk))
        rows = ranked[: min(step.screened(m), int((~chosen).sum()))]
        predicted = np.stack([self.benefits(j, j)[rows] for j in window], axis=1)
        stored = self.stored_in(window, rows)
        if self.method.pool:
            # A model that is in the pool already has nothing to add: such a row is compared with nothing.
            rows, predicted, stored = _with_any(rows, predicted, stored)
        counts["screened"] = len(rows)
        alternative = best_alternative(predicted, stored)
        if self.method.settle == "divergence":
            counts["screening"] = int((alternative != stored).sum())
            shown = self.models[window[alternative], rows]
            rank = self.order(js_divergence(self.probs[rows], shown), self.ties[rows])
        else:
            # Ranked by omission risk nothing is compared, so nothing but the votes has to be run.
            alternative, rank = np.full(len(rows), -1), np.arange(len(rows))
        settled = rank[: step.corrected(len(rows))]
        counts["corrected"] = len(settled)
        if self.method.pool:
            return self.pool_screened(rows, alternative, settled, window, counts)
        at = rows[settled]
        if self.method.store == "latest":
            counts["voting"] = int(
                ((stored != len(window) - 1) & (alternative != len(window) - 1))[settled].sum()
            )
            self.write(at, t)
            return at
        missing = missing_votes(stored[settled], alternative[settled], np.ones(len(window), dtype=bool))
        counts["voting"] = int(missing.sum())
        shown = self.models[window][:, at]
        winner = vote(shown, np.ones(shown.shape[:2], dtype=bool))
        self.probs[at] = shown[winner, np.arange(len(at))]
        self.members[at] = 1 << window[winner]
        return at

    def pool_screened(
        self,
        rows: Integers,
        alternative: Integers,
        settled: Integers,
        window: Integers,
        counts: dict[str, int],
    ) -> Integers:
        """Pool what screening ran into every screened row, and the rest of the window into the settled."""
        for index, model in enumerate(window):
            mine = rows[alternative == index]
            self.write(mine, int(model))
        for model in window[::-1]:
            at = rows[settled]
            at = at[(self.members[at] & (1 << int(model))) == 0]
            counts["voting"] += len(at)
            self.write(at, int(model))
        return rows

    def write(self, rows: Integers, model: int) -> None:
        """Store a model's outputs, replaced or pooled."""
        if not self.method.pool:
            self.probs[rows], self.members[rows] = self.models[model, rows], 1 << model
            return
        for side, test in enumerate(self.test):
            mine = rows[np.isin(rows, test, assume_unique=True)]
            if len(mine):
                self.probs[mine], self.members[mine] = self.pooled(mine, model, side)

    def choose_poolings(self, window: Integers) -> dict[int, list[tuple[dict[int, Judgement], Judgement]]]:
        """Decide for every model that may join, per half, by the labels that it may read."""
        decided: dict[int, list[tuple[dict[int, Judgement], Judgement]]] = {}
        for model in window.tolist():
            decided[model] = []
            for rows in self.marked:
                at = rows[(self.members[rows] & (1 << model)) == 0] if self.method.labelled else rows[:0]
                decided[model].append(
                    choose_by_members(
                        self.probs[at], self.models[model, at], self.labels[at], self.members[at], self.seed
                    )
                )
        return decided

    def pooled(self, rows: Integers, model: int, side: int) -> tuple[Floats, Integers]:
        """Give what rows of one half hold after pooling, and of which models that is made."""
        own, shared = self.poolings[model][side]
        probs = np.empty((len(rows), self.models.shape[2]), dtype=np.float32)
        members = self.members[rows] | (1 << model)
        for held in np.unique(self.members[rows]):
            mine = self.members[rows] == held
            pooling = own.get(int(held), shared).pooling
            probs[mine] = pooling.apply(self.probs[rows[mine]], self.models[model, rows[mine]])
            if pooling == REPLACE:
                members[mine] = 1 << model
        return probs, members

    def pairs(self, rows: Integers, model: int) -> Pairs:
        return Pairs(
            self.probs[rows],
            [self.models[model, rows]],
            target=0,
            labels=self.labels[rows],
            held=self.members[rows],
        )

    def stored_in(self, window: Integers, rows: Integers) -> Integers:
        """Say which model of the window each row holds; -1 for none."""
        hits = (self.members[rows, None] & (1 << window)) > 0
        return np.where(hits.any(axis=1), hits.argmax(axis=1), -1)

    def order(self, scores: npt.NDArray[Any], ties: npt.NDArray[np.uint64] | None = None) -> Integers:
        ties = self.ties if ties is None else ties
        return in_order(Items(scores, ties, np.arange(len(scores))))

    def judge(self, t: int, counts: dict[str, int]) -> None:
        classes = self.probs.argmax(axis=1)
        known = self.labels >= 0
        accuracy = float((classes == self.labels)[known].mean()) if known.any() else float("nan")
        same = float((classes == self.models[t].argmax(axis=1)).mean())
        self.figures.append({"accuracy": accuracy, "consistency": same, **counts})


def _with_any(rows: Integers, predicted: Floats, stored: Integers) -> tuple[Integers, Floats, Integers]:
    useful = np.isfinite(predicted).any(axis=1)
    return rows[useful], predicted[useful], stored[useful]


def _gather(runs: list[_Deployment]) -> Replay:
    def table(key: str, first: int, kind: type[Any]) -> npt.NDArray[Any]:
        return np.array([[figures[key] for figures in run.figures[first:]] for run in runs], dtype=kind)

    return Replay(
        table("accuracy", 0, np.float64),
        table("consistency", 0, np.float64),
        *(table(key, 1, np.int64) for key in ("updates", "screening", "voting", "screened", "corrected")),
    )
