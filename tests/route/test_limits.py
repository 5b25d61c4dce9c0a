import numpy as np
import pytest
from tests.route import world

from sparing.errors import BudgetError
from sparing.route.experts import Latency
from sparing.route.judging import Timing
from sparing.route.limits import (
    cost_limit,
    latency_limit,
    quantile_limit,
)

TIMES = Timing(np.array([2e-3, 8e-3]), 0.5e-3)


NAMES = ["small", "large"]
KEPT = (0.004,) * 7 + (0.050,) * 3
"""Calls of an expert that takes 50 ms three times in ten, and 4 ms otherwise."""


def calls(*each):
    return [Latency(1, float(np.median(t)), max(t), len(t), tuple(sorted(t))) for t in each]


STEADY = calls([2e-3] * 20, [8e-3] * 20)
OLD = [Latency(1, 2e-3, 3e-3, 50), Latency(1, 8e-3, 9e-3, 50)]


def test_a_latency_counts_router_and_decoding():
    limit = latency_limit("5 ms", Timing(TIMES.experts, TIMES.router, 1e-3), NAMES, STEADY)
    assert (limit.budget, limit.most, limit.unit, limit.notes) == ("5ms", 0.005, "seconds", ())
    assert limit.costs == pytest.approx((3.5e-3, 9.5e-3))


def test_a_latency_below_the_least_names_the_least():
    with pytest.raises(BudgetError, match=r"least possible is 2.5 ms \(the router takes 0.5 ms"):
        latency_limit("2.4ms", TIMES, NAMES, STEADY)
    with pytest.raises(BudgetError, match="not a time"):
        latency_limit("50%", TIMES, NAMES, STEADY)


def test_a_mean_is_made_of_means():
    skewed = calls(KEPT)[0]
    assert skewed.median == 0.004
    assert skewed.per_sample == pytest.approx(0.7 * 0.004 + 0.3 * 0.050)


def test_profiles_that_kept_medians_alone_are_noted():
    for limit in (
        latency_limit("5ms", TIMES, NAMES, OLD),
        quantile_limit("5ms", 0.95, TIMES, NAMES, OLD),
    ):
        assert [note.split()[0] for note in limit.notes] == NAMES
        assert "its mean may be higher; profile again" in limit.notes[0]
    assert quantile_limit("5ms", 0.95, TIMES, NAMES, OLD).costs == (0.0, 1.0)


def test_a_quantile_counts_the_share_of_calls_that_take_longer():
    limit = quantile_limit("5ms", 0.95, TIMES, NAMES, STEADY)
    assert (limit.budget, limit.costs, limit.notes) == ("p95 5ms", (0.0, 1.0), ())
    assert limit.most == pytest.approx(0.05)
    # 0.5 ms of the router leave 4.1 ms: three calls in ten of the skewed expert take longer.
    skewed = quantile_limit("4.6ms", 0.9, TIMES, NAMES, [STEADY[0], *calls(KEPT)])
    assert skewed.costs == (0.0, 0.3)
    assert quantile_limit("4.4ms", 0.9, TIMES, NAMES, [STEADY[0], *calls(KEPT)]).costs == (0.0, 1.0)
    with pytest.raises(BudgetError, match="30% of the calls of small would be over 5ms"):
        quantile_limit("5ms", 0.95, TIMES, NAMES, [*calls(KEPT), STEADY[1]])
    with pytest.raises(BudgetError, match="least possible"):
        quantile_limit("1ms", 0.95, TIMES, NAMES, STEADY)
    with pytest.raises(BudgetError, match="quantile of 95"):
        quantile_limit("5ms", 95, TIMES, NAMES, STEADY)


def test_a_cost_budget_takes_the_stated_costs():
    limit = cost_limit(0.4, world.EXPERTS)
    assert (limit.budget, limit.costs, limit.unit) == ("0.4 dollars", (0.1, 0.9), "dollars")
    with pytest.raises(BudgetError, match=r"least possible is 0\.1"):
        cost_limit(0.05, world.EXPERTS)
    with pytest.raises(BudgetError, match="finite number, got inf"):
        cost_limit(float("inf"), world.EXPERTS)
    with pytest.raises(BudgetError, match="none is stated for other"):
        cost_limit(0.4, (*world.EXPERTS, world.expert("other", 3.0)))
    with pytest.raises(BudgetError, match="dollars, joules"):
        cost_limit(0.4, (*world.EXPERTS, world.expert("other", 3.0, cost=1.0, unit="joules")))
