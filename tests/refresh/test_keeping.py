"""Rounds that promise a consistency instead of spending a budget."""

import numpy as np
import pyarrow as pa
import pytest
from tests.refresh.conftest import Recorder, outputs_of
from tests.refresh.test_learning import features_of, moving
from tests.refresh.test_slices import Kill, kill_at, same  # noqa: F401 -- a fixture

from sparing.cache import Cache
from sparing.errors import BudgetError, InputError
from sparing.models import Model
from sparing.refresh import Correction, RefreshOptions, fit, preview, refresh


def consistency(w, model):
    """The share of rows whose class is that of a full re-run."""
    stored = Cache.open(w.path).get(list(w.samples))
    new = model.function(stored.ids.to_pylist(), [w.samples[i] for i in stored.ids.to_pylist()])
    return float((stored.probs.argmax(axis=1) == new.argmax(axis=1)).mean())


def unsure_moving(w, seen=None):
    """A model that changes answers at random, the more often the less sure the cached ones are."""

    def function(ids, values):
        if seen is not None:
            seen.extend(ids)
        old = outputs_of("old", values)
        top = np.sort(old, axis=1)[:, -1]
        moved = np.random.default_rng(7).random(100_000)[np.asarray(values)] > 1.2 * top
        return np.where(moved[:, None], np.roll(old, 1, axis=1), old)

    return Model("new", "d:new", function, batch_size=8)


@pytest.mark.parametrize("scorer", ["learned", "entropy"])
def test_what_is_promised_is_kept_with_fewer_forwards(world, scorer):
    w = world(2000)
    seen = []
    options = RefreshOptions(consistency="90%", confidence="90%", scorer=scorer)
    report = refresh(w.path, [unsure_moving(w, seen)], options, samples=w.samples)
    assert len(seen) == len(set(seen)) == report.refreshed < 1900
    assert report.complete
    promise = report.promise
    assert promise["kept"]
    assert promise["audited"] > 0
    assert 0.9 <= promise["certified"] <= consistency(w, unsure_moving(w))
    assert (promise["consistency"], promise["confidence"], promise["by"]) == (0.9, 0.9, None)
    assert Cache.open(w.path).metadata.history[-1]["report"]["promise"] == promise


def test_a_column_that_tells_makes_the_promise_cheap(world):
    w = world(1500)
    plain, told = world(1500, "plain.lance"), w
    options = {"consistency": 0.95, "confidence": 0.95}
    with_column = refresh(
        told.path, [moving(w)], RefreshOptions(**options, features=features_of(w)), samples=w.samples
    )
    without = refresh(plain.path, [moving(w)], RefreshOptions(**options), samples=plain.samples)
    assert with_column.promise["kept"]
    assert without.promise["kept"]
    assert with_column.refreshed < 0.8 * without.refreshed
    assert with_column.promise["certified"] <= consistency(told, moving(w))


def test_of_many_caches_as_many_keep_it_as_the_confidence_says(world):
    kept = 0
    for seed in range(20):
        w = world(400, f"{seed}.lance")
        options = RefreshOptions(consistency="85%", confidence="80%", scorer="entropy", seed=seed)
        report = refresh(w.path, [unsure_moving(w)], options, samples=w.samples)
        kept += consistency(w, unsure_moving(w)) >= report.promise["certified"] >= 0.85
    assert kept >= 12  # 16 are expected at least; 11 or fewer once in 100 times


def test_the_promise_holds_in_every_group(world):
    w = world(1600)
    groups = pa.table({"id": list(w.samples), "side": ["left" if i % 4 else "right" for i in range(1600)]})

    def function(ids, values):
        old = outputs_of("old", values)
        moved = np.array([value % 4 == 0 and value % 3 == 0 for value in values])
        return np.where(moved[:, None], np.roll(old, 1, axis=1), old)

    model = Model("new", "d:new", function, batch_size=8)
    options = RefreshOptions(consistency="90%", features=groups, by="side")
    report = refresh(w.path, [model], options, samples=w.samples)
    parts = report.promise["groups"]
    assert sum(part["rows"] for part in parts.values()) == 1600
    assert set(parts) == {"left", "right"}
    assert report.promise["kept"]
    assert report.promise["certified"] == min(part["certified"] for part in parts.values())
    stored = Cache.open(w.path).get(list(w.samples))
    side = dict(zip(w.samples, groups["side"].to_pylist(), strict=True))
    for name, part in parts.items():
        mine = [i for i in stored.ids.to_pylist() if side[i] == name]
        found = stored.probs[[stored.ids.to_pylist().index(i) for i in mine]].argmax(axis=1)
        new = function(mine, [w.samples[i] for i in mine]).argmax(axis=1)
        assert (found == new).mean() >= part["certified"] >= 0.9


def test_by_the_cached_class(world):
    w = world(900)
    options = RefreshOptions(consistency="80%", by="class", scorer="entropy")
    report = refresh(w.path, [unsure_moving(w)], options, samples=w.samples)
    assert len(report.promise["groups"]) == Cache.open(w.path, 1).metadata.kind.n_classes
    assert report.promise["kept"]


def test_a_budget_caps_what_is_spent_and_what_is_certified_is_said(world):
    w = world(1500)
    seen = []
    options = RefreshOptions(consistency="99%", budget="40%", scorer="entropy")
    report = refresh(w.path, [unsure_moving(w, seen)], options, samples=w.samples)
    assert len(seen) == report.refreshed <= 600
    assert not report.promise["kept"]
    assert 0.5 < report.promise["certified"] <= consistency(w, unsure_moving(w))
    # A budget that pays for no audit certifies nothing.
    w = world(300, "other.lance")
    options = RefreshOptions(consistency="99%", budget="30rows", scorer="learned")
    report = refresh(w.path, [unsure_moving(w)], options, samples=w.samples)
    assert (report.refreshed, report.promise["certified"], report.promise["kept"]) == (30, None, False)


def test_a_cache_in_which_everything_must_be_run(world):
    w = world(60)
    report = refresh(w.path, [unsure_moving(w)], RefreshOptions(consistency="99.9%"), samples=w.samples)
    assert (report.refreshed, report.promise["certified"], report.promise["kept"]) == (60, 1.0, True)
    again = refresh(w.path, [unsure_moving(w)], RefreshOptions(consistency="99.9%"), samples=w.samples)
    assert (again.refreshed, again.promise["certified"], again.promise["kept"]) == (0, 1.0, True)


def test_rows_that_fail_count_as_wrong(world):
    w = world(800)
    inner = unsure_moving(w)

    def function(ids, values):
        if any(value % 10 == 0 for value in values):
            raise ValueError("broken")
        return inner.function(ids, values)

    model = Model("new", "d:new", function, batch_size=1)
    options = RefreshOptions(consistency="85%", scorer="entropy", max_failures="100%")
    report = refresh(w.path, [model], options, samples=w.samples, on_failures=lambda failed: None)
    assert report.failed
    assert report.promise["certified"] <= consistency(w, inner)


def test_a_kill_between_any_two_writes_changes_nothing(world, kill_at):  # noqa: F811
    options = RefreshOptions(consistency="75%", confidence="80%", scorer="entropy")
    whole = world(400, "whole.lance")
    state = kill_at(None)
    expected = refresh(whole.path, [unsure_moving(whole)], options, samples=whole.samples)
    assert expected.promise["audited"] > 0
    for number in range(0, state["writes"], 2):
        w = world(400, f"{number}.lance")
        kill_at(number)
        with pytest.raises(Kill):
            refresh(w.path, [unsure_moving(w)], options, samples=w.samples)
        kill_at(None)
        report = refresh(w.path, [unsure_moving(w)], options, samples=w.samples)
        assert (report.promise, report.refreshed) == (expected.promise, expected.refreshed)
        assert same(w, whole)


def test_the_preview_has_a_curve_once_fit_has_run_rows(world):
    w = world(1500)
    fit(w.path, [unsure_moving(w)], samples=w.samples, rows=300, epochs=1)
    options = RefreshOptions(consistency="85%")
    shown = preview(w.path, [unsure_moving(w)], options)
    assert shown.curve.rows == 300
    assert all(point.low <= point.consistency <= point.high for point in shown.curve.points)
    report = refresh(w.path, [unsure_moving(w)], options, samples=w.samples)
    assert abs(report.refreshed / 1500 - shown.curve.needed) < 0.25


def measured(w, label, model):
    """Precision and recall of a class: what the cache holds against a full re-run."""
    stored = Cache.open(w.path).get(list(w.samples))
    ids = stored.ids.to_pylist()
    new = model.function(ids, [w.samples[i] for i in ids]).argmax(axis=1)
    held = stored.probs.argmax(axis=1)
    both = int(((held == label) & (new == label)).sum())
    return both / int((held == label).sum()), both / int((new == label).sum())


def test_precision_and_recall_of_a_class(world):
    w = world(2500)
    options = RefreshOptions(precision={"1": "90%"}, recall={"1": "80%"}, confidence="90%")
    report = refresh(w.path, [unsure_moving(w)], options, samples=w.samples)
    assert report.promise["kept"]
    assert report.refreshed < 2400
    assert (report.promise["consistency"], report.promise["certified"]) == (None, None)
    precision, recall = report.promise["classes"]
    assert (precision["measure"], recall["measure"]) == ("precision", "recall")
    true_precision, true_recall = measured(w, 1, unsure_moving(w))
    assert true_precision >= precision["certified"] >= 0.9
    assert true_recall >= recall["certified"] >= 0.8


def test_precision_alone_runs_no_more_than_the_rows_of_the_class_need(world):
    w = world(2000)
    options = RefreshOptions(precision={"2": "85%"}, confidence="90%", scorer="entropy")
    report = refresh(w.path, [unsure_moving(w)], options, samples=w.samples)
    assert report.promise["kept"]
    assert report.refreshed < 700
    assert measured(w, 2, unsure_moving(w))[0] >= report.promise["classes"][0]["certified"] >= 0.85


def test_of_many_caches_as_many_keep_precision_and_recall_as_the_confidence_says(world):
    kept = 0
    for seed in range(12):
        w = world(500, f"{seed}.lance")
        options = RefreshOptions(
            precision={"0": "80%"}, recall={"0": "70%"}, confidence="80%", scorer="entropy", seed=seed
        )
        report = refresh(w.path, [unsure_moving(w)], options, samples=w.samples)
        certified = [each["certified"] for each in report.promise["classes"]]
        kept += all(
            true >= said for true, said in zip(measured(w, 0, unsure_moving(w)), certified, strict=True)
        )
    assert kept >= 7


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, BudgetError, "say what the round may spend"),
        ({"budget": "50%", "by": "class"}, InputError, "groups are those of a promise"),
        ({"consistency": "120%"}, InputError, "must be above 0 and below 100%"),
        ({"consistency": "100%"}, InputError, "a full re-run is --budget 100%"),
        ({"consistency": "much"}, InputError, "cannot be read"),
        ({"consistency": "95%", "confidence": "0"}, InputError, "confidence must be above 0"),
        ({"consistency": "95%", "scorer": "margin"}, InputError, "ranked by learned or entropy"),
        ({"consistency": "95%", "objective": "accuracy"}, InputError, "leave out"),
        ({"consistency": "95%", "correction": Correction()}, InputError, "leave out"),
        ({"precision": {"unsafe": "95%"}}, InputError, "no class of the cache"),
        ({"recall": {"1": "95%"}, "by": "class"}, InputError, "groups are those of a consistency"),
        ({"consistency": "95%", "by": "group"}, InputError, "have no columns"),
    ],
)
def test_what_does_not_go_together(world, options, error, message):
    w = world(50)
    with pytest.raises(error, match=message):
        refresh(w.path, [Recorder("new").model()], RefreshOptions(**options), samples=w.samples)


def test_a_promise_is_about_one_model(world):
    w = world(50)
    models = [Recorder("one").model(), Recorder("two").model()]
    with pytest.raises(InputError, match="there are 2 candidates"):
        refresh(w.path, models, RefreshOptions(consistency="90%"), samples=w.samples)


def test_an_audit_of_most_rows_is_put_off():
    from sparing.numerics.certificate import AuditPlan
    from sparing.refresh.keeping import UNSURE_ROWS, _unsure

    assert _unsure(AuditPlan(draws=7308, limit=6318, cut=0), 8643)  # seen on two CIFAR-100 networks
    assert not _unsure(AuditPlan(draws=472, limit=522, cut=2308), 8043)
    assert not _unsure(AuditPlan(draws=30, limit=1, cut=0), UNSURE_ROWS - 1)  # all of a few rows are audited
