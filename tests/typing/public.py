"""What a type checker must infer of the public functions; it is checked by mypy, and never run."""

from collections.abc import Iterator
from pathlib import Path
from typing import assert_type

import numpy as np
import numpy.typing as npt

import sparing
from sparing import Budget, Cache, Model
from sparing.cache import Rows
from sparing.data.samples import Samples
from sparing.data.tables import OutputTable


def classify(values: list[int]) -> npt.NDArray[np.float32]:
    """Return a distribution per value."""
    return np.full((len(values), 2), 0.5, dtype=np.float32)


def caches(path: Path) -> None:
    cache = Cache.open(path)
    assert_type(cache, Cache)
    assert_type(cache.version, int)
    assert_type(len(cache), int)
    assert_type(cache.scan(), Iterator[Rows])
    assert_type(cache.get(["a"]).probs, npt.NDArray[np.float32])
    assert_type(cache.get(["a"]).rounds, npt.NDArray[np.int64])
    assert_type(sparing.import_outputs(path, path, "m"), Cache)
    assert_type(sparing.export(cache, path), int)


def models_and_samples(path: Path) -> None:
    assert_type(sparing.from_callable(classify, name="a"), Model)
    assert_type(sparing.load_model("a=a.onnx"), Model)
    assert_type(sparing.open_samples(path), Samples)
    assert_type(sparing.read_outputs(path), OutputTable)
    assert_type(Budget.parse("50%"), Budget)


def refreshing(path: Path, model: Model) -> None:
    report = sparing.refresh.refresh(path, [model], sparing.refresh.RefreshOptions(budget="50%"))
    assert_type(report, sparing.refresh.RefreshReport)
    assert_type(report.refreshed, int)
    assert_type(report.accuracy, float | None)
    options = sparing.refresh.RefreshOptions(budget=Budget.parse("1h"))
    assert_type(sparing.refresh.preview(path, [model], options), sparing.refresh.Preview)
    ranker = sparing.refresh.fit(path, [model], samples=path)
    assert_type(ranker, sparing.refresh.Ranker)
    assert_type(sparing.refresh.fill(path, model, path), Cache)
    assert_type(sparing.refresh.append_samples(path, model, path), int)


def judging(path: Path) -> None:
    assert_type(sparing.evaluate.evaluate(path, {"new": path}), sparing.evaluate.Comparison)
    assert_type(sparing.evaluate.simulate([path, path]), sparing.evaluate.Simulation)


def bounding(path: Path) -> None:
    states = sparing.bounds.read_states(path)
    assert_type(states, sparing.bounds.States)
    found = sparing.bounds.analyse(states)
    assert_type(found, sparing.bounds.Analysis)
    assert_type(found.conservative, sparing.bounds.Bound)
    assert_type(found.conservative.accuracy, float)


def routing(path: Path) -> None:
    router = sparing.route.open_router(path)
    assert_type(router, sparing.route.Router)
    profile = sparing.route.open_profile(path)
    assert_type(profile, sparing.route.Profile)
    samples = sparing.open_samples(path)
    assert_type(
        sparing.route.calibrate(router, profile, samples, latencies=["5ms"]), sparing.route.Calibrated
    )
    assert_type(sparing.route.evaluate(router, profile, samples), sparing.route.RouteReport)


def offloading(path: Path, pixels: npt.NDArray[np.uint8], edge: sparing.offload.EdgeModel) -> None:
    assert_type(sparing.offload.Scheme.parse("whole:dct16"), sparing.offload.Scheme)
    policy = sparing.offload.read_policy(path)
    assert_type(policy, sparing.offload.Policy)
    assert_type(policy.at(500), sparing.offload.Choice | None)
    seen = edge(pixels)
    assert_type(seen, sparing.offload.EdgeOutput)
    assert_type(seen.probs, npt.NDArray[np.float32])
