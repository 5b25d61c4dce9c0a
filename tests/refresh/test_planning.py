from dataclasses import replace

import numpy as np
import pytest
from tests.refresh.conftest import Recorder

from sparing.account import Account
from sparing.cache import Cache
from sparing.data.samples import open_samples
from sparing.numerics.distributions import entropy
from sparing.numerics.selection import tie_keys
from sparing.refresh import Correction, RefreshOptions, fit
from sparing.refresh.planners import plan_update
from sparing.refresh.planning import count_assigned, left_alone, order_rows, plan_rows, score_rows
from sparing.refresh.round import prepare_round


def planned(w, tmp_path, models, capacity, **options):
    round_ = prepare_round(Cache.open(w.path), models, RefreshOptions(**{"budget": "50%", **options}))
    account = Account()
    folder = tmp_path / "spool"
    folder.mkdir(exist_ok=True)
    scored = score_rows(round_, folder, account)
    made = plan_rows(scored, capacity, None, round_.only_positive, account)
    assert account.rows_scored == scored.totals.rows
    return scored, made


def test_an_order_is_the_most_uncertain_rows_with_what_their_commit_needs(world, tmp_path, monkeypatch):
    w = world(120)
    monkeypatch.setattr(Cache.scan, "__defaults__", (50,))
    scored, made = planned(w, tmp_path, [Recorder("new").model()], 30)
    order = order_rows(scored, made)
    rows = w.cache.get(list(w.samples))
    ties, values = tie_keys(rows.ids), entropy(rows.probs)
    best = sorted(range(120), key=lambda i: (-values[i], ties[i]))[:30]
    assert order["id"].to_pylist() == [rows.ids[i].as_py() for i in best]
    np.testing.assert_array_equal(order["label"].to_numpy(), rows.labels[best])
    np.testing.assert_array_equal(order["right"].to_numpy(), (rows.probs.argmax(1) == rows.labels)[best])
    np.testing.assert_allclose(order["score"].to_numpy(), values[best], rtol=1e-5)
    everyone = w.cache.ids().to_pylist()
    assert [everyone[i] for i in order["position"].to_pylist()] == order["id"].to_pylist()
    assert count_assigned(scored, made, 1).tolist() == [30]
    totals = scored.totals
    assert (totals.rows, totals.competing, totals.labelled) == (120, 120, 120)
    assert totals.right == (rows.probs.argmax(1) == rows.labels).sum()


def test_rows_that_fit_ran_do_not_compete(world, tmp_path):
    w = world(120)
    new = Recorder("new")
    fit(w.path, [new.model()], samples=w.samples, rows=20, epochs=1)
    scored, made = planned(w, tmp_path, [new.model()], 500)
    assert scored.totals.competing == 100
    assert set(order_rows(scored, made)["id"].to_pylist()) == set(w.samples) - set(new.seen)


def test_what_is_left_alone_is_what_neither_the_plan_nor_fit_takes(world, tmp_path):
    w = world(120)
    new = Recorder("new")
    fit(w.path, [new.model()], samples=w.samples, rows=20, epochs=1)
    cache = Cache.open(w.path)
    # The schedule corrects from round 2 on.
    entry = {"op": "refresh", "digests": {"old": "d:old"}, "scorer": "entropy", "target": "old"}
    cache.refresh_rows(iter([]), lambda: replace(cache.metadata, round=1), lambda _: entry)
    scored, made = planned(w, tmp_path, [new.model()], 40, correction=Correction())
    left = [
        name
        for table, free in left_alone(scored, made)
        for name, is_free in zip(table["id"].to_pylist(), free, strict=True)
        if is_free
    ]
    taken = order_rows(scored, made)["id"].to_pylist()
    assert len(left) == 120 - 40 - 20
    assert set(left) | set(taken) | set(new.seen) == set(w.samples)


def test_a_planned_update_notes_what_a_restart_needs(world):
    w = world(60)
    options = RefreshOptions(budget="10rows", seed=4, scorer="margin")
    round_ = prepare_round(Cache.open(w.path), [Recorder("new").model(cost=1, unit="cost")], options)
    plan = plan_update(round_, open_samples(w.samples))
    record = plan.record
    assert (plan.name, plan.order.num_rows, dict(plan.tables)) == ("update", 10, {})
    assert (record.scorer, record.target, record.seed, record.models) == (
        "margin",
        "new",
        4,
        {"new": "d:new"},
    )
    assert record.what == "new under 10 rows, ranked by margin"
    assert record.totals.rows == record.rows_scored == 60
    assert record.chunk_rows == 128
    assert (record.command, record.digest) == (round_.command, round_.digest)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"budget": "11rows"}, {"scorer": "entropy"}, {"only_positive": True}]
)
def test_another_request_has_another_digest(world, change):
    w = world(20)
    asked = {"budget": "10rows", "scorer": "margin"}
    one, same, other = (
        prepare_round(Cache.open(w.path), [Recorder("new").model()], RefreshOptions(**options))
        for options in (asked, asked, {**asked, **change})
    )
    assert one.command == same.command != other.command
    Cache.open(w.path).delete(["s0001"])
    later = prepare_round(Cache.open(w.path), [Recorder("new").model()], RefreshOptions(**asked))
    assert later.command == one.command
    assert later.digest != one.digest
