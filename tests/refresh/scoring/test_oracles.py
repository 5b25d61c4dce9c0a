from dataclasses import replace

import numpy as np
from tests.refresh.scoring.conftest import make_pairs

from sparing.refresh.scoring.oracles import OracleChange, OracleGain


def test_by_hand():
    old, new = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]], np.eye(3, dtype=np.float32)[[1, 1, 0, 2]]
    pairs = make_pairs(old, [new], np.array([1, 1, 2, 1]))
    rows = replace(pairs.rows, answers=pairs.answers)
    assert OracleChange().benefits(rows)[:, 0].tolist() == [1, 0, 1, 1]
    assert OracleGain().benefits(rows)[:, 0].tolist() == [1, 0, -1, 0]
