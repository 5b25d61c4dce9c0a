import numpy as np
import pytest
from tests.refresh.learned.conftest import KINDS

from sparing.refresh.learned.columns import ColumnFit, one_hot


def encoder_of(kind, *chunks):
    fit = ColumnFit(kind)
    for chunk in chunks:
        fit.update(chunk)
    return fit.finish()


@pytest.mark.parametrize("name", KINDS)
def test_chunks_of_a_column_give_the_features_of_the_whole(update, name):
    values = update.known.columns[name]
    whole, parts = (
        encoder_of(KINDS[name], values),
        encoder_of(KINDS[name], values[:700], values[700:]),
    )
    expected = whole.encode(values).toarray()
    found = np.vstack([parts.encode(values[:400]).toarray(), parts.encode(values[400:]).toarray()])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert expected.shape == (len(values), whole.width)
    assert np.isfinite(expected).all()


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("category", ["a", "a", "a"]),
        ("category", [None, None]),
        ("number", [2.5, 2.5, 2.5]),
        ("number", [np.nan, np.nan]),
        ("vector", np.full((3, 2), 0.1)),
        ("vector", np.full((3, 2), np.nan)),
    ],
)
def test_a_constant_or_empty_column_has_no_features(kind, values):
    made = encoder_of(kind, values)
    assert made.width == 0
    assert made.encode(values).shape == (len(values), 0)


def test_categories_are_numbered_by_frequency_and_strangers_share_buckets():
    made = encoder_of("category", ["b", "a", "a", "b", "a", "once", None])
    assert made.categories == ("a", "b")  # what occurs once is a stranger
    codes = made.codes(["a", "b", "once", "never seen", None])
    assert codes[:2].tolist() == [0, 1]
    assert ((codes[2:4] >= 2) & (codes[2:4] < made.width - 1)).all()
    assert codes[4] == made.width - 1
    assert (made.encode(["a", "once", None]).sum(axis=1) == 1).all()


def test_numbers_are_binned_by_quantile_with_a_bin_for_missing():
    made = encoder_of("number", np.arange(240.0))
    bins = made.codes([0.0, 239.0, -5.0, 1e9, np.nan, np.inf])
    assert bins[0] == bins[2] == 0
    assert bins[1] == bins[3] == made.width - 2
    assert bins[4] == bins[5] == made.width - 1
    counts = np.bincount(made.codes(np.arange(240.0)))
    assert counts.max() <= 12  # about 240 / 24 each


def test_vectors_are_scaled_and_a_missing_one_is_zeros():
    values = np.array([[1.0, 5.0], [3.0, 5.0], [np.nan, 5.0]])
    found = encoder_of("vector", values).encode(values).toarray()
    assert found.shape == (3, 1)  # the second entry never varies
    np.testing.assert_allclose(found[:, 0], [-4, 4, 0])


def test_words_that_one_row_uses_are_left_out():
    made = encoder_of("text", ["red fish", "blue fish", "odd", None])
    assert made.width == 1
    found = made.encode(["fish", "red", ""]).toarray()
    assert found[0, 0] > 0
    assert not found[1:].any()


def test_one_hot_leaves_out_what_is_outside():
    found = one_hot(np.array([2, -1, 0, 3]), 3).toarray()
    np.testing.assert_array_equal(found, [[0, 0, 1], [0, 0, 0], [1, 0, 0], [0, 0, 0]])
