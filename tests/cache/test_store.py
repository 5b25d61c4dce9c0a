import json
import multiprocessing
import resource
from dataclasses import replace

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import distributions

from sparing.cache import Cache, ModelInfo, Rows, export
from sparing.cache.importing import import_outputs
from sparing.cache.metadata import PROPERTY, Metadata
from sparing.cache.summary import summarise
from sparing.errors import CacheError, InputError, LockedError
from sparing.outputs import Classes


def new_rows(cache, ids, seed=7, round_=1, model=1):
    m = len(ids)
    old = cache.get(ids)
    full = lambda value: np.full(m, value, np.int64)  # noqa: E731
    return Rows(
        pa.array(sorted(ids)),
        distributions(m, seed=seed),
        old.labels,
        full(model),
        full(round_),
        np.linspace(0, 1, m, dtype=np.float32),
    )


def refresh(cache, ids, name="new", seed=7):
    round_ = cache.metadata.round + 1
    metadata = replace(cache.metadata.with_model(ModelInfo(name, f"d:{name}")), round=round_)
    rows = new_rows(cache, ids, seed, round_, metadata.model_index(name))
    cache.refresh_rows([rows], lambda: metadata, lambda _: {"op": "refresh", "forwards": {name: len(ids)}})
    return rows


def table_of(cache):
    return {i: p for rows in cache.scan(30) for i, p in zip(rows.ids.to_pylist(), rows.probs, strict=True)}


def test_what_goes_in_comes_out(make_cache):
    cache = make_cache(100)
    reopened = Cache.open(cache.path)
    assert len(reopened) == 100
    stored = table_of(reopened)
    for i, row in enumerate(distributions(100)):
        np.testing.assert_allclose(stored[f"s{i:03d}"], row, atol=6e-4)
    rows = reopened.get(["s007", "s003", "nobody"])
    assert rows.ids.to_pylist() == ["s003", "s007"]
    assert rows.labels[0] == np.random.default_rng(99).integers(0, 5, 100)[3]
    assert np.isnan(rows.scores).all()
    assert reopened.metadata.history[0]["rows"] == 100


def test_a_round_and_its_record_are_one_version(make_cache):
    cache = make_cache(50)
    before = Cache.open(cache.path)
    rows = refresh(cache, ["s001", "s010", "s049"])
    assert before.metadata.round == 0
    np.testing.assert_array_equal(table_of(before)["s001"], table_of(Cache.open(cache.path, 1))["s001"])
    after = Cache.open(cache.path)
    assert (after.metadata.round, after.version) == (1, 2)
    assert after.metadata.history[-1]["forwards"] == {"new": 3}
    got = after.get(["s001", "s010", "s049"])
    np.testing.assert_allclose(got.probs, rows.probs, atol=6e-4)
    np.testing.assert_array_equal(got.rounds, [1, 1, 1])
    np.testing.assert_array_equal(got.scores, rows.scores)
    np.testing.assert_array_equal(got.labels, before.get(["s001", "s010", "s049"]).labels)
    assert {m["name"]: m["rows"] for m in summarise(after)["models"]} == {"old": 47, "new": 3}
    assert len(after) == 50


def test_append_delete_and_integer_ids(make_cache):
    cache = make_cache(20, ids=list(range(20)))
    assert cache.id_type == pa.int64()
    added = cache.append([(pa.array([100, 101]), distributions(2), None)], ModelInfo("old", "d:old"))
    assert added == 2
    assert cache.get([101]).labels[0] == -1
    assert cache.delete([3, 100]) == 2
    assert sorted(i for r in Cache.open(cache.path).scan() for i in r.ids.to_pylist()) == sorted(
        (set(range(20)) | {101}) - {3}
    )
    with pytest.raises(InputError, match="in the cache already, for example 5"):
        cache.append([(pa.array([200, 5]), distributions(2), None)], ModelInfo("old", "d:old"))
    with pytest.raises(InputError, match="1 ids are not in the cache, for example 3"):
        cache.delete([3, 4])
    with pytest.raises(InputError, match="ids of type int64"):
        cache.get(["four"])
    with pytest.raises(InputError, match="4 classes, where 5 are expected"):
        cache.append([(pa.array([300]), distributions(1, 4), None)], ModelInfo("old", "d:old"))
    with pytest.raises(CacheError, match="another digest"):
        cache.append([(pa.array([300]), distributions(1), None)], ModelInfo("old", "d:other"))
    assert len(Cache.open(cache.path)) == 20
    assert [e["op"] for e in cache.metadata.history] == ["import", "append", "delete"]


def test_rollback_goes_back_and_says_so(make_cache):
    cache = make_cache(30)
    original = table_of(cache)
    refresh(cache, ["s001", "s002"])
    refresh(cache, ["s002", "s003"], name="newer", seed=8)
    cache.rollback(0)
    back = Cache.open(cache.path)
    assert back.metadata.round == 0
    assert [entry["op"] for entry in back.metadata.history] == ["import", "refresh", "refresh", "rollback"]
    assert back.metadata.history[-1]["from_round"] == 2
    back.rollback(2)  # and forward again
    assert Cache.open(cache.path).metadata.round == 2
    back.rollback(0)
    assert all((back_row == original[i]).all() for i, back_row in table_of(back).items())
    refresh(back, ["s004"])
    assert Cache.open(cache.path).metadata.round == 1
    with pytest.raises(CacheError, match=r"versions are left of rounds \[0, 1, 2\]"):
        back.rollback(7)


def test_compaction_keeps_the_rows_and_the_rounds_asked_for(make_cache):
    cache = make_cache(200)
    for number in range(4):
        refresh(cache, [f"s{i:03d}" for i in range(number, 200, 2)], name=f"m{number}", seed=number)
    before = table_of(cache)
    (cache.work_dir / "staged").mkdir(parents=True)
    (cache.work_dir / "staged" / "keep.arrow").write_bytes(b"not Lance's")
    sizes = cache.compact(keep_rounds=1)
    assert sizes["bytes_after"] < sizes["bytes_before"]
    assert (cache.work_dir / "staged" / "keep.arrow").exists()
    after = Cache.open(cache.path)
    assert after.metadata.round == 4
    assert all((row == before[i]).all() for i, row in table_of(after).items())
    after.rollback(3)
    assert Cache.open(cache.path).metadata.round == 3
    with pytest.raises(CacheError, match="cannot be restored"):
        after.rollback(0)
    refresh(Cache.open(cache.path), ["s001"], name="last")
    assert Cache.open(cache.path).metadata.round == 4


def test_export_is_sorted_and_complete(make_cache, tmp_path):
    cache = make_cache(60, ids=[f"x{(i * 37) % 60}" for i in range(60)])
    refresh(cache, ["x5", "x50"])
    assert export(cache, tmp_path / "out.parquet") == 60
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [r["id"] for r in table] == sorted(f"x{i}" for i in range(60))
    row = next(r for r in table if r["id"] == "x5")
    assert (row["model"], row["round"]) == ("new", 1)
    np.testing.assert_array_equal(np.float32(row["probs"]), cache.get(["x5"]).probs[0])
    assert next(r for r in table if r["id"] == "x6")["score"] is None


def test_things_that_are_no_cache(tmp_path, make_cache):
    with pytest.raises(CacheError, match="no cache at"):
        Cache.open(tmp_path / "nothing.lance")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CacheError, match="is not a cache"):
        Cache.open(tmp_path / "folder")
    (tmp_path / "file.lance").write_text("hello")
    with pytest.raises(CacheError, match="is not a cache"):
        Cache.open(tmp_path / "file.lance")
    lance.write_dataset(pa.table({"id": [1]}), str(tmp_path / "other.lance"))
    with pytest.raises(CacheError, match="not one that Sparing made"):
        Cache.open(tmp_path / "other.lance")
    cache = make_cache(5)
    with pytest.raises(CacheError, match="no version 9"):
        Cache.open(cache.path, 9)
    with pytest.raises(CacheError, match="exists already"):
        make_cache(5)


def test_a_newer_format_is_refused(make_cache):
    cache = make_cache(5)
    values = json.loads(cache.metadata.to_json())
    values["format"] = 99
    values["unheard_of"] = True
    operation = lance.LanceOperation.UpdateConfig(config_updates=lance.LanceOperation.UpdateMap({"a": "b"}))
    transaction = lance.Transaction(1, operation, transaction_properties={PROPERTY: json.dumps(values)})
    lance.LanceDataset.commit(str(cache.path), transaction)
    with pytest.raises(CacheError, match="newer release of Sparing"):
        Cache.open(cache.path)


def test_a_bad_stream_leaves_nothing_behind(tmp_path, make_cache):
    def stream():
        yield pa.array(["a"]), distributions(1), None
        raise InputError("row 2 is broken")

    with pytest.raises(InputError, match="row 2 is broken"):
        Cache.create(tmp_path / "bad.lance", stream(), ModelInfo("m", "d"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="no rows"):
        Cache.create(tmp_path / "bad.lance", [], ModelInfo("m", "d"))
    with pytest.raises(InputError, match="3 class names"):
        Cache.create(
            tmp_path / "bad.lance",
            [(pa.array(["a"]), distributions(1), None)],
            ModelInfo("m", "d"),
            classes="abc",
        )
    cache = make_cache(5)
    with pytest.raises(InputError, match="row 2 is broken"):
        cache.append(stream(), ModelInfo("old", "d:old"))
    assert len(Cache.open(cache.path)) == 5


def _refresh_with_little_space(path, results):
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    cache = Cache.open(path)
    try:
        refresh(cache, [f"s{i:03d}" for i in range(900)])
        results.put("committed")
    except CacheError as error:
        results.put(str(error))


def test_a_full_disk_changes_nothing(make_cache):
    # A limit on the size of any file stands in for a full disk: both end in a failed write.
    cache = make_cache(2000, ids=[f"s{i:03d}" for i in range(2000)])
    before = table_of(cache)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_refresh_with_little_space, args=(cache.path, results))
    process.start()
    message = results.get(timeout=60)
    process.join()
    assert "could not be written" in message
    after = Cache.open(cache.path)
    assert after.metadata.round == 0
    assert all((row == before[i]).all() for i, row in table_of(after).items())


def test_one_writer_at_a_time(make_cache):
    cache = make_cache(5)
    with cache.lock(), pytest.raises(LockedError, match="another process"), cache.lock():
        pass
    with cache.lock():
        pass


def _hold_and_die(path):
    import os

    lock = Cache.open(path).lock()
    lock.__enter__()
    os._exit(9)


def test_a_dead_process_holds_no_lock(make_cache):
    cache = make_cache(5)
    process = multiprocessing.get_context("spawn").Process(target=_hold_and_die, args=(cache.path,))
    process.start()
    process.join()
    assert process.exitcode == 9
    with cache.lock():
        pass


def test_metadata_survives_json():
    metadata = (
        Metadata(Classes(3, ("a", "b", "c")), "top2-int4")
        .with_model(ModelInfo("m", "d", 0.5))
        .with_record({"op": "import"})
    )
    assert Metadata.from_json(metadata.to_json(), "here") == metadata
    with pytest.raises(CacheError, match="the record in here: n_classes is missing"):
        Metadata.from_json('{"format": 1}', "here")


def test_metadata_of_format_1_is_of_classes():
    text = json.dumps(
        {"format": 1, "n_classes": 3, "classes": ["a", "b", "c"], "routers": {"sha256:1": "AA=="}}
    )
    read = Metadata.from_json(text, "here")
    assert read == Metadata(Classes(3, ("a", "b", "c")), "float16", rankers={"sha256:1": b"\x00"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 4, "sparing": "0.9.1"}, r'newer release .*format 4.*pip install "sparing>=0\.9\.1"'),
        ({"encoding": {"name": "int4", "version": 2}}, r"'int4' is of version 2, this release reads up to 1"),
        ({"encoding": {"name": "int3", "version": 1}}, "here: there is no encoding 'int3'"),
        (
            {"kind": {"type": "boxes", "version": 1}},
            "outputs of kind 'boxes', version 1, which this release does",
        ),
        ({"kind": {"type": "classes", "version": 7}}, "outputs of kind 'classes', version 7, which"),
        ({"kind": {"version": 1}}, "needs a type and a version"),
        ({"kind": {"type": "classes", "version": 1, "n_classes": 1, "classes": None}}, "n_classes must be"),
        ({"round": "2"}, "round must be a whole number, got '2'"),
        ({"models": [{"name": "m"}]}, r"models\[0\].digest is missing"),
        ({"colour": 1}, "unknown key 'colour'"),
    ],
)
def test_metadata_is_read_strictly(change, message):
    text = json.dumps({**json.loads(Metadata(Classes(3), "int4").to_json()), **change})
    with pytest.raises(CacheError, match=message):
        Metadata.from_json(text, "here")


@pytest.mark.parametrize("damage", [b"{", b"[]", b"{}", b'{"digest": 1}', b"\xff"])
def test_a_damaged_round_is_an_error_that_says_what_to_delete(make_cache, damage):
    cache = make_cache(5)
    cache.staged_round.mkdir(parents=True)
    (cache.staged_round / "request.json").write_bytes(damage)
    with pytest.raises(CacheError, match=r"request\.json.*; delete .*round to start over"):
        cache.delete(["s0"])


def test_a_cost_that_is_no_number_is_refused(tmp_path):
    with pytest.raises(InputError, match="the cost must be 0 or 1e-18 to 1e18, got nan"):
        import_outputs(tmp_path / "c", (["a"], distributions(1)), "m", cost=float("nan"))
    assert list(tmp_path.iterdir()) == []
