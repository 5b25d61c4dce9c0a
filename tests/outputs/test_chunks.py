import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparing.cache import Cache, import_outputs
from sparing.cache.exporting import export
from sparing.data.tables import iter_outputs, list_column, write_outputs
from sparing.models import Model
from sparing.outputs import Classes, chunks
from sparing.outputs.chunks import rows_per_chunk, width_of
from sparing.refresh.running import chunk_rows_for


@pytest.mark.parametrize(
    ("width", "at_most", "rows"),
    [
        (0, 65_536, 65_536),
        (100, 65_536, 65_536),
        (1000, 65_536, 16_000),
        (21_841, 65_536, 732),
        (10**9, 8192, 1),
    ],
)
def test_a_chunk_is_bounded_in_bytes(width, at_most, rows):
    assert rows_per_chunk(width, at_most) == rows


def test_widths():
    assert (width_of(Classes(7)), width_of(None)) == (7, 0)


def test_chunks_of_work_are_whole_batches():
    model = Model("m", "d:m", lambda *_: None, batch_size=100)
    assert chunk_rows_for(10**6, [model]) == 8200
    assert chunk_rows_for(10**6, [model], Classes(100)) == 8200
    assert chunk_rows_for(10**6, [model], Classes(21_841)) == 700
    assert chunk_rows_for(10**6, [model], Classes(10**7)) == 100


def test_everything_that_reads_rows_holds_few_wide_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4 * 50 * 30)  # 30 rows of 50 classes
    rng = np.random.default_rng(0)
    probs, ids = rng.dirichlet(np.ones(50), 200).astype(np.float32), [f"s{at:03d}" for at in range(200)]
    write_outputs(tmp_path / "t.parquet", ids, probs)
    columns = pa.table({"id": ids, "probs": list(probs)})
    for source in (tmp_path / "t.parquet", columns, (ids, probs)):
        parts = list(iter_outputs(source))
        assert [len(part) for part in parts] == [30] * 6 + [20]
        np.testing.assert_allclose(np.concatenate([part.probs for part in parts]), probs, rtol=1e-5)
    cache = import_outputs(tmp_path / "c.lance", tmp_path / "t.parquet", "m", encoding="float32")
    assert {len(rows) for rows in cache.scan()} <= {*range(1, 31)}
    assert sum(len(rows) for rows in cache.scan()) == 200
    taken = []
    take = Cache.take
    monkeypatch.setattr(Cache, "take", lambda self, at: taken.append(len(at)) or take(self, at))
    assert export(cache, tmp_path / "out.parquet") == 200
    assert taken == [30] * 6 + [20]


def test_a_parquet_file_is_not_held_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1_000_000)
    rng = np.random.default_rng(0)
    probs = rng.random((16_000, 500), dtype=np.float32)
    probs /= probs.sum(axis=1, keepdims=True)
    pq.write_table(pa.table({"id": range(16_000), "probs": list_column(probs)}), tmp_path / "t.parquet")
    del probs
    before, held = pa.total_allocated_bytes(), []
    for part in iter_outputs(tmp_path / "t.parquet"):
        assert len(part) <= 500
        held.append(pa.total_allocated_bytes() - before)
    assert max(held) < 16_000_000  # the rows are 32 MB
