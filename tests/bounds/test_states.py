import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparing.bounds import envelope, make_states, read_states
from sparing.errors import InputError


def test_states_are_put_in_order():
    states = make_states(["big", "small", "other"], [5, 1, 1], [0.9, 0.6, 0.5])
    assert states.names == ("other", "small", "big")
    assert states.costs.tolist() == [1, 1, 5]
    assert len(states) == 3


@pytest.mark.parametrize(
    ("names", "costs", "accuracies", "message"),
    [
        ([], [], [], "there are none"),
        (["a", "a"], [1, 2], [0.1, 0.2], "'a' occurs twice"),
        (["a", "b"], [1, -2], [0.1, 0.2], "cost of 'b' is -2"),
        (["a", "b"], [1, float("nan")], [0.1, 0.2], "cost of 'b' is nan"),
        (["a", "b"], [1, float("inf")], [0.1, 0.2], "cost of 'b' is inf"),
        (["a", "b"], [1, 2], [0.1, 78.2], "'b' is 78.2; this looks like percent.*divide the column by 100"),
        (["a", "b"], [1, 2], [0.1, 780.0], "'b' is 780; accuracies are shares"),
        (["a", "b"], [1, 2], [0.1, -0.2], "'b' is -0.2"),
        (["a", "b"], [1, 2], [0.1, float("nan")], "'b' is nan"),
        (["a", "b"], [1, 2, 3], [0.1, 0.2], "2 names, but costs of shape"),
    ],
)
def test_bad_states(names, costs, accuracies, message):
    with pytest.raises(InputError, match=message):
        make_states(names, costs, accuracies)


def test_pareto_by_hand():
    names = ["tied-worse", "tied-better", "dearer-worse", "same", "best", "best-but-dearer"]
    states = make_states(names, [1, 1, 2, 3, 4, 5], [0.4, 0.5, 0.45, 0.5, 0.8, 0.8])
    kept, dropped = envelope(states)
    assert kept.names == ("tied-better", "best")
    assert {d.name: d.reason for d in dropped} == {
        "tied-worse": "costs as much as tied-better and is less accurate",
        "dearer-worse": "costs more than tied-better and is not more accurate",
        "same": "costs more than tied-better and is not more accurate",
        "best-but-dearer": "costs more than best and is not more accurate",
    }


def test_hull_by_hand():
    states = make_states(["a", "b", "c"], [1, 2, 3], [0.1, 0.2, 0.9])
    kept, dropped = envelope(states, "hull")
    assert kept.names == ("a", "c")
    assert [d.name for d in dropped] == ["b"]


def test_nothing_is_left_out_on_request():
    states = make_states(["a", "b"], [1, 2], [0.9, 0.2])
    assert envelope(states, "all") == (states, [])
    with pytest.raises(InputError, match="must be one of pareto, hull, all"):
        envelope(states, "best")


@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from(["pareto", "hull"]))
def test_every_state_is_kept_or_named_and_what_is_kept_is_ordered(seed, n, kind):
    rng = np.random.default_rng(seed)
    states = make_states([f"m{i}" for i in range(n)], rng.integers(0, 5, n), rng.integers(0, 5, n) / 4)
    kept, dropped = envelope(states, kind)
    assert sorted([*kept.names, *(d.name for d in dropped)]) == sorted(states.names)
    assert (np.diff(kept.costs) > 0).all()
    assert (np.diff(kept.accuracies) > 0).all()
    for d in dropped:
        i = states.names.index(d.name)
        if kind == "pareto":
            rivals = (kept.costs <= states.costs[i]) & (kept.accuracies >= states.accuracies[i])
            assert rivals.any()
        else:
            mixed = np.interp(states.costs[i], kept.costs, kept.accuracies)
            assert mixed >= states.accuracies[i] - 1e-12


def test_read_states(tmp_path):
    path = tmp_path / "states.csv"
    path.write_text("name,cost,accuracy,year\nb,2,0.8,2020\na,1.5,0.7,\n")
    assert read_states(path).names == ("a", "b")
    path.write_text("name,cost\na,1\n")
    with pytest.raises(InputError, match="no column 'accuracy'; the columns are name, cost"):
        read_states(path)
    path.write_text("name,cost,accuracy\na,1,0.5\n,2,0.6\n")
    with pytest.raises(InputError, match="row 2: the name is empty"):
        read_states(path)


def test_numbers_in_states_are_read_as_people_write_them(tmp_path):
    path = tmp_path / "states.csv"
    path.write_text('name,cost,accuracy\nb,"1,200 ms",77.7%\na,2.1 ms,50%\n')
    states = read_states(path)
    assert states.names == ("a", "b")
    assert states.costs.tolist() == [2.1, 1200]
    assert states.accuracies.tolist() == [0.5, 0.777]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,1,0.5\nb,n/a,0.6", "states.csv: cost is 'n/a' in row 2, not a number"),
        ("a,1,0.5\nb,2,0.6\nc,3,unknown", "states.csv: accuracy is 'unknown' in row 3, not a number"),
        ("a,1,0.5\nb,,0.6", "states.csv: cost is empty in row 2"),
        ("a,1 ms,0.5\nb,1 s,0.6", "cost is '1 s' in row 2, and '1 ms' in row 1; write the whole column"),
        ("a,1,77.7\nb,2,80.1", "'a' is 77.7; this looks like percent"),
        ("a,1,77.7%\nb,2,0.8", "accuracy is '0.8' in row 2, and '77.7%' in row 1"),
        ("a,1,0.5 ms\nb,2,0.6 ms", "accuracy has the unit 'ms'"),
    ],
)
def test_cells_that_are_no_numbers_are_named(tmp_path, rows, message):
    path = tmp_path / "states.csv"
    path.write_text(f"name,cost,accuracy\n{rows}\n")
    with pytest.raises(InputError, match=message):
        read_states(path)
