import numpy as np
import pyarrow as pa
import pytest
from tests.refresh.conftest import Recorder, outputs_of

from sparing.cache import Cache, ModelInfo
from sparing.errors import CacheError, InputError, ModelError
from sparing.models import Model
from sparing.refresh import RefreshOptions, fit, fit_outputs, preview, refresh


def test_it_runs_the_rows_asked_for_and_times_them(world):
    w = world(300)
    new = Recorder("new")
    ranker = fit(w.path, [new.model()], samples=w.samples, rows=80, epochs=2)
    assert len(set(new.seen)) == len(new.seen) == 80
    assert ranker.candidates[0].seconds > 0
    assert ranker.candidates[0].digest == "d:new"
    assert len(ranker.holdout.cached) == 16
    assert Cache.open(w.path).version == 1  # nothing of the cache's rows has changed


def test_rows_are_drawn_by_seed(world):
    seen = []
    for name, seed in (("a.lance", 0), ("b.lance", 0), ("c.lance", 1)):
        w, new = world(300, name), Recorder("new")
        fit(w.path, [new.model()], samples=w.samples, rows=50, epochs=1, seed=seed)
        seen.append(new.seen)
    assert seen[0] == seen[1]
    assert set(seen[0]) != set(seen[2])


def test_a_second_fit_runs_only_what_is_new_and_loses_nothing(world):
    w = world(300)
    new, other = Recorder("new"), Recorder("other")
    first = fit(w.path, [new.model()], samples=w.samples, rows=60, epochs=1)
    fit(w.path, [new.model()], samples=w.samples, rows=100, epochs=1)
    again = fit(w.path, [new.model()], samples=w.samples, rows=60, epochs=1)
    assert len(new.seen) == len(set(new.seen)) == 100
    for name, scorer in first.scorers.items():
        for key, values in scorer.to_arrays().items():
            np.testing.assert_array_equal(values, again.scorers[name].to_arrays()[key])
    fit(w.path, [new.model(), other.model()], samples=w.samples, rows=60, epochs=1)
    assert (len(new.seen), len(other.seen)) == (100, 60)
    report = refresh(w.path, [new.model()], RefreshOptions(budget="50%"), samples=w.samples)
    assert report.account["fit_forwards"] == {"new": 100}
    assert len(new.seen) == len(set(new.seen)) == 150


def test_what_an_interrupted_fit_paid_for_is_kept_for_another(world):
    w = world(1000)
    probe = Recorder("new")
    fit(world(1000, "probe.lance").path, [probe.model()], samples=w.samples, rows=500, epochs=1)
    new = Recorder("new", fail_at=probe.seen[300])
    with pytest.raises(ModelError):
        fit(w.path, [new.model()], samples=w.samples, rows=500, epochs=1)
    new.fail_at = None
    new.seen.clear()
    fit(w.path, [new.model()], samples=w.samples, rows=200, epochs=1)
    kept = set(probe.seen[:256])  # two whole chunks
    assert not kept & set(new.seen)
    assert preview(w.path, [new.model()], RefreshOptions(budget="0%")).known == 256 + len(new.seen)
    report = refresh(w.path, [new.model()], RefreshOptions(budget="0%"), samples=w.samples)
    assert report.account["wasted_forwards"] == 128


def test_what_an_interrupted_fit_lost_is_counted_even_if_nothing_was_finished(world):
    w, new = world(300), Recorder("new")
    probe = Recorder("new")
    fit(world(300, "probe.lance").path, [probe.model()], samples=w.samples, rows=60, epochs=1)
    new.fail_at = probe.seen[5]
    with pytest.raises(ModelError):
        fit(w.path, [new.model()], samples=w.samples, rows=60, epochs=1)
    new.fail_at = None
    fit(w.path, [new.model()], samples=w.samples, rows=40, epochs=1)
    report = refresh(w.path, [new.model()], RefreshOptions(budget="0%"), samples=w.samples)
    assert report.account["fit_forwards"] == {"new": 40}
    assert report.account["wasted_forwards"] == 8  # the batch in flight


def test_a_deletion_that_fails_forgets_nothing(world, monkeypatch):
    w, new = world(200), Recorder("new")
    fit(w.path, [new.model()], samples=w.samples, rows=50, epochs=1)
    cache = Cache.open(w.path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("sparing.cache.transactions.commit", full)
        with pytest.raises(CacheError, match="No space left"):
            cache.delete(new.seen[:10])
    assert preview(w.path, [new.model()], RefreshOptions(budget="0%")).known == 50
    Cache.open(w.path).delete(new.seen[:10])
    assert preview(w.path, [new.model()], RefreshOptions(budget="0%")).known == 40


def test_an_id_that_comes_back_is_another_sample(world):
    w = world(200)
    new = Recorder("new")
    fit(w.path, [new.model()], samples=w.samples, rows=50, epochs=1)
    back = new.seen[0]
    cache = Cache.open(w.path)
    cache.delete([back])
    cache.append([(pa.array([back]), outputs_of("old", [9999]), None)], ModelInfo("old", "d:old"))
    refresh(w.path, [new.model()], RefreshOptions(budget="100%"), samples={**w.samples, back: 9999})
    np.testing.assert_allclose(Cache.open(w.path).get([back]).probs, outputs_of("new", [9999]), atol=6e-4)


def test_too_many_classes_are_seen_at_once(world):
    w = world(1000)
    runs = []

    def wide(ids, _):
        runs.append(len(ids))
        return np.full((len(ids), 7), 1 / 7)

    model = Model("wide", "d:wide", wide, batch_size=8)
    for job in (
        lambda: fit(w.path, [model], samples=w.samples, rows=500),
        lambda: refresh(w.path, [model], RefreshOptions(budget="50%"), samples=w.samples),
    ):
        runs.clear()
        with pytest.raises(InputError, match="7 classes, where 5 are expected"):
            job()
        assert sum(runs) <= 32


def test_each_round_draws_other_rows(world):
    # Rows drawn once are refreshed in every round: a ranker fitted on them alone would know no others.
    w = world(300)
    a, b = Recorder("a"), Recorder("b")
    fit(w.path, [a.model()], samples=w.samples, rows=50, epochs=1)
    refresh(w.path, [a.model()], RefreshOptions(budget="0%"), samples=w.samples)
    fit(w.path, [b.model()], samples=w.samples, rows=50, epochs=1)
    assert len(set(a.seen) & set(b.seen)) < 25


def test_a_model_is_not_fitted_on_its_own_rows(world):
    w = world(200)
    refresh(w.path, [Recorder("new").model()], RefreshOptions(budget="50%"), samples=w.samples)
    again = Recorder("new")
    fit(w.path, [again.model()], samples=w.samples, rows=200, epochs=1)
    assert len(again.seen) == 100
    assert not set(again.seen) & w.ids_of("new")
    with pytest.raises(InputError, match="too few to fit"):
        fit(world(200, "fresh.lance").path, [Recorder("old").model()], samples=w.samples, rows=50)


def test_a_cache_without_rows_is_too_few(world):
    w = world(3)
    with Cache.open(w.path).lock():
        cache = Cache.open(w.path)
        cache.delete(cache.ids().to_pylist())
    with pytest.raises(InputError, match=r"the cache has 0 rows.*too few to fit"):
        fit(w.path, [Recorder("new").model()], samples=w.samples, rows=50)


def test_after_a_failure_it_goes_on(world):
    w = world(1000)
    probe = Recorder("new")
    fit(w.path, [probe.model()], samples=w.samples, rows=500, epochs=1)
    new = Recorder("new", fail_at=probe.seen[300])
    w2 = world(1000, "second.lance")
    with pytest.raises(ModelError):
        fit(w2.path, [new.model()], samples=w2.samples, rows=500, epochs=1)
    done = len(new.seen)
    new.fail_at = None
    fit(w2.path, [new.model()], samples=w2.samples, rows=500, epochs=1)
    assert len(new.seen) < 500 + 128
    assert done >= 256
    assert set(new.seen) == set(probe.seen)


def test_known_outputs_do_not_outlive_a_round(world):
    w = world(200)
    new = Recorder("new")
    fit(w.path, [new.model()], samples=w.samples, rows=50, epochs=1)
    assert preview(w.path, [new.model()], RefreshOptions(budget="50%")).known == 50
    # For another model they mean nothing.
    assert preview(w.path, [Recorder("other").model()], RefreshOptions(budget="50%")).known == 0
    Cache.open(w.path).delete([new.seen[0]])
    report = refresh(w.path, [new.model()], RefreshOptions(budget="0%"), samples=w.samples)
    assert report.refreshed == 49
    assert preview(w.path, [new.model()], RefreshOptions(budget="50%")).known == 0


def test_pairs_known_from_elsewhere_cost_nothing(world):
    w = world(200)
    ids = pa.array([f"e{i}" for i in range(100)])
    old, new = outputs_of("old", range(1000, 1100)), outputs_of("new", range(1000, 1100))
    ranker = fit_outputs((ids, old, np.zeros(100, int)), [(ids, new)], ["new"], epochs=2)
    assert ranker.candidates[0].seconds is None
    report = refresh(
        w.path, [Recorder("new").model()], RefreshOptions(ranker=ranker, budget="50%"), samples=w.samples
    )
    assert report.account["fit_forwards"] == {}
    assert report.prediction.rows == 20
    cached = fit_outputs(
        Cache.open(w.path), [(pa.array(list(w.samples)), outputs_of("new", range(200)))], ["new"]
    )
    assert len(cached.holdout.cached) == 40


def test_rows_are_matched_by_id(world):
    w = world(50)
    order = np.random.default_rng(0).permutation(50)
    ids = np.array(list(w.samples))
    straight = fit_outputs(Cache.open(w.path), [(ids, outputs_of("new", range(50)))], ["new"], epochs=1)
    shuffled = fit_outputs(
        Cache.open(w.path), [(ids[order], outputs_of("new", range(50))[order])], ["new"], epochs=1
    )
    assert straight.to_bytes() == shuffled.to_bytes()


def test_bad_requests(world):
    w = world(50)
    new = Recorder("new").model()
    with pytest.raises(InputError, match="no candidate"):
        fit(w.path, [], samples=w.samples)
    with pytest.raises(InputError, match="cannot be fitted on 1 rows"):
        fit(w.path, [new], samples=w.samples, rows=1)
    with pytest.raises(InputError, match="needs the samples"):
        fit(w.path, [new])
    with pytest.raises(InputError, match=r"held-out rows must lie in \[0, 1\)"):
        fit(w.path, [new], samples=w.samples, holdout=1.0)
    with pytest.raises(CacheError, match="another model named 'old'"):
        fit(w.path, [Model("old", "d:2", lambda i, v: None)], samples=w.samples)
    with pytest.raises(InputError, match="share no ids"):
        fit_outputs(Cache.open(w.path), [(pa.array(["x", "y"]), outputs_of("new", range(2)))], ["new"])
