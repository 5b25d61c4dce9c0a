import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from sparing.errors import InputError
from sparing.refresh.pooling.exponents import (
    REPLACE,
    UNLABELLED,
    Pooling,
    choose_by_members,
    choose_pooling,
    fit_pooling,
)


def two_models(m, strengths, c=5, seed=0):
    """Labels, and for each model noisy logits around them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, c, m)
    outputs = [softmax(s * np.eye(c)[labels] + rng.normal(size=(m, c)), axis=1) for s in strengths]
    return labels, [p.astype(np.float32) for p in outputs]


def test_pooling_by_hand():
    # sqrt(0.64 * 0.16) : sqrt(0.36 * 0.84) = 0.32 : 0.5499
    pooled = Pooling(0.5, 0.5).apply(np.array([[0.64, 0.36]]), np.array([[0.16, 0.84]]))
    weights = np.array([np.sqrt(0.64 * 0.16), np.sqrt(0.36 * 0.84)])
    np.testing.assert_allclose(pooled[0], weights / weights.sum(), rtol=1e-6)
    np.testing.assert_array_equal(
        REPLACE.apply(np.array([[1.0, 0.0]]), np.array([[0.3, 0.7]])), np.float32([[0.3, 0.7]])
    )


def test_independent_evidence_is_recovered():
    # Logits with unit noise around s * one-hot: the exact posterior is softmax(s1 * l1 + s2 * l2).
    labels, (old, new) = two_models(20_000, (1.0, 2.0))
    fitted = fit_pooling(old, new, labels)
    assert fitted.old == pytest.approx(1.0, abs=0.08)
    assert fitted.new == pytest.approx(2.0, abs=0.08)


def test_the_gradient_leads_to_the_minimum():
    labels, (old, new) = two_models(400, (0.5, 1.0))
    best = fit_pooling(old, new, labels)

    def loss(a, b):
        logs = log_softmax(a * np.log(old) + b * np.log(new), axis=1)
        pull = 10 / 400 * ((a - UNLABELLED.old) ** 2 + (b - UNLABELLED.new) ** 2)
        return -logs[np.arange(400), labels].mean() + pull

    here = loss(best.old, best.new)
    for step in ((0.02, 0), (-0.02, 0), (0, 0.02), (0, -0.02)):
        assert loss(best.old + step[0], best.new + step[1]) > here


def test_pooling_twice_is_pooling_all():
    # A pooled row is evidence in its own right: adding a third model multiplies its share in.
    _, (a, b, c) = two_models(50, (1.0, 1.0, 1.0))
    twice = Pooling(1.0, 0.7).apply(Pooling(0.4, 0.9).apply(a, b), c)
    once = softmax(0.4 * np.log(a) + 0.9 * np.log(b) + 0.7 * np.log(c), axis=1)
    np.testing.assert_allclose(twice, once, atol=1e-5)


def test_without_labels_the_stated_default():
    _, (old, new) = two_models(40, (1.0, 1.0))
    judged = choose_pooling(old, new, np.zeros(40, int))  # fewer than FEWEST_LABELS
    assert (judged.pooling, judged.pooled, judged.rows) == (UNLABELLED, None, 40)


def test_a_model_as_good_as_the_new_one_is_pooled():
    labels, (old, new) = two_models(1000, (1.5, 1.5))
    judged = choose_pooling(old, new, labels)
    assert judged.pooled > judged.replaced + 0.03
    assert judged.pooling.old == pytest.approx(judged.pooling.new, rel=0.2)


def test_when_it_hurts_it_is_not_used():
    # The new model is right everywhere, by a hair. The cached one is sure of itself: right on two thirds of
    # the rows and wrong on the rest. What likelihood gains on the former, accuracy loses on the latter.
    m = 3000
    labels = np.random.default_rng(0).integers(0, 3, m)
    wrong = (labels + 1) % 3
    new = 0.45 * np.eye(3)[labels] + 0.43 * np.eye(3)[wrong] + 0.04
    old = 0.94 * np.eye(3)[labels] + 0.02
    trap = np.arange(m) % 3 == 0
    old[trap] = (0.85 * np.eye(3)[wrong] + 0.05)[trap]
    fitted = fit_pooling(old, new, labels)
    hurt = (fitted.apply(old, new).argmax(axis=1) == labels).mean()
    judged = choose_pooling(old, new, labels)
    assert judged.replaced == 1.0
    assert hurt < 0.9
    assert judged.pooled < 0.9
    assert judged.pooling == REPLACE


def test_sets_of_models_are_judged_apart():
    labels, (old, new) = two_models(600, (2.0, 1.0))
    held = np.repeat([1, 2], [400, 200])
    old[held == 2] = 0.2  # these rows hold a model that says nothing
    own, shared = choose_by_members(old, new, labels, np.where(held == 2, 6, 1))
    assert set(own) == {1, 6}
    assert own[1].pooling.old > own[1].pooling.new
    assert own[6].pooling.new > 0.5
    assert shared.rows == 600
    few, _ = choose_by_members(old[:499], new[:499], labels[:499], held[:499])
    assert set(few) == {1}  # 99 rows are too few for a decision of their own


def test_bad_input():
    with pytest.raises(InputError, match="cannot be fitted on 0 labels"):
        fit_pooling(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0, int))
