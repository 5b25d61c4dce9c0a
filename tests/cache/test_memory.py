import numpy as np
import pyarrow as pa
import pytest

from sparing.cache import Cache, MemoryStore, ModelInfo, Rows, Store
from sparing.outputs import Classes

IDS = pa.array([f"s{i}" for i in range(50)])
PROBS = np.random.default_rng(0).dirichlet(np.ones(4), 50).astype(np.float32)
LABELS = np.arange(50) % 5 - 1


@pytest.fixture
def stores(tmp_path):
    info = ModelInfo("old", "d:old")
    cache = Cache.create(tmp_path / "c.lance", [(IDS, PROBS, LABELS)], info, encoding="float32")
    return cache, MemoryStore(IDS, Classes(4), PROBS, LABELS, info)


def contents(rows: Rows):
    order = np.argsort(rows.ids.to_pylist())
    columns = (rows.probs, rows.labels, rows.models, rows.rounds, np.nan_to_num(rows.scores, nan=-7))
    return [column[order].tolist() for column in columns]


def row(name, probs):
    """One row that round 1 has rewritten, with label 3."""
    one = np.ones(1, dtype=np.int64)
    return Rows(
        pa.array([name]), probs, labels=3 * one, models=one, rounds=one, scores=one.astype(np.float32)
    )


def test_it_reads_and_refreshes_as_a_cache_does(stores):
    wanted = ["s7", "s3", "unknown"]
    for store in stores:
        one: Store = store
        assert (len(one), one.version, one.metadata.round) == (50, 1, 0)
    cache, memory = stores
    assert contents(cache.get(IDS)) == contents(memory.get(IDS))
    assert contents(cache.get(wanted)) == contents(memory.get(wanted))
    assert contents(cache.take(np.array([9, 2]))) == contents(memory.take(np.array([9, 2])))
    assert (memory.as_stored(PROBS) == cache.as_stored(PROBS)).all()
    new = np.roll(PROBS[:2], 1, axis=1)
    for store in stores:

        def batches(store=store):
            # Rows that are read while others are written are as they were.
            yield row("s5", new[:1])
            assert store.get(["s5"]).rounds.tolist() == [0]
            yield row("s8", new[1:])

        after = store.metadata.with_model(ModelInfo("new", "d:new"))
        store.refresh_rows(batches(), lambda after=after: after, lambda _bytes: {"op": "refresh"})
        assert store.version == 2
        assert store.metadata.history[-1]["op"] == "refresh"
    assert contents(cache.get(IDS)) == contents(memory.get(IDS))
    assert PROBS[5].tolist() != new[0].tolist() == memory.get(["s5"]).probs[0].tolist()
