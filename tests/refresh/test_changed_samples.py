"""What is kept or staged names what it was computed from: other samples under the same ids are run again."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.refresh.conftest import Recorder, outputs_of

from sparing.cache import Cache, ModelInfo
from sparing.errors import ModelError
from sparing.refresh import RefreshOptions, append_samples, fill, fit, refresh

HALF = RefreshOptions(budget="50%", scorer="entropy")
WHOLE = RefreshOptions(budget="100%", scorer="entropy")


def others(samples, keep=()):
    """Other samples under the same ids: their numbers are moved."""
    return {name: number if name in keep else number + 10_000 for number, name in enumerate(samples)}


def assert_answers(world, samples, model="new"):
    """Every row that holds a model holds its answer for the sample that is there now."""
    stored = world.stored()
    held = sorted(world.ids_of(model))
    assert held
    now = outputs_of(model, [samples[name] for name in held])
    np.testing.assert_allclose([stored[name][0] for name in held], now, atol=1e-3)


def write(path, samples):
    pq.write_table(pa.table({"id": list(samples), "value": list(samples.values())}), path)
    return path


def interrupted(run, recorder, samples, at=0.6):
    recorder.fail_at = list(samples)[int(at * len(samples))]
    with pytest.raises(ModelError):
        run(recorder)
    recorder.fail_at = None
    assert recorder.seen


@pytest.mark.parametrize("form", ["memory", "file"])
def test_a_round_that_resumes_on_other_samples(world, tmp_path, form):
    w, recorder = world(600), Recorder("new")
    changed = others(w.samples, keep=list(w.samples)[:500])

    def source(samples):
        return samples if form == "memory" else write(tmp_path / "samples.parquet", samples)

    given = source(w.samples)
    interrupted(lambda r: refresh(w.path, [r.model()], WHOLE, samples=given), recorder, w.samples)
    before = len(recorder.seen)
    report = refresh(w.path, [recorder.model()], WHOLE, samples=source(changed))
    assert_answers(w, changed)
    assert report.refreshed == 600
    assert report.account["wasted_forwards"] >= len(recorder.seen) - 600 > 0
    assert before < 600


def test_a_round_that_resumes_on_the_same_samples_repeats_nothing_finished(world, tmp_path):
    w, recorder = world(600), Recorder("new")
    path = write(tmp_path / "samples.parquet", w.samples)
    interrupted(lambda r: refresh(w.path, [r.model()], WHOLE, samples=path), recorder, w.samples)
    path.rename(tmp_path / "moved.parquet")
    copy = tmp_path / "copy.parquet"
    copy.write_bytes((tmp_path / "moved.parquet").read_bytes())  # the same samples with another time
    refresh(w.path, [recorder.model()], WHOLE, samples=copy)
    assert len(recorder.seen) < 600 + 128
    assert_answers(w, w.samples)


def test_what_fit_ran_for_other_samples_is_not_used(world):
    w, recorder = world(300), Recorder("new")
    fit(w.path, [recorder.model()], samples=w.samples, rows=100)
    kept = list(w.samples)[:150]
    changed = others(w.samples, keep=kept)
    report = refresh(w.path, [recorder.model()], WHOLE, samples=changed)
    assert_answers(w, changed)
    assert len(w.ids_of("new")) == 300
    paid = report.account["forwards"]["new"] + report.account["wasted_forwards"]
    assert paid == len(recorder.seen)


def test_appended_rolled_back_and_appended_anew(world):
    w, recorder, old = world(100), Recorder("new"), Recorder("old")
    more = {f"x{i}": 500 + i for i in range(100)}
    refresh(w.path, [Recorder("mid").model()], RefreshOptions(budget="1rows"), samples=w.samples)
    append_samples(w.path, old.model(), more)
    fit(w.path, [recorder.model()], samples={**w.samples, **more}, rows=200)
    Cache.open(w.path).rollback(0)
    moved = {name: number + 7000 for name, number in more.items()}
    append_samples(w.path, old.model(), moved)
    now = {**w.samples, **moved}
    refresh(w.path, [recorder.model()], WHOLE, samples=now)
    w.samples = now
    assert_answers(w, now)
    assert len(w.ids_of("new")) == 200


def test_an_interrupted_fit_then_deleted_and_appended_anew(world):
    w, recorder, old = world(100), Recorder("new"), Recorder("old")
    more = {f"x{i}": 500 + i for i in range(100)}
    append_samples(w.path, old.model(), more)
    everything = {**w.samples, **more}
    interrupted(
        lambda r: fit(w.path, [r.model(batch_size=1)], samples=everything, rows=200),
        recorder,
        everything,
        0.99,
    )
    cache = Cache.open(w.path)
    cache.delete(list(more))
    moved = {name: number + 7000 for name, number in more.items()}
    append_samples(w.path, old.model(), moved)
    now = {**w.samples, **moved}
    fit(w.path, [recorder.model()], samples=now, rows=150)
    refresh(w.path, [recorder.model()], WHOLE, samples=now)
    w.samples = now
    assert_answers(w, now)
    assert len(w.ids_of("new")) == 200


@pytest.mark.parametrize("form", ["memory", "folder"])
def test_a_fill_that_resumes_on_other_samples(tmp_path, form):
    recorder = Recorder("old")
    samples = {f"s{i:04d}": i for i in range(500)}
    changed = others(samples, keep=list(samples)[400:])

    def source(given):
        if form == "memory":
            return given
        (tmp_path / "in").mkdir(exist_ok=True)
        for name, number in given.items():
            (tmp_path / "in" / name).write_bytes(str(number).encode())
        return tmp_path / "in"

    model = recorder.model()
    function = model.function
    model.function = lambda ids, values: function(ids, [int(v) for v in values])
    recorder.fail_at = "s0300"
    with pytest.raises(ModelError):
        fill(tmp_path / "c.lance", model, source(samples))
    recorder.fail_at = None
    cache = fill(tmp_path / "c.lance", model, source(changed))
    rows = cache.get(list(changed))
    now = outputs_of("old", [changed[name] for name in rows.ids.to_pylist()])
    np.testing.assert_allclose(rows.probs, now, atol=1e-3)


def test_a_round_that_was_rolled_back_no_longer_counts(world):
    from sparing.refresh.correction.past import past_rounds, recent_models

    w = world(60)
    for name in ("a", "b"):
        refresh(w.path, [Recorder(name).model()], RefreshOptions(budget="10rows"), samples=w.samples)
    Cache.open(w.path).rollback(1)
    metadata = Cache.open(w.path).metadata
    assert [past.names for past in past_rounds(metadata)] == [("a",)]
    assert recent_models(metadata, ["c"]) == ["a", "c"]
    refresh(w.path, [Recorder("d").model()], RefreshOptions(budget="10rows"), samples=w.samples)
    metadata = Cache.open(w.path).metadata
    assert [past.names for past in past_rounds(metadata)] == [("a",), ("d",)]
    Cache.open(w.path).rollback(0)
    assert past_rounds(Cache.open(w.path).metadata) == []


def test_a_cache_of_known_outputs_only_keeps_what_fit_ran(world):
    """Models that need no samples are looked up by id: nothing is to be compared."""
    w, recorder = world(100), Recorder("new")
    model = recorder.model(needs_samples=False)
    function = model.function
    model.function = lambda ids, _: function(ids, [int(i[1:]) for i in ids])
    fit(w.path, [model], rows=50)
    report = refresh(w.path, [model], HALF)
    assert report.account["fit_forwards"]["new"] == 50
    assert ModelInfo("old", "d:old").name in [m.name for m in Cache.open(w.path).metadata.models]
