"""A round that keeps a promise: it learns as it runs rows, audits those left, and runs what that shows."""

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sparing.data.samples import Samples
from sparing.numerics.certificate import AuditPlan, allowed_wrong, plan_audit
from sparing.refresh.learning import LearnWhileSpending
from sparing.refresh.promise import FROZEN, AuditedRows, Promise, audited_rows, find_audit
from sparing.refresh.records import PromisedRows, SlicePromise, SliceRecord
from sparing.refresh.round import FIRST_OF_ALL, Round
from sparing.refresh.slices import SlicePlan, Slices
from sparing.refresh.staging import Staging

Integers = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

FREEZE_SLICES = 2
"""The audit is drawn when no more rows are expected to be run before the cut than so many slices hold."""

RELAX_STEPS = 20


class KeepPromise(LearnWhileSpending):
    """Runs rows in slices until a promise is about to be kept, then fixes the order and audits the others.

    What rows hold if they are not run, and the order in which they would be run, is written down before the
    audit is drawn. Then rows are run in that order up to the cut that the audit certifies.
    """

    def __init__(self, round_: Round, samples: Samples | None) -> None:
        super().__init__(round_, samples)
        self._slices: Slices = {}

    def next(self, slices: Slices) -> SlicePlan | None:
        """Plan the probe, then slices by benefit, then the audit, then what it shows to be missing."""
        self._slices = slices
        return super().next(slices)

    def _begin(self) -> None:
        super()._begin()
        pool, promise = self._begun(), self._promise()
        self._failed = np.zeros(len(pool), dtype=bool)
        self._frozen = False
        names, done = [], 0
        classes = self.round.cache.metadata.classes
        for part in pool.features():
            ids = pool.ids.slice(done, len(part))
            names += promise.groups(ids, part.cached, classes)
            done += len(part)
        self._names, self._group = np.unique(np.array(names, dtype=object).astype(str), return_inverse=True)
        self._rows = np.bincount(self._group, minlength=len(self._names))

    def _promise(self) -> Promise:
        if self.round.promise is None:
            raise AssertionError("nothing is promised")
        return self.round.promise

    def _observe(self, part: Staging) -> None:
        order = part.order()["position"].to_numpy().astype(np.int64)
        self._failed[order[~part.finished_rows(len(order))]] = True
        audit = find_audit(self._slices)
        self._frozen |= audit is not None and part.folder == self._slices[audit[0]].folder
        if self._frozen:
            self._free[order] = False
        else:
            super()._observe(part)

    def _plan(self, number: int) -> SlicePlan | None:
        left = np.flatnonzero(self._free)
        run = self._competing - len(left)
        audited = audited_rows(self._slices)
        if audited is not None:
            return self._rest(number, audited)
        by_entropy = self.round.scorer.name == "entropy"
        if not number and not by_entropy:
            return super()._plan(number)
        if number and len(left) and run >= self._capacity:
            return None
        benefits, chances = self._benefits(), self._chances()
        groups, plans = self._drafts(left, benefits, chances, self._capacity - run)
        needed = np.concatenate(
            [np.zeros(0, np.int64), *(rows[: plan.cut] for rows, plan in zip(groups, plans, strict=True))]
        )
        size = self._slice_rows(run)
        if number and len(needed) <= FREEZE_SLICES * size:
            return self._audit(number, groups, plans, benefits)
        taken = self._best(needed if number else left, benefits)[:size]
        return self._slice(number, np.sort(taken), benefits[np.sort(taken)], self._learning())

    def _best(self, rows: Integers, benefits: Doubles) -> Integers:
        """Sort rows, best first."""
        best: Integers = rows[np.lexsort((self._begun().keys[rows], -benefits[rows]))]
        return best

    def _benefits(self) -> Doubles:
        if self.round.scorer.name != "entropy":
            return super()._benefits()
        entropies = np.concatenate([np.zeros(0), *(p.entropy for p in self._begun().features())])
        return np.where(self.round.changed(self._begun().held), FIRST_OF_ALL, entropies)

    def _chances(self) -> Doubles:
        """Predict how likely all rows would be wrong if they are not run, (n,)."""
        parts = self._begun().features()
        chances = np.concatenate([np.zeros(0), *(self._learner.probability(part) for part in parts)])
        return np.where(self.round.changed(self._begun().held), 1.0, chances)

    def _drafts(
        self, left: Integers, benefits: Doubles, chances: Doubles, budget: int
    ) -> tuple[list[Integers], list[AuditPlan]]:
        """Plan the audit of every group, within what may still be run; rows by group, best first."""
        order = self._best(left, benefits)
        groups = [order[self._group[order] == number] for number in range(len(self._names))]
        promised = [max(self._allowed(number), 0) for number in range(len(groups))]
        alpha = self._alpha()

        def planned(slack: float) -> list[AuditPlan]:
            return [
                plan_audit(chances[rows], allowed + round(slack * max(len(rows) - allowed, 0)), alpha)
                for rows, allowed in zip(groups, promised, strict=True)
            ]

        def forwards(plans: Sequence[AuditPlan]) -> int:
            return sum(plan.forwards(len(rows)) for rows, plan in zip(groups, plans, strict=True))

        plans = planned(0.0)
        if forwards(plans) > budget:
            # What is asked for is not expected to be affordable: certify as much as is.
            low, high = 0.0, 1.0
            for _ in range(RELAX_STEPS):
                middle = (low + high) / 2
                low, high = (low, middle) if forwards(planned(middle)) <= budget else (middle, high)
            plans = planned(high)
        return groups, plans

    def _allowed(self, number: int) -> int:
        """Count how many of a group's rows that are not run may be wrong."""
        failed = int((self._failed & (self._group == number)).sum())
        return allowed_wrong(int(self._rows[number]), self._promise().consistency) - failed

    def _alpha(self) -> float:
        """Share the accepted probability of a miss among the groups that may have a wrong row."""
        share = self._promise().consistency
        uncertain = sum(allowed_wrong(int(rows), share) > 0 for rows in self._rows)
        return self._promise().alpha / max(uncertain, 1)

    def _audit(
        self, number: int, groups: list[Integers], plans: list[AuditPlan], benefits: Doubles
    ) -> SlicePlan:
        """Fix the order of all rows that were not run, and draw those that are audited."""
        draw = np.random.default_rng(int(self.round.digest, 16))
        tables, drawn, promised = [], [], []
        cached = np.concatenate([np.zeros(0, np.int64), *(p.cached for p in self._begun().features())])
        for index, (rows, plan) in enumerate(zip(groups, plans, strict=True)):
            audited = np.zeros(len(rows), dtype=bool)
            audited[draw.choice(len(rows), plan.draws, replace=False)] = True
            drawn.append(rows[audited])
            columns = {
                "group": np.full(len(rows), index, np.int32),
                "position": rows,
                "score": benefits[rows].astype(np.float32),
                "answer": cached[rows],
                "audited": audited,
            }
            tables.append(pa.table(columns))
            failed = int((self._failed & (self._group == index)).sum())
            promised.append(
                PromisedRows(
                    name=str(self._names[index]),
                    rows=int(self._rows[index]),
                    allowed=self._allowed(index),
                    limit=plan.limit,
                    failed=failed,
                )
            )
        taken = np.sort(np.concatenate([np.zeros(0, np.int64), *drawn]))
        taken = taken[: max(self._capacity - (self._competing - int(self._free.sum())), 0)]
        made = self._slice(number, taken, benefits[taken], self._learning())
        if not isinstance(made.record, SliceRecord):
            raise AssertionError("the audit is no first slice")
        record = msgspec.structs.replace(
            made.record, promise=SlicePromise(alpha=self._alpha(), groups=promised)
        )
        return SlicePlan(made.name, record, made.order, {FROZEN: pa.concat_tables(tables)})

    def _rest(self, number: int, audited: Sequence[AuditedRows]) -> SlicePlan | None:
        """Plan what the audit shows to be missing, within what may still be run."""
        places = [each.to_run() for each in audited]
        parts = list(zip(audited, places, strict=True))
        rows = np.concatenate([np.zeros(0, np.int64), *(each.position[at] for each, at in parts)])
        score = np.concatenate([np.zeros(0), *(each.score[at] for each, at in parts)])
        left = self._capacity - (self._competing - int(self._free.sum()))
        if not len(rows[:left]):
            return None
        return self._slice(number, rows[:left], score[:left], self._learning())
