from dataclasses import asdict

import numpy as np
import pytest
from tests.refresh.conftest import Recorder, outputs_of

from sparing.cache import Cache
from sparing.data.samples import open_samples
from sparing.errors import CacheError
from sparing.refresh import RefreshOptions, fit
from sparing.refresh.commit import commit_round, report_of
from sparing.refresh.planners import PlanOnce
from sparing.refresh.records import RoundRecord
from sparing.refresh.round import prepare_round
from sparing.refresh.running import run_order
from sparing.refresh.slices import run_slices, staged_slices
from sparing.refresh.staging import Staging


def staged(w, models, **options):
    cache = Cache.open(w.path)
    round_ = prepare_round(
        cache, models, RefreshOptions(**{"budget": "40rows", "scorer": "entropy", **options})
    )
    stage, samples = Staging(cache.staged_round), open_samples(w.samples)

    def run(part, models, chunk_rows):
        return run_order(part, models, samples, chunk_rows=chunk_rows, kind=cache.metadata.kind)

    assert run_slices(stage, PlanOnce(round_, samples), run)
    return round_, stage


def commit(round_, stage):
    return commit_round(round_, staged_slices(stage), stage.record(RoundRecord), complete=True)


def test_rows_account_and_history_are_one_version(world):
    w = world(120)
    round_, stage = staged(w, [Recorder("new").model()])
    report = commit(round_, stage)
    cache = Cache.open(w.path)
    assert (cache.version, cache.metadata.round) == (2, 1)
    entry = cache.metadata.history[-1]
    assert {k: entry[k] for k in ("op", "round", "scorer", "digests", "target", "seed")} == {
        "op": "refresh", "round": 1, "scorer": "entropy", "digests": {"new": "d:new"},
        "target": "new", "seed": 0,
    }  # fmt: skip
    assert entry["request"] == stage.record(RoundRecord).digest
    assert report_of(entry) == report
    assert asdict(report)["account"]["forwards"] == {"new": 40}
    rows = cache.get(list(w.samples))
    refreshed = rows.rounds == 1
    new = outputs_of("new", range(120))
    np.testing.assert_allclose(rows.probs[refreshed], new[refreshed], atol=6e-4)
    order = stage.order()
    score = dict(zip(order["id"].to_pylist(), order["score"].to_pylist(), strict=True))
    assert {i: s for i, s in zip(rows.ids.to_pylist(), rows.scores.tolist(), strict=True) if s == s} == score
    assert report.accuracy == pytest.approx((rows.probs.argmax(1) == rows.labels).mean())
    assert cache.metadata.models[1].cost == pytest.approx(
        report.account["model_seconds"]["new"] / 40, abs=1e-6
    )


def test_what_fit_ran_is_stored_along_with_it(world):
    w = world(120)
    new = Recorder("new")
    fit(w.path, [new.model()], samples=w.samples, rows=30, epochs=1)
    fitted = set(new.seen)
    round_, stage = staged(w, [new.model()])
    assert stage.order().num_rows == 10
    report = commit(round_, stage)
    assert (report.refreshed, report.account["fit_forwards"]) == (40, {"new": 30})
    assert fitted <= w.ids_of("new")


def test_a_disk_that_fails_leaves_everything_staged(world, monkeypatch):
    w = world(120)
    round_, stage = staged(w, [Recorder("new").model()])

    def full(*_arguments, **_keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sparing.cache.transactions.commit", full)
    with pytest.raises((CacheError, OSError)):
        commit(round_, stage)
    monkeypatch.undo()
    assert Cache.open(w.path).version == 1
    assert stage.rows_done() == 40
    assert commit(round_, stage).refreshed == 40


def test_an_interrupted_slice_is_committed_as_far_as_it_came(world):
    w = world(400)
    cache = Cache.open(w.path)
    round_ = prepare_round(cache, [Recorder("new").model()], RefreshOptions(budget="300rows"))
    stage, samples = Staging(cache.staged_round), open_samples(w.samples)
    plan = PlanOnce(round_, samples).next({})
    stage.begin(plan.record, plan.order)
    assert run_order(stage, round_.candidates, samples, chunk_rows=128)
    for path in stage.folder.glob("chunk-*.arrow"):
        if int(path.stem.split("-")[1]) >= 128:
            path.unlink()
    report = commit_round(round_, staged_slices(stage), stage.record(RoundRecord), complete=False)
    assert (report.refreshed, report.complete) == (128, False)
    assert w.ids_of("new") == set(plan.order["id"].to_pylist()[:128])
