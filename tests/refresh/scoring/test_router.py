import numpy as np
import pytest
from sklearn.neural_network import MLPRegressor
from tests.refresh.scoring.conftest import make_rows

from sparing.numerics.distributions import entropy
from sparing.refresh.scoring.ranker import train_ranker
from sparing.refresh.scoring.router import Router, descending


def pair(m=1500, c=20, seed=0):
    """An old model, and a new one that is sure where the old one was not."""
    rng = np.random.default_rng(seed)
    sharpness = rng.uniform(0.05, 2, (m, 1))
    old = rng.dirichlet(np.ones(c), m) ** (1 / sharpness)
    old /= old.sum(1, keepdims=True)
    new = rng.dirichlet(np.full(c, 0.05), m) + 1e-6
    new /= new.sum(1, keepdims=True)
    return old.astype(np.float32), new.astype(np.float32)


@pytest.mark.parametrize("form", ["sorted", "plain"])
def test_it_learns_the_entropy_decrease(form):
    old, new = pair()
    unseen, _ = pair(seed=1)
    ranker = train_ranker(old, [new], ["new"], ["d"], form=form, epochs=20)
    predicted = ranker.benefits(unseen)[:, 0]
    expected = entropy(unseen) - entropy(new).mean()
    assert np.corrcoef(predicted, expected)[0, 1] > 0.95
    assert abs(predicted.mean() - expected.mean()) < 0.2


def test_the_forward_pass_is_scikit_learns():
    old, new = pair(300)
    ranker = train_ranker(old, [new], ["new"], ["d"], form="plain", epochs=3, seed=4)
    reference = MLPRegressor(
        hidden_layer_sizes=(64,), max_iter=3, batch_size=32, random_state=4, tol=0.0, n_iter_no_change=3
    )
    with pytest.warns(UserWarning, match="Maximum iterations"):
        reference.fit(old, entropy(old) - entropy(new))
    np.testing.assert_allclose(ranker.benefits(old)[:, 0], reference.predict(old), atol=1e-4)


def test_a_forward_by_hand():
    layers = (
        (np.array([[1.0, -1.0], [0.0, 2.0]], np.float32), np.array([0.0, 0.5], np.float32)),
        (np.array([[2.0], [1.0]], np.float32), np.array([-0.25], np.float32)),
    )
    # Hidden: max(0, [0.25, -0.25 + 1.5 + 0.5]) = [0.25, 1.75]; output 0.5 + 1.75 - 0.25.
    row = make_rows(np.array([[0.25, 0.75]], np.float32))
    np.testing.assert_allclose(Router("plain", (layers,)).benefits(row), [[2.0]])


def test_sorted_routers_do_not_care_which_class_it_is():
    old, new = pair(400)
    ranker = train_ranker(old, [new], ["new"], ["d"], epochs=2)
    shuffled = old[:, np.random.default_rng(0).permutation(old.shape[1])]
    np.testing.assert_allclose(ranker.benefits(shuffled), ranker.benefits(old), atol=1e-6)


def test_descending_by_hand():
    probs = np.array([[0.1, 0.5, 0.2, 0.2], [0.25, 0.25, 0.3, 0.2]], np.float32)
    np.testing.assert_array_equal(descending(probs, 2), np.float32([[0.5, 0.2], [0.3, 0.25]]))
    np.testing.assert_array_equal(descending(probs, 4)[0], np.float32([0.5, 0.2, 0.2, 0.1]))
