import json
import sys
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.route import world

from sparing.errors import InputError
from sparing.images import Corruption
from sparing.numerics.frontier import headroom_at_cost, oracle_frontier, static_mixture
from sparing.route.baselines import STATISTICS
from sparing.route.calibration import calibrate
from sparing.route.evaluation import compare, curves, evaluate, paired_difference
from sparing.route.judging import Judged, Timing, quantile


@pytest.fixture(autouse=True)
def steady_latency(monkeypatch):
    """The router takes what its description says, whatever this machine is busy with."""
    described = world.description()
    measured = (described.single, described.batched)
    monkeypatch.setattr(sys.modules["sparing.route.calibration"], "measure_router", lambda *_, **__: measured)


TIMES = Timing(np.array([2.0, 8.0]), 1.0, 0.5)
SEEN = Judged(
    scores=np.zeros((4, 2), np.float32),
    correct=np.array([[True, True], [False, True], [True, False], [False, True]]),
    statistics={
        "confidence": np.array([[0.9, 0.9], [0.6, 0.9], [0.8, 0.9], [0.7, 0.9]], np.float32),
        "entropy": -np.array([[0.1, 0.1], [0.3, 0.1], [0.2, 0.1], [0.4, 0.1]], np.float32),
        "margin": np.array([[0.8, 0.8], [0.5, 0.8], [0.4, 0.8], [0.6, 0.8]], np.float32),
    },
)


def by_kind(rows):
    return {row.kind if row.kind != "expert" else row.name: row for row in rows}


def test_a_comparison_by_hand():
    rows = by_kind(compare(SEEN, np.array([0, 1, 0, 0], np.int32), TIMES, ("small", "large")))
    router = rows["router"]
    # 0.5 decoding + 1 router + 2 or 8; three to small, one to large; right, right, right, wrong.
    assert (router.accuracy, router.latency, router.p95, router.shares) == (0.75, 5.0, 9.5, (0.75, 0.25))
    assert (rows["small"].accuracy, rows["small"].latency, rows["small"].p95) == (0.5, 2.5, 2.5)
    assert (rows["large"].accuracy, rows["large"].latency) == (0.75, 8.5)
    # Without a router, 5 ms buy a mixture of 2.5 and 8.5: 7/12 and 5/12.
    mixture = rows["mixture"]
    assert mixture.name == "small | large"
    assert mixture.shares == pytest.approx((7 / 12, 5 / 12))
    assert mixture.latency == pytest.approx(5.0)
    assert mixture.accuracy == pytest.approx(0.5 + 5 / 12 * 0.25)
    # The cascade pays 2.5 for all and 8 more for a share of 5/16: the least confident sample (which large
    # gets right) and a quarter of the next (right too).
    cascade = rows["confidence cascade"]
    assert cascade.latency == pytest.approx(5.0)
    assert cascade.accuracy == pytest.approx(0.5 + 0.25 + 0.25 * 0.25)
    assert cascade.shares == pytest.approx((11 / 16, 5 / 16))
    assert cascade.p95 == pytest.approx(10.5)
    assert rows["entropy cascade"].accuracy == pytest.approx(0.75 + 0.25 * 0.25)
    # By margin, the first sample that goes on is one that only small gets right; a quarter of the next helps.
    assert rows["margin cascade"].accuracy == pytest.approx(0.5 - 0.25 + 0.25 * 0.25)
    # The oracle pays 6 more on two samples out of four: 2.5 of those 3 are there.
    oracle = rows["oracle"]
    assert oracle.accuracy == pytest.approx(0.5 + 0.5 * 2.5 / 3)
    assert router.headroom == pytest.approx((0.75 - mixture.accuracy) / (oracle.accuracy - mixture.accuracy))
    assert mixture.headroom == pytest.approx(0, abs=1e-12)
    assert rows["large"].headroom == 0
    assert oracle.behind == pytest.approx(0.75 - oracle.accuracy)
    assert mixture.behind == pytest.approx(0.75 - mixture.accuracy)


@given(st.integers(2, 40), st.integers(1, 4), st.integers(0, 10_000))
def test_no_row_beats_the_oracle_and_shares_explain_latencies(m, n, seed):
    rng = np.random.default_rng(seed)
    seen = Judged(
        np.zeros((m, n), np.float32),
        rng.random((m, n)) < 0.6,
        {name: rng.random((m, n)).astype(np.float32) for name in STATISTICS},
    )
    times = Timing(rng.integers(1, 9, n).astype(float), 0.5, 0.25)
    names = [f"e{i}" for i in range(n)]
    rows = compare(seen, rng.integers(0, n, m).astype(np.int32), times, names)
    frontier = oracle_frontier(seen.correct, times.alone)
    mixture = static_mixture(times.alone, seen.correct.mean(axis=0))
    target = rows[0].latency
    for row in rows:
        assert row.accuracy <= frontier.accuracy_at(row.latency) + 1e-9
        assert row.behind == pytest.approx(rows[0].accuracy - row.accuracy)
        if row.kind != "expert":
            assert row.latency <= target + 1e-9
        if row.shares is not None:
            assert sum(row.shares) == pytest.approx(1)
        expected = (
            1.0 if row.kind == "oracle" else headroom_at_cost(row.latency, row.accuracy, mixture, frontier)
        )
        assert row.headroom == pytest.approx(expected, nan_ok=True)


def test_quantiles_are_values_that_occur():
    values, shares = np.array([9.0, 1.0, 5.0]), np.array([0.05, 0.6, 0.35])
    assert quantile(values, shares) == 5
    assert quantile(values, shares, 0.96) == 9
    assert quantile(values, shares, 0.6) == 1
    assert quantile(values, shares, 1.0) == 9


def test_paired_differences_are_mcnemars():
    # 9 samples only the first has right, 4 only the second, of 100.
    differences = np.concatenate([np.ones(9), -np.ones(4), np.zeros(87)])
    mean, error = paired_difference(differences)
    assert mean == pytest.approx(0.05)
    assert error == pytest.approx(np.sqrt((13 - 25 / 100) / 100 / 99), rel=1e-6)
    # The same samples in four variants are not four times the evidence.
    assert paired_difference(np.tile(differences, 4), repeats=4) == pytest.approx((mean, error))
    assert paired_difference(np.ones(1)) == (1.0, float("inf"))


def test_curves_start_at_the_cheapest_and_are_thinned():
    drawn = curves(SEEN, TIMES, ("small", "large"))
    assert set(drawn) == {
        "mixture",
        "oracle",
        "confidence cascade small > large",
        "entropy cascade small > large",
        "margin cascade small > large",
    }
    assert drawn["confidence cascade small > large"] == {
        "latency": [2.5, 4.5, 6.5, 8.5, 10.5],
        "accuracy": [0.5, 0.75, 1.0, 0.75, 0.75],
    }
    assert drawn["oracle"]["latency"][0] == 2.5


@pytest.fixture
def calibrated(tmp_path):
    router = world.make_router(tmp_path / "g")
    calibrate(router, world.FakeProfile(), world.samples(1000), latencies=["4ms", "6ms"])
    return router


def test_the_job_judges_every_point_on_held_out_samples(calibrated):
    report = evaluate(calibrated, world.FakeProfile(), world.samples(1000, start=5000))
    assert [point.budget for point in report.points] == ["6ms", "4ms"]
    for point, limit in zip(report.points, (6e-3, 4e-3), strict=True):
        (overall,) = point.parts
        router = overall.rows[0]
        assert router.latency == pytest.approx(limit, rel=0.06)
        assert point.spent == pytest.approx(router.latency)
        assert 0 < router.headroom < 1
        assert max(overall.calibration_error.values()) < 0.1
        mixture = next(row for row in overall.rows if row.kind == "mixture")
        assert mixture.behind > 2 * mixture.error  # the router knows the difficulty
        assert point.advice
    assert report.decoding is None
    assert report.experts == {"small": 2e-3, "large": 8e-3}
    assert "hindsight" in report.notes[0]
    json.dumps(asdict(report))


def test_one_budget_can_be_named_and_latencies_batched(calibrated):
    report = evaluate(
        calibrated,
        world.FakeProfile(decoding=world.latency(1.0)),
        world.samples(50),
        budget=" 4 ms",
        batched=True,
    )
    (point,) = report.points
    assert point.budget == "4ms"
    rows = by_kind(point.parts[0].rows)
    assert (rows["small"].latency, rows["large"].latency) == pytest.approx((1.5e-3, 3e-3))
    assert report.router == pytest.approx(0.05e-3)
    assert report.decoding == pytest.approx(1e-3)
    with pytest.raises(InputError, match="calibrated are"):
        evaluate(calibrated, world.FakeProfile(), world.samples(50), budget="7ms")


def test_variants_are_judged_apart_and_together(tmp_path, monkeypatch):
    monkeypatch.setattr(Corruption, "apply", lambda self, ids, values: values)  # there are no images here
    router = world.make_router(tmp_path / "g", "trade-off")
    severe = (Corruption(), Corruption("severe"))
    (point,) = evaluate(router, world.FakeProfile(), world.samples(200), variants=severe).points
    assert (point.budget, point.spent) == (None, None)
    overall, clean, worse = point.parts
    assert [part.name for part in point.parts] == ["overall", "clean", "severe"]
    assert [part.samples for part in point.parts] == [400, 200, 200]
    assert overall.calibration_error is None
    assert overall.rows[0].accuracy == pytest.approx((clean.rows[0].accuracy + worse.rows[0].accuracy) / 2)
    assert by_kind(worse.rows)["small"].accuracy < by_kind(clean.rows)["small"].accuracy


def test_a_trade_off_router_is_judged_as_trained_and_at_its_points(tmp_path):
    router = world.make_router(tmp_path / "g", "trade-off")
    calibrate(router, world.FakeProfile(), world.samples(200), latencies=["4ms"])
    report = evaluate(router, world.FakeProfile(), world.samples(200))
    assert [point.budget for point in report.points] == [None, "4ms"]


def test_without_an_operating_point_it_says_what_to_do(tmp_path):
    router = world.make_router(tmp_path / "g")
    with pytest.raises(InputError, match="sparing route calibrate"):
        evaluate(router, world.FakeProfile(), world.samples(20))
