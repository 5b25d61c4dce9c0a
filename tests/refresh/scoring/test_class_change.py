import numpy as np
from tests.refresh.scoring.conftest import make_pairs, make_rows

from sparing.refresh.scoring.class_change import ClassChange


def test_rates_by_hand():
    sure = np.eye(3, dtype=np.float32)
    # 30 rows of class 0, of which the target changes 20, and 10 of class 1, of which it changes none.
    old = sure[[0] * 30 + [1] * 10]
    target = sure[[2] * 20 + [0] * 10 + [1] * 10]
    same = old.copy()
    found = ClassChange.fit(make_pairs(old, [same, target]), 0).benefits(make_rows(sure))
    # Ten rows of the mean rate, one half, are added to each class; of class 2 there is nothing else.
    np.testing.assert_allclose(found[:, 1], [(20 + 5) / 40, 5 / 20, 5 / 10])
    assert (found[:, 0] == 0).all()  # this candidate changes nothing
