"""Random programs of everything that changes a cache, with failures and interruptions, against an oracle.

The oracle knows for every row which model's answer it must hold, and to which value of the sample: a row is
either as it was before a round, to the bit, or holds what the round's model says of the sample as it is now.
"""

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.refresh.conftest import outputs_of

from sparing.cache import Cache, check
from sparing.errors import CacheError, InputError, ModelError
from sparing.models import Model
from sparing.refresh import Correction, RefreshOptions, append_samples, fill, fit, refresh

IDS = [f"s{number:02d}" for number in range(60)]
NAMES = ("alpha", "beta", "gamma")


def said(name, value):
    """What a model says of a value."""
    return outputs_of(name, [value])[0]


def same(one, other):
    """Whether two answers are the same; those to other values, or of other models, differ far more."""
    return np.allclose(one, other, atol=1e-6)


class Programs(RuleBasedStateMachine):
    """A cache on disk, and what it must hold."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "c.lance"
        self.values = {}
        self.rows = {}  # id -> (model, value)
        self.ends = {}  # round -> rows at its end
        self.round = 0
        self.staged = None
        self.asked = 0
        self.next_value = 0

    def teardown(self):
        shutil.rmtree(self.folder)

    def fresh(self):
        """A value that no sample had before."""
        self.next_value += 1
        return self.next_value

    def model(self, name, *, killed_after=None, bad=()):
        bad = set(bad)

        def function(ids, values):
            self.asked += len(ids)
            if killed_after is not None and self.asked > killed_after:
                raise KeyboardInterrupt
            if bad & set(ids):
                raise ValueError("bad")
            return outputs_of(name, values)

        return Model(name, f"d:{name}", function, batch_size=4)

    @initialize(rows=st.integers(10, 40))
    def begin(self, rows):
        self.values = {name: self.fresh() for name in IDS[:rows]}
        fill(self.path, self.model("old"), self.values, encoding="float32")
        self.rows = {name: ("old", value) for name, value in self.values.items()}
        self.ends = {0: dict(self.rows)}

    def now(self):
        return Cache.open(self.path)

    def committed(self):
        self.ends[self.round] = dict(self.rows)

    @rule(data=st.data())
    def samples_change(self, data):
        for name in data.draw(st.sets(st.sampled_from(sorted(self.values)), max_size=10)):
            self.values[name] = self.fresh()

    @rule(
        name=st.sampled_from(NAMES),
        rows=st.integers(0, 40),
        scorer=st.sampled_from([None, "entropy", "random"]),
        corrects=st.booleans(),
        killed_after=st.none() | st.integers(0, 60),
        data=st.data(),
    )
    @precondition(lambda self: self.staged is None)
    def refresh(self, name, rows, scorer, corrects, killed_after, data):
        bad = data.draw(st.sets(st.sampled_from(sorted(self.values)), max_size=3))
        correction = Correction(recent=[self.model("old")]) if corrects and scorer != "random" else None
        options = RefreshOptions(
            budget=f"{rows}rows", scorer=scorer, correction=correction, max_failures="100%"
        )
        self.run(name, options, bad, killed_after, rows)

    @rule(killed_after=st.none() | st.integers(0, 60), how=st.sampled_from(["resume", "commit", "discard"]))
    @precondition(lambda self: self.staged is not None)
    def go_on(self, killed_after, how):
        name, options, bad, rows = self.staged
        if how == "discard":
            options = RefreshOptions(budget="0rows", scorer="random")
        self.run(name, options, bad, killed_after, rows if how != "discard" else 0, how=how)

    def run(self, name, options, bad, killed_after, rows, how="resume"):
        self.asked = 0
        told = []
        model = self.model(name, killed_after=killed_after, bad=bad)
        try:
            report = refresh(
                self.path, [model], options, samples=self.values, unfinished=how, on_failures=told.append
            )
        except KeyboardInterrupt:
            self.staged = (name, options, bad, rows)
            return
        except ModelError:  # all rows that were tried have failed
            assert bad
            self.staged = (name, options, bad, rows)
            return
        self.staged = None
        budget = rows * (1 if options.correction is None else 60)
        # Rows that fail cost their batch of four once more.
        assert self.asked <= budget + 5 * len(bad) + (200 if options.correction else 0)
        self.absorb(report, name, options.correction is not None)

    def absorb(self, report, name, corrected):
        """Take over what the round did, once each row is found to be as it was, or as it must be now."""
        cache = self.now()
        found = cache.get(sorted(self.rows))
        models = [info.name for info in cache.metadata.models]
        refreshed = 0
        for row, key in enumerate(found.ids.to_pylist()):
            holder = models[found.models[row]]
            before = said(*self.rows[key])
            if holder == self.rows[key][0] and same(found.probs[row], before):
                continue
            allowed = {name, "old"} if corrected else {name}
            assert holder in allowed, (key, holder)
            assert same(found.probs[row], said(holder, self.values[key])), key
            self.rows[key] = (holder, self.values[key])
            refreshed += 1
        assert report.refreshed + report.corrected >= refreshed
        self.round = cache.metadata.round
        assert self.round == report.round
        self.committed()

    @rule(name=st.sampled_from(NAMES), rows=st.integers(2, 20), killed_after=st.none() | st.integers(0, 30))
    def fit(self, name, rows, killed_after):
        self.asked = 0
        model = self.model(name, killed_after=killed_after)
        if self.staged is not None:
            with pytest.raises(CacheError, match="unfinished round"):
                fit(self.path, [model], samples=self.values, rows=rows, epochs=1)
            return
        with suppress(KeyboardInterrupt, InputError):  # which says that too few rows are left to fit on
            fit(self.path, [model], samples=self.values, rows=rows, epochs=1)

    @rule(rows=st.integers(1, 5), name=st.sampled_from(NAMES))
    def append(self, rows, name):
        new = [each for each in IDS if each not in self.rows][:rows]
        if not new:
            return
        kept = {each: self.values[each] for each in self.rows}
        values = {**kept, **{each: self.fresh() for each in new}}
        if self.refused(lambda: append_samples(self.path, self.model(name), values)):
            return
        self.values = values
        self.rows.update({each: (name, values[each]) for each in new})
        self.committed()

    @rule(data=st.data())
    @precondition(lambda self: len(self.rows) > 10)
    def delete(self, data):
        gone = sorted(data.draw(st.sets(st.sampled_from(sorted(self.rows)), min_size=1, max_size=4)))
        if self.refused(lambda: self.now().delete(gone)):
            return
        for each in gone:
            del self.rows[each]
            self.values.pop(each)
        self.committed()

    @rule(data=st.data())
    def rollback(self, data):
        wanted = data.draw(st.integers(0, self.round))
        if self.refused(lambda: self.now().rollback(wanted), lost=wanted not in self.ends):
            return
        self.round = wanted
        self.rows = dict(self.ends[wanted])
        for each in self.rows:
            self.values.setdefault(each, self.fresh())
        self.committed()

    @rule(keep=st.integers(0, 2))
    def compact(self, keep):
        if self.refused(lambda: self.now().compact(keep_rounds=keep)):
            return
        self.ends = {number: rows for number, rows in self.ends.items() if number >= self.round - keep}

    @rule()
    def compact_as_due(self):
        if self.staged is None:
            self.now().compact_if_due()

    def refused(self, change, lost=False):
        """Make a change, and see that it is refused where it must be: while a round is staged."""
        if self.staged is None and not lost:
            change()
            return False
        with pytest.raises(CacheError):
            change()
        return True

    @invariant()
    def every_row_holds_what_it_must(self):
        if not self.rows:
            return
        cache = self.now()
        found = cache.get(sorted(self.rows))
        assert found.ids.to_pylist() == sorted(self.rows)
        assert len(cache) == len(self.rows)
        models = [info.name for info in cache.metadata.models]
        assert [models[at] for at in found.models] == [self.rows[key][0] for key in sorted(self.rows)]
        assert same(found.probs, np.array([said(*self.rows[key]) for key in sorted(self.rows)]))
        assert cache.metadata.round == self.round

    @invariant()
    def nothing_is_damaged(self):
        if self.rows:
            assert check(self.path).problems == {}


Programs.TestCase.settings = settings(
    max_examples=12,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking a program takes minutes
    stateful_step_count=14,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
TestPrograms = Programs.TestCase
