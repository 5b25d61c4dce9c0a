"""The default of a refresh: a random probe, then slices ranked by what the rows run so far have taught."""

from collections.abc import Sequence
from time import perf_counter

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from threadpoolctl import threadpool_limits

from sparing.data.samples import Samples
from sparing.errors import InputError
from sparing.models import Model
from sparing.outputs import Classes
from sparing.refresh.learned.imputing import Imputed, Left, impute
from sparing.refresh.learned.label_model import join_guesses
from sparing.refresh.learned.learner import Learner
from sparing.refresh.learned.pool import Pool
from sparing.refresh.learned.slice_sizes import SliceRule, most_beneficial, probe_rows
from sparing.refresh.planning import right_rows
from sparing.refresh.predicted import Predicted
from sparing.refresh.records import RoundRecord, SliceLearning, SliceRecord, Totals
from sparing.refresh.round import FIRST_OF_ALL, Round
from sparing.refresh.running import chunk_rows_for, find_samples
from sparing.refresh.slices import FIRST, Purpose, SlicePlan, Slices, updates
from sparing.refresh.staging import Staging

Integers = npt.NDArray[np.int64]

AHEAD = 2.0
"""Added to the benefit of rows whose answer is predicted already: more than any other row has."""

LARGE_SLICES = SliceRule(slice_share=0.1, growth=1.0)
"""Slices of caches whose features do not stay in memory: each of them reads the whole cache again."""


class LearnWhileSpending:
    """Runs a few random rows, learns what the new model changes, and ranks the rest, slice by slice.

    Only the target is run: another candidate can at best agree with it, and finding out where costs more
    forwards than it saves, unless it is far cheaper. What `fit` has run of the target is learned from, too.

    The state follows from the staged slices, in order, so that a kill at any moment resumes to the same bits
    on the same machine: sums run in one thread.

    Attributes:
        round: what was asked for.
        samples: where the sample values are; None when no model needs them.
    """

    def __init__(self, round_: Round, samples: Samples | None) -> None:
        self.round = round_
        self.samples = samples
        self._observed = 0
        self._pool: Pool | None = None
        self._left = np.zeros(0, dtype=np.int64)
        self._imputed: Imputed | None = None

    def next(self, slices: Slices) -> SlicePlan | None:
        """Plan the probe, then slices by benefit until the budget is spent."""
        started = perf_counter()
        with threadpool_limits(1):
            self._catch_up(slices)
            plan = self._plan(len(updates(slices)))
        if plan is not None:
            plan.record.seconds["learning"] = perf_counter() - started
        return plan

    def predicted(self, slices: Slices, *, observe: bool) -> Predicted | None:
        """Return what rows that were not run store, and what that is expected to bring.

        Args:
            slices: the slices of the round, as far as they were run.
            observe: whether those that no plan has seen yet are learned from; takes as long as a plan.
        """
        with threadpool_limits(1):
            if observe:
                self._catch_up(slices)
                if not self.round.impute:
                    self._decide()
        if self._pool is None:
            return None
        pool = self._pool
        # Rows that the target wrote, and that hold what another model was predicted to answer since.
        own = pool.imputed & np.isin(pool.held, self.round.cache.metadata.holding(self.round.target))
        if self._imputed is None:
            return None if not own.any() else _reverted(pool, np.flatnonzero(own))
        found = self._imputed
        free = self._free.copy()
        for part in updates(slices):
            free[part.order()["position"].to_numpy()] = False
        kept = free[self._left]
        stored = self.round.impute and found.evidence.pays
        changes = kept & (found.imputed | pool.imputed[self._left]) & stored
        reverted = _reverted(pool, np.flatnonzero(own))
        at = np.concatenate([self._left[changes], reverted.positions])
        classes = np.where(found.imputed, found.labels, -1)[changes]
        probabilities = found.probability[changes].astype(np.float32)
        return Predicted(
            ids=pool.ids.take(pa.array(at)),
            positions=at,
            classes=np.concatenate([classes, reverted.classes]),
            probabilities=np.concatenate([probabilities, reverted.probabilities]),
            report={
                "stored": stored,
                "rows": int((kept & found.imputed).sum()) if found.evidence.pays else 0,
                "gain": found.gain / max(len(pool), 1),
                "held_out": found.evidence.rows,
                "wins": found.evidence.wins,
                "losses": found.evidence.losses,
            },
        )

    def models(self, purpose: Purpose) -> Sequence[Model]:  # noqa: ARG002 -- it only updates
        """Return the candidates."""
        return self.round.candidates

    def _catch_up(self, slices: Slices) -> None:
        """Observe the slices that were run since."""
        if self._pool is None:
            self._begin()
            if self._known and self.round.impute:
                self._decide()
        done = updates(slices)
        for part in done[self._observed :]:
            self._observe(part)
        self._observed = len(done)

    def _begin(self) -> None:
        round_ = self.round
        kind = round_.cache.metadata.kind
        if not isinstance(kind, Classes):
            raise AssertionError(f"nothing is learned from {kind.name}")
        if not len(round_.cache):
            raise InputError("the cache has no rows: there is nothing to refresh")
        self._pool = pool = Pool(round_.cache, kind.n_classes, round_.columns, round_.seed)
        self._learner = Learner(pool.encoder, kind.n_classes)
        self._rule = SliceRule() if pool.small else LARGE_SLICES
        own = round_.cache.metadata.holding(round_.target)
        self._free = ~np.isin(pool.held, own)
        self._known = 0
        for item in round_.known:
            if item is not None:
                self._free[pool.positions(item.ids)] = False
        known = round_.known[round_.names.index(round_.target)]
        if known is not None:
            self._known = len(known.ids)
            self._learn(pool.positions(known.ids), known.outputs.argmax(axis=1))
        self._competing = int(self._free.sum())
        self._capacity = min(round_.target_rows(len(pool)), self._competing)

    def _observe(self, part: Staging) -> None:
        order = part.order()
        new = [chunk.outputs.argmax(axis=1) for chunk in part.chunks()]
        positions = order["position"].to_numpy().astype(np.int64)
        self._free[positions] = False  # those that failed, too
        ran = positions[part.finished_rows(len(positions))]
        # Rows whose sample has changed do not show what the new model changes.
        kept = ~self.round.changed(self._begun().held[ran])
        self._learn(ran[kept], np.concatenate([np.zeros(0, np.int64), *new])[kept])
        if self.round.impute:
            self._decide()
            # Where answers are predicted, what predicts them is fitted after every slice.
            self._learner.always = self._imputed is not None and self._imputed.evidence.pays

    def _decide(self) -> None:
        """Decide what the rows that are left would store if they were not run."""
        pool, labels, held = self._begun(), self._learner.labels, self._learner.held_out
        free = self._free & ~self.round.changed(pool.held)
        self._left, self._imputed = np.flatnonzero(free), None
        if labels is None or held is None:
            return
        guesses, change, cached, start = [], [np.zeros(0)], [np.zeros(0, np.int64)], 0
        for part in pool.features():
            rows = part.take(np.flatnonzero(free[start : start + len(part)]))
            start += len(part)
            guesses.append(labels.guess(rows))
            change.append(self._learner.probability(rows, guesses[-1]))
            cached.append(rows.cached)
        self._imputed = impute(
            held, Left(join_guesses(guesses), np.concatenate(change), np.concatenate(cached))
        )

    def _answers(self) -> Integers:
        """Return what all rows answer if they are not run, (n,)."""
        answers = self._begun().answers.astype(np.int64)
        if self.round.impute and self._imputed is not None and self._imputed.evidence.pays:
            answers[self._left] = self._imputed.labels
        return answers

    def _chances(self) -> npt.NDArray[np.float64]:
        """Predict how likely all rows would be wrong if they are not run, (n,)."""
        parts = self._begun().features()
        chances = np.concatenate([np.zeros(0), *(self._learner.probability(part) for part in parts)])
        if self.round.impute and self._imputed is not None and self._imputed.evidence.pays:
            chances[self._left] = 1 - self._imputed.probability
        return np.where(self.round.changed(self._begun().held), 1.0, chances)

    def _learn(self, positions: Integers, new: npt.NDArray[np.integer]) -> None:
        if self._pool is not None and len(positions):
            self._learner.observe(self._pool.take(positions), new.astype(np.int64))

    def _plan(self, number: int) -> SlicePlan | None:
        left = np.flatnonzero(self._free)
        run = self._competing - len(left)
        if number and run >= self._capacity:
            return None
        probe = max(self._rule.probe(self._competing, self._capacity) - self._known, 0)
        pool = self._begun()
        learning = SliceLearning()
        if not number and (probe or not self._capacity):
            changed = left[self.round.changed(pool.held[left])][: self._capacity]
            rest = np.setdiff1d(left, changed)
            drawn = probe_rows(pool.keys[rest], min(probe, len(rest), self._capacity - len(changed)))
            taken = np.concatenate([changed, rest[drawn]])
            score = self._benefits()[taken]
        else:
            learning, size = self._learning(), self._slice_rows(run)
            benefits = self._benefits()
            best = most_beneficial(benefits[left], pool.keys[left], size)
            taken, score = left[best], benefits[left[best]]
        return self._slice(number, taken, score, learning)

    def _slice(
        self, number: int, taken: Integers, score: npt.NDArray[np.float64], learning: SliceLearning
    ) -> SlicePlan:
        """Plan a slice of some rows, by position, ascending, with their scores."""
        order = self._order(taken, score)
        chunk_rows = chunk_rows_for(order.num_rows, self.round.candidates, self.round.cache.metadata.kind)
        if number:
            record = SliceRecord(chunk_rows=chunk_rows, seconds={}, learning=learning)
            return SlicePlan(f"{FIRST}-{number:04d}", record, order)
        self._check_samples(np.flatnonzero(self._free))
        return SlicePlan(FIRST, self._first_record(chunk_rows, learning), order)

    def _learning(self) -> SliceLearning:
        """Describe what ranks the rows now."""
        choice = self._learner.choice
        compared = choice.loss == choice.loss
        return SliceLearning(
            ranked_by="learned" if self._learner.learned else "entropy",
            label_model=self._learner.blend.used,
            loss=choice.loss if compared else None,
            entropy_loss=choice.plain_loss if compared else None,
            seen=self._learner.seen,
            imputing=self.round.impute and self._imputed is not None and self._imputed.evidence.pays,
        )

    def _slice_rows(self, run: int) -> int:
        """Count the rows of the next slice, when so many were run in this round."""
        known = self._known
        return self._rule.next_slice(known + self._competing, known + run, known + self._capacity)

    def _begun(self) -> Pool:
        if self._pool is None:
            raise AssertionError("nothing was planned yet")
        return self._pool

    def _benefits(self) -> npt.NDArray[np.float64]:
        """Score all rows, (n,)."""
        pool = self._begun()
        if self.round.impute and self._imputed is not None and self._imputed.evidence.pays:
            benefits = np.zeros(len(pool))
            benefits[self._left] = 1 - self._imputed.probability
        else:
            parts = [np.zeros(0), *(self._learner.benefit(part) for part in pool.features())]
            benefits = np.concatenate(parts)
        benefits += np.where(pool.imputed, AHEAD, 0.0)
        return np.where(self.round.changed(pool.held), FIRST_OF_ALL, benefits)

    def _order(self, taken: Integers, score: npt.NDArray[np.float64]) -> pa.Table:
        """List rows, best first, with what committing them needs; see `planning.order_rows`."""
        pool, kind = self._begun(), self.round.cache.metadata.kind
        best = np.lexsort((pool.keys[taken], -score))
        taken, score = taken[best], score[best]
        rows, at = pool.read(taken)
        return pa.table(
            {
                "id": pool.ids.take(pa.array(taken)),
                "position": taken,
                "model": pool.held[taken],
                "candidate": np.full(len(taken), self.round.names.index(self.round.target), np.int16),
                "score": score.astype(np.float32),
                "label": rows.labels[at],
                "right": right_rows(rows, kind)[at].astype(np.int8),
            }
        )

    def _check_samples(self, left: Integers) -> None:
        """Look for the samples of all rows that may be run, before anything is."""
        target = np.full(len(left), self.round.names.index(self.round.target), np.int16)
        ids = self._begun().ids.take(pa.array(left))
        find_samples(pa.table({"id": ids, "candidate": target}), self.round.candidates, self.samples)

    def _first_record(self, chunk_rows: int, learning: SliceLearning) -> RoundRecord:
        round_, labelled, right = self.round, 0, 0
        for rows in round_.cache.scan():
            labelled += int((rows.labels >= 0).sum())
            right += int(right_rows(rows, round_.cache.metadata.kind).sum())
        n = len(self._begun())
        return RoundRecord(
            chunk_rows=chunk_rows,
            command=round_.command,
            digest=round_.digest,
            what=round_.what,
            models={model.name: model.digest for model in round_.candidates},
            scorer=round_.scorer.digest,
            target=round_.target,
            seed=round_.seed,
            totals=Totals(n, self._competing, labelled, right),
            rows_scored=n,
            seconds={},
            learning=learning,
        )


def _reverted(pool: Pool, positions: Integers) -> Predicted:
    """Return rows that answer by their outputs again."""
    return Predicted(
        ids=pool.ids.take(pa.array(positions)),
        positions=positions,
        classes=np.full(len(positions), -1, dtype=np.int64),
        probabilities=np.zeros(len(positions), dtype=np.float32),
    )
