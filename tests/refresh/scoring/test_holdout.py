import math

import numpy as np
import pytest
from tests.refresh.scoring.conftest import make_pairs

from sparing.refresh.scoring.holdout import gather_holdout

# Four held-out rows over three classes, one candidate; the cached class is 0, 0, 1, 1.
OLD = np.array([[0.9, 0.1, 0.0], [0.5, 0.3, 0.2], [0.2, 0.6, 0.2], [0.0, 1.0, 0.0]], np.float32)
NEW = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]], np.float32)
LABELS = np.array([1, 0, 1, -1])


class Said:
    """A scorer that says what it is told."""

    def __init__(self, benefits):
        self.told = np.array(benefits, np.float32).reshape(len(OLD), -1)

    def benefits(self, _rows):
        return self.told


def holdout(router):
    return gather_holdout(["new"], make_pairs(OLD, [NEW], LABELS), {"router": Said(router)})


def test_a_prediction_by_hand():
    # The new model changes rows 0 and 2. Entropy ranks 1, 2, 0, 3: half the budget refreshes rows 1 and 2.
    seen = holdout([4, 3, 2, 1])
    by_entropy = seen.predict("entropy", ["new"], "new", 0.5)
    assert by_entropy.consistency == 0.75
    # Of rows 0 and 3, which are not refreshed, one is right: with two right and two wrong ones added, 3 of 6.
    assert by_entropy.error == pytest.approx(2 / 4 * math.sqrt(0.5 * 0.5 / 6))
    assert by_entropy.rows == 4
    assert by_entropy.accuracy == pytest.approx(1 / 3)  # stored 0, 0, 2: only row 1 is right
    # The router ranks 0, 1, 2, 3: half the budget refreshes rows 0 and 1, and only row 2 stays wrong.
    by_router = seen.predict("router", ["new"], "new", 0.5)
    assert by_router.consistency == 0.75
    assert by_router.accuracy == 1.0


def test_nothing_and_everything():
    seen = holdout([1, 2, 3, 4])
    for scorer in ("router", "entropy", "least-confidence", "margin", "cema", "random"):
        assert seen.predict(scorer, ["new"], "new", 0.0).consistency == 0.5
        everything = seen.predict(scorer, ["new"], "new", 1.0)
        assert (everything.consistency, everything.error) == (1.0, 0.0)


def test_rows_that_all_are_right_are_not_taken_for_certain():
    seen = gather_holdout(["new"], make_pairs(NEW, [NEW], LABELS), {})
    predicted = seen.predict("entropy", ["new"], "new", 0.0)
    assert predicted.consistency == 1.0
    assert predicted.error == pytest.approx(math.sqrt(6 / 8 * 2 / 8 / 8))


def test_several_candidates_and_another_target():
    benefits = np.array([[2, 1], [1, 2], [2, 1], [1, 2]], np.float32)
    seen = gather_holdout(["a", "b"], make_pairs(OLD, [NEW, OLD], LABELS), {"router": Said(benefits)})
    # Refreshing all: rows 0 and 2 from a, rows 1 and 3 from b (which is the old model again).
    assert seen.predict("router", ["a", "b"], "a", 1.0).consistency == 1.0
    assert seen.predict("router", ["a", "b"], "b", 1.0).consistency == 0.5
    assert seen.predict("router", ["b"], "b", 1.0).consistency == 1.0


def test_a_scorer_that_was_not_judged_has_no_prediction():
    assert holdout([1, 2, 3, 4]).predict("mlink", ["new"], "new", 0.5) is None
    assert holdout([1, 2, 3, 4]).learned == ["router"]
