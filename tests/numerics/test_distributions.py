import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy as scipy_entropy

from sparing.errors import InputError
from sparing.numerics import distributions as d


def rows(m=50, c=7, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(c, 0.3), size=m)


def test_entropy_by_hand():
    probs = np.array([[1.0, 0.0], [0.5, 0.5], [0.25, 0.75]])
    expected = [0.0, math.log(2), -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))]
    np.testing.assert_allclose(d.entropy(probs), expected, atol=1e-12)


def test_against_scipy():
    p, q = rows(seed=1), rows(seed=2)
    np.testing.assert_allclose(d.entropy(p), scipy_entropy(p, axis=1), rtol=1e-9)
    np.testing.assert_allclose(d.kl_divergence(p, q), scipy_entropy(p, q, axis=1), rtol=1e-9)
    np.testing.assert_allclose(d.js_divergence(p, q), jensenshannon(p, q, base=2, axis=1) ** 2, atol=1e-9)


def test_confidence_and_margin_by_hand():
    probs = np.array([[0.1, 0.7, 0.2], [0.4, 0.4, 0.2]])
    np.testing.assert_allclose(d.least_confidence(probs), [0.3, 0.6])
    np.testing.assert_allclose(d.margin(probs), [0.5, 0.0])


def test_kl_is_infinite_where_q_excludes_a_class():
    assert d.kl_divergence(np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]]))[0] == math.inf
    assert d.kl_divergence(np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]]))[0] == pytest.approx(math.log(2))


def test_js_of_disjoint_rows_is_one():
    assert d.js_divergence(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))[0] == pytest.approx(1.0)


@given(st.integers(0, 10_000), st.integers(2, 20))
def test_js_is_symmetric_and_bounded(seed, c):
    p, q = rows(5, c, seed), rows(5, c, seed + 1)
    forward, backward = d.js_divergence(p, q), d.js_divergence(q, p)
    np.testing.assert_allclose(forward, backward, atol=1e-12)
    assert ((forward >= 0) & (forward <= 1)).all()


def test_softmax_survives_large_logits():
    np.testing.assert_allclose(
        d.softmax(np.array([[1000.0, 1000.0], [0.0, math.log(3)]])), [[0.5, 0.5], [0.25, 0.75]]
    )


def test_temperature_recovers_the_one_that_was_applied():
    rng = np.random.default_rng(3)
    probs = rng.dirichlet(np.ones(5), size=20_000)
    labels = (probs.cumsum(1) > rng.random((len(probs), 1))).argmax(1)
    overconfident = d.apply_temperature(probs, 0.5)
    assert d.fit_temperature(overconfident, labels) == pytest.approx(2.0, rel=0.05)


def test_temperature_rejects_labels_out_of_range():
    with pytest.raises(InputError, match="labels must lie in"):
        d.fit_temperature(rows(3), np.array([0, 1, 7]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[0.5, float("nan")]], "NaN or infinity"),
        ([[0.5, 0.4]], "sums to 0.9"),
        ([[1.2, -0.2]], "negative probability"),
        ([[3.0, -1.0]], "look like logits"),
        ([[0.5], [0.5]], "at least 2 classes"),
        ([0.5, 0.5], "one row per sample"),
        ([["a", "b"]], "table of numbers"),
    ],
)
def test_bad_rows_are_named(values, message):
    with pytest.raises(InputError, match=message):
        d.as_distributions(values)


def test_the_offending_id_is_named():
    with pytest.raises(InputError, match="id 'cat-7'"):
        d.as_distributions([[0.5, 0.5], [0.9, 0.9]], ids=["dog-1", "cat-7"])


def test_rows_within_tolerance_are_renormalised():
    probs = d.as_distributions(np.array([[0.5, 0.504]]))
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-6)


def test_rounding_below_zero_is_read_as_zero():
    probs = d.as_distributions(np.array([[1 + 2e-16, -2e-16, 0], [0.5, 0.5 + 9e-7, -9e-7], [0.2, 0.3, 0.5]]))
    assert probs.min() == 0
    assert not np.signbit(probs[probs == 0]).any()
    np.testing.assert_allclose(probs, [[1, 0, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5]], atol=1e-6)
    np.testing.assert_allclose(probs.sum(axis=1, dtype=np.float64), 1, atol=1e-7)
    with pytest.raises(InputError, match=r"row 1 has a negative probability -1\.1e-06"):
        d.as_distributions(np.array([[0.5, 0.5, 0], [1, 1.1e-6, -1.1e-6]]))


def test_ragged_rows_are_one_clear_error():
    with pytest.raises(InputError, match="outputs of m: not one table of numbers"):
        d.as_distributions([[0.5, 0.5], [1.0]], what="outputs of m")
