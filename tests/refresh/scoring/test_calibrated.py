import numpy as np
from scipy.special import softmax
from scipy.stats import entropy
from tests.refresh.scoring.conftest import make_pairs

from sparing.refresh.scoring.calibrated import CalibratedEntropy


def test_each_model_held_has_a_temperature_of_its_own():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 4)) * 2
    labels = np.array([rng.choice(4, p=p) for p in softmax(logits, axis=1)])
    held = rng.integers(0, 2, 4000)
    held[:20] = 2
    # Model 0 is calibrated; model 1 says the same with logits thrice as large; model 2 has too few rows.
    probs = softmax(np.where(held == 1, 3, 1)[:, None] * logits, axis=1).astype(np.float32)
    pairs = make_pairs(probs, [probs], labels, holders=["a", "b", "c"], held=held)
    found = CalibratedEntropy.fit(pairs, 0)
    assert found.holders == ("a", "b")
    np.testing.assert_allclose(found.temperatures, [1, 3], rtol=0.1)
    assert 1 < found.everyone < 3
    scores = found.benefits(pairs.rows)[:, 0]
    wanted = entropy(softmax(logits, axis=1), axis=1)
    assert np.abs(scores - wanted)[held == 0].max() < 0.1
    assert np.abs(scores - wanted)[held == 1].max() < 0.1
