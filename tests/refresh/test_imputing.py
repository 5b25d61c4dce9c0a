"""Rows that are not run and store what the new model is predicted to answer."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparing.cache import Cache, ModelInfo, export
from sparing.errors import InputError
from sparing.models import Model
from sparing.refresh import RefreshOptions, refresh

N, CLASSES = 1500, 6
MOVED = np.array([0, 1, 2, 4, 5, 3])
"""A systematic change: half of the classes go to another one."""


def distributions(classes, seed):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(CLASSES, 0.3), len(classes)).astype(np.float32)
    best = probs.argmax(axis=1)
    rows = np.arange(len(classes))
    probs[rows, best], probs[rows, classes] = probs[rows, classes], probs[rows, best].copy()
    return probs


OLD = np.random.default_rng(0).integers(0, CLASSES, N)
NOISE = np.random.default_rng(1).random(N)
RANDOM = np.random.default_rng(2).integers(0, CLASSES, N)
SYSTEMATIC = np.where(NOISE < 0.03, RANDOM, MOVED[OLD])
UNPREDICTABLE = np.where(NOISE < 0.3, RANDOM, OLD)


def model_of(new, name="new"):
    probs = distributions(new, 3)

    def function(ids, _):
        return probs[[int(one[1:]) for one in ids]]

    return Model(name, f"d:{name}", function, needs_samples=False, batch_size=64)


def make(path, labels=None):
    ids = pa.array([f"s{i:04d}" for i in range(N)])
    chunk = (ids, distributions(OLD, 4), labels)
    return Cache.create(path, [chunk], ModelInfo("old", "d:old"), encoding="float32")


def rows_of(path):
    cache = Cache.open(path)
    return cache.get(cache.ids())


def test_systematic_changes_are_predicted(tmp_path):
    plain, cache = make(tmp_path / "plain.lance"), make(tmp_path / "c.lance", labels=SYSTEMATIC)
    model = model_of(SYSTEMATIC)
    without = refresh(plain.path, [model], RefreshOptions(budget="30%"))
    report = refresh(cache.path, [model], RefreshOptions(budget="30%", impute=True))
    assert report.account["forwards"] == without.account["forwards"] == {"new": 450}
    rows, before = rows_of(cache.path), rows_of(plain.path)
    right = rows.answers == SYSTEMATIC
    assert right.mean() > (before.probs.argmax(axis=1) == SYSTEMATIC).mean() + 0.1
    run = rows.models == 1
    assert not rows.imputed[run].any()
    assert rows.imputed.sum() == report.imputation["rows"] > 100
    np.testing.assert_array_equal(rows.imputations.rounds[rows.imputed], 1)
    given = rows.imputations.probabilities[rows.imputed]
    assert ((given > 0) & (given <= 1)).all()
    assert abs(given.mean() - right[rows.imputed].mean()) < 0.1
    assert report.refreshed == 450
    assert report.accuracy == pytest.approx(right.mean())
    # What the report says without the flag is what the flag brings, roughly: the runs part ways.
    assert without.imputation["stored"] is False
    assert without.imputation["gain"] > 0.05
    assert not before.imputed.any()
    # Outputs stay as a model made them.
    np.testing.assert_array_equal(rows.probs[~run], distributions(OLD, 4)[~run])


def test_where_nothing_is_predictable_the_round_is_the_one_without(tmp_path):
    for name, impute in (("plain", False), ("imputing", True)):
        cache = make(tmp_path / f"{name}.lance")
        report = refresh(cache.path, [model_of(UNPREDICTABLE)], RefreshOptions(budget="50%", impute=impute))
        assert report.refreshed == 750
        export(Cache.open(cache.path), tmp_path / f"{name}.parquet")
    a, b = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("plain", "imputing"))
    assert a.equals(b.select(a.column_names))
    assert b["imputed_round"].null_count == N


def test_the_next_round_runs_what_was_predicted_first(tmp_path):
    cache = make(tmp_path / "c.lance")
    refresh(cache.path, [model_of(SYSTEMATIC)], RefreshOptions(budget="20%", impute=True))
    imputed = set(rows_of(cache.path).ids.filter(pa.array(rows_of(cache.path).imputed)).to_pylist())
    later = model_of(SYSTEMATIC, "later")
    refresh(cache.path, [later], RefreshOptions(budget=f"{len(imputed)}rows", scorer="entropy"))
    rows = rows_of(cache.path)
    index = Cache.open(cache.path).metadata.model_index("later")
    assert set(rows.ids.filter(pa.array(rows.models == index)).to_pylist()) == imputed
    assert not rows.imputed.any()


def test_the_next_round_that_learns_runs_what_was_predicted_after_its_random_rows(tmp_path):
    cache = make(tmp_path / "c.lance")
    refresh(cache.path, [model_of(SYSTEMATIC)], RefreshOptions(budget="20%", impute=True))
    before = rows_of(cache.path).imputed
    report = refresh(cache.path, [model_of(SYSTEMATIC)], RefreshOptions(budget="20%"))
    rows = rows_of(cache.path)
    assert before.sum() > 300
    run = rows.rounds == 2
    assert run.sum() == 300
    others = run & ~before
    assert others.sum() <= report.learning["probe"]


@pytest.mark.parametrize("stop_at", [1, 3, 6])
def test_a_kill_resumes_to_the_same_answers(tmp_path, stop_at):
    options, model = RefreshOptions(budget="40%", impute=True), model_of(SYSTEMATIC)
    whole, killed = make(tmp_path / "a.lance"), make(tmp_path / "b.lance")
    refresh(whole.path, [model], options)
    calls = 0

    def stop(_):
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refresh(killed.path, [model], options, on_progress=stop)
    refresh(killed.path, [model], options)
    tables = []
    for cache in (whole, killed):
        export(Cache.open(cache.path), tmp_path / "o.parquet")
        tables.append(pq.read_table(tmp_path / "o.parquet"))
    assert tables[0].equals(tables[1])
    assert tables[0]["source"].to_pylist().count("imputed") > 50


def test_what_is_staged_can_be_committed_with_what_it_taught(tmp_path):
    options, model = RefreshOptions(budget="40%", impute=True), model_of(SYSTEMATIC)
    cache = make(tmp_path / "c.lance")
    calls = 0

    def stop(_):
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refresh(cache.path, [model], options, on_progress=stop)
    report = refresh(cache.path, [model], options, unfinished="commit")
    assert not report.complete
    assert rows_of(cache.path).imputed.sum() == report.imputation["rows"] > 0


def test_exports_and_other_changes_of_the_cache(tmp_path):
    cache = make(tmp_path / "c.lance", labels=SYSTEMATIC)
    report = refresh(cache.path, [model_of(SYSTEMATIC)], RefreshOptions(budget="30%", impute=True))
    assert [e["op"] for e in Cache.open(cache.path).metadata.history] == ["import", "imputed", "refresh"]
    rows = rows_of(cache.path)
    export(Cache.open(cache.path), tmp_path / "all.parquet")
    found = pq.read_table(tmp_path / "all.parquet")
    assert found["prediction"].to_pylist() == rows.answers.tolist()
    assert found["source"].to_pylist() == ["imputed" if each else "run" for each in rows.imputed]
    count = export(Cache.open(cache.path), tmp_path / "run.parquet", only="run")
    assert count == N - report.imputation["rows"]
    assert set(pq.read_table(tmp_path / "run.parquet")["source"].to_pylist()) == {"run"}
    with Cache.open(cache.path).lock():
        opened = Cache.open(cache.path)
        opened.convert("float16")
        np.testing.assert_array_equal(rows_of(cache.path).answers, rows.answers)
        some = rows.ids.filter(pa.array(rows.imputed)).slice(0, 3)
        opened.mark_changed(some)
        assert rows_of(cache.path).imputed.sum() == rows.imputed.sum() - 3
        opened.rollback(0)
        assert not rows_of(cache.path).imputed.any()


@pytest.mark.parametrize("given", [{"scorer": "entropy"}, {"objective": "accuracy"}])
def test_what_cannot_predict_is_refused(tmp_path, given):
    cache = make(tmp_path / "c.lance")
    with pytest.raises(InputError, match="answers are predicted by the scorer 'learned'"):
        refresh(cache.path, [model_of(SYSTEMATIC)], RefreshOptions(budget="30%", impute=True, **given))
    assert Cache.open(cache.path).version == cache.version


def test_a_promise_holds_for_predicted_answers(tmp_path):
    forwards = {}
    for impute in (False, True):
        cache = make(tmp_path / f"{impute}.lance")
        options = RefreshOptions(consistency="90%", impute=impute)
        report = refresh(cache.path, [model_of(SYSTEMATIC)], options)
        assert report.promise["kept"]
        assert (rows_of(cache.path).answers == SYSTEMATIC).mean() >= 0.9
        forwards[impute] = report.share_of_forwards
    assert forwards[True] < forwards[False]


def test_a_row_that_the_target_wrote_answers_what_it_said(tmp_path):
    cache = make(tmp_path / "c.lance")
    refresh(cache.path, [model_of(SYSTEMATIC)], RefreshOptions(budget="40%", impute=True))
    moved = np.random.default_rng(5).permutation(CLASSES)[SYSTEMATIC]
    refresh(cache.path, [model_of(moved, "third")], RefreshOptions(budget="30%", impute=True))
    rows = rows_of(cache.path)
    of_new = rows.models == 1
    assert rows.imputed[of_new].any()  # predicted to be what the third model says
    refresh(cache.path, [model_of(SYSTEMATIC)], RefreshOptions(budget="10rows"))
    after = rows_of(cache.path)
    assert not after.imputed[of_new & (after.models == 1)].any()
    np.testing.assert_array_equal(after.answers[after.models == 1], SYSTEMATIC[after.models == 1])
