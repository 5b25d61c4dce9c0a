"""What every scorer in the registry keeps to."""

from dataclasses import replace

import numpy as np
import pytest

from sparing.errors import InputError
from sparing.refresh.scoring import OTHER_NAMES, SCORERS, find_scorer, refresh_scorers

EVERY = pytest.mark.parametrize("name", SCORERS)


def rows_of(scorer, known):
    return replace(known.rows, answers=known.answers if "answers" in scorer.needs else None)


@EVERY
def test_benefits_have_one_column_per_candidate(name, known):
    scorer = SCORERS[name].fit(known, 0)
    benefits = scorer.benefits(rows_of(scorer, known))
    assert (benefits.shape, benefits.dtype) == ((600, 2), np.float32)
    assert np.isfinite(benefits[:, 1]).all()  # the target's
    assert not np.isnan(benefits).any()
    assert not (benefits == np.inf).any()


@EVERY
def test_arrays_hold_all_that_was_learned(name, known):
    scorer = SCORERS[name].fit(known, 0)
    arrays = scorer.to_arrays()
    assert bool(arrays) == scorer.learns
    assert all(values.dtype.kind in "fiU" for values in arrays.values())
    again = type(scorer).from_arrays(arrays)
    rows = rows_of(scorer, known)
    np.testing.assert_array_equal(again.benefits(rows), scorer.benefits(rows))


@EVERY
def test_rows_are_scored_one_by_one(name, known):
    scorer = SCORERS[name].fit(known, 0)
    rows, some = rows_of(scorer, known), np.array([3, 77, 400])
    np.testing.assert_allclose(scorer.benefits(rows.take(some)), scorer.benefits(rows)[some], atol=1e-5)


@EVERY
def test_the_same_seed_learns_the_same(name, known):
    first, second = (SCORERS[name].fit(known, 4).to_arrays() for _ in range(2))
    for key, values in first.items():
        np.testing.assert_array_equal(values, second[key])


@EVERY
def test_nobody_but_oracles_is_given_answers(name, known):
    scorer = SCORERS[name].fit(known, 0)
    if "answers" in scorer.needs:
        with pytest.raises(AssertionError, match="no answers"):
            scorer.benefits(known.rows)
    else:
        assert known.rows.answers is None
        scorer.benefits(known.rows)


def test_names():
    assert find_scorer("pure") is SCORERS["router"]
    assert set(OTHER_NAMES.values()) <= set(SCORERS)
    assert not set(OTHER_NAMES) & set(SCORERS)
    assert {"agreement", "oracle-change", "oracle-gain"} == set(SCORERS) - set(refresh_scorers())
    with pytest.raises(InputError, match="no scorer 'vibes': choose one of entropy"):
        find_scorer("vibes")
