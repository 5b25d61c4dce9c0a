import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings
from threadpoolctl import threadpool_info

from sparing.cache import Cache, ModelInfo

# A slow machine is no failure: speed is measured in benchmarks.
settings.register_profile("sparing", deadline=None)
settings.load_profile("sparing")


def pytest_report_header():
    kinds = {library.get("architecture", "unknown") for library in threadpool_info()}
    return f"BLAS computes for: {', '.join(sorted(kinds))}"


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real data: $SPARING_DATA, or ../shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("SPARING_DATA", beside))
    if not path.is_dir():
        pytest.skip("real data is absent: set SPARING_DATA to a folder that holds it")
    return path


def distributions(m, c=5, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(c, 0.4), size=m).astype(np.float32)


@pytest.fixture
def make_cache(tmp_path):
    """Make a small cache of an old model: ids s000.., labels, C = 5."""

    def make(m=100, name="photos.lance", model="old", seed=0, ids=None, labels=True):
        ids = pa.array([f"s{i:03d}" for i in range(m)]) if ids is None else pa.array(ids)
        marks = np.random.default_rng(seed + 99).integers(0, 5, m) if labels else None
        return Cache.create(
            tmp_path / name, [(ids, distributions(m, seed=seed), marks)], ModelInfo(model, f"d:{model}")
        )

    return make
