"""Rounds that learn while they spend."""

import numpy as np
import pyarrow as pa
import pytest
from tests.refresh.conftest import Recorder, outputs_of
from tests.refresh.test_slices import Kill, kill_at, same  # noqa: F401 -- a fixture

from sparing.cache import Cache
from sparing.errors import InputError
from sparing.models import Model
from sparing.numerics.distributions import entropy
from sparing.numerics.selection import tie_keys
from sparing.refresh import Correction, RefreshOptions, fit, preview, refresh
from sparing.refresh.learned import pool
from sparing.refresh.slices import staged_slices
from sparing.refresh.staging import Staging


def moving(w, seen=None, name="new"):
    """A model that moves the answer of every third sample, and keeps the others."""

    def function(ids, values):
        if seen is not None:
            seen.extend(ids)
        old = outputs_of("old", values)
        moved = np.array([value % 3 == 0 for value in values])[:, None]
        return np.where(moved, np.roll(old, 1, axis=1), old)

    return Model(name, f"d:{name}", function, batch_size=8)


def features_of(w):
    return pa.table({"id": list(w.samples), "group": [f"g{i % 6}" for i in w.samples.values()]})


def test_a_column_that_tells_is_learned_while_spending(world):
    w = world(900)
    seen = []
    options = RefreshOptions(budget="50%", features=features_of(w))
    report = refresh(w.path, [moving(w, seen)], options, samples=w.samples)
    assert len(seen) == len(set(seen)) == report.refreshed == 450
    assert report.account["forwards"] == {"new": 450}
    changed = {name for name, i in w.samples.items() if i % 3 == 0}
    assert changed <= set(seen)  # by entropy alone about half of the 300
    assert report.learning["probe"] == 30
    assert report.learning["slices"] > report.learning["learned"] > 3
    assert report.learning["ranked_by"] == "learned"
    assert report.learning["loss"] < report.learning["entropy_loss"]
    assert report.account["seconds"]["learning"] > 0
    entry = Cache.open(w.path).metadata.history[-1]
    assert (entry["scorer"], entry["report"]["learning"]) == ("learned", report.learning)


def test_the_probe_is_random_and_the_rest_by_entropy_where_nothing_can_be_learned(world):
    w = world(400)
    new = Recorder("new")
    ids = w.cache.ids()
    report = refresh(w.path, [new.model()], RefreshOptions(budget="50%"), samples=w.samples)
    assert report.refreshed == 200
    keys = tie_keys(ids)
    probe = {ids[int(i)].as_py() for i in np.argsort(keys)[:30]}
    assert set(new.seen[:30]) == probe
    rows = Cache.open(w.path, 1).get(ids)
    left = [i for i in range(400) if rows.ids[i].as_py() not in probe]
    sure = entropy(rows.probs)
    first = sorted(left, key=lambda i: -sure[i])[:50]
    assert set(new.seen[30:80]) == {rows.ids[i].as_py() for i in first}


def test_features_that_do_not_stay_in_memory_choose_as_well(world, monkeypatch):
    w = world(900)
    monkeypatch.setattr(pool, "IN_MEMORY", 0)
    monkeypatch.setattr(Cache.scan, "__defaults__", (128,))
    seen = []
    options = RefreshOptions(budget="50%", features=features_of(w))
    refresh(w.path, [moving(w, seen)], options, samples=w.samples)
    assert len(seen) == 450
    assert len({i for i in seen if w.samples[i] % 3 == 0}) > 270


def test_what_fit_ran_is_learned_from_and_not_run_again(world):
    w = world(600)
    seen = []
    fit(w.path, [moving(w, seen)], samples=w.samples, rows=60, epochs=1)
    options = RefreshOptions(budget="50%", features=features_of(w))
    shown = preview(w.path, [moving(w)], options)
    assert (shown.known, shown.probe, shown.forwards) == (60, 0, {"new": 240})
    report = refresh(w.path, [moving(w, seen)], options, samples=w.samples)
    assert len(seen) == len(set(seen)) == report.refreshed == 300
    assert report.learning["probe"] == 0
    assert report.learning["ranked_by"] == "learned"
    assert {name for name, i in w.samples.items() if i % 3 == 0} <= set(seen)


def test_rows_of_the_candidate_are_left_out_and_everything_can_be_spent(world):
    w = world(200)
    seen = []
    refresh(w.path, [moving(w, seen)], RefreshOptions(budget="30%"), samples=w.samples)
    report = refresh(w.path, [moving(w, seen)], RefreshOptions(budget="100%"), samples=w.samples)
    assert report.refreshed == 140
    assert len(seen) == len(set(seen)) == 200
    assert refresh(w.path, [moving(w)], RefreshOptions(budget="100%"), samples=w.samples).refreshed == 0


def test_of_several_candidates_the_target_alone_is_run(world):
    w = world(200)
    one, two = Recorder("one"), Recorder("two")
    models = [one.model(cost=1.0, unit="cost"), two.model(cost=2.0, unit="cost")]
    assert preview(w.path, models, RefreshOptions(budget="101cost")).forwards == {"one": 0, "two": 50}
    report = refresh(w.path, models, RefreshOptions(budget="101cost"), samples=w.samples)
    assert report.account["forwards"] == {"two": 50}
    assert not one.seen
    refresh(w.path, models, RefreshOptions(budget="20rows", target="one"), samples=w.samples)
    assert len(one.seen) == 20


def test_a_preview_says_what_the_first_slice_is(world):
    w = world(400)
    shown = preview(w.path, [moving(w)], RefreshOptions(budget="50%"))
    assert (shown.probe, shown.refresh, shown.scorer, shown.prediction) == (30, {"new": 200}, "learned", None)
    report = refresh(w.path, [moving(w)], RefreshOptions(budget="50%"), samples=w.samples)
    assert report.learning["probe"] == shown.probe
    assert preview(w.path, [moving(w)], RefreshOptions(budget="50%", scorer="entropy")).probe is None


def test_samples_are_looked_for_before_anything_is_run(world):
    w = world(100)
    seen, some = [], dict(list(w.samples.items())[1:])
    with pytest.raises(InputError, match="1 of the 100 rows to run are not among the samples"):
        refresh(w.path, [moving(w, seen)], RefreshOptions(budget="10%"), samples=some)
    assert not seen


def test_what_does_not_go_together(world):
    w = world(50)
    for options, message in (
        ({"scorer": "learned", "correction": Correction()}, "cannot correct"),
        ({"scorer": "entropy", "features": features_of(w)}, "only the scorer 'learned' learns from features"),
        ({"features": "group"}, "have no columns"),
    ):
        with pytest.raises(InputError, match=message):
            refresh(w.path, [moving(w)], RefreshOptions(budget="50%", **options), samples=w.samples)


def test_the_first_and_the_last_round_of_a_correction(world):
    """A round that learned is one that a later correction can look back to."""
    w = world(200)
    refresh(w.path, [moving(w)], RefreshOptions(budget="50%"), samples=w.samples)
    later = RefreshOptions(budget="30%", correction=Correction())
    report = refresh(w.path, [Recorder("later").model()], later, samples=w.samples)
    assert (report.round, report.refreshed) == (2, 60)
    assert report.learning is None


def test_a_round_that_was_begun_when_entropy_was_the_default_resumes(world):
    w = world(600)
    new = Recorder("new", fail_at=next(iter(w.samples)), error=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        refresh(w.path, [new.model()], RefreshOptions(budget="100%", scorer="entropy"), samples=w.samples)
    new.fail_at = None
    report = refresh(w.path, [new.model()], RefreshOptions(budget="100%"), samples=w.samples)
    assert (report.refreshed, report.learning) == (600, None)
    assert Cache.open(w.path).metadata.history[-1]["scorer"] == "entropy"


def test_a_kill_between_any_two_writes_changes_nothing(world, kill_at):  # noqa: F811
    def options(w):
        return RefreshOptions(budget="180rows", features=features_of(w))

    whole = world(300, "whole.lance")
    state = kill_at(None)
    expected = refresh(whole.path, [moving(whole)], options(whole), samples=whole.samples)
    assert expected.learning["slices"] >= 4
    assert expected.learning["learned"] > 0
    writes = state["writes"]
    for number in range(writes):
        w = world(300, f"killed-{number}.lance")
        kill_at(number)
        with pytest.raises(Kill):
            refresh(w.path, [moving(w)], options(w), samples=w.samples)
        kill_at(None)
        report = refresh(w.path, [moving(w)], options(w), samples=w.samples)
        assert (report.round, report.learning) == (1, expected.learning)
        assert report.account["forwards"] == {"new": 180}
        assert same(w, whole)
        assert not staged_slices(Staging(Cache.open(w.path).staged_round))
