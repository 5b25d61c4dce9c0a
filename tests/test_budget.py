from decimal import Decimal
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparing.budget import KEEP, Budget, affordable, make_plan, plan
from sparing.errors import BudgetError, InputError


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("50%", "0.5", "share"),
        ("0.5", "0.5", "share"),
        ("1.0", "1", "share"),
        ("100%", "1", "share"),
        ("0", "0", "share"),
        ("12.5 %", "0.125", "share"),
        ("5000rows", "5000", "rows"),
        ("5_000 rows", "5000", "rows"),
        ("90s", "90", "seconds"),
        ("250ms", "0.25", "seconds"),
        ("10m", "600", "seconds"),
        ("2H", "7200", "seconds"),
        ("12.5cost", "12.5", "cost"),
    ],
)
def test_budgets_as_people_write_them(text, amount, unit):
    assert Budget.parse(text) == Budget(Decimal(amount), unit)


@pytest.mark.parametrize(
    "text",
    [
        "-1%",
        "101%",
        "5000",
        "1",
        "",
        "many",
        "10 parsecs",
        "nan",
        "inf%",
        "1.5rows",
        "-3s",
        "1e9999999rows",
        "1e9999999s",
        "1e-9999999",
        "1e19cost",
    ],
)
def test_budgets_that_make_no_sense_are_refused(text):
    with pytest.raises(BudgetError):
        Budget.parse(text)


def test_a_cost_of_almost_nothing_fits_often_and_not_infinitely_often():
    assert affordable(1.0, 0.005) == 200
    assert affordable(1e300, 1e-300) == 2**62


def test_rates_are_decimals():
    assert Budget.parse("0.29").rows(100) == 29  # 0.29 * 100 is 28.999... in binary
    assert Budget.parse("29%").rows(100) == 29
    assert Budget.parse("5000rows").rows(70) == 70
    written = ["0%", "50%", "100%", "12.5%", "0.10", "1.0"]
    assert [str(Budget.parse(text)) for text in written] == ["0%", "50%", "100%", "12.5%", "10%", "100%"]
    assert str(Budget.parse("10m")) == "600 seconds"


@settings(max_examples=200)
@given(st.data())
def test_a_share_takes_the_best_rows_by_their_best_candidate(data):
    m, n = data.draw(st.integers(0, 12)), data.draw(st.integers(1, 3))
    values = st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0, -np.inf])
    benefits = np.array(data.draw(st.lists(values, min_size=m * n, max_size=m * n))).reshape(m, n)
    ties = np.array(data.draw(st.lists(st.integers(0, 3), min_size=m, max_size=m)), dtype=np.uint64)
    share = Budget(Decimal(data.draw(st.integers(0, 100))) / 100, "share")
    positive = data.draw(st.booleans())
    got = plan(benefits, [7.0] * n, ties, share, only_positive=positive)
    best = benefits.max(axis=1, initial=-np.inf)
    eligible = [i for i in range(m) if best[i] > (0 if positive else -np.inf)]
    k = m * int(share.amount * 100) // 100
    expected = sorted(eligible, key=lambda i: (-best[i], ties[i], i))[:k]
    assert set(np.flatnonzero(got != KEEP)) == set(expected)
    for i in expected:
        assert benefits[i, got[i]] == best[i]


def optimum(benefits, costs, capacity):
    m, n = benefits.shape
    choices = [(0.0, 0.0), *zip(costs, range(n), strict=True)]
    best = 0.0
    for pick in product(range(n + 1), repeat=m):
        cost = sum(choices[p][0] for p in pick)
        if cost <= capacity:
            best = max(best, sum(benefits[i, p - 1] for i, p in enumerate(pick) if p))
    return best


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_cost_budget_is_within_one_item_of_the_best_and_never_over(data):
    m, n = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    costs = data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))
    numbers = st.integers(-20, 40)
    benefits = np.array(data.draw(st.lists(numbers, min_size=m * n, max_size=m * n)), float).reshape(m, n)
    ties = np.arange(m, dtype=np.uint64)
    capacity = data.draw(st.integers(0, 30))
    got = plan(benefits, costs, ties, Budget(Decimal(capacity), "cost"))
    taken = np.flatnonzero(got != KEEP)
    assert sum(costs[got[i]] for i in taken) <= capacity
    value = sum(benefits[i, got[i]] for i in taken)
    assert value >= optimum(benefits, costs, capacity) - max(0.0, benefits.max())
    if capacity >= m * max(costs):
        assert value == np.maximum(benefits.max(axis=1), 0).sum()


@settings(max_examples=100)
@given(st.integers(0, 10_000), st.booleans())
def test_a_chunked_plan_assigns_what_a_plan_in_memory_does(seed, by_rows):
    rng = np.random.default_rng(seed)
    m, n = 200, 3
    benefits = np.round(rng.normal(size=(m, n)), 1)
    ties = rng.integers(0, 50, m).astype(np.uint64)
    ids = rng.permutation(m)
    costs = None if by_rows else [1.0, 2.5, 4.0]
    pieces = np.array_split(np.arange(m), [13, 14, 120])
    whole = make_plan(lambda: [(benefits, ties, ids)], 90, costs)
    chunked = make_plan(lambda: ((benefits[p], ties[p], ids[p]) for p in pieces), 90, costs)
    assert whole == chunked
    in_memory = whole.assign(benefits, ties, ids)
    in_pieces = np.concatenate([chunked.assign(benefits[p], ties[p], ids[p]) for p in pieces])
    np.testing.assert_array_equal(in_memory, in_pieces)


def test_a_dearer_candidate_is_worth_it_only_where_it_brings_more_per_cost():
    benefits = np.array([[1.0, 1.5], [0.2, 3.0]])
    ties = np.arange(2, dtype=np.uint64)
    got = plan(benefits, [1.0, 4.0], ties, Budget(Decimal(5), "cost"))
    # Slopes: sample 0 small 1.0, sample 1 large 0.75, sample 0 large (1.5 - 1) / 3.
    assert list(got) == [0, 1]


def test_nothing_and_everything():
    benefits = np.array([[-1.0], [2.0]])
    ties = np.zeros(2, np.uint64)
    assert list(plan(benefits, [1.0], ties, Budget.parse("0%"))) == [KEEP, KEEP]
    assert list(plan(benefits, [1.0], ties, Budget.parse("100%"))) == [0, 0]
    assert list(plan(benefits, [1.0], ties, Budget.parse("100%"), only_positive=True)) == [KEEP, 0]
    assert len(plan(np.zeros((0, 1)), [1.0], np.zeros(0, np.uint64), Budget.parse("50%"))) == 0


def test_bad_input_is_named():
    ties = np.zeros(1, np.uint64)
    with pytest.raises(InputError, match="NaN"):
        plan(np.array([[np.nan]]), [1.0], ties, Budget.parse("50%"))
    with pytest.raises(InputError, match="not negative"):
        plan(np.array([[1.0]]), [-1.0], ties, Budget.parse("5s"))
    with pytest.raises(InputError, match="do not match"):
        plan(np.array([[1.0]]), [1.0, 2.0], ties, Budget.parse("5s"))
