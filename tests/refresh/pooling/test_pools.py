import numpy as np
import pyarrow as pa
import pytest

from sparing.cache import Cache, ModelInfo
from sparing.models import Model
from sparing.refresh import Correction, RefreshOptions, fit, refresh
from sparing.refresh.pooling.exponents import UNLABELLED

C, M = 5, 600
IDS = [f"r{i:03d}" for i in range(M)]
SAMPLES = {name: i for i, name in enumerate(IDS)}
LABELS = np.random.default_rng(0).integers(0, C, M)


def noisy(seed, strength=2.0):
    rng = np.random.default_rng(seed)
    logits = strength * np.eye(C)[LABELS] + rng.normal(size=(M, C))
    weights = np.exp(logits)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


OUTPUTS = [noisy(seed) for seed in range(4)]


def model(number, seen=None):
    def function(ids, values):
        if seen is not None:
            seen.extend(ids)
        return OUTPUTS[number][values]

    return Model(f"m{number}", f"d:{number}", function, batch_size=8)


@pytest.fixture
def make(tmp_path):
    def make(labels=LABELS, first=None, name="c.lance"):
        probs = OUTPUTS[0] if first is None else first
        Cache.create(tmp_path / name, [(pa.array(IDS), probs, labels)], ModelInfo("m0", "d:0"))
        return tmp_path / name

    return make


def accuracy(path):
    rows = Cache.open(path).get(IDS)
    return (rows.probs.argmax(axis=1) == LABELS).mean()


def members(path):
    cache = Cache.open(path)
    models = [set(m.members or (m.name,)) for m in cache.metadata.models]
    return [models[index] for index in cache.get(IDS).models]


def test_pooled_rows_are_better_than_a_full_run(make):
    path = make()
    report = refresh(path, [model(1)], RefreshOptions(budget="60%", objective="accuracy"), samples=SAMPLES)
    assert accuracy(path) > (OUTPUTS[1].argmax(axis=1) == LABELS).mean() + 0.02
    judged = report.pooling["m1"]
    assert judged["rows"] == 360
    assert judged["pooled"] > judged["replaced"]
    held = members(path)
    assert held.count({"m0", "m1"}) == 360
    assert held.count({"m0"}) == 240


def test_without_labels_the_default_is_stored(make):
    path = make(labels=None)
    report = refresh(path, [model(1)], RefreshOptions(budget="100%", objective="accuracy"), samples=SAMPLES)
    assert report.pooling["m1"] == {"old": 0.3, "new": 1.0, "pooled": None, "replaced": None, "rows": 0}
    expected = UNLABELLED.apply(OUTPUTS[0].astype(np.float16).astype(np.float32), OUTPUTS[1])
    np.testing.assert_allclose(Cache.open(path).get(IDS).probs, expected, atol=2e-3)


def test_each_model_counts_once(make):
    path = make()
    refresh(path, [model(1)], RefreshOptions(budget="50%", objective="accuracy"), samples=SAMPLES)
    seen = []
    report = refresh(
        path, [model(1, seen)], RefreshOptions(budget="100%", objective="accuracy"), samples=SAMPLES
    )
    assert report.refreshed == len(seen) == 300  # not those that hold it in their pool
    assert members(path) == [{"m0", "m1"}] * M
    # Fit does not draw them either.
    refresh(path, [model(2)], RefreshOptions(budget="80%", objective="accuracy"), samples=SAMPLES)
    again = []
    fit(path, [model(2, again)], samples=SAMPLES, rows=600, epochs=1)
    assert len(again) == 120


def test_pools_grow_over_rounds(make):
    path = make()
    accuracies = [accuracy(path)]
    for number in (1, 2, 3):
        refresh(path, [model(number)], RefreshOptions(budget="100%", objective="accuracy"), samples=SAMPLES)
        accuracies.append(accuracy(path))
    assert accuracies[3] > accuracies[1] > accuracies[0]
    assert members(path) == [{"m0", "m1", "m2", "m3"}] * M
    Cache.open(path).rollback(1)
    assert members(path) == [{"m0", "m1"}] * M
    assert accuracy(path) == accuracies[1]


def test_a_cache_that_would_hurt_is_replaced(make):
    # What the cache holds is sure and, on a third of the rows, wrong; the new model is right by a hair.
    wrong = np.eye(C)[(LABELS + 1) % C]
    right = np.eye(C)[LABELS]
    trap = (np.arange(M) % 3 == 0)[:, None]
    old = np.where(trap, 0.80 * wrong, 0.90 * right) + np.where(trap, 0.04, 0.02)
    new = 0.42 * right + 0.40 * wrong + 0.036
    path = make(first=old.astype(np.float32))
    knife = Model("hair", "d:hair", lambda ids, values: new[values].astype(np.float32), batch_size=8)
    report = refresh(path, [knife], RefreshOptions(budget="100%", objective="accuracy"), samples=SAMPLES)
    judged = report.pooling["hair"]
    assert judged["pooled"] < judged["replaced"] == 1.0
    assert (judged["old"], judged["new"]) == (0.0, 1.0)
    assert accuracy(path) == 1.0
    assert members(path) == [{"hair"}] * M


def test_correction_pools_what_it_runs(make):
    path = make()
    refresh(path, [model(1)], RefreshOptions(budget="30%", objective="accuracy"), samples=SAMPLES)
    seen = []
    report = refresh(
        path,
        [model(2, seen)],
        RefreshOptions(budget="30%", objective="accuracy", correction=Correction(recent=[model(1)])),
        samples=SAMPLES,
    )
    held = members(path)
    assert report.screened == 60
    assert report.refreshed == 180
    # Every forward is in some row's pool, those of rows that were screened and not settled included.
    forwards = report.account["forwards"]
    assert sum("m2" in names for names in held) == forwards["m2"] == len(seen)
    first = 180
    assert sum("m1" in names for names in held) == first + forwards.get("m1", 0)
    assert report.corrected == 60


def test_what_fit_ran_is_pooled_too(make):
    path = make()
    ranker = fit(path, [model(1)], samples=SAMPLES, rows=200, epochs=1)
    report = refresh(
        path, [model(1)], RefreshOptions(ranker=ranker, budget="50%", objective="accuracy"), samples=SAMPLES
    )
    assert report.refreshed == 300
    assert report.pooling["m1"]["rows"] == 300
    assert members(path).count({"m0", "m1"}) == 300
