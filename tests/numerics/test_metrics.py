import math

import numpy as np
import pytest

from sparing.errors import InputError
from sparing.numerics import metrics


def test_shares_by_hand():
    assert metrics.accuracy(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4])) == 0.75
    assert metrics.consistency(np.array([1, 1]), np.array([1, 1])) == 1.0


def test_no_samples_is_nan():
    assert math.isnan(metrics.accuracy(np.array([], int), np.array([], int)))


def test_shapes_must_agree():
    with pytest.raises(InputError, match="one per sample"):
        metrics.accuracy(np.array([1, 2]), np.array([1]))


def test_headroom_by_hand():
    assert metrics.headroom(0.8, 0.6, 1.0) == pytest.approx(0.5)
    assert metrics.headroom(0.5, 0.6, 1.0) < 0
    assert math.isnan(metrics.headroom(0.6, 0.6, 0.6))
