from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from sparing.cache import MemoryStore, ModelInfo
from sparing.errors import BudgetError
from sparing.models import Model
from sparing.outputs import Classes
from sparing.refresh.correction.rules import Schedule, Variant, normalised_benefit, omission_risk
from sparing.refresh.correction.screening import COLUMNS, prepare_correction, screen_rows
from sparing.refresh.options import Correction

M = 30
IDS = pa.array([f"s{i:02d}" for i in range(M)])
PROBS = np.random.default_rng(0).dirichlet(np.ones(4), M).astype(np.float32)


def model(name):
    return Model(name, f"d:{name}", lambda ids, values: None, needs_samples=False)


@pytest.fixture
def store():
    """Rows of models 0, 1 and 2 after two rounds, the first by 1 and the second by 2."""
    made = MemoryStore(IDS, Classes(4), PROBS, None, ModelInfo("0", "d:0"))
    for name in "12":
        made.metadata = made.metadata.with_model(ModelInfo(name, f"d:{name}"))
    history = tuple(
        {"op": "refresh", "round": r, "digests": {str(r): f"d:{r}"}, "scorer": "entropy", "target": str(r)}
        for r in (1, 2)
    )
    made.metadata = replace(made.metadata, round=2, history=history)
    held = np.arange(M) % 3
    scores = np.where(held == 0, np.nan, 0.7).astype(np.float32)
    made.rows = replace(made.rows, models=held, rounds=held, scores=scores)
    return made


def prepared(store, given=("1", "2"), pooling=False):
    asked = Correction(recent=[model(name) for name in given])
    return prepare_correction(store, [model("3")], asked, unit="share", pooling=pooling)


def test_the_window_is_the_recent_models_and_those_given_can_be_run(store):
    correction = prepared(store, given="2")
    assert correction.window == ("1", "2", "3")
    assert correction.runnable.tolist() == [False, True, True]
    assert [m.name for m in correction.given] == ["2", "3"]
    assert correction.reserve(1000) == 120 + 60 * 1
    store.metadata = replace(store.metadata, round=0)
    assert prepared(store) is None
    with pytest.raises(BudgetError, match="runs until it is spent"):
        prepare_correction(store, [model("3")], Correction(), unit="seconds", pooling=False)


def test_columns_by_hand(store):
    benefits = np.linspace(-1, 1, M, dtype=np.float32)[:, None]
    found = prepared(store).columns(store.rows, benefits, ["3"], store)
    held = store.rows.models
    # Model 0 is not in the window of 1, 2 and 3.
    np.testing.assert_array_equal(found["stored"], held - 1)
    np.testing.assert_array_equal(found["held"], np.array([0, 1, 2])[held])
    np.testing.assert_array_equal(found["score"], benefits[:, 0])
    entropy = -(PROBS * np.log(PROBS)).sum(axis=1)
    now, before = normalised_benefit(benefits[:, 0]), normalised_benefit(entropy)
    total = now + before * np.array([2, 1, 0])[held]
    last = np.where(held == 0, 0.5, normalised_benefit(np.float32(0.7)))
    np.testing.assert_allclose(found["risk"], omission_risk(total, last, 1.5, 0.22), rtol=1e-5)
    for i in range(M):
        predicted = {0: entropy[i], 1: entropy[i], 2: benefits[i, 0]}
        predicted.pop(held[i] - 1, None)
        best = max(predicted, key=lambda j: (predicted[j], j))
        assert found["alternative"][i] == best


def test_a_pool_holds_its_members(store):
    store.metadata = store.metadata.with_model(ModelInfo("1+2", "pool:x", unit="pool", members=("1", "2")))
    store.rows = replace(store.rows, models=np.full(M, 3))
    benefits = np.full((M, 1), -np.inf, dtype=np.float32)
    correction = prepared(store, pooling=True)
    found = correction.columns(store.rows, benefits, ["3"], store)
    assert (found["held"] == 0b011).all()
    assert (found["risk"] == -np.inf).all()  # no model has anything to add


def test_ablations(store):
    benefits = np.zeros((M, 1), dtype=np.float32)
    chance = Variant(risk=lambda accumulated, last, schedule: np.arange(float(len(last))), compare=False)
    found = replace(prepared(store), variant=chance).columns(store.rows, benefits, ["3"], store)
    assert found["risk"].tolist() == list(range(M))
    assert (found["alternative"] == -1).all()


def test_the_riskiest_free_rows_are_screened_over_chunks():
    rng = np.random.default_rng(3)
    risk = rng.integers(0, 4, 60).astype(np.float32)
    tie = rng.permutation(60).astype(np.uint64)
    free = rng.random(60) < 0.7
    columns = {name: np.arange(60) for name in COLUMNS}
    whole = pa.table({**columns, "risk": risk, "tie": tie, "second": tie})
    chunks = [(whole.slice(at, 20), free[at : at + 20]) for at in (0, 20, 40)]
    expected = sorted(np.flatnonzero(free), key=lambda i: (-risk[i], tie[i]))
    for count in (0, 1, 17, int(free.sum()), 60):
        found = screen_rows(lambda: iter(chunks), count)
        assert found["id"].to_pylist() == expected[:count]
    assert Schedule().at(3).screened(60) == 7


@pytest.mark.parametrize("forwards", [0, 1, 7, 100, 10_000])
def test_correction_screens_what_its_budget_pays_for(store, forwards):
    correction = prepared(store)
    most = correction.step.screened(1000)
    screened = correction.affordable(1000, forwards)
    assert correction.forwards(screened) <= forwards
    assert screened == most or correction.forwards(screened + 1) > forwards
