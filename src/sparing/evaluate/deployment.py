"""One cache, replayed: rounds that `refresh` runs, over rows in memory and models that look answers up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sparing.budget import Budget
from sparing.cache import MemoryStore, Metadata, ModelInfo
from sparing.evaluate.methods import Method
from sparing.evaluate.scorers import rows_for
from sparing.models import Model
from sparing.numerics.selection import tie_keys
from sparing.outputs import Classes
from sparing.refresh.commit import commit_round
from sparing.refresh.correction.past import PastRound
from sparing.refresh.correction.rules import Schedule, Variant, schedule_risk
from sparing.refresh.correction.screening import RoundCorrection
from sparing.refresh.planners import PlanOnce
from sparing.refresh.pooling.exponents import Judgement
from sparing.refresh.pooling.pools import Held, Labelled, Pooler, Pools
from sparing.refresh.records import RoundRecord
from sparing.refresh.round import Round
from sparing.refresh.running import run_order
from sparing.refresh.scoring import Answers, Pairs, Scorer, ScoringRows, find_scorer
from sparing.refresh.scoring.ranking import Ranking, make_ranking
from sparing.refresh.slices import run_slices, staged_slices
from sparing.refresh.staging import Staging

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

COUNTS = ("updates", "screening", "voting", "screened", "corrected")
"""What is counted of a round."""


Learned = dict[tuple[Any, ...], Scorer]


@dataclass
class Deployment:
    """One cache of one method under one seed, kept current by the rounds that `refresh` runs.

    Its models are named "0", "1", ... by round; they look up what the tables say.

    Attributes:
        ids: m ids.
        models: shape (models, m, C), what each model says.
        labels: shape (m,), -1 where unknown.
        method: how the cache is kept current.
        budgets: share of the rows by round; the last one holds for the rest.
        within: whether correction is paid from the budget.
        schedule: of corrections.
        seed: decides the halves, the ties and the fits.
        train_rows: rows of each half that the other half learns from.
        labelled_rows: how many of those have a label that pooling may read.
        memory: scorers that other deployments of this seed have fitted.
        figures: accuracy, consistency and `COUNTS` after every round, round 0 first.
    """

    ids: pa.Array
    models: Floats
    labels: Integers
    method: Method
    budgets: list[Budget]
    within: bool
    schedule: Schedule
    seed: int
    train_rows: int
    labelled_rows: int
    memory: Learned
    figures: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        m = self.models.shape[1]
        self.store = MemoryStore(
            self.ids, Classes.of(self.models[0]), self.models[0], self.labels, ModelInfo("0", "0")
        )
        position = {name: at for at, name in enumerate(self.ids.to_pylist())}
        self.runnable = [self.replaying(number, position) for number in range(len(self.models))]
        self.past: list[PastRound] = []
        # A scorer does not see ids, but their tie keys say which rows it is given.
        ties = tie_keys(self.ids, self.seed)
        self.by_tie = np.argsort(ties)
        self.ties = ties[self.by_tie]
        order = np.random.default_rng([self.seed, 1]).permutation(m)
        halves = order[: m // 2], order[m // 2 :]
        self.side = np.zeros(m, dtype=np.int64)
        self.side[halves[1]] = 1
        # Each half learns from the first rows of the other; of those the first have labels to read.
        self.train = [np.sort(half[: self.train_rows]) for half in reversed(halves)]
        labelled = [half[: self.labelled_rows] for half in reversed(halves)]
        self.marked = [rows[self.labels[rows] >= 0] for rows in labelled]
        self.judge(0, dict.fromkeys(COUNTS, 0))

    def replaying(self, number: int, position: dict[object, int]) -> Model:
        """Make a model that looks up what a table says."""

        def look_up(ids: list[object], _: list[Any]) -> Floats:
            found: Floats = self.models[number, [position[name] for name in ids]]
            return found

        return Model(str(number), str(number), look_up, batch_size=len(position), needs_samples=False)

    def update(self, t: int, folder: Path) -> None:
        """Run one round, staged in an empty folder."""
        scorer = self.scorer(t)
        full = Budget.parse("100%")
        round_ = Round(
            self.store,
            [self.runnable[t]],
            scorer=scorer,
            ranker=None,
            budget=full if self.method.scorer == "full" else self.budgets[min(t, len(self.budgets)) - 1],
            target=str(t),
            only_positive=False,
            seed=self.seed,
            known=[None],
            correction=self.correction(t),
            correct_within_budget=self.within,
            objective="accuracy" if self.method.pool else "consistency",
            pools=self.pools(t) if self.method.pool else None,
        )
        staging = Staging(folder)

        def run(part: Staging, models: Sequence[Model], chunk_rows: int) -> bool:
            return run_order(part, models, None, chunk_rows=chunk_rows, kind=self.store.metadata.kind)

        run_slices(staging, PlanOnce(round_, None), run)
        slices, record = staged_slices(staging), staging.record(RoundRecord)
        if record is None:
            raise AssertionError("the round was not staged")
        report = commit_round(round_, slices, record, complete=True)
        self.past.append(PastRound(t, (str(t),), scorer, self.seed))
        account = report.account
        counts = {
            "updates": report.refreshed,
            "screening": sum(account["screening_forwards"].values()),
            "voting": sum(account["voting_forwards"].values()),
            "screened": report.screened,
            "corrected": slices["voting"].table("settled").num_rows if "voting" in slices else 0,
        }
        self.judge(t, counts)

    def scorer(self, t: int) -> Ranking:
        """Return what ranks the rows of a round: each half by what the other half's rows taught."""
        if self.method.scorer == "full":
            return make_ranking("entropy", [str(t)], str(t))
        learned = self.learn(t)

        def benefits(rows: ScoringRows) -> Floats:
            at = self.by_tie[np.searchsorted(self.ties, rows.ties)]
            members = _members(rows.holders)[rows.holding]
            result = np.empty((len(rows), 1), dtype=np.float32)
            for side, scorer in enumerate(learned):
                mine = self.side[at] == side
                pairs = self.pairs(rows.probs[mine], at[mine], t, members[mine])
                result[mine] = scorer.benefits(rows_for(scorer, pairs, self.seed + 97 * t))
            return result

        return Ranking(self.method.scorer, f"{self.method.scorer} {t}", benefits)

    def learn(self, t: int) -> list[Scorer]:
        """Fit the scorer on both halves' training rows, unless the same cache state taught it before."""
        made = []
        for side, train in enumerate(self.train):
            rows = self.store.take(train)
            pairs = self.pairs(rows.probs, train, t, self.members()[train])
            key = (self.method.scorer, t, side, hash(pairs.old.tobytes()), hash(pairs.rows.holding.tobytes()))
            if key not in self.memory:
                self.memory[key] = find_scorer(self.method.scorer).fit(pairs, self.seed + 97 * t)
            made.append(self.memory[key])
        return made

    def correction(self, t: int) -> RoundCorrection | None:
        """Decide how a round corrects."""
        step = self.schedule.at(t) if self.method.correct else None
        if step is None:
            return None
        window = range(max(t - step.window + 1, 1), t + 1)

        def chance(_accumulated: Any, last: Any, _schedule: Schedule) -> Any:
            return np.random.default_rng([self.seed, t]).random(len(last))

        return RoundCorrection(
            self.schedule,
            step,
            window=tuple(str(number) for number in window),
            models=tuple(self.runnable[number] for number in window),
            past=list(self.past),
            pooling=self.method.pool,
            variant=Variant(
                risk=chance if self.method.screen == "chance" else schedule_risk,
                compare=self.method.settle == "divergence",
                voting=self.method.store == "vote",
            ),
        )

    def pools(self, t: int) -> Callable[[Metadata], Pooler]:
        """Decide how a round pools, by the rows as they are before it."""
        labelled = self.labelled(t)
        return lambda metadata: _CrossPools(metadata, labelled, self.side_of, self.seed)

    def labelled(self, t: int) -> list[dict[str, Labelled]]:
        """Collect what each half may read of the other half's labels, by the model that joins."""
        found: list[dict[str, Labelled]] = []
        members = self.members()
        for rows in self.marked:
            joining = range(1, t + 1) if self.method.labelled else ()
            found.append({})
            for number in joining:
                at = rows[(members[rows] & (1 << number)) == 0]
                held = self.store.take(at)
                found[-1][str(number)] = Labelled(
                    held.probs, self.models[number, at], self.labels[at], held.models
                )
        return found

    def members(self) -> Integers:
        """Return which models each row's distribution is made of, one bit each: shape (m,)."""
        return _members([info.name for info in self.store.metadata.models])[self.store.rows.models]

    def side_of(self, ids: pa.Array) -> Integers:
        """Find the halves that rows are in."""
        sides: Integers = self.side[self.by_tie[np.searchsorted(self.ties, tie_keys(ids, self.seed))]]
        return sides

    def pairs(self, old: Floats, at: Integers, t: int, members: Integers) -> Pairs:
        """Return rows at positions with what they hold and what the model of a round says."""
        rows = ScoringRows(
            outputs=old,
            ties=np.zeros(len(old), dtype=np.uint64),
            holders=[str(number) for number in range(1 + int(members.max(initial=0)))],
            held=members,
        )
        return Pairs(rows, Answers([self.models[t, at]], self.labels[at]))

    def judge(self, t: int, counts: dict[str, int]) -> None:
        """Note down how the cache stands after a round."""
        classes = self.store.rows.probs.argmax(axis=1)
        known = self.labels >= 0
        accuracy = float((classes == self.labels)[known].mean()) if known.any() else float("nan")
        same = float((classes == self.models[t].argmax(axis=1)).mean())
        self.figures.append({"accuracy": accuracy, "consistency": same, **counts})


class _CrossPools:
    """Pools whose exponents, for the rows of one half, come from labels of the other."""

    def __init__(
        self,
        metadata: Metadata,
        labelled: list[dict[str, Labelled]],
        side_of: Callable[[pa.Array], Integers],
        seed: int,
    ) -> None:
        self.metadata = metadata
        self._side_of = side_of
        self._halves = [Pools(metadata, rows, seed) for rows in labelled]

    def judgement(self, name: str) -> Judgement:
        """Return what one half decided."""
        return self._halves[0].judgement(name)

    def join(self, old: Held, new: Floats, name: str) -> tuple[Floats, Integers]:
        """Pool a model's outputs into the rows of each half."""
        probs, holds, sides = np.empty_like(new), np.empty(len(new), np.int64), self._side_of(old.ids)
        for side, pools in enumerate(self._halves):
            mine = sides == side
            if mine.any():
                pools.metadata = self.metadata
                probs[mine], holds[mine] = pools.join(old.take(mine), new[mine], name)
                self.metadata = pools.metadata
        return probs, holds


def _members(names: Sequence[str]) -> Integers:
    """Write the models that entries such as "0" and "0+2" are made of as bits, one entry after the other."""
    return np.array([sum(1 << int(part) for part in name.split("+")) for name in names], dtype=np.int64)
