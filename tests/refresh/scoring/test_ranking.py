from dataclasses import replace

import numpy as np
import pytest

from sparing.errors import InputError
from sparing.refresh.scoring import SCORERS, refresh_scorers
from sparing.refresh.scoring.ranker import fit_ranker
from sparing.refresh.scoring.ranking import make_ranking

NAMES = ["small", "large"]


@pytest.fixture(scope="module")
def ranker(known):
    return fit_ranker(known, NAMES, [None, None], epochs=1)


@pytest.mark.parametrize("name", [n for n in refresh_scorers() if not SCORERS[n].learns])
def test_without_knowledge_of_the_candidates_the_target_gets_the_rows(name, known):
    benefits = make_ranking(name, NAMES, "small").benefits(known.rows)
    assert benefits.shape == (600, 2)
    assert (benefits[:, 1] == -np.inf).all()
    assert np.isfinite(benefits[:, 0]).all()


@pytest.mark.parametrize("name", refresh_scorers())
def test_every_scorer_that_needs_no_more_ranks_a_round(name, known, ranker):
    made = make_ranking(name, NAMES, "large", ranker=ranker)
    benefits = made.benefits(known.rows)
    assert benefits.shape == (600, 2)
    # The candidates of a round are found by name, whatever their order.
    swapped = make_ranking(name, NAMES[::-1], "large", ranker=ranker).benefits(known.rows)
    np.testing.assert_array_equal(swapped, benefits[:, ::-1])
    alone = make_ranking(name, ["large"], "large", ranker=ranker).benefits(replace(known.rows, candidates=7))
    np.testing.assert_array_equal(alone, benefits[:, 1:])
    assert (made.kept is not None) == SCORERS[name].learns


def test_what_is_learned_tells_two_rankers_apart(known, ranker):
    other = fit_ranker(known, NAMES, [None, None], epochs=1, seed=1)
    for name in ("router", "mlink"):
        first, second, again = (make_ranking(name, NAMES, "large", ranker=r) for r in (ranker, other, ranker))
        assert first.digest.startswith(f"{name}:sha256:")
        assert first.digest == again.digest != second.digest


def test_what_is_missing_is_said(known, ranker):
    cases = [
        ("vibes", NAMES, "large", ranker, "no scorer 'vibes'"),
        ("agreement", NAMES, "large", ranker, "needs outputs of further cached models"),
        ("oracle-gain", NAMES, "large", ranker, "only an evaluation knows"),
        ("router", NAMES, "large", None, "'router' needs a ranker"),
        ("mlink", NAMES, "large", None, "'mlink' needs a ranker"),
        ("router", ["other"], "other", ranker, "fitted for small, large, not for 'other'"),
        ("change", NAMES, "small", ranker, "fitted with 'large' as the target, not 'small'"),
        ("mlink", NAMES, "large", replace(ranker, scorers={}), "does not hold the scorer 'mlink'"),
    ]
    for name, candidates, target, given, message in cases:
        with pytest.raises(InputError, match=message):
            make_ranking(name, candidates, target, ranker=given)
    assert make_ranking("router", NAMES, "small", ranker=ranker).name == "router"  # for any target
