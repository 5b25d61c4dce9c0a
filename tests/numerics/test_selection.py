import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparing.errors import InputError
from sparing.numerics import selection
from sparing.numerics.selection import Items, find_cut, tie_keys


def brute_force(scores, ties, ids, k):
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], ties[i], ids[i]))
    return set(order[:k])


def chunked(items, sizes):
    def chunks():
        start = 0
        for size in [*sizes, len(items.scores)]:
            part = slice(start, start + size)
            kinds = None if items.kinds is None else items.kinds[part]
            yield Items(items.scores[part], items.ties[part], items.ids[part], kinds)
            start += size

    return chunks


@settings(max_examples=200)
@given(st.data())
def test_cut_takes_the_rows_that_a_sort_takes(data):
    m = data.draw(st.integers(0, 40))
    scores = np.array(
        data.draw(st.lists(st.sampled_from([-1.5, -0.0, 0.0, 0.25, 3.0]), min_size=m, max_size=m))
    )
    ties = np.array(data.draw(st.lists(st.integers(0, 2), min_size=m, max_size=m)), dtype=np.uint64)
    ids = np.array(data.draw(st.permutations(range(m))), dtype=np.int64)
    k = data.draw(st.integers(0, m + 1))
    items = Items(scores.astype(float), ties, ids)
    sizes = data.draw(st.lists(st.integers(0, 7), max_size=4))
    whole = find_cut(lambda: [items], k)
    pieces = find_cut(chunked(items, sizes), k)
    assert whole == pieces
    taken = np.ones(m, bool) if whole is None else whole.takes(items)
    assert set(np.flatnonzero(taken)) == brute_force(items.scores, ties, ids, k)


@pytest.fixture(params=["plain", "compiled"])
def either_way(request, monkeypatch):
    """Run a test with the plain and with the compiled loops."""
    monkeypatch.setattr(selection, "_compiled", lambda _: request.param == "compiled")


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("crowd", ["scores", "ties", "ids", "one score"])
def test_the_histogram_descent_agrees_with_a_sort(monkeypatch, crowd, dtype):
    # A tiny limit makes every pass count digits instead of ranking outright.
    rng = np.random.default_rng(5)
    m, k = 5000, 1777
    scores = (rng.normal(size=m) if crowd == "scores" else rng.integers(0, 2, m)).astype(dtype)
    scores[scores == 0] *= rng.choice([-1, 1], int((scores == 0).sum()))
    if crowd == "one score":
        scores[:] = 0.25
    ties = (
        rng.integers(0, 3, m).astype(np.uint64)
        if crowd == "ids"
        else rng.integers(0, 2**63, m).astype(np.uint64)
    )
    items = Items(scores, ties, rng.permutation(m))
    expected = brute_force(scores, ties, items.ids, k)
    monkeypatch.setattr(selection, "_SORT_OUTRIGHT", 3)
    cut = find_cut(chunked(items, [700, 1, 999]), k)
    assert set(np.flatnonzero(cut.takes(items))) == expected


@pytest.mark.usefixtures("either_way")
def test_kinds_are_counted_apart(monkeypatch):
    rng = np.random.default_rng(6)
    m = 3000
    kinds = rng.integers(0, 3, m)
    items = Items(rng.normal(size=m), rng.integers(0, 2**63, m).astype(np.uint64), np.arange(m), kinds)
    weights = [1.0, 2.5, 0.0]
    order = selection.in_order(items)
    fits = np.array(weights)[kinds[order]].cumsum() <= 900
    monkeypatch.setattr(selection, "_SORT_OUTRIGHT", 3)
    cut = find_cut(chunked(items, [100, 1500]), 900, weights)
    assert set(np.flatnonzero(cut.takes(items))) == set(order[fits])


@pytest.mark.usefixtures("either_way")
def test_the_cut_compares_float32_scores_exactly():
    scores = np.float32([0.1, 0.1, 0.3])
    items = Items(scores, np.array([5, 4, 3], np.uint64), np.arange(3))
    taken = selection.Cut(0.1, 0, 0).takes(items)  # the float64 0.1 lies below the float32 one
    assert list(taken) == [True, True, True]


def test_weighted_items_stop_at_the_first_that_does_not_fit():
    items = Items(np.array([3.0, 2.0, 1.0]), np.zeros(3, np.uint64), np.arange(3), np.array([0, 1, 0]))
    cut = find_cut(lambda: [items], 3.0, [1.0, 5.0])
    assert list(cut.takes(items)) == [True, False, False]


@pytest.mark.usefixtures("either_way")
def test_nan_scores_are_refused():
    items = Items(np.array([1.0, np.nan]), np.zeros(2, np.uint64), np.arange(2))
    with pytest.raises(InputError, match="NaN"):
        find_cut(lambda: [items], 1)


def test_in_order():
    items = Items(np.array([1.0, 2.0, 1.0, 1.0]), np.array([5, 9, 4, 4], np.uint64), np.array([0, 1, 3, 2]))
    assert list(selection.in_order(items)) == [1, 3, 2, 0]


@given(st.lists(st.text(max_size=30), min_size=1, max_size=20), st.integers(0, 3))
def test_a_string_hashes_the_same_in_any_company(ids, seed):
    together = tie_keys(pa.array(ids), seed)
    alone = np.array([tie_keys([name], seed)[0] for name in ids])
    sliced = tie_keys(pa.array(["padding", *ids]).slice(1), seed)
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, sliced)


def test_hashes_differ_by_seed_length_and_content():
    ids = ["", "a", "a\0", "b", "aaaaaaaa", "aaaaaaaaa", "aaaaaaaaaaaaaaaaa"]
    assert len(set(tie_keys(ids, 0)) | set(tie_keys(ids, 1))) == 2 * len(ids)
    numbers = tie_keys(np.arange(100_000))
    assert len(np.unique(numbers)) == 100_000
    # Every bit is set about half of the time.
    bits = np.unpackbits(numbers.view(np.uint8).reshape(-1, 8), axis=1).mean(axis=0)
    assert (np.abs(bits - 0.5) < 0.02).all()


def test_ids_of_another_type_are_refused():
    with pytest.raises(InputError, match="strings or integers"):
        tie_keys([1.5, 2.5])
    with pytest.raises(InputError, match="missing"):
        tie_keys(pa.array(["a", None]))
