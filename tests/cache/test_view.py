import lance
import numpy as np
import pyarrow as pa
import pytest

from sparing.cache import Cache, ModelInfo

ROWS = 400


@pytest.fixture
def worn(tmp_path):
    """A cache whose rows lie in many places: deleted here, rewritten there."""
    probs = np.random.default_rng(0).dirichlet(np.ones(4), ROWS).astype(np.float32)
    ids = pa.array([f"s{i:03d}" for i in range(ROWS)])
    model = ModelInfo("old", "d:old")
    cache = Cache.create(tmp_path / "c.lance", [(ids, probs, None)], model)
    draw = np.random.default_rng(1)
    for _ in range(4):
        chosen = pa.array([f"s{i:03d}" for i in draw.choice(300, 20, replace=False)])
        table = cache._view.dataset.to_table().filter(pa.compute.is_in(pa.array(cache.ids()), chosen))
        update = lance.dataset(str(cache.path)).merge_insert("id").when_matched_update_all()
        update.execute(table)
        cache = Cache.open(cache.path)
    cache.delete(["s001", "s150", *[f"s{i}" for i in range(350, 380)]])
    return Cache.open(cache.path)


def test_positions_read_what_the_scan_reads(worn):
    scanned = list(worn.scan())
    ids = np.concatenate([part.ids.to_pylist() for part in scanned])
    probs = np.concatenate([part.probs for part in scanned])
    assert worn.ids().to_pylist() == ids.tolist()
    for seed in range(5):
        at = np.random.default_rng(seed).permutation(len(ids))[:97]
        rows = worn.take(at)
        order = at[np.argsort(ids[at])]
        assert rows.ids.to_pylist() == ids[order].tolist()
        np.testing.assert_array_equal(rows.probs, probs[order])
    assert worn.get(["s002", "s379", "s399"]).ids.to_pylist() == ["s002", "s399"]


def test_worn_caches_are_read_by_address(worn, monkeypatch):
    """Once rows were deleted, Lance counts through them for every position: quadratic, so never asked for."""

    def counted(*_, **__):
        raise AssertionError("read by position")

    monkeypatch.setattr(lance.LanceDataset, "take", counted)
    assert len(worn.take(np.arange(50))) == 50


def test_all_rows_deleted(tmp_path):
    probs = np.full((3, 2), 0.5, np.float32)
    cache = Cache.create(tmp_path / "c.lance", [(pa.array([1, 2, 3]), probs, None)], ModelInfo("a", "d"))
    cache.delete([1, 2, 3])
    assert len(Cache.open(cache.path).get([1, 2])) == 0
