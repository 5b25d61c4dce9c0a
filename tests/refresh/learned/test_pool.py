import numpy as np
import pyarrow as pa
import pytest

from sparing.cache import Cache
from sparing.data.columns import SampleColumns
from sparing.errors import InputError
from sparing.numerics.selection import tie_keys
from sparing.refresh.learned import pool as module
from sparing.refresh.learned.features import join_features
from sparing.refresh.learned.pool import Pool


def columns_of(ids):
    length = [int(name[1:]) % 7 for name in ids]
    group = [f"g{value}" for value in length]
    return SampleColumns(pa.table({"id": ids, "group": group, "length": length}), "files")


@pytest.mark.parametrize("limit", [10**9, 0])
def test_rows_are_found_by_position(world, monkeypatch, limit):
    w = world(120)
    monkeypatch.setattr(module, "IN_MEMORY", limit)
    monkeypatch.setattr(Cache.scan, "__defaults__", (37,))
    ids = list(w.samples)
    pool = Pool(w.cache, 5, columns_of(ids[5:]), seed=3)  # five rows have no columns
    assert (len(pool), pool.small) == (120, limit > 0)
    assert pool.keys.tolist() == tie_keys(pool.ids, 3).tolist()
    whole = join_features(list(pool.features()))
    some = np.array([100, 3, 57, 38])
    taken = pool.take(some)
    np.testing.assert_array_equal(taken.inputs.toarray(), whole.inputs.toarray()[some])
    np.testing.assert_array_equal(taken.keys, pool.keys[some])
    rows, at = pool.read(some)
    assert rows.ids.take(pa.array(at)).to_pylist() == [pool.ids[i].as_py() for i in some]
    np.testing.assert_array_equal(rows.probs[at].argmax(axis=1), whole.cached[some])
    assert pool.positions(pa.array([pool.ids[7].as_py(), "nobody"])).tolist() == [7]


def test_columns_of_other_samples_are_refused(world):
    with pytest.raises(InputError, match="none of the cache's ids"):
        Pool(world(20).cache, 5, columns_of(["x1", "x2"]), seed=0)
