from dataclasses import dataclass

import numpy as np
import pytest

from sparing.refresh.learned.features import Known, fit_features
from sparing.refresh.learned.learner import Learner
from sparing.refresh.learned.slice_sizes import SliceRule, most_beneficial, probe_rows

ROWS, CLASSES, BUDGET = 1500, 6, 900
KINDS = {"c": "category", "x": "number", "t": "text", "e": "vector"}


@dataclass
class Update:
    """1,500 cached rows with columns; the category alone says which of them a new model moves."""

    known: Known
    category: np.ndarray
    old: np.ndarray


@pytest.fixture(scope="session")
def update():
    draw = np.random.default_rng(0)
    z = 2 * draw.normal(size=(ROWS, CLASSES))
    probs = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)).astype(np.float32)
    category = draw.integers(0, 9, ROWS)
    columns = {
        "c": [None if value == 8 else f"k{value}" for value in category],
        "x": np.where(draw.random(ROWS) < 0.1, np.nan, draw.normal(size=ROWS)),
        "t": ["" if value == 7 else f"word{value} common" for value in category],
        "e": np.where(draw.random((ROWS, 3)) < 0.01, np.nan, draw.normal(size=(ROWS, 3))),
    }
    keys = draw.integers(0, 2**63, ROWS, dtype=np.uint64)
    known = Known(probs, draw.integers(0, 2, ROWS), keys, columns)
    return Update(known, category, probs.argmax(axis=1))


@pytest.fixture(scope="session")
def encoder(update):
    return fit_features([update.known], CLASSES, KINDS)


@dataclass
class Played:
    """A refresh of arrays: its slices, its learner, and the rows left."""

    slices: list
    learner: Learner
    left: np.ndarray


@pytest.fixture
def play(update, encoder):
    rows, keys = encoder.encode(update.known), update.known.keys

    def played(new, staged=()):
        """Play a refresh to its end; what is staged already is only observed, as after a kill."""
        learner, rule, run = Learner(encoder, CLASSES), SliceRule(), np.zeros(ROWS, dtype=bool)
        slices = [*staged] or [probe_rows(keys, rule.probe(ROWS, BUDGET))]
        for number, taken in enumerate(slices):
            run[taken] = True
            learner.observe(rows.take(taken), new[taken])
            left = np.flatnonzero(~run)
            size = rule.next_slice(ROWS, int(run.sum()), BUDGET)
            if size and number + 1 == len(slices):
                slices.append(left[most_beneficial(learner.benefit(rows.take(left)), keys[left], size)])
        return Played(slices, learner, left)

    return played
