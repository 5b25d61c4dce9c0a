import base64
import json

import lance
import pytest
from tests.cache.test_store import refresh, table_of

from sparing.cache import Cache, export
from sparing.cache.metadata import PROPERTY, ranker_digest
from sparing.cache.record import SEGMENT, History, RecordFiles
from sparing.errors import CacheError


def names(cache):
    folder = cache.path / "_record"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def carried(cache, version):
    transaction = lance.dataset(str(cache.path)).read_transaction(version)
    return len(transaction.transaction_properties[PROPERTY])


def test_what_a_commit_writes_does_not_grow_with_the_history(make_cache):
    cache = make_cache(60)
    for number in range(3 * SEGMENT):
        refresh(cache, [f"s{number:03d}"])
    again = Cache.open(cache.path)
    rounds = [entry["round"] for entry in again.metadata.history]
    assert rounds == list(range(3 * SEGMENT + 1))
    assert len(again.metadata.history) == 3 * SEGMENT + 1
    assert abs(carried(cache, 3 * SEGMENT) - carried(cache, SEGMENT)) < 100
    record = cache.path / "_record"
    per_commit = {int(path.name.partition(".")[0]): path.stat().st_size for path in record.iterdir()}
    assert len(per_commit) == 3 * SEGMENT
    assert max(per_commit.values()) < (SEGMENT + 1) * (per_commit[2] + 100)
    # Any version knows what was known then.
    old = Cache.open(cache.path, 20).metadata
    assert [entry["version"] for entry in old.history] == list(range(1, 21))


def test_files_of_records_go_with_the_versions_that_used_them(make_cache):
    cache = make_cache(60)
    for number in range(2 * SEGMENT):
        refresh(cache, [f"s{number:03d}"])
    cache.compact(keep_rounds=1)
    assert len(names(cache)) <= 2 * (2 + 1)
    again = Cache.open(cache.path)
    assert [entry["op"] for entry in again.metadata.history] == [
        "import",
        *["refresh"] * 2 * SEGMENT,
        "compact",
    ]
    again.rollback(2 * SEGMENT - 1)
    assert Cache.open(cache.path).metadata.history[-1]["from_round"] == 2 * SEGMENT


def test_a_commit_that_fails_leaves_a_file_that_the_next_one_removes(make_cache, monkeypatch):
    cache = make_cache(10)
    refresh(cache, ["s001"])
    held = names(cache)

    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(lance.LanceDataset, "commit", fails)
        with pytest.raises(CacheError, match="No space left"):
            cache.delete(["s002"])
    assert len(names(cache)) == len(held) + 1
    again = Cache.open(cache.path)
    assert (again.version, len(again.metadata.history)) == (2, 2)
    refresh(again, ["s003"])
    assert len(names(cache)) == len(held) + 1
    assert [entry["op"] for entry in Cache.open(cache.path).metadata.history] == [
        "import",
        "refresh",
        "refresh",
    ]


def test_rankers_are_written_once(make_cache):
    cache = make_cache(10)
    for ranker in (b"first", b"first", b"second"):
        metadata = cache.metadata.with_ranker(ranker)
        cache.refresh_rows([], lambda metadata=metadata: metadata, lambda _: {"op": "refresh"})
    assert sum(name.endswith(".ranker") for name in names(cache)) == 2
    for version in (4, 2):
        assert Cache.open(cache.path, version).metadata.ranker(ranker_digest(b"first")) == b"first"
    with pytest.raises(CacheError, match="has lost the ranker"):
        cache.metadata.ranker(ranker_digest(b"third"))


def test_a_cache_of_format_2_goes_on(make_cache):
    cache = make_cache(10)
    values = json.loads(cache.metadata.to_json())
    del values["before"]
    digest = ranker_digest(b"weights")
    entry = {"op": "refresh", "round": 0, "time": "2026-01-01T00:00:00+00:00"}
    values["format"] = 2
    values["history"] += [{**entry, "version": version} for version in range(2, 50)]
    values["rankers"] = {digest: base64.b64encode(b"weights").decode()}
    operation = lance.LanceOperation.UpdateConfig(config_updates=lance.LanceOperation.UpdateMap({"a": "b"}))
    old = lance.Transaction(1, operation, transaction_properties={PROPERTY: json.dumps(values)})
    lance.LanceDataset.commit(str(cache.path), old)
    opened = Cache.open(cache.path)
    assert opened.metadata.ranker(digest) == b"weights"
    assert len(opened.metadata.history) == 49
    refresh(opened, ["s001"])
    again = Cache.open(cache.path)
    assert again.metadata.ranker(digest) == b"weights"
    assert [entry["version"] for entry in again.metadata.history] == [*range(1, 50), 3]
    assert carried(cache, 3) < carried(cache, 2) / 5
    assert len(Cache.open(cache.path, 2).metadata.history) == 49


def test_damage_is_reported_where_the_history_is_read(make_cache, tmp_path):
    cache = make_cache(10)
    refresh(cache, ["s001"])
    (path,) = (cache.path / "_record").iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    damaged = Cache.open(cache.path)
    assert export(damaged, tmp_path / "out.parquet") == 10
    assert table_of(damaged).keys() == table_of(cache).keys()
    with pytest.raises(CacheError, match="is damaged"):
        list(damaged.metadata.history)
    path.unlink()
    with pytest.raises(CacheError, match="cannot be read"):
        list(Cache.open(cache.path).metadata.history)


@pytest.mark.parametrize("count", [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 5 * SEGMENT])
def test_a_history_is_a_sequence(tmp_path, count):
    wanted = [{"at": at} for at in range(count)]
    history, files = History(), RecordFiles(tmp_path / "r")
    for version, record in enumerate(wanted):
        history = history.plus(record)
        if version % 3 == 0:
            history = history.stored(files, version)
    assert len(history) == count
    assert history == wanted
    assert list(history) == wanted
    assert history[1:3] == tuple(wanted[1:3])
    if count:
        assert (history[0], history[-1]) == (wanted[0], wanted[-1])
