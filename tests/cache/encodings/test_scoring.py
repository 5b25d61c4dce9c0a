from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.stats import entropy as scipy_entropy
from tests.cache.encodings.test_encodings import LOSSLESS_TOP, UNIFORM, WIDE, tables

from sparing.cache.encodings import encoded, parse_encoding
from sparing.cache.encodings.scoring import largest, multiply, uncertainty


def both(name, probs):
    """The same encoded rows, to be scored by numpy and by the compiled loops."""
    plain = parse_encoding(name, probs.shape[1]).encode(probs)
    return plain, replace(plain, compiled=True)


def product(rows, matrix, descending):
    result = np.full((len(rows), matrix.shape[1]), np.nan, dtype=np.float32)

    def finish(block, products):
        assert np.isnan(result[block]).all()
        result[block] = products

    multiply(rows, matrix, descending, finish)
    return result


@pytest.mark.parametrize("name", [*LOSSLESS_TOP, *UNIFORM, *WIDE])
@settings(max_examples=40, deadline=None)
@given(tables())
def test_compiled_scores_are_those_of_the_decoded_rows(name, probs):
    plain, fast = both(name, probs)
    decoded = plain.decode().astype(np.float64)
    top = np.sort(decoded, axis=1)[:, ::-1]
    expected = {
        "entropy": scipy_entropy(decoded, axis=1),
        "margin": 1 - (top[:, 0] - top[:, 1]),
        "least-confidence": 1 - top[:, 0],
    }
    for what, values in expected.items():
        for rows in (plain, fast):
            scores = uncertainty(rows, what)
            assert scores.dtype == np.float32
            np.testing.assert_allclose(scores, values, rtol=5e-6, atol=5e-6)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("name", [*LOSSLESS_TOP, *WIDE, "int4-uniform", "top3-int4-uniform"])
@settings(max_examples=30, deadline=None)
@given(tables())
def test_products_are_those_of_the_decoded_rows(name, descending, probs):
    plain, fast = both(name, probs)
    c = probs.shape[1]
    width = min(c, 6) if descending else c
    matrix = np.random.default_rng(c).normal(size=(width, 7)).astype(np.float32)
    inputs = plain.decode().astype(np.float64)
    if descending:
        inputs = np.sort(inputs, axis=1)[:, ::-1][:, :width]
    for rows in (plain, fast):
        np.testing.assert_allclose(product(rows, matrix, descending), inputs @ matrix, atol=2e-5)


@pytest.mark.parametrize("name", ["float32", "float16", "int4", "top3-int4"])
def test_blocks_cover_every_row_once(name):
    probs = np.random.default_rng(1).dirichlet(np.full(20, 0.3), 20_001).astype(np.float32)
    matrix = np.random.default_rng(2).normal(size=(20, 5)).astype(np.float32)
    for rows in both(name, probs):
        np.testing.assert_allclose(product(rows, matrix, False), rows.decode() @ matrix, atol=2e-5)
        assert np.abs(uncertainty(rows, "entropy") - scipy_entropy(rows.decode(), axis=1)).max() < 5e-6


def test_an_error_in_a_block_comes_out():
    rows = replace(encoded(np.full((9000, 4), 0.25, np.float32)), compiled=True)

    def finish(block, products):
        raise RuntimeError(f"block at {block.start}")

    with pytest.raises(RuntimeError, match="block at"):
        multiply(rows, np.ones((4, 1), np.float32), False, finish)


@pytest.mark.parametrize("width", [1, 2, 5, 40])
def test_the_largest_entries_in_ascending_order(width):
    probs = np.random.default_rng(3).dirichlet(np.full(40, 0.2), 50).astype(np.float32)
    probs[0, :30] = -0.0
    np.testing.assert_array_equal(largest(probs, width), np.sort(probs, axis=1)[:, -width:])
