from dataclasses import replace

import numpy as np
import pyarrow as pa

from sparing.cache import Metadata, ModelInfo, Rows
from sparing.numerics.distributions import entropy
from sparing.outputs import Classes
from sparing.refresh.correction.past import accumulate, past_rounds, recent_models

PROBS = np.random.default_rng(0).dirichlet(np.ones(4), 6).astype(np.float32)


def entry(round_, *names, op="refresh", **more):
    digests = {name: f"d:{name}" for name in names}
    return {"op": op, "round": round_, "digests": digests, "scorer": "entropy", "target": names[-1], **more}


def metadata(*history):
    base = Metadata(Classes(4), "float32").with_model(ModelInfo("old", "d:old"))
    return replace(base, history=tuple(history))


def test_models_by_when_they_last_refreshed():
    known = metadata(entry(1, "a"), entry(2, "b", "c"), entry(3, "a"), {"op": "append", "round": 3})
    assert recent_models(known, ["d"]) == ["b", "c", "a", "d"]
    assert recent_models(known, ["b"]) == ["c", "a", "b"]
    assert recent_models(metadata(), ["d"]) == ["d"]


def test_a_round_since_a_rows_refresh_counts_once():
    past = past_rounds(metadata(entry(1, "a"), entry(2, "b", scorer="margin", seed=5), entry(3, "c")))
    assert [(p.round, p.names, p.scorer.name, p.seed) for p in past] == [
        (1, ("a",), "entropy", 0),
        (2, ("b",), "margin", 5),
        (3, ("c",), "entropy", 0),
    ]
    rounds = np.array([0, 1, 2, 3, 0, 3])
    rows = Rows(
        pa.array([f"s{i}" for i in range(6)]),
        PROBS,
        labels=np.full(6, -1),
        models=np.zeros(6, int),
        rounds=rounds,
        scores=np.full(6, np.nan, np.float32),
    )
    top = np.sort(PROBS, axis=1)
    unit = {1: entropy(PROBS), 2: 1 - (top[:, -1] - top[:, -2]), 3: entropy(PROBS)}
    expected = [sum((1 + np.tanh(unit[r][i])) / 2 for r in (1, 2, 3) if r > rounds[i]) for i in range(6)]
    np.testing.assert_allclose(accumulate(past, rows, ["old"]), expected, rtol=1e-5)
