import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sparing.refresh.learned.slice_sizes import SliceRule, most_beneficial, probe_rows


@given(st.integers(0, 10**7), st.integers(0, 10**7))
def test_slices_spend_the_budget_exactly(rows, budget):
    rule = SliceRule()
    run, slices = rule.probe(rows, budget), 1
    assert run <= min(max(rule.probe_limits), rows, budget)
    while size := rule.next_slice(rows, run, budget):
        run += size
        slices += 1
    assert run == min(rows, budget)
    assert slices < 80


def test_sizes_by_hand():
    rule = SliceRule()
    assert [rule.probe(10_000, b) for b in (10, 1000, 5000, 10_000)] == [10, 30, 100, 200]
    assert rule.probe(10**6, 10**6) == 300
    assert rule.next_slice(10_000, 100, 5000) == 50
    assert rule.next_slice(10_000, 200, 5000) == 100
    assert rule.next_slice(10_000, 2000, 5000) == 300
    assert rule.next_slice(10_000, 4990, 5000) == 10


def test_rows_are_taken_by_key_and_by_benefit():
    keys = np.array([5, 1, 9, 1, 7], dtype=np.uint64)
    assert probe_rows(keys, 3).tolist() == [0, 1, 3]
    assert most_beneficial(np.array([1.0, 0.5, 1.0, 0.5, 0.5]), keys, 3).tolist() == [0, 1, 2]
    assert most_beneficial(np.zeros(5), keys, 2).tolist() == [1, 3]
