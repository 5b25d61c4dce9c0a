"""The certificate of a sample: against every possible sample of small populations, and against chance."""

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparing.numerics.certificate import allowed_wrong, certified_cut, largest_limit, plan_audit


def wrong_after(population, cut):
    return int(np.asarray(population)[cut:].sum())


def naive_cut(audited, wrong, rows, limit, alpha):
    """The definition, cut by cut, with the tail counted in whole numbers."""
    cut = rows
    for k in range(rows, -1, -1):
        u, a = rows - k, sum(position >= k for position in audited)
        x = sum(bad for position, bad in zip(audited, wrong, strict=True) if position >= k)
        if u > limit:
            ways = sum(comb(limit + 1, i) * comb(u - limit - 1, a - i) for i in range(x + 1) if i <= a)
            if Fraction(ways, comb(u, a)) > Fraction(alpha):
                break
        cut = k
    return cut


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.booleans(), min_size=1, max_size=9),
    st.integers(0, 9),
    st.integers(0, 8),
    st.sampled_from([0.0311, 0.1037, 0.3019, 0.6031]),
)
def test_over_all_samples_of_a_small_population_it_misses_as_rarely_as_it_says(
    population, draws, limit, alpha
):
    rows = len(population)
    samples = list(combinations(range(rows), min(draws, rows)))
    misses = 0
    for audited in samples:
        wrong = [population[i] for i in audited]
        cut = certified_cut(np.array(audited, dtype=int), np.array(wrong, dtype=bool), rows, limit, alpha)
        assert cut == naive_cut(audited, wrong, rows, limit, alpha)
        misses += wrong_after(population, cut) > limit
    assert Fraction(misses, len(samples)) <= Fraction(alpha)


@pytest.mark.parametrize("share", ["0.9", "0.95", "0.99"])
def test_planned_audits_keep_the_promise_at_the_stated_confidence(share):
    rng = np.random.default_rng(5)
    chance = 0.6 * np.exp(-np.arange(3000) / 900)
    wrong = rng.random(3000) < chance
    allowed = allowed_wrong(3000, Fraction(share))
    # The prediction is off by half: that may cost forwards, not the promise.
    plan = plan_audit(0.5 * chance, allowed, 0.1)
    misses, runs = 0, 200
    for _ in range(runs):
        audited = np.sort(rng.choice(3000, plan.draws, replace=False))
        cut = certified_cut(audited, wrong[audited], 3000, plan.limit, 0.1)
        misses += wrong_after(wrong, cut) > plan.limit
    assert misses / runs <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / runs)


def test_counts_of_rows_that_may_be_wrong_are_exact():
    assert allowed_wrong(10_000, Fraction("0.95")) == 500
    assert allowed_wrong(10_000, Fraction("0.99")) == 100
    assert allowed_wrong(7, Fraction("0.9")) == 0
    assert allowed_wrong(7, Fraction(0)) == 7
    assert allowed_wrong(0, Fraction("0.9")) == 0


def test_where_nothing_may_be_wrong_everything_is_run_and_nothing_audited():
    plan = plan_audit(np.full(50, 0.01), 0, 0.05)
    assert (plan.draws, plan.cut) == (0, 50)
    plan = plan_audit(np.full(50, 0.9), 60, 0.05)
    assert (plan.draws, plan.cut, plan.forwards(50)) == (0, 0, 0)
    assert plan_audit(np.zeros(0), 0, 0.05).forwards(0) == 0


def test_a_plan_leaves_as_many_rows_wrong_as_may_be():
    chance = np.linspace(0.5, 0.001, 5000)
    plan = plan_audit(chance, 300, 0.05)
    assert plan.draws > 0
    assert plan.limit > 300
    assert plan.forwards(5000) < np.argmax(chance[::-1].cumsum()[::-1] <= 300) * 1.4
    # A promise that is twice as strict, or surer, costs more.
    assert plan_audit(chance, 150, 0.05).forwards(5000) > plan.forwards(5000)
    assert plan_audit(chance, 300, 0.01).forwards(5000) > plan.forwards(5000)


def test_the_largest_limit_is_the_largest():
    from scipy.stats import hypergeom

    limit = largest_limit(2000, 150, 100, 0.05)
    x = limit - 100
    assert hypergeom.cdf(x, 2000, limit + 1, 150) <= 0.05 < hypergeom.cdf(x + 1, 2000, limit + 2, 150)
    assert largest_limit(2000, 10, 3, 0.05) is None
