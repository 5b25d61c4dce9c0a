import numpy as np
import pytest

from sparing.refresh.scoring import Answers, Pairs, ScoringRows


def make_rows(outputs, **more):
    """Rows to score, with tie keys that do not matter."""
    return ScoringRows(outputs=outputs, ties=np.zeros(len(outputs), np.uint64), **more)


def make_pairs(old, new, labels=None, target=None, **more):
    labels = np.full(len(old), -1) if labels is None else labels
    target = len(new) - 1 if target is None else target
    return Pairs(make_rows(old, candidates=len(new), target=target, **more), Answers(new, labels))


@pytest.fixture(scope="session")
def known():
    """Pairs of 600 rows over 8 classes: two candidates, two models held, a further model, labels of most."""
    rng = np.random.default_rng(3)
    old, other = (rng.dirichlet(np.full(8, 0.4), 600).astype(np.float32) for _ in range(2))
    new = [(old + rng.dirichlet(np.full(8, 0.2), 600).astype(np.float32)) / 2 for _ in range(2)]
    labels = np.where(rng.random(600) < 0.7, new[1].argmax(axis=1), -1)
    return make_pairs(old, new, labels, holders=["x", "y"], held=rng.integers(0, 2, 600), others=[other])
