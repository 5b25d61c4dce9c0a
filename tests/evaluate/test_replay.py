import numpy as np
import pytest

from sparing.errors import InputError
from sparing.evaluate import simulate
from sparing.numerics.distributions import entropy
from sparing.numerics.selection import tie_keys

C, M = 5, 600
IDS = [f"s{i:04d}" for i in range(M)]
LABELS = np.random.default_rng(0).integers(0, C, M)


def outputs(strength, seed):
    rng = np.random.default_rng(seed)
    logits = strength * np.eye(C)[LABELS] + rng.normal(size=(M, C))
    weights = np.exp(logits)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


ROUNDS = [outputs(strength, seed) for seed, strength in enumerate((1.0, 1.2, 1.4, 2.0, 2.2))]
TABLES = [(IDS, probs, LABELS) for probs in ROUNDS]


def test_entropy_by_another_route():
    result = simulate(TABLES, methods="entropy,full", seeds=1)
    stored = ROUNDS[0].copy()
    ties = tie_keys(IDS)
    expected = [(stored.argmax(axis=1) == LABELS).mean()]
    for new in ROUNDS[1:]:
        order = sorted(range(M), key=lambda i: (-entropy(stored)[i], ties[i]))[: M // 2]
        stored[order] = new[order]
        expected.append((stored.argmax(axis=1) == LABELS).mean())
    np.testing.assert_allclose(result.methods["entropy"].accuracy[0], expected)
    full = result.methods["full"]
    np.testing.assert_allclose(full.accuracy[0], [(p.argmax(axis=1) == LABELS).mean() for p in ROUNDS])
    assert (full.consistency == 1).all()
    assert full.forwards.tolist() == [[M] * 4]


def test_every_method_counts_its_forwards():
    result = simulate(TABLES, methods="all", seeds=1, train_rows=100, labelled_rows=100)
    m = np.array([0, 60, 72, 84])
    corrected = np.array([0, 27, 36, 46])
    for name, replay in result.methods.items():
        limit = M if name == "full" else M // 2
        assert (replay.updates <= limit).all()
        if name in ("pure", "only-misclass"):
            np.testing.assert_array_equal(replay.screened[0], m)
            np.testing.assert_array_equal(replay.corrected[0], corrected)
            np.testing.assert_array_equal(replay.screening[0], m)
            # Between the reuse-aware count and one more forward for rows of a model outside the window.
            extra = np.array([0, 0, 1, 1]) * corrected
            assert (replay.voting[0] >= extra).all()
            assert (replay.voting[0] <= extra + corrected).all()
        if name == "only-omission":
            assert not replay.screening.any()
            assert (replay.voting[0] >= np.array([0, 1, 2, 2]) * corrected).all()
        if name == "no-voting":
            assert (replay.voting[0] <= corrected).all()
        if name in ("random", "entropy", "pooled"):
            assert (replay.forwards == M // 2).all()
    for replay in result.within_budget.values():
        assert (replay.forwards <= M // 2).all()
    assert {"pure", "pooled-pure"} <= set(result.within_budget)
    assert "entropy" not in result.within_budget


def test_pooling_gains_over_replacing():
    result = simulate(TABLES, methods="change,pooled,pooled-unlabelled", seeds=2, labelled_rows=200)
    last = {name: replay.accuracy[:, -1].mean() for name, replay in result.methods.items()}
    assert last["pooled"] > last["change"] + 0.02
    assert last["pooled-unlabelled"] > last["change"]


def test_what_a_row_holds_tells_which_rows_change():
    # Round 2 repeats round 1's model: rows refreshed then have nothing to gain, whatever their entropy.
    tables = [TABLES[0], TABLES[3], TABLES[3]]
    result = simulate(tables, methods="change,entropy", seeds=1)
    assert result.methods["change"].consistency[0, -1] > 0.99
    assert result.methods["entropy"].consistency[0, -1] < 0.98


def test_budgets_by_round():
    result = simulate(TABLES, methods="random", seeds=1, budget=["10%", "20%"])
    assert result.methods["random"].updates.tolist() == [[60, 120, 120, 120]]


def test_without_labels():
    result = simulate([(IDS, probs) for probs in ROUNDS[:3]], methods="pooled,pure", seeds=1, train_rows=50)
    assert np.isnan(result.methods["pooled"].accuracy).all()
    assert (result.methods["pooled"].consistency > 0.5).all()


def test_bad_requests():
    with pytest.raises(InputError, match="two output tables"):
        simulate(TABLES[:1])
    with pytest.raises(InputError, match="no method 'clever'"):
        simulate(TABLES, methods="clever")
    with pytest.raises(InputError, match="name at least one"):
        simulate(TABLES, methods=",")
    with pytest.raises(InputError, match="shares of the rows"):
        simulate(TABLES, budget="5s")
