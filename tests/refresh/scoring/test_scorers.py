import numpy as np
import pytest

from sparing.errors import InputError
from sparing.numerics.distributions import entropy
from sparing.numerics.selection import tie_keys
from sparing.refresh.scoring.scorers import NAMES, named_scorer

PROBS = np.array(
    [[0.97, 0.02, 0.01], [0.5, 0.4, 0.1], [0.45, 0.45, 0.1], [0.34, 0.33, 0.33]], dtype=np.float32
)
TIES = tie_keys(["a", "b", "c", "d"])


@pytest.mark.parametrize("name", ["entropy", "least-confidence", "margin"])
def test_less_sure_rows_come_first(name):
    benefits = named_scorer(name, ["new"], "new").benefits(PROBS, TIES)[:, 0]
    assert benefits[0] == benefits.min()
    expected = {"entropy": 3, "least-confidence": 3, "margin": 2}[name]
    assert benefits.argmax() == expected


def test_entropy_is_the_entropy():
    benefits = named_scorer("entropy", ["new"], "new").benefits(PROBS, TIES)
    np.testing.assert_allclose(benefits[:, 0], entropy(PROBS), rtol=1e-6)


def test_random_is_uniform_and_the_same_for_the_same_rows():
    ties = tie_keys(np.arange(20_000))
    scorer = named_scorer("random", ["new"], "new")
    probs = np.full((20_000, 3), 1 / 3, np.float32)
    numbers = scorer.benefits(probs, ties)[:, 0]
    np.testing.assert_array_equal(numbers[500:600], scorer.benefits(probs[500:600], ties[500:600])[:, 0])
    counts, _ = np.histogram(numbers, bins=10, range=(0, 1))
    assert (np.abs(counts - 2000) < 200).all()


@pytest.mark.parametrize("name", NAMES)
def test_without_knowledge_of_the_candidates_the_target_gets_the_rows(name):
    benefits = named_scorer(name, ["small", "large"], "large").benefits(PROBS, TIES)
    assert benefits.shape == (4, 2)
    assert (benefits[:, 0] == -np.inf).all()
    assert np.isfinite(benefits[:, 1]).all()


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="no scorer 'vibes': choose one of entropy"):
        named_scorer("vibes", ["new"], "new")
