import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparing.data.tables import list_column, write_outputs
from sparing.errors import ModelError
from sparing.models import load_model, run


@pytest.fixture
def stored():
    return np.random.default_rng(0).dirichlet(np.ones(4), size=200).astype(np.float32)


@pytest.mark.parametrize("kind", [str, int])
def test_outputs_are_looked_up_by_id(tmp_path, stored, kind):
    path = tmp_path / "big.parquet"
    write_outputs(path, [kind(i) for i in range(200)], stored)
    model = load_model(f"big={path}", cost=5.0, unit="joules", batch_size=7)
    assert (model.cost, model.unit, model.needs_samples) == (5.0, "joules", False)
    order = np.random.default_rng(1).permutation(200)[:50]
    probs, _ = run(model, [kind(i) for i in order])
    np.testing.assert_allclose(probs, stored[order], atol=1e-6)
    assert model.digest == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_half_precision_is_kept_as_stored(tmp_path, stored):
    path = tmp_path / "big.parquet"
    half = stored.astype(np.float16)
    pq.write_table(pa.table({"id": list(range(200)), "probs": list_column(half)}), path)
    probs, _ = run(load_model(f"big={path}"), list(range(200)))
    np.testing.assert_allclose(probs, half.astype(np.float32), atol=1e-3)


def test_missing_ids_are_named(tmp_path, stored):
    path = tmp_path / "big.parquet"
    write_outputs(path, [f"s{i}" for i in range(200)], stored)
    model = load_model(f"big={path}")
    with pytest.raises(ModelError, match=r"no outputs for id 'x' \(2 of 3 in this batch\)"):
        model(["s1", "x", "y"])
    with pytest.raises(ModelError, match="of type string, but int64 was asked for"):
        model([1])


def test_bad_tables_are_refused(tmp_path):
    path = tmp_path / "big.parquet"
    pq.write_table(pa.table({"id": [1, 1], "probs": [[0.5, 0.5]] * 2}), path)
    with pytest.raises(ModelError, match=r"model 'big': .*the id 1 occurs 2 times"):
        load_model(f"big={path}")
    pq.write_table(pa.table({"id": [1], "scores": [[0.5, 0.5]]}), path)
    with pytest.raises(ModelError, match="no column 'probs'; there are 'id', 'scores'"):
        load_model(f"big={path}")
