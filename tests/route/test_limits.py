import numpy as np
import pytest
from tests.route import world

from sparing.errors import BudgetError
from sparing.route.judging import Timing
from sparing.route.limits import (
    cost_limit,
    latency_limit,
    quantile_limit,
)

TIMES = Timing(np.array([2e-3, 8e-3]), 0.5e-3)


def test_a_latency_counts_router_and_decoding():
    limit = latency_limit("5 ms", Timing(TIMES.experts, TIMES.router, 1e-3))
    assert (limit.budget, limit.most, limit.unit) == ("5ms", 0.005, "seconds")
    assert limit.costs == pytest.approx((3.5e-3, 9.5e-3))


def test_a_latency_below_the_least_names_the_least():
    with pytest.raises(BudgetError, match=r"least possible is 2.5 ms \(the router takes 0.5 ms"):
        latency_limit("2.4ms", TIMES)
    with pytest.raises(BudgetError, match="not a time"):
        latency_limit("50%", TIMES)


def test_a_quantile_counts_the_share_that_takes_longer():
    limit = quantile_limit("5ms", 0.95, TIMES, ["small", "large"], np.array([0.1e-3, 1e-3]))
    assert (limit.budget, limit.costs) == ("p95 5ms", (0.0, 1.0))
    assert limit.most == pytest.approx(0.05)
    assert not limit.notes
    near = quantile_limit("2.55ms", 0.9, TIMES, ["small", "large"], np.array([0.1e-3, 1e-3]))
    assert near.budget == "p90 2.55ms"
    assert "small counts as within" in near.notes[0]
    with pytest.raises(BudgetError, match="least possible"):
        quantile_limit("1ms", 0.95, TIMES, ["small", "large"], np.zeros(2))
    with pytest.raises(BudgetError, match="quantile of 95"):
        quantile_limit("5ms", 95, TIMES, ["small", "large"], np.zeros(2))


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
