import numpy as np
import pytest
from sklearn.neural_network import MLPRegressor

from sparing.errors import InputError
from sparing.numerics.distributions import entropy
from sparing.refresh.scoring.holdout import gather_holdout
from sparing.refresh.scoring.ranker import Candidate, Ranker, descending, train_ranker


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
    ranker = Ranker(2, "plain", 2, (Candidate("new", "d", layers),))
    # Hidden: max(0, [0.25, -0.25 + 1.5 + 0.5]) = [0.25, 1.75]; output 0.5 + 1.75 - 0.25.
    np.testing.assert_allclose(ranker.benefits(np.array([[0.25, 0.75]], np.float32)), [[2.0]])


def test_sorted_rankers_do_not_care_which_class_it_is():
    old, new = pair(400)
    ranker = train_ranker(old, [new], ["new"], ["d"], epochs=2)
    shuffled = old[:, np.random.default_rng(0).permutation(old.shape[1])]
    np.testing.assert_allclose(ranker.benefits(shuffled), ranker.benefits(old), atol=1e-6)


def test_descending_by_hand():
    probs = np.array([[0.1, 0.5, 0.2, 0.2], [0.25, 0.25, 0.3, 0.2]], np.float32)
    np.testing.assert_array_equal(descending(probs, 2), np.float32([[0.5, 0.2], [0.3, 0.25]]))
    np.testing.assert_array_equal(descending(probs, 4)[0], np.float32([0.5, 0.2, 0.2, 0.1]))


def test_one_regressor_per_candidate():
    old, new = pair(800)
    ranker = train_ranker(old, [new, old], ["sure", "same"], ["d1", "d2"], epochs=20)
    benefits = ranker.benefits(old)
    assert (benefits.argmax(axis=1) == 0).mean() > 0.7
    assert abs(benefits[:, 1]).mean() < 0.2  # the same model changes nothing
    swapped = ranker.scorer(["same", "sure"]).benefits(old, None)
    np.testing.assert_array_equal(swapped, benefits[:, ::-1])
    with pytest.raises(InputError, match="fitted for sure, same, not for 'other'"):
        ranker.scorer(["other"])


def test_a_ranker_file_holds_everything_and_no_pickle(tmp_path):
    old, new = pair(200)
    ranker = train_ranker(old, [new, old], ["a", "b"], ["d1", "d2"], epochs=1, hidden=(8, 4))
    holdout = gather_holdout(["a", "b"], ranker.benefits(old), old, [new, old], np.arange(200) % 20)
    full = Ranker(ranker.n_classes, ranker.form, ranker.width, ranker.candidates, holdout)
    full.save(tmp_path / "ranker")
    again = Ranker.load(tmp_path / "ranker")
    np.testing.assert_array_equal(again.benefits(old), ranker.benefits(old))
    assert again.to_bytes() == full.to_bytes()
    assert again.holdout.predict("router", ["a"], "a", 0.5) == holdout.predict("router", ["a"], "a", 0.5)
    assert b"pickle" not in full.to_bytes()


@pytest.mark.parametrize("damage", ["text", "truncated", "pickle", "newer"])
def test_files_that_are_no_ranker(tmp_path, damage):
    old, new = pair(50)
    data = train_ranker(old, [new], ["a"], ["d"], epochs=1).to_bytes()
    path = tmp_path / "ranker"
    if damage == "text":
        path.write_text("hello")
    elif damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "pickle":
        np.savez(path.with_suffix(".npz"), header=np.array([{"format": 1}], dtype=object))
        path = path.with_suffix(".npz")
    else:
        path.write_bytes(data.replace(b'"format": 1', b'"format": 9'))
    with pytest.raises(InputError, match="ranker"):
        Ranker.load(path)


def test_bad_training_data_is_named():
    old, new = pair(10)
    with pytest.raises(InputError, match="cannot be fitted on 1 rows"):
        train_ranker(old[:1], [new[:1]], ["a"], ["d"])
    with pytest.raises(InputError, match="must share their classes"):
        train_ranker(old, [new[:, :5]], ["a"], ["d"])
    with pytest.raises(InputError, match="reads 20 classes, the cache has 5"):
        train_ranker(old, [new], ["a"], ["d"], epochs=1).benefits(old[:, :5])
