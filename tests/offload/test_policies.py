import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparing.errors import InputError
from sparing.offload import policies
from sparing.offload.policies import POLICIES, select


def brute_force_sage(attention, embeddings, k, pool):
    """The paper's steps, one by one, for one image."""
    z = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    candidates = sorted(range(len(attention)), key=lambda i: (-attention[i], i))[:pool]
    picked = [candidates[0]]
    while len(picked) < k:
        rest = [i for i in candidates if i not in picked]
        picked.append(min(rest, key=lambda i: max(float(z[i] @ z[j]) for j in picked)))
    return picked


@pytest.mark.parametrize("ratio", [1, 2, 3, None])
def test_sage_follows_the_papers_steps(ratio):
    rng = np.random.default_rng(1)
    attention = rng.random((5, 30)).astype(np.float32)
    embeddings = rng.normal(size=(5, 30, 8)).astype(np.float32)
    found = policies.sage(attention, embeddings, 7, pool_ratio=ratio)
    pool = 30 if ratio is None else min(30, 7 * ratio)
    for row in range(5):
        assert found[row].tolist() == brute_force_sage(attention[row], embeddings[row], 7, pool)


def test_sage_with_ratio_1_is_importance():
    rng = np.random.default_rng(2)
    attention, embeddings = rng.random((4, 16)), rng.normal(size=(4, 16, 3))
    same = np.sort(policies.sage(attention, embeddings, 5, pool_ratio=1), axis=1)
    np.testing.assert_array_equal(same, np.sort(policies.importance(attention, 5), axis=1))


def test_sage_by_hand_takes_the_complement_instead_of_the_twin():
    attention = np.array([[0.5, 0.3, 0.1, 0.05, 0.05]])
    embeddings = np.array([[[1, 0], [1, 0.01], [0.9, 0.1], [0, 1], [0, 1]]], dtype=float)
    assert policies.sage(attention, embeddings, 2).tolist() == [[0, 3]]
    assert policies.importance(attention, 2).tolist() == [[0, 1]]


@settings(deadline=None)  # the first call compiles
@given(
    st.sampled_from(POLICIES),
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(1, 6),
    st.data(),
    st.integers(0, 2**32 - 1),
)
def test_every_policy_picks_distinct_patches_of_the_grid(policy, m, rows, cols, data, seed):
    n = rows * cols
    k = data.draw(st.integers(0, n))
    rng = np.random.default_rng(seed)
    attention = rng.integers(0, 3, (m, n)) / 3.0  # many ties, and rows of zeros
    embeddings = rng.integers(-1, 2, (m, n, 2)).astype(float)  # many equal and zero vectors
    chosen = select(policy, attention, embeddings, cols, k, seed=seed)
    assert chosen.shape == (m, k)
    for row in chosen:
        real = row[row >= 0]
        assert len(set(real.tolist())) == len(real)
        assert (real < n).all()
        assert policy == "cumulative" or len(real) == k


def test_the_grid_is_regular_at_powers_of_4():
    assert sorted(policies.grid(8, 8, 16).tolist()) == [16 * r + 2 * c for r in range(4) for c in range(4)]
    assert policies.grid(8, 8, 1).tolist() == [0]
    assert sorted(policies.grid(3, 5, 15).tolist()) == list(range(15))


def test_cumulative_counts_by_hand():
    attention = np.array([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3], [0.0, 0.0, 1.0]])
    assert policies.cumulative_counts(attention, 0.9).tolist() == [2, 3, 1]
    assert policies.cumulative_counts(attention, 0.0).tolist() == [1, 1, 1]


def test_spread_over_positions_alone_takes_opposite_corners_first():
    attention = np.zeros((1, 16))
    attention[0, 0] = 1
    embeddings = np.ones((1, 16, 2))
    first = policies.spread(attention, embeddings, 4, 2, position_weight=1)
    assert first.tolist() == [[0, 15]]


@pytest.mark.parametrize("policy", ["sage", "coverage", "spread"])
def test_images_are_taken_a_few_at_a_time_with_the_same_result(policy, monkeypatch):
    rng = np.random.default_rng(4)
    attention, embeddings = rng.random((9, 12)), rng.normal(size=(9, 12, 3))
    together = select(policy, attention, embeddings, 4, 5)
    monkeypatch.setattr(policies, "BLOCK", 2 * 12 * 12)
    np.testing.assert_array_equal(select(policy, attention, embeddings, 4, 5), together)


def test_similarities_of_many_images_are_never_held_at_once():
    attention, embeddings = np.ones((4000, 64), dtype=np.float32), np.ones((4000, 64, 2), dtype=np.float32)
    select("spread", attention[:1], embeddings[:1], 8, 4)  # compiles
    tracemalloc.start()
    select("spread", attention, embeddings, 8, 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    monolith = 4000 * 64 * 64 * 4  # 66 MB, and several of them
    assert peak < 6 * monolith
    tracemalloc.start()
    select("spread", np.tile(attention, (4, 1)), np.tile(embeddings, (4, 1, 1)), 8, 4)
    assert tracemalloc.get_traced_memory()[1] < 1.5 * peak
    tracemalloc.stop()


def test_random_is_seeded_and_differs_between_images():
    one, two = policies.random(2, 50, 10, seed=3), policies.random(2, 50, 10, seed=3)
    np.testing.assert_array_equal(one, two)
    assert one[0].tolist() != one[1].tolist()


def test_bad_arguments_are_refused():
    attention, embeddings = np.ones((1, 4)), np.ones((1, 4, 2))
    with pytest.raises(InputError, match="5 of 4"):
        select("sage", attention, embeddings, 2, 5)
    with pytest.raises(InputError, match="unknown policy"):
        select("best", attention, embeddings, 2, 1)
    with pytest.raises(InputError, match="belong together"):
        select("sage", attention, embeddings[:, :3], 2, 1)
