import io
import json
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from tests.route import world

from sparing.data.samples import open_samples
from sparing.errors import BudgetError, InputError
from sparing.images import variants
from sparing.route.calibration import (
    calibrate,
    to_json,
)
from sparing.route.experts import Latency
from sparing.route.router import Point, read_router


@pytest.fixture(autouse=True)
def steady_latency(monkeypatch):
    """The router takes what its description says, whatever this machine is busy with."""
    described = world.description()
    measured = (described.single, described.batched)
    monkeypatch.setattr(sys.modules["sparing.route.calibration"], "measure_router", lambda *_, **__: measured)


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


def test_a_mean_budget_holds_for_an_expert_whose_calls_are_skewed(tmp_path):
    """Its calls take 50 ms three times in ten and 4 ms otherwise: the median is 4 ms, the mean 17.8."""
    draw = np.random.default_rng(5)
    calls = np.where(np.arange(50) % 10 < 3, 50.0, 4.0) * world.MS
    slow = replace(
        world.EXPERTS[1], single=Latency(1, 4 * world.MS, 50 * world.MS, 50, tuple(sorted(calls.tolist())))
    )
    profile = world.FakeProfile((world.EXPERTS[0], slow))
    router = world.make_router(tmp_path / "g", experts=profile.experts)
    found = calibrate(router, profile, world.samples(2000), latencies=["8ms"])
    to_slow = draw.random(50_000) < found.points[0].shares[1]
    own = router.description.single.per_sample
    served = np.where(to_slow, draw.choice(calls, 50_000), 2 * world.MS) + own
    assert served.mean() == pytest.approx(8 * world.MS, rel=0.03)
