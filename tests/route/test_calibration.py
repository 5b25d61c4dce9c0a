import io
import json
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from tests.route import world

from sparing.data.samples import open_samples
from sparing.errors import BudgetError, InputError
from sparing.images import variants
from sparing.route.calibration import (
    calibrate,
    cost_limit,
    expected_calibration_error,
    fit_calibration,
    latency_limit,
    quantile_limit,
    to_json,
)
from sparing.route.judging import Timing
from sparing.route.router import Point, read_router


@pytest.fixture(autouse=True)
def steady_latency(monkeypatch):
    """The router takes what its description says, whatever this machine is busy with."""
    described = world.description()
    measured = (described.single, described.batched)
    monkeypatch.setattr(sys.modules["sparing.route.calibration"], "measure_router", lambda *_, **__: measured)


TIMES = Timing(np.array([2e-3, 8e-3]), 0.5e-3)


def platt_by_sklearn(scores, correct):
    """Smoothed targets are pairs of weighted samples to a logistic regression without a penalty."""
    right = correct.sum()
    target = np.where(correct, (right + 1) / (right + 2), 1 / (len(correct) - right + 2))
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        np.tile(scores, 2)[:, None],
        np.repeat([1, 0], len(scores)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    return fitted.coef_[0, 0], fitted.intercept_[0]


def test_platt_scaling_is_a_logistic_regression():
    rng = np.random.default_rng(0)
    scores = rng.normal(3, 2, (300, 2))
    correct = rng.random((300, 2)) < 1 / (1 + np.exp(-(0.4 * scores - 1)))
    fitted = fit_calibration(scores, correct)
    for i in range(2):
        assert (fitted.scale[i], fitted.bias[i]) == pytest.approx(
            platt_by_sklearn(scores[:, i], correct[:, i]), rel=1e-4
        )
    assert fitted.samples == 300


@given(st.integers(2, 40), st.integers(0, 10_000), st.floats(-3, 3), st.floats(0.01, 100))
def test_nothing_in_reach_fits_better(m, seed, slope, spread):
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, spread, (m, 1))
    correct = rng.random((m, 1)) < 1 / (1 + np.exp(-np.clip(slope * scores / spread, -50, 50)))
    fitted = fit_calibration(scores, correct)
    right = correct.sum()
    target = np.where(correct[:, 0], (right + 1) / (right + 2), 1 / (m - right + 2))

    def loss(parameters):
        logits = parameters[0] * scores[:, 0] / spread + parameters[1]
        return (np.logaddexp(0, logits) - target * logits).mean()

    found = np.array([fitted.scale[0] * spread, fitted.bias[0]])
    assert fitted.scale[0] >= 0
    brute = minimize(loss, [1.0, 0.0], method="Nelder-Mead", bounds=[(0, None), (None, None)])
    assert loss(found) <= brute.fun + 1e-6


def test_an_expert_that_is_always_right_or_wrong_gets_finite_chances():
    scores = np.random.default_rng(0).normal(size=(50, 2))
    correct = np.tile([True, False], (50, 1))
    fitted = fit_calibration(scores, correct)
    assert fitted.scale == pytest.approx((0, 0), abs=1e-3)
    chances = 1 / (1 + np.exp(-np.array(fitted.bias)))
    assert chances == pytest.approx([51 / 52, 1 / 52], abs=1e-4)


def test_perfect_scores_stay_finite_and_constant_scores_carry_nothing():
    scores = np.stack([np.repeat([-1.0, 1.0], 10), np.full(20, 4.0)], axis=1)
    correct = np.stack([np.repeat([False, True], 10), np.repeat([False, True], 10)], axis=1)
    fitted = fit_calibration(scores, correct)
    # Two levels of scores with smoothed targets 1/12 and 11/12 are met exactly.
    assert fitted.scale[0] == pytest.approx(np.log(11), rel=1e-4)
    assert fitted.bias[0] == pytest.approx(0, abs=1e-4)
    assert (fitted.scale[1], fitted.bias[1]) == pytest.approx((0, 0), abs=1e-6)


def test_a_score_that_ranks_the_wrong_way_gets_slope_zero():
    scores = np.linspace(-1, 1, 40)[:, None]
    assert fit_calibration(scores, scores < 0).scale == (0.0,)


@pytest.mark.parametrize("scores", [np.zeros((0, 1)), np.zeros((2, 2)), np.array([[np.inf], [0.0]])])
def test_bad_scores_are_named(scores):
    with pytest.raises(InputError, match="calibration"):
        fit_calibration(scores, np.ones((len(scores), 1), bool))


def test_expected_calibration_error_by_hand():
    chances = np.array([0.05, 0.15, 0.95, 0.95])
    correct = np.array([False, True, True, False])
    # Bins of width 0.1: |0.05| + |0.15 - 1| + |1.9 - 1|, over four samples.
    assert expected_calibration_error(chances, correct, bins=10) == pytest.approx((0.05 + 0.85 + 0.9) / 4)
    assert expected_calibration_error(np.ones(3), np.ones(3, bool)) == 0


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


def test_points_are_written_and_met_on_held_out_samples(tmp_path):
    router, profile = world.make_router(tmp_path / "g"), world.FakeProfile()
    found = calibrate(router, profile, world.samples(2000), latencies=["4ms", "6ms"], cost_budgets=[0.4])
    kept = read_router(tmp_path / "g")
    assert kept == router.description
    assert [point.budget for point in kept.points] == ["0.4 dollars", "6ms", "4ms"]
    # The scores are the true logits twice over.
    assert kept.calibration.scale[0] == pytest.approx(0.5, abs=0.06)
    assert found.errors_after[0] < found.errors_before[0]
    fresh = world.samples(2000, start=5000)
    values = np.stack(fresh.fetch(np.arange(2000)))
    scores = router.scores(fresh.ids.to_pylist(), list(values))
    for solved in found.points:
        assert solved.point.expected_cost <= solved.most
        assert solved.point.expected_cost == pytest.approx(solved.most, rel=0.01)
        chosen = router.choose(scores, solved.point)
        assert np.array(solved.point.costs)[chosen].mean() == pytest.approx(solved.most, rel=0.05)
    assert json.loads(json.dumps(to_json(found)))["points"][0]["budget"] == "4ms"
    assert found.points[0].latency == pytest.approx(found.points[0].point.expected_cost)


def test_a_quantile_is_met(tmp_path):
    router = world.make_router(tmp_path / "g")
    found = calibrate(router, world.FakeProfile(), world.samples(1000), latencies=["5ms"], q=0.8)
    assert found.points[0].shares[1] == pytest.approx(0.2, abs=0.001)
    assert found.points[0].shares[1] <= 0.2 + 1e-9
    assert router.point("p80 5ms").multiplier > 0


def test_batched_latencies_and_decoding_count(tmp_path):
    profile = world.FakeProfile(decoding=world.latency(1.0))
    router = world.make_router(tmp_path / "g")
    calibrate(router, profile, world.samples(50), latencies=["9ms"], batched=True)
    assert router.description.points[0].costs == pytest.approx((1.55e-3, 3.05e-3))


def test_an_unspent_budget_is_said(tmp_path):
    router = world.make_router(tmp_path / "g")
    found = calibrate(router, world.FakeProfile(), world.samples(300), latencies=["1s"])
    assert found.points[0].point.multiplier == 0
    assert "expects no more" in found.points[0].notes[0]


def test_other_chances_make_former_points_void(tmp_path):
    router, profile = world.make_router(tmp_path / "g"), world.FakeProfile()
    calibrate(router, profile, world.samples(300), latencies=["4ms"])
    again = calibrate(router, profile, world.samples(300), latencies=["5ms"])
    assert again.dropped == ()
    assert [point.budget for point in router.description.points] == ["5ms", "4ms"]
    other = calibrate(router, profile, world.samples(200), latencies=["5ms"])
    assert other.dropped == ("4ms",)
    assert [point.budget for point in router.description.points] == ["5ms"]


@pytest.mark.parametrize("objective", ["trade-off", "entropy"])
def test_other_objectives_have_no_chances_but_points(tmp_path, objective):
    old = Point("9ms", (1.0, 2.0), 0.0, expected_cost=1.0, expected_accuracy=0.5, unit="seconds")
    router = world.make_router(tmp_path / "g", objective, points=(old,))
    found = calibrate(router, world.FakeProfile(), world.samples(300), latencies=["4ms"])
    assert found.calibration is None
    assert found.dropped == ()
    assert found.points[0].point.expected_cost == pytest.approx(0.004, rel=0.02)


def test_corrupted_variants_are_scored_too(tmp_path):
    seen = []

    def score(values):
        seen.extend(values)
        return np.zeros((len(values), 2), np.float32)

    rng = np.random.default_rng(0)
    images = []
    for _ in range(6):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(file, "png")
        images.append(file.getvalue())
    table = pa.table({"id": [f"s{i}" for i in range(6)], "image": images, "label": [0] * 6})
    profile = world.FakeProfile()
    router = world.make_router(tmp_path / "g", function=score)
    found = calibrate(
        router, profile, open_samples(table), latencies=["5ms"], variants=variants("blur,noise", seed=3)
    )
    assert found.variants == tuple(profile.asked)
    assert profile.asked[1] == "mild blur,noise 3"
    assert found.calibration.samples == 24
    assert [isinstance(value, bytes) for value in seen] == [True] * 6 + [False] * 18
    severe = variants("blur,noise", seed=3)[3].apply(pa.array(["s2"]), [images[2]])[0]
    assert np.array_equal(seen[18 + 2], severe)


def test_what_does_not_belong_together_is_refused(tmp_path):
    router, samples = world.make_router(tmp_path / "g"), world.samples(20)
    before = (tmp_path / "g" / "router.json").read_bytes()
    swapped = world.FakeProfile(experts=world.EXPERTS[::-1])
    with pytest.raises(InputError, match="picks among small, large, but the profile is of large, small"):
        calibrate(router, swapped, samples, latencies=["5ms"])
    other = world.FakeProfile(experts=(world.EXPERTS[0], world.expert("large", 8.0)))
    object.__setattr__(other.experts[1], "digest", "sha256:other")
    with pytest.raises(InputError, match=r"another large .*train the router again"):
        calibrate(router, other, samples, latencies=["5ms"])
    with pytest.raises(InputError, match="no labels"):
        calibrate(router, world.FakeProfile(), world.samples(20, labelled=False), latencies=["5ms"])
    with pytest.raises(InputError, match="needs a budget"):
        calibrate(router, world.FakeProfile(), samples)
    profile = world.FakeProfile()
    with pytest.raises(BudgetError, match="least possible"):
        calibrate(router, profile, samples, latencies=["5ms", "1ms"])
    assert profile.asked == []  # nothing is run for a budget that cannot be met
    assert (tmp_path / "g" / "router.json").read_bytes() == before


def test_labels_that_are_missing_or_no_class_are_named(tmp_path):
    router = world.make_router(tmp_path / "g")
    for labels, message in (
        ([0, None], r"'s2' has no label \(1 of 2 rows\)"),
        ([0, 3], "'s2' has the label 3 .*know 3 classes"),
    ):
        table = pa.table(
            {"id": ["s1", "s2"], "value": [[1.0, 0.2]] * 2, "label": pa.array(labels, pa.int64())}
        )
        with pytest.raises(InputError, match=message):
            calibrate(router, world.FakeProfile(), open_samples(table), latencies=["5ms"])
