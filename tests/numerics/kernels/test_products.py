import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparing.numerics.kernels.products import COLUMNS, multiply_rows


def product(table, matrix):
    out = np.full((len(table), matrix.shape[1]), np.nan, dtype=np.float32)
    multiply_rows(table, matrix, out)
    return out


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 150), st.integers(1, 40), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_products_are_those_of_float64(m, n, strips, seed):
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(m, n)).astype(np.float32)
    matrix = rng.normal(size=(n, strips * COLUMNS)).astype(np.float32)
    exact = table.astype(np.float64) @ matrix
    scale = np.abs(table).astype(np.float64) @ np.abs(matrix)
    # The error bound of a float32 sum of n products, whatever their order.
    assert (np.abs(product(table, matrix) - exact) <= (n + 1) * 2.0**-24 * scale + 1e-45).all()


def test_a_row_gives_the_same_wherever_it_stands():
    rng = np.random.default_rng(1)
    table = rng.normal(size=(107, 100)).astype(np.float32)
    matrix = rng.normal(size=(100, 2 * COLUMNS)).astype(np.float32)
    whole = product(table, matrix)
    for start in (1, 5, 47, 50, 106):
        np.testing.assert_array_equal(product(table[start:], matrix), whole[start:])


def test_only_the_rows_asked_for_are_written():
    table = np.ones((20, 3), dtype=np.float32)
    matrix = np.ones((3, COLUMNS), dtype=np.float32)
    out = np.zeros((20, COLUMNS), dtype=np.float32)
    multiply_rows(table[4:11], matrix, out[4:11])
    written = (out == 3).all(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(written), np.arange(4, 11))
    np.testing.assert_array_equal(out[~written], 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_row(bad):
    table = np.ones((13, 4), dtype=np.float32)
    table[7, 2] = bad
    products = product(table, np.ones((4, COLUMNS), dtype=np.float32))
    np.testing.assert_array_equal(products[7], np.full(COLUMNS, bad))
    np.testing.assert_array_equal(np.delete(products, 7, axis=0), 4)
