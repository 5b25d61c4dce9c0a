"""Bounds: what no adaptive policy over a set of models can beat, and which models are worth keeping."""

from sparing.bounds.analysis import Analysis, Exact, Selection, analyse, states_of
from sparing.bounds.approximate import (
    Bound,
    conservative,
    constant_alpha,
    continuous,
    dynamic_range,
    from_alphas,
    frontier_of_errors,
    smallest_state_limit,
    two_states,
)
from sparing.bounds.chance import SmallSet, best_small_sets, guessing_frontier, independent_frontier
from sparing.bounds.costs import read_costs, read_priced_outcomes, read_sample_costs
from sparing.bounds.intervals import Intervals, bootstrap, oracle_intervals
from sparing.bounds.oracle import Oracle, exact_oracle
from sparing.bounds.outcomes import Outcomes, read_outcomes
from sparing.bounds.state_selection import select_greedy, select_optimal
from sparing.bounds.states import Dropped, States, envelope, make_states, read_states

__all__ = [
    "Analysis",
    "Bound",
    "Dropped",
    "Exact",
    "Intervals",
    "Oracle",
    "Outcomes",
    "Selection",
    "SmallSet",
    "States",
    "analyse",
    "best_small_sets",
    "bootstrap",
    "conservative",
    "constant_alpha",
    "continuous",
    "dynamic_range",
    "envelope",
    "exact_oracle",
    "from_alphas",
    "frontier_of_errors",
    "guessing_frontier",
    "independent_frontier",
    "make_states",
    "oracle_intervals",
    "read_costs",
    "read_outcomes",
    "read_priced_outcomes",
    "read_sample_costs",
    "read_states",
    "select_greedy",
    "select_optimal",
    "smallest_state_limit",
    "states_of",
    "two_states",
]
