"""A round that keeps a promise: it learns as it runs rows, audits those left, and runs what that shows."""

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sparing.data.samples import Samples
from sparing.numerics.certificate import AuditPlan, allowed_wrong, plan_audit
from sparing.refresh.learning import LearnWhileSpending
from sparing.refresh.promise import (
    FROZEN,
    AuditedRows,
    Promise,
    allowed_now,
    audited_rows,
    find_audit,
    outcomes,
)
from sparing.refresh.records import PromisedRows, SlicePromise, SliceRecord
from sparing.refresh.round import FIRST_OF_ALL, Round
from sparing.refresh.slices import SlicePlan, Slices
from sparing.refresh.staging import Staging

Integers = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

FREEZE_SLICES = 2
"""The audit is drawn when no more rows are expected to be run before the cut than so many slices hold."""

RELAX_STEPS = 20

UNSURE_ROWS = 1000
"""An audit of more than half of so many rows, or more, is planned only by a prediction that is far off."""


def _unsure(plan: AuditPlan, rows: int) -> bool:
    """Return whether so much would be audited that more rows in order teach more.

    Rows that were run in the order of their entropy say little of those at its other end.
    """
    return rows >= UNSURE_ROWS and plan.draws > rows / 2


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
        names: list[str] = []
        for part in pool.features():
            ids = pool.ids.slice(len(names), len(part))
            names += promise.groups(ids, part.cached, self.round.cache.metadata.classes)
        self._names, self._group = np.unique(np.array(names, dtype=object).astype(str), return_inverse=True)
        self._rows = np.bincount(self._group, minlength=len(self._names))
        # What the target answers, where it is known: rows that it has written, and those that fit has run.
        own = np.isin(pool.held, self.round.cache.metadata.holding(self.round.target))
        self._new = np.where(own, pool.outputs, -1)
        known = self.round.known[self.round.names.index(self.round.target)]
        if known is not None:
            self._new[pool.positions(known.ids)] = known.outputs.argmax(axis=1)

    def _promise(self) -> Promise:
        if self.round.promise is None:
            raise AssertionError("nothing is promised")
        return self.round.promise

    def _observe(self, part: Staging) -> None:
        order, _, ran, classes = outcomes(part)
        self._failed[order[~ran]] = True
        self._new[order[ran]] = classes
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
        groups, promised, plans = self._drafts(left, benefits, chances, self._capacity - run)
        tops = (rows[: plan.cut] for rows, plan in zip(groups, plans, strict=True))
        needed = np.unique(np.concatenate([np.zeros(0, np.int64), *tops]))
        size = self._slice_rows(run)
        unsure = any(_unsure(plan, len(rows)) for plan, rows in zip(plans, groups, strict=True))
        if number and len(needed) <= FREEZE_SLICES * size and not unsure:
            return self._audit(number, groups, promised, plans, benefits)
        taken = self._best(needed if number and len(needed) else left, benefits)[:size]
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

    def _drafts(
        self, left: Integers, benefits: Doubles, chances: Doubles, budget: int
    ) -> tuple[list[Integers], list[PromisedRows], list[AuditPlan]]:
        """Plan the audit of everything that is promised, within what may still be run.

        Returns:
            By group: its rows, those to be run first at the front, what is promised of them, and the plan.
        """
        alpha = self._alpha()
        parts = [*self._groups(left, benefits, chances), *self._classes(left, chances)]

        def planned(slack: float) -> list[AuditPlan]:
            found = []
            for rows, wrong, promised in parts:
                allowed = max(promised.allowed, 0)
                more = round(slack * max(len(rows) - allowed, 0))
                found.append(plan_audit(wrong[rows], allowed + more, alpha))
            return found

        def forwards(plans: Sequence[AuditPlan]) -> int:
            return sum(plan.forwards(len(rows)) for (rows, _, _), plan in zip(parts, plans, strict=True))

        plans = planned(0.0)
        # Without a cap, what several promises take together may be counted twice, and cannot be too much.
        if self._capacity < self._competing and forwards(plans) > budget:
            # What is asked for is not expected to be affordable: certify as much as is.
            low, high = 0.0, 1.0
            for _ in range(RELAX_STEPS):
                middle = (low + high) / 2
                low, high = (low, middle) if forwards(planned(middle)) <= budget else (middle, high)
            plans = planned(high)
        return [rows for rows, _, _ in parts], [promised for _, _, promised in parts], plans

    def _groups(
        self, left: Integers, benefits: Doubles, chances: Doubles
    ) -> Iterator[tuple[Integers, Doubles, PromisedRows]]:
        """Yield the groups that must agree: rows, best first; how likely rows are wrong; the promise."""
        share = self._promise().consistency
        if share is None:
            return
        order = self._best(left, benefits)
        for number, name in enumerate(self._names):
            size = int(self._rows[number])
            failed = int((self._failed & (self._group == number)).sum())
            yield (
                order[self._group[order] == number],
                chances,
                PromisedRows(
                    name=str(name),
                    rows=size,
                    allowed=allowed_wrong(size, share) - failed,
                    limit=0,
                    failed=failed,
                ),
            )

    def _classes(self, left: Integers, chances: Doubles) -> Iterator[tuple[Integers, Doubles, PromisedRows]]:
        """Yield the rows that precision and recall are promised of, as `_groups` does."""
        promise = self._promise()
        shares = {(each.measure, each.label): each.share for each in promise.classes}
        answers = self._answers()
        for label in dict.fromkeys(each.label for each in promise.classes):
            known = int((self._new == label).sum())
            holding = left[answers[left] == label]
            kept = known + float((1 - chances[holding]).sum())
            precision = shares.get(("precision", label))
            # Where only recall is promised, the audit says how many of the class its rows keep.
            loose = max(1.5 * float(chances[holding].sum()), 0.1 * len(holding), 1.0)
            allowed = loose if precision is None else kept * float((1 - precision) / precision)
            failed = int((self._failed & (answers == label)).sum())
            promised = PromisedRows(
                name="",
                rows=len(holding),
                allowed=int(allowed) - failed,
                limit=0,
                failed=failed,
                measure="precision",
                label=label,
                share="" if precision is None else str(precision),
                known=known,
            )
            yield self._best(holding, chances), chances, promised
            recall = shares.get(("recall", label))
            if recall is not None:
                others = left[answers[left] != label]
                missed = self._chances_of(label, chances)
                failed = int((self._failed & (answers != label)).sum())
                losing = msgspec.structs.replace(
                    promised,
                    rows=len(others),
                    allowed=int(kept * float((1 - recall) / recall)) - failed,
                    failed=failed,
                    measure="recall",
                    share=str(recall),
                )
                yield self._best(others, missed), missed, losing

    def _chances_of(self, label: int, chances: Doubles) -> Doubles:
        """Predict how likely rows that hold another class get this one, by what they hold, (n,)."""
        weights = []
        for part in self._begun().features():
            logs = part.logs.astype(np.float64)
            others = np.exp(logs)
            others[np.arange(len(part)), part.cached] = 0
            weights.append(others[:, label] / np.maximum(others.sum(axis=1), 1e-300))
        result: Doubles = chances * np.concatenate([np.zeros(0), *weights])
        return result

    def _alpha(self) -> float:
        """Share the accepted probability of a miss among all that may be wrong."""
        promise = self._promise()
        parts = len({each.label for each in promise.classes})
        parts += sum(each.measure == "recall" for each in promise.classes)
        if promise.consistency is not None:
            share = promise.consistency
            parts += sum(allowed_wrong(int(rows), share) > 0 for rows in self._rows)
        return promise.alpha / max(parts, 1)

    def _audit(
        self,
        number: int,
        groups: list[Integers],
        promised: list[PromisedRows],
        plans: list[AuditPlan],
        benefits: Doubles,
    ) -> SlicePlan:
        """Fix the order of all rows that were not run, and draw those that are audited."""
        draw = np.random.default_rng(int(self.round.digest, 16))
        tables, drawn = [], []
        answers = self._answers()
        for index, (rows, plan) in enumerate(zip(groups, plans, strict=True)):
            audited = np.zeros(len(rows), dtype=bool)
            audited[draw.choice(len(rows), plan.draws, replace=False)] = True
            drawn.append(rows[audited])
            columns = {
                "group": np.full(len(rows), index, np.int32),
                "position": rows,
                "score": benefits[rows].astype(np.float32),
                "answer": answers[rows],
                "audited": audited,
            }
            tables.append(pa.table(columns))
        taken = np.unique(np.concatenate([np.zeros(0, np.int64), *drawn]))
        taken = taken[: max(self._capacity - (self._competing - int(self._free.sum())), 0)]
        made = self._slice(number, taken, benefits[taken], self._learning())
        if not isinstance(made.record, SliceRecord):
            raise AssertionError("the audit is no first slice")
        noted = [
            msgspec.structs.replace(each, limit=plan.limit)
            for each, plan in zip(promised, plans, strict=True)
        ]
        record = msgspec.structs.replace(made.record, promise=SlicePromise(alpha=self._alpha(), groups=noted))
        return SlicePlan(made.name, record, made.order, {FROZEN: pa.concat_tables(tables)})

    def _rest(self, number: int, audited: Sequence[AuditedRows]) -> SlicePlan | None:
        """Plan what the audit shows to be missing, within what may still be run."""
        places = [each.to_run(allowed_now(each, audited)) for each in audited]
        parts = list(zip(audited, places, strict=True))
        rows = np.concatenate([np.zeros(0, np.int64), *(each.position[at] for each, at in parts)])
        score = np.concatenate([np.zeros(0), *(each.score[at] for each, at in parts)])
        # A row that two promises need is run once.
        rows, first = np.unique(rows, return_index=True)
        score = score[first]
        left = self._capacity - (self._competing - int(self._free.sum()))
        if not len(rows[:left]):
            return None
        return self._slice(number, rows[:left], score[:left], self._learning())
