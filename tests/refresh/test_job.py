import json
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.refresh.conftest import CLASSES, Recorder, World, outputs_of

from sparing.cache import Cache
from sparing.errors import BudgetError, CacheError, InputError, LockedError, ModelError
from sparing.models import Model
from sparing.numerics.distributions import entropy
from sparing.numerics.selection import tie_keys
from sparing.refresh import Ranker, RefreshOptions, fill, fit, fit_outputs, preview, refresh
from sparing.storage.arrow import read_arrow


def by_entropy(world, among=None):
    """The ids in the order that the entropy scorer runs them, from a sort that shares no code with it."""
    rows = Cache.open(world.path).get(list(world.samples))
    ties = tie_keys(rows.ids)
    order = sorted(range(len(rows)), key=lambda i: (-entropy(rows.probs)[i], ties[i]))
    ids = [rows.ids[i].as_py() for i in order]
    return [i for i in ids if among is None or i in among]


def test_a_share_refreshes_exactly_the_most_uncertain_rows(world):
    w = world(301)
    new = Recorder("new")
    expected = by_entropy(w)[:150]  # floor(0.5 * 301)
    report = refresh(w.path, [new.model()], RefreshOptions(scorer="entropy", budget="50%"), samples=w.samples)
    assert sorted(new.seen) == sorted(expected)
    assert w.ids_of("new") == set(expected)
    assert (report.round, report.refreshed, report.rows, report.complete) == (1, 150, 301, True)
    assert report.account["forwards"] == {"new": 150}
    assert report.account["rows_scored"] == 301
    assert report.share_of_forwards == pytest.approx(150 / 301)
    stored = w.stored()
    for name in expected:
        np.testing.assert_allclose(stored[name][0], outputs_of("new", [w.samples[name]])[0], atol=6e-4)
        assert stored[name][2] == 1


def test_work_is_done_in_order_of_benefit(world):
    w = world(300)
    new = Recorder("new")
    expected = by_entropy(w)[:200]
    refresh(w.path, [new.model()], RefreshOptions(scorer="entropy", budget="200rows"), samples=w.samples)
    assert new.seen == expected


def test_accuracy_before_and_after(world):
    w = world(200)
    report = refresh(w.path, [Recorder("new").model()], RefreshOptions(budget="40%"), samples=w.samples)
    rows = Cache.open(w.path).get(list(w.samples))
    before = outputs_of("old", range(200)).argmax(1)
    assert report.accuracy_before == pytest.approx((before == rows.labels).mean())
    assert report.accuracy == pytest.approx((rows.probs.argmax(1) == rows.labels).mean())
    assert Cache.open(w.path).metadata.history[-1]["report"]["accuracy"] == report.accuracy


def test_nothing_and_everything(world):
    w = world(50)
    new = Recorder("new")
    assert refresh(w.path, [new.model()], RefreshOptions(budget="0%"), samples=w.samples).refreshed == 0
    assert new.seen == []
    assert refresh(w.path, [new.model()], RefreshOptions(budget="100%"), samples=w.samples).refreshed == 50
    # A model is not run again on rows that it wrote.
    assert refresh(w.path, [new.model()], RefreshOptions(budget="100%"), samples=w.samples).refreshed == 0
    assert len(new.seen) == 50


def test_a_preview_says_what_a_refresh_then_does(world):
    w = world(200)
    new = Recorder("new")
    seen = preview(w.path, [new.model(cost=2.0, unit="cost")], RefreshOptions(budget="120cost"))
    assert seen.refresh == {"new": 60}
    assert (seen.cost, seen.rows, seen.prediction) == (120.0, 200, None)
    assert new.seen == []
    report = refresh(
        w.path, [new.model(cost=2.0, unit="cost")], RefreshOptions(budget="120cost"), samples=w.samples
    )
    assert report.refreshed == 60


def test_candidates_that_write_their_own_rows(world):
    w = world(200)
    a, b = Recorder("a"), Recorder("b")
    ranker = fit(w.path, [a.model(), b.model()], samples=w.samples, rows=40, epochs=2)
    report = refresh(
        w.path,
        [a.model(), b.model()],
        RefreshOptions(ranker=ranker, budget="60%", target="a"),
        samples=w.samples,
    )
    assert report.refreshed == 80  # 120 forwards, of which fit spent 80 on 40 rows
    assert report.account["forwards"] == {name: len(recorder.seen) for name, recorder in (("a", a), ("b", b))}
    assert sum(report.account["forwards"].values()) == 120
    assert len(set(a.seen)) == len(a.seen)
    # Of fit's rows, each holds the candidate with the largest true entropy decrease.
    for name, (_, model, _) in w.stored().items():
        if name in set(a.seen) & set(b.seen):
            left = {m: entropy(outputs_of(m, [w.samples[name]]))[0] for m in "ab"}
            stored = Cache.open(w.path).metadata.models[model].name
            assert left[stored] == min(left.values())


def test_a_cost_budget_weighs_candidates(world):
    w = world(200)
    cheap, dear = Recorder("cheap"), Recorder("dear")
    models = [cheap.model(cost=1.0, unit="cost"), dear.model(cost=10.0, unit="cost")]
    ranker = fit(w.path, models, samples=w.samples, rows=60, epochs=5)
    report = refresh(w.path, models, RefreshOptions(ranker=ranker, budget="900cost"), samples=w.samples)
    forwards = report.account["forwards"]
    assert forwards["cheap"] + 10 * forwards["dear"] <= 900
    assert forwards["cheap"] >= 60
    with pytest.raises(BudgetError, match="state it with --cost"):
        refresh(w.path, [cheap.model()], RefreshOptions(budget="5cost"), samples=w.samples)


def test_only_positive_leaves_the_others_alone(world):
    w = world(300)
    ranker = fit(w.path, [Recorder("new").model()], samples=w.samples, rows=100, epochs=20)
    all_rows = preview(w.path, [Recorder("new").model()], RefreshOptions(ranker=ranker, budget="100%"))
    positive = preview(
        w.path, [Recorder("new").model()], RefreshOptions(ranker=ranker, budget="100%", only_positive=True)
    )
    assert all_rows.refresh["new"] == 300
    others = next(iter(Cache.open(w.path).scan()))
    gains = ranker.benefits(others.probs)[:, 0]
    assert positive.known == 100
    assert positive.forwards["new"] <= (gains > 0).sum()
    assert 0 < positive.forwards["new"] < 200


def test_what_fit_ran_is_not_run_again_and_counts(world):
    w = world(300)
    new = Recorder("new")
    ranker = fit(w.path, [new.model()], samples=w.samples, rows=60, epochs=2)
    fitted = set(new.seen)
    assert len(fitted) == 60
    seen = preview(w.path, [new.model()], RefreshOptions(ranker=ranker, budget="50%"))
    assert (seen.known, seen.forwards["new"], seen.refresh["new"]) == (60, 90, 150)
    assert seen.prediction.rows == 12
    report = refresh(w.path, [new.model()], RefreshOptions(ranker=ranker, budget="50%"), samples=w.samples)
    assert len(new.seen) == len(set(new.seen)) == 150
    assert report.account["forwards"] == {"new": 150}
    assert report.account["fit_forwards"] == {"new": 60}
    assert fitted <= w.ids_of("new")
    # A second round finds nothing left over from fit.
    assert (
        refresh(
            w.path, [new.model()], RefreshOptions(ranker=ranker, budget="10%"), samples=w.samples
        ).refreshed
        == 30
    )


def test_a_budget_that_fit_has_spent_already(world):
    w = world(300)
    new = Recorder("new")
    ranker = fit(w.path, [new.model()], samples=w.samples, rows=100, epochs=2)
    report = refresh(w.path, [new.model()], RefreshOptions(ranker=ranker, budget="10%"), samples=w.samples)
    assert report.refreshed == 100
    assert len(new.seen) == 100


def test_class_names_that_do_not_fit_are_refused(tmp_path):
    samples = {f"s{i:04d}": i for i in range(40)}
    cache = fill(tmp_path / "c.lance", Recorder("old").model(classes=tuple("abcde")), samples)
    assert cache.metadata.classes == tuple("abcde")
    with pytest.raises(InputError, match="share no class: the model's first is 'v', the cache's 'a'"):
        refresh(
            cache.path,
            [Recorder("new").model(classes=tuple("vwxyz"))],
            RefreshOptions(budget="50%"),
            samples=samples,
        )
    with pytest.raises(ModelError, match="names 4 classes but returned 5"):
        fit(cache.path, [Recorder("new").model(classes=tuple("abcd"))], samples=samples)
    with pytest.raises(ModelError, match="names 4 classes but returned 5"):
        fill(tmp_path / "d.lance", Recorder("old").model(classes=tuple("abcd")), samples)


def test_the_ranker_of_a_round_stays_in_the_cache(world):
    w = world(100)
    ranker = fit(w.path, [Recorder("new").model()], samples=w.samples, rows=30, epochs=2)
    refresh(w.path, [Recorder("new").model()], RefreshOptions(ranker=ranker, budget="50%"), samples=w.samples)
    metadata = Cache.open(w.path).metadata
    name, _, digest = metadata.history[-1]["scorer"].partition(":")
    kept = Ranker.from_bytes(metadata.ranker(digest))
    assert [name] == list(kept.scorers) == ["router"]  # no more of it than the round ranked by
    probs = outputs_of("old", range(100))
    np.testing.assert_array_equal(kept.benefits(probs), ranker.benefits(probs))


def test_after_a_failure_the_same_call_goes_on(world):
    w = world(2000)
    expected = by_entropy(w)[:1000]
    new = Recorder("new", fail_at=expected[700])
    with pytest.raises(ModelError, match=expected[700]):
        refresh(w.path, [new.model()], RefreshOptions(scorer="entropy", budget="50%"), samples=w.samples)
    assert Cache.open(w.path).metadata.round == 0
    kept = set(expected[:640])  # whole chunks of 128
    assert kept <= set(new.seen)
    new.fail_at = None
    before = list(new.seen)
    report = refresh(w.path, [new.model()], RefreshOptions(scorer="entropy", budget="50%"), samples=w.samples)
    again = [i for i in new.seen[len(before) :] if i in before]
    assert set(again) <= set(expected[640:768])  # of the chunk in flight only
    assert report.account["wasted_forwards"] == 128
    assert report.account["forwards"] == {"new": 1000}
    assert w.ids_of("new") == set(expected)


def test_interrupted_it_can_be_finished_as_a_shorter_round(world):
    w = world(2000)
    expected = by_entropy(w)[:1000]
    new = Recorder("new", fail_at=expected[300], error=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        refresh(w.path, [new.model()], RefreshOptions(scorer="entropy", budget="50%"), samples=w.samples)
    with pytest.raises(CacheError, match="unfinished round is staged"):
        refresh(w.path, [new.model()], RefreshOptions(scorer="entropy", budget="40%"), samples=w.samples)
    report = refresh(
        w.path, [new.model()], RefreshOptions(scorer="entropy", budget="50%"), unfinished="commit"
    )
    assert (report.refreshed, report.complete) == (256, False)
    assert w.ids_of("new") == set(expected[:256])
    with pytest.raises(CacheError, match="nothing to finish"):
        refresh(w.path, [new.model()], RefreshOptions(scorer="entropy", budget="50%"), unfinished="commit")


def test_rows_do_not_change_under_a_staged_round(world):
    w = world(2000)
    new = Recorder("new", fail_at=by_entropy(w)[300])
    with pytest.raises(ModelError):
        refresh(w.path, [new.model()], RefreshOptions(budget="50%"), samples=w.samples)
    cache = Cache.open(w.path)
    for change in (lambda: cache.delete(["s0001"]), lambda: cache.rollback(0), cache.compact):
        with pytest.raises(CacheError, match="unfinished round is staged"):
            change()
    with pytest.raises(CacheError, match="unfinished round is staged"):
        fit(w.path, [new.model()], samples=w.samples)
    assert Cache.open(w.path).version == 1


def test_a_cache_without_rows_is_named(world):
    w = world(3)
    Cache.open(w.path).delete(list(w.samples))
    for job in (refresh, preview):
        with pytest.raises(InputError, match="has no rows"):
            job(w.path, [Recorder("new").model()], RefreshOptions(budget="50%"), samples=w.samples)


def test_staged_work_can_be_discarded(world):
    w = world(2000)
    new = Recorder("new", fail_at=by_entropy(w)[300])
    with pytest.raises(ModelError):
        refresh(w.path, [new.model()], RefreshOptions(budget="50%"), samples=w.samples)
    new.fail_at = None
    report = refresh(
        w.path, [new.model()], RefreshOptions(budget="100rows"), samples=w.samples, unfinished="discard"
    )
    assert report.refreshed == 100


def test_staged_work_that_cannot_be_read_can_be_discarded(world):
    w = world(2000)
    new = Recorder("new", fail_at=by_entropy(w)[300])
    with pytest.raises(ModelError):
        refresh(w.path, [new.model()], RefreshOptions(budget="50%"), samples=w.samples)
    new.fail_at = None
    path = w.path / "_sparing" / "round" / "request.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    options = RefreshOptions(budget="100rows")
    with pytest.raises(CacheError, match="finish it with the release that staged it, or drop it"):
        refresh(w.path, [new.model()], options, samples=w.samples)
    report = refresh(w.path, [new.model()], options, samples=w.samples, unfinished="discard")
    assert (report.refreshed, report.complete) == (100, True)


def test_a_kill_between_commit_and_clean_up_does_not_start_another_round(world, monkeypatch):
    w = world(100)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sparing.refresh.job._clean_up", killed)
    with pytest.raises(KeyboardInterrupt):
        refresh(w.path, [Recorder("new").model()], RefreshOptions(budget="30%"), samples=w.samples)
    monkeypatch.undo()
    assert Cache.open(w.path).metadata.round == 1
    assert Cache.open(w.path).unfinished_round() is None
    report = refresh(w.path, [Recorder("new").model()], RefreshOptions(budget="30%"), samples=w.samples)
    assert report.round == 1
    assert Cache.open(w.path).metadata.round == 1
    assert (
        refresh(w.path, [Recorder("new").model()], RefreshOptions(budget="30%"), samples=w.samples).round == 2
    )


class Clock:
    """Time that only a model's work makes pass."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        for module in ("job", "running", "slices"):
            monkeypatch.setattr(f"sparing.refresh.{module}.monotonic", lambda: self.now)

    def model(self, seconds):
        def function(ids, values):
            self.now += seconds * len(ids)
            return outputs_of("new", values)

        return Model("new", "d:new", function, batch_size=8)


def test_a_time_budget_stops_in_time_and_commits_what_was_reached(world, monkeypatch):
    w = world(3000)
    clock = Clock(monkeypatch)
    report = refresh(
        w.path, [clock.model(0.01)], RefreshOptions(scorer="entropy", budget="10s"), samples=w.samples
    )
    # 0.5 s and 2 µs per row are kept back for the commit: 949 forwards of 0.01 s fit into 9.494 s.
    assert report.refreshed == 949
    assert clock.now - 1000 <= 10
    assert not report.complete
    assert w.ids_of("new") == set(by_entropy_of_old(w)[: report.refreshed])


def test_what_is_left_of_a_time_budget_after_a_restart(world, monkeypatch):
    w = world(3000)
    clock = Clock(monkeypatch)
    failing = Recorder("new", fail_at=by_entropy(w)[300])
    slow = clock.model(0.01)
    monkeypatch.setattr(
        slow, "function", lambda ids, v: (failing.model()(ids, v), clock.model(0.01)(ids, v))[1]
    )
    with pytest.raises(ModelError):
        refresh(w.path, [slow], RefreshOptions(scorer="entropy", budget="10s"), samples=w.samples)
    clock.now += 5000  # the time until somebody restarts it does not count
    started = clock.now
    report = refresh(
        w.path, [clock.model(0.01)], RefreshOptions(scorer="entropy", budget="10s"), samples=w.samples
    )
    # The first run had done 299 rows in batches of 8 or so; what it had begun counts as spent, too.
    assert clock.now - started <= 10 - 2.9
    assert 2 * 128 < report.refreshed <= 949


def test_kills_do_not_buy_time(world, monkeypatch):
    w = world(3000)
    clock = Clock(monkeypatch)
    ran = 0.0
    for kills in range(9):
        slow, calls = clock.model(0.1), []
        inner = slow.function

        def dying(ids, values, calls=calls, inner=inner, kills=kills):
            calls.append(ids)
            outputs = inner(ids, values)
            if kills < 8 and len(calls) == 3:
                raise KeyboardInterrupt  # inside a chunk: its time is spent, its outputs are not kept
            return outputs

        slow.function = dying
        before = clock.now
        try:
            refresh(w.path, [slow], RefreshOptions(scorer="entropy", budget="20s"), samples=w.samples)
        except KeyboardInterrupt:
            ran += clock.now - before
            continue
        ran += clock.now - before
        break
    assert ran <= 20 + 0.1


def test_until_is_the_one_given_now(world):
    w = world(2000)
    new = Recorder("new", fail_at=by_entropy(w)[300])
    with pytest.raises(ModelError):
        refresh(w.path, [new.model()], RefreshOptions(scorer="entropy", budget="50%"), samples=w.samples)
    new.fail_at = None
    past = datetime.now(UTC) - timedelta(seconds=1)
    report = refresh(
        w.path, [new.model()], RefreshOptions(scorer="entropy", budget="50%"), samples=w.samples, until=past
    )
    assert (report.refreshed, report.complete) == (256, False)


def test_a_prediction_is_for_what_was_run(world):
    w = world(2000)
    new = Recorder("new")
    pairs = (pa.array([f"e{i}" for i in range(400)]), outputs_of("old", range(5000, 5400)))
    outputs = (pairs[0], outputs_of("new", range(5000, 5400)))
    ranker = fit_outputs(pairs, [outputs], ["new"], epochs=5)
    whole = preview(w.path, [new.model()], RefreshOptions(ranker=ranker, budget="90%")).prediction
    some = preview(w.path, [new.model()], RefreshOptions(ranker=ranker, budget="256rows")).prediction
    new.fail_at = next(i for i in (r for r in w.samples) if i in set(order_of(w, ranker)[300:310]))
    with pytest.raises(ModelError):
        refresh(w.path, [new.model()], RefreshOptions(ranker=ranker, budget="90%"), samples=w.samples)
    report = refresh(w.path, [new.model()], RefreshOptions(ranker=ranker, budget="90%"), unfinished="commit")
    assert report.refreshed == 256
    assert report.prediction == some
    assert some.consistency < whole.consistency - 0.2


def order_of(w, ranker):
    rows = Cache.open(w.path).get(list(w.samples))
    benefits = ranker.benefits(rows.probs)[:, 0]
    return [rows.ids[int(i)].as_py() for i in np.argsort(-benefits, kind="stable")]


def test_predictions_with_several_candidates_count_what_fit_stores(world):
    w = world(200)
    a, b = Recorder("a"), Recorder("b")
    ranker = fit(w.path, [a.model(), b.model()], samples=w.samples, rows=100, epochs=2)
    report = refresh(
        w.path,
        [a.model(), b.model()],
        RefreshOptions(ranker=ranker, budget="0%", target="a"),
        samples=w.samples,
    )
    stored = w.stored()
    full = outputs_of("a", range(200)).argmax(1)
    held = np.array([stored[i][0].argmax() for i in w.samples])
    fitted = [n for n, i in enumerate(w.samples) if i in set(a.seen)]
    agreed = (held == full)[fitted].mean()
    others = (held == full)[[n for n in range(200) if n not in fitted]].mean()
    assert report.prediction.consistency == pytest.approx(
        (agreed + others) / 2, abs=4 * report.prediction.error
    )
    assert abs(report.prediction.consistency - (1 + others) / 2) > 0.1  # not as if all of fit's rows agreed


def test_a_ranker_of_other_models_does_not_disturb_another_scorer(world):
    w = world(100)
    ranker = fit(w.path, [Recorder("a").model()], samples=w.samples, rows=40, epochs=1)
    report = refresh(
        w.path,
        [Recorder("b").model()],
        RefreshOptions(ranker=ranker, scorer="entropy", budget="10%"),
        samples=w.samples,
    )
    assert (report.refreshed, report.prediction) == (10, None)


def test_costs_in_different_units_are_not_mixed(world):
    w = world(100)
    models = [Recorder("a").model(cost=5.0, unit="cost"), Recorder("b").model(cost=0.005)]
    with pytest.raises(BudgetError, match="'b' in the same units"):
        refresh(w.path, models, RefreshOptions(budget="10cost"), samples=w.samples)


def test_a_round_of_nothing_is_no_round(world):
    w = world(100)
    report = refresh(w.path, [Recorder("new").model()], RefreshOptions(budget="0%"), samples=w.samples)
    assert (report.round, report.refreshed) == (0, 0)
    assert Cache.open(w.path).version == 1
    assert Cache.open(w.path).unfinished_round() is None


def test_a_model_that_exits_does_not_end_the_command(world):
    w = world(100)

    def leaving(_ids, _values):
        raise SystemExit(0)

    with pytest.raises(ModelError, match="SystemExit"):
        refresh(w.path, [Model("m", "d", leaving)], RefreshOptions(budget="10%"), samples=w.samples)


def test_many_scan_chunks_choose_the_same_rows(world, monkeypatch):
    w = world(301)
    expected = set(by_entropy(w)[:150])
    monkeypatch.setattr(Cache.scan, "__defaults__", (37,))
    refresh(
        w.path, [Recorder("new").model()], RefreshOptions(scorer="entropy", budget="50%"), samples=w.samples
    )
    assert w.ids_of("new") == expected


def by_entropy_of_old(w):
    old = World(Cache.open(w.path, 1), w.samples)
    rows = old.cache.get(list(w.samples))
    ties = tie_keys(rows.ids)
    order = sorted(range(len(rows)), key=lambda i: (-entropy(rows.probs)[i], ties[i]))
    return [rows.ids[i].as_py() for i in order]


def test_until_a_time_that_has_come_commits_what_is_there(world):
    w = world(100)
    past = datetime.now(UTC) - timedelta(seconds=1)
    report = refresh(
        w.path, [Recorder("new").model()], RefreshOptions(budget="50%"), samples=w.samples, until=past
    )
    assert (report.refreshed, report.complete) == (0, False)


def test_bad_requests_write_nothing(world, tmp_path):
    w = world(60)
    new = Recorder("new").model()
    missing = {k: v for k, v in w.samples.items() if k != "s0007"}
    numbers = dict(enumerate(range(60)))
    other = Model("wide", "d:wide", lambda ids, _: np.full((len(ids), 3), 1 / 3))
    ranker = fit(world(60, "elsewhere.lance").path, [new], samples=w.samples, rows=20, epochs=1)
    cases = [
        (InputError, "at least one candidate", {"candidates": []}),
        (InputError, "not unique", {"candidates": [new, new]}),
        (InputError, "target 'x' is not among", {"target": "x"}),
        (InputError, "no scorer 'clever'", {"scorer": "clever"}),
        (InputError, "needs a ranker", {"scorer": "router"}),
        (BudgetError, "more than all rows", {"budget": "101%"}),
        (InputError, "needs the samples", {"samples": None}),
        (InputError, "not among the samples, for example 's0007'", {"samples": missing, "budget": "100%"}),
        (InputError, "ids of type string", {"samples": numbers}),
        (InputError, "3 classes, where 5 are expected", {"candidates": [other]}),
        (CacheError, "another digest", {"candidates": [Model("old", "d:other", lambda i, v: None)]}),
        (InputError, "not for 'newer'", {"candidates": [Recorder("newer").model()], "ranker": ranker}),
        (
            InputError,
            "fitted for another 'new'",
            {"candidates": [Model("new", "d:2", lambda i, v: None)], "ranker": ranker},
        ),
        (InputError, "no ranker at", {"ranker": tmp_path / "nowhere"}),
    ]
    for error, message, changes in cases:
        asked = {"budget": "50%", **changes}
        candidates, samples = asked.pop("candidates", [new]), asked.pop("samples", w.samples)
        with pytest.raises(error, match=message):
            refresh(w.path, candidates, RefreshOptions(**asked), samples=samples, unfinished="discard")
        assert Cache.open(w.path).version == 1
    with Cache.open(w.path).lock(), pytest.raises(LockedError):
        refresh(w.path, [new], RefreshOptions(budget="50%"), samples=w.samples)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda m: np.full((m, CLASSES), np.nan), "NaN"),
        (lambda m: np.full((m + 1, CLASSES), 0.2), "shape"),
        (lambda m: np.full((m, CLASSES), -3.0), "logits|negative"),
        (lambda m: "nonsense", "shape|table of numbers"),
    ],
)
def test_a_model_that_returns_nonsense_is_named(world, returned, message):
    w = world(50)
    with pytest.raises(ModelError, match=message) as caught:
        refresh(
            w.path,
            [Model("bad", "d", lambda i, v: returned(len(i)), batch_size=8)],
            RefreshOptions(budget="8rows"),
            samples=w.samples,
        )
    assert "'bad'" in str(caught.value)
    assert Cache.open(w.path).version == 1


KILLED = """
import sys, time
import numpy as np
from sparing.models import Model
from sparing.refresh import RefreshOptions, refresh
from tests.refresh.conftest import outputs_of
log = open(sys.argv[2], "a", buffering=1)
def function(ids, values):
    log.write("".join(f"{i}\\n" for i in ids))
    time.sleep(0.002)
    return outputs_of("new", values)
samples = {f"s{i:04d}": i for i in range(2000)}
model = Model("new", "d:new", function, batch_size=8)
report = refresh(sys.argv[1], [model], RefreshOptions(scorer="entropy", budget="50%"), samples=samples)
print(report.account["wasted_forwards"])
"""


def test_kills_lose_and_repeat_nothing(world, tmp_path):
    w = world(2000)
    expected = by_entropy(w)[:1000]
    log = tmp_path / "log"
    command = [sys.executable, "-c", KILLED, str(w.path), str(log)]
    kills = 0
    for forwards in (100, 300, 550, 800):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=Path.cwd())
        while process.poll() is None and (not log.exists() or log.read_text().count("s") < forwards):
            time.sleep(0.01)
        if process.poll() is None:
            process.kill()
            kills += 1
        process.wait()
        assert len(Cache.open(w.path)) == 2000
        assert Cache.open(w.path).metadata.round == 0
    done = Cache.open(w.path).metadata.round == 1
    if not done:
        output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
        assert int(output) <= 128 * kills
    undisturbed = world(2000, "undisturbed.lance")
    refresh(
        undisturbed.path,
        [Recorder("new").model()],
        RefreshOptions(scorer="entropy", budget="50%"),
        samples=w.samples,
    )
    ours, theirs = w.stored(), undisturbed.stored()
    assert all((ours[i][0] == theirs[i][0]).all() and ours[i][1:] == theirs[i][1:] for i in ours)
    counts = dict(zip(*np.unique(log.read_text().split(), return_counts=True), strict=True))
    assert set(expected) <= set(counts)
    assert sum(n - 1 for n in counts.values() if n > 1) <= 128 * kills
    assert kills == 4


def test_requests_are_json(world):
    w = world(300)
    new = Recorder("new", fail_at=by_entropy(w)[200])
    with pytest.raises(ModelError):
        refresh(w.path, [new.model()], RefreshOptions(budget="100%"), samples=w.samples)
    staged = json.loads((w.path / "_sparing" / "round" / "request.json").read_text())
    assert staged["models"] == {"new": "d:new"}
    assert isinstance(read_arrow(w.path / "_sparing" / "round" / "order.arrow"), pa.Table)


def test_an_unknown_choice_for_an_unfinished_round(world):
    w = world(20)
    with pytest.raises(InputError, match="resume or commit or discard, not 'finish'"):
        refresh(w.path, [Recorder("new").model()], RefreshOptions(budget="50%"), unfinished="finish")


def test_a_named_round_spends_its_budget_once(world):
    w, new = world(300), Recorder("new")
    nightly = RefreshOptions(budget="20%", scorer="entropy", once="2026-11-26")
    first = refresh(w.path, [new.model()], nightly, samples=w.samples)
    assert refresh(w.path, [new.model()], nightly, samples=w.samples) == first
    assert len(new.seen) == 60
    next_night = replace(nightly, once="2026-11-27")
    assert refresh(w.path, [new.model()], next_night, samples=w.samples).round == 2
    assert refresh(w.path, [new.model()], nightly, samples=w.samples) == first
    assert len(new.seen) == 120
    Cache.open(w.path).rollback(0)  # what was undone does not count: the name is free again
    assert refresh(w.path, [new.model()], nightly, samples=w.samples).round == 1
    assert len(new.seen) == 180


def test_a_clean_up_that_was_killed_drops_what_its_own_round_used_only(world, monkeypatch):
    w, a, b = world(300), Recorder("a"), Recorder("b")
    fit(w.path, [a.model(), b.model()], samples=w.samples, rows=50, epochs=1)
    options = RefreshOptions(budget="20%", scorer="entropy")
    with monkeypatch.context() as patched:
        patched.setattr("sparing.refresh.job._clean_up", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            refresh(w.path, [a.model()], options, samples=w.samples)
    b.seen.clear()
    report = refresh(w.path, [b.model()], options, samples=w.samples)
    assert report.account["fit_forwards"] == {"b": 50}
    assert len(b.seen) == 10


def test_a_named_round_that_was_killed_in_its_clean_up_leaves_nothing(world, monkeypatch):
    w, new = world(300), Recorder("new")
    fit(w.path, [new.model()], samples=w.samples, rows=20, epochs=1)
    options = RefreshOptions(budget="20%", scorer="entropy", once="tonight")
    for at in ("sparing.refresh.job._clean_up", "sparing.refresh.staging.shutil.rmtree"):
        with monkeypatch.context() as patched:
            patched.setattr(at, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                refresh(w.path, [new.model()], options, samples=w.samples)
    assert refresh(w.path, [new.model()], options, samples=w.samples).refreshed == 60
    assert {p.name for p in Cache.open(w.path).work_dir.iterdir()} == {"checksums"}


def test_a_kill_during_compaction_does_not_spend_the_budget_twice(world, monkeypatch):
    w = world(60)
    new = Recorder("new")
    options = RefreshOptions(budget="9rows", scorer="entropy")

    def killed(_):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Cache, "compact_if_due", killed)
        with pytest.raises(SystemExit):
            refresh(w.path, [new.model()], options, samples=w.samples)
    again = refresh(w.path, [new.model()], options, samples=w.samples)
    assert (again.round, again.refreshed, len(new.seen)) == (1, 9, 9)
    assert not refresh(w.path, [new.model()], options, samples=w.samples, compact=False).compacted
    assert Cache.open(w.path).metadata.round == 2
