import csv
import gzip

import numpy as np
import pyarrow as pa
import pytest

from sparing.bounds import Outcomes, analyse, conservative, exact_oracle, make_states, states_of
from sparing.bounds.figures import write_figures
from sparing.bounds.summary import summarise
from sparing.errors import InputError


def outcomes(correct, classes=None):
    m, n = correct.shape
    return Outcomes(tuple(f"m{j}" for j in range(n)), pa.array(range(m)), correct, classes, ())


def example(seed=0, m=500, n=5, classes=None):
    rng = np.random.default_rng(seed)
    correct = 0.7 * rng.random((m, 1)) + 0.3 * rng.random((m, n)) < np.linspace(0.3, 0.7, n)
    return outcomes(correct, classes), np.array([1.0, 2.0, 4.0, 8.0, 16.0])[:n]


def test_the_summary_has_the_promised_keys():
    known, costs = example(classes=10)
    result = summarise(analyse(states_of(known, costs), outcomes=known, costs=costs, select=3, replicates=50))
    for part in ("conservative", "constant_alpha", "exact", "continuous"):
        assert {"cost", "accuracy", "saving", "ratio"} <= result[part].keys()
    assert [s["size"] for s in result["selected"]] == [1, 2, 3]
    assert result["selected"][2]["states"][-1] == "m4"
    assert len(result["exact"]["alpha"]) == 5
    assert result["constant_alpha"]["alpha"] == pytest.approx(min(result["exact"]["alpha"][1:]))
    assert sum(result["exact"]["labels"].values()) + result["exact"]["unsolved"] == pytest.approx(1)
    assert result["baseline"]["name"] == "m4"
    assert result["states"][0] == {
        "name": "m0",
        "cost": 1.0,
        "accuracy": known.correct[:, 0].mean(),
    }


def test_absent_parts_are_left_out():
    result = summarise(analyse(make_states(["a", "b"], [1, 2], [0.5, 0.8])))
    assert not {"exact", "constant_alpha", "selected", "chance", "smallest_state"} & result.keys()
    given = summarise(analyse(make_states(["a", "b"], [1, 2], [0.5, 0.8]), alpha=0.5, classes=4))
    assert given["constant_alpha"]["accuracy"] == pytest.approx(0.9)
    assert given["smallest_state"]["worth_it"] == (1 < 0.25 * 2 / 0.7)


def test_states_that_break_the_order_are_left_out_of_approximations_but_not_of_the_oracle():
    rng = np.random.default_rng(1)
    correct = rng.random((400, 3)) < [0.5, 0.4, 0.8]
    known, costs = outcomes(correct), np.array([1.0, 2.0, 3.0])
    found = analyse(states_of(known, costs), outcomes=known, costs=costs, replicates=0)
    assert [d.name for d in found.dropped] == ["m1"]
    assert found.kept.names == ("m0", "m2")
    assert found.exact.bound.accuracy == pytest.approx(correct.any(axis=1).mean())
    both = exact_oracle(correct[:, [0, 2]], costs[[0, 2]])
    assert found.constant_alpha[0] == pytest.approx(both.alphas[1])
    whole = analyse(states_of(known, costs), outcomes=known, costs=costs, kind="all", replicates=0)
    assert whole.dropped == []
    assert whole.exact.bound == found.exact.bound


def test_adaptation_costs_reach_every_bound():
    known, costs = example()
    states = states_of(known, costs)
    free = analyse(states, outcomes=known, costs=costs, select=3, replicates=0)
    paid = analyse(states, outcomes=known, costs=costs, select=3, replicates=0, beta0=1.0, beta1=0.1)
    pairs = [
        (free.conservative, paid.conservative),
        (free.continuous, paid.continuous),
        (free.two_states, paid.two_states),
        (free.constant_alpha[1], paid.constant_alpha[1]),
        (free.exact.bound, paid.exact.bound),
        (free.exact.equal_accuracy, paid.exact.equal_accuracy),
        (free.selected[2].bound, paid.selected[2].bound),
    ]
    for before, after in pairs:
        assert after.cost == pytest.approx(1 + 1.1 * before.cost)
        assert after.baseline_cost == before.baseline_cost
    assert paid.frontier.costs[-1] == pytest.approx(1 + 1.1 * free.frontier.costs[-1])


def test_an_adaptation_cost_that_eats_the_gain_is_said():
    states = make_states(["a", "b"], [1, 2], [0.5, 0.8])
    assert "costs more than the best model" in analyse(states, beta0=5.0).warnings[0]


def test_headroom_without_outcomes_is_against_alpha_one():
    found = analyse(make_states(["a", "b"], [1, 11], [0.5, 0.8]))
    # Alpha = 1 reaches 0.8 at 1 + 10 * 0.3 = 4; the mixture there has 0.59.
    assert found.headroom(4, 0.8) == pytest.approx(1)
    assert found.headroom(4, 0.59) == pytest.approx(0)


def test_models_that_guess_are_explained_by_chance():
    rng = np.random.default_rng(4)
    known = outcomes(rng.random((3000, 20)) < 0.1, 10)
    found = analyse(states_of(known, np.arange(1.0, 21)), outcomes=known, costs=np.arange(1.0, 21))
    assert any("chance explains the oracle" in warning for warning in found.warnings)
    assert any("independent errors" in warning for warning in found.warnings)


def test_models_that_complement_each_other_are_not_explained_by_chance():
    half = np.arange(3000) % 2 == 0
    known = outcomes(np.stack([half, ~half], axis=1), 100)
    found = analyse(states_of(known, np.ones(2)), outcomes=known, costs=np.ones(2), replicates=100)
    assert found.warnings == []
    assert found.exact.bound.accuracy == 1


def test_costs_per_sample_beside_mean_costs():
    known, costs = example()
    rng = np.random.default_rng(4)
    varying = costs * rng.exponential(size=known.correct.shape)
    found = analyse(states_of(known, varying), outcomes=known, costs=varying, replicates=50)
    assert found.exact.at_mean_prices is not None
    assert found.exact.bound.cost < found.exact.at_mean_prices.cost
    assert found.exact.bound.accuracy == found.exact.at_mean_prices.accuracy


@pytest.mark.parametrize("right", [False, True])
def test_one_state_all_wrong_or_all_right(right):
    known = outcomes(np.full((4, 1), right))
    found = analyse(states_of(known, np.ones(1)), outcomes=known, costs=np.ones(1), select=1, alpha=0.5)
    result = summarise(found)
    assert result["conservative"]["ratio"] == 1
    assert result["exact"]["accuracy"] == float(right)
    assert "nothing to choose from" in result["warnings"][0]


@pytest.mark.parametrize("right", [False, True])
def test_several_states_all_wrong_or_all_right(right):
    known = outcomes(np.full((4, 3), right), 10)
    costs = np.array([1.0, 2.0, 3.0])
    result = summarise(analyse(states_of(known, costs), outcomes=known, costs=costs, replicates=20))
    assert result["exact"]["cost"] == 1
    assert len(result["dropped"]) == 2
    assert "constant_alpha" not in result


def test_outcomes_need_costs():
    known, costs = example()
    with pytest.raises(InputError, match="outcomes need costs"):
        analyse(states_of(known, costs), outcomes=known)


def test_figures_of_everything(tmp_path):
    known, costs = example(classes=10)
    found = analyse(states_of(known, costs), outcomes=known, costs=costs, select=4, replicates=50)
    write_figures(tmp_path / "b.html", found, unit="GFLOPs")
    page = (tmp_path / "b.html").read_text()
    for text in ("Operating points", "exact oracle", "independent errors", "Which states to keep", "GFLOPs"):
        assert text in page


def test_figures_survive_odd_states(tmp_path):
    hostile = "</script><script>alert(1)</script><a href='javascript:x'>"
    for states in (
        make_states(["one"], [1], [0.5]),
        make_states(["free", hostile], [0, 2], [0.1, 0.9]),
        make_states(["free", "also"], [0, 0], [0.1, 0.9]),
    ):
        write_figures(tmp_path / "b.html", analyse(states, select=len(states) if len(states) == 1 else None))
        page = (tmp_path / "b.html").read_text()
        assert "<script>alert" not in page
        assert "javascript:x" not in page.replace("&lt;a href=&#x27;javascript:x", "")


def test_mmlu_pro(shared_data):
    with gzip.open(shared_data / "llm" / "mmlu_pro_preds.csv.gz", "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    models = [name for name in list(rows[0])[5:] if all(row[name] for row in rows)]
    correct = np.array([[row[name] == row["answer"] for name in models] for row in rows])
    options = np.array([int(row["n_options"]) for row in rows])
    known = Outcomes(tuple(models), pa.array(range(len(rows))), correct, options, ())
    costs = np.arange(1.0, len(models) + 1)
    found = analyse(states_of(known, costs), outcomes=known, costs=costs, replicates=100)
    assert len(models) == 26
    assert found.exact.bound.accuracy == pytest.approx(0.9225, abs=5e-5)
    assert found.exact.bound.baseline_accuracy == pytest.approx(0.628, abs=5e-4)
    assert any("chance explains the oracle" in warning for warning in found.warnings)


def test_conservative_of_the_paper_s_family():
    # EfficientNet, torchvision's published GFLOPs and accuracies; the paper has 63.43x for its own.
    costs = np.array([0.386, 0.687, 1.088, 1.827, 4.394, 10.266, 19.068, 37.746])
    accuracies = np.array([77.692, 78.642, 80.608, 82.008, 83.384, 83.444, 84.008, 84.122]) / 100
    assert conservative(costs, accuracies).ratio == pytest.approx(63.43, rel=0.07)
