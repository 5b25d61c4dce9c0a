import numpy as np
import pytest
from tests.refresh.scoring.conftest import make_pairs, make_rows

from sparing.refresh.scoring.change import Change

C = 6


def rows(m, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(C, 0.5), m).astype(np.float32)


def test_rows_that_hold_an_unlike_model_come_first():
    old = rows(3000)
    held = np.arange(3000) % 2
    new = old.copy()
    changed = (held == 1) & (np.random.default_rng(1).random(3000) < 0.6)
    new[changed] = np.roll(old[changed], 1, axis=1)
    predictor = Change.fit(
        make_pairs(old[:2000], [new[:2000]], holders=["like", "unlike"], held=held[:2000]), 0
    )
    found = predictor.benefits(make_rows(old[2000:], holders=["like", "unlike"], held=held[2000:]))[:, 0]
    assert found[held[2000:] == 0].max() < 0.1
    assert found[held[2000:] == 1].mean() == pytest.approx(0.6, abs=0.05)
    # Names count, not positions; an unknown model gets what all share.
    again = predictor.benefits(make_rows(old[2000:], holders=["unlike", "like"], held=1 - held[2000:]))[:, 0]
    np.testing.assert_array_equal(found, again)
    assert np.isfinite(predictor.benefits(make_rows(old[:5], holders=["new"]))).all()


def test_a_candidate_is_worth_what_makes_rows_agree_with_the_target():
    old = rows(2000)
    good = rows(2000, seed=1)
    same = old.copy()
    predictor = Change.fit(make_pairs(old, [same, good]), 0)
    found = predictor.benefits(make_rows(old))
    assert found[:, 0].max() < 0.01  # it would leave every row as it is
    assert found[:, 1].mean() == pytest.approx((old.argmax(1) != good.argmax(1)).mean(), abs=0.02)


def test_a_class_that_always_changes():
    old = rows(3000)
    new = old.copy()
    moved = old.argmax(axis=1) == 2
    new[moved] = np.roll(old[moved], 1, axis=1)
    predictor = Change.fit(make_pairs(old[:2000], [new[:2000]]), 0)
    found = predictor.benefits(make_rows(old[2000:]))[:, 0]
    assert found[moved[2000:]].min() > found[~moved[2000:]].max()
