import numpy as np
import pytest

from sparing.errors import InputError, ModelError
from sparing.offload import (
    Bench,
    Gate,
    Geometry,
    Link,
    Scheme,
    ServerModel,
    score,
    try_scheme,
)
from sparing.offload.bench import answers_of

ALL = Gate(threshold=0)


@pytest.fixture
def bench(edge, server, images):
    pixels = images(30)
    labels = (pixels.mean((1, 2, 3)) < 128).astype(np.int64)
    return Bench.make(pixels, labels, edge, server, ALL)


def test_a_bench_counts_what_the_gate_keeps(edge, server, images):
    pixels = images(30)
    labels = (pixels.mean((1, 2, 3)) < 128).astype(np.int64)
    bench = Bench.make(pixels, labels, edge, server, Gate(threshold=0.5))
    right = edge(pixels).probs.argmax(1) == labels
    kept = edge(pixels).probs.max(1) > 0.5**0.5
    assert bench.requests == 30
    assert len(bench.labels) == (~kept).sum() > 0
    assert bench.kept_right == right[kept].sum()
    with pytest.raises(InputError, match="none of 30"):
        Bench.make(pixels, labels, edge, server, Gate(threshold=9))
    other = ServerModel(server.run, Geometry(32, 32, 8))
    with pytest.raises(InputError, match="takes images of"):
        Bench.make(pixels, labels, edge, other, ALL)


def test_without_labels_the_server_decides_what_is_right(edge, server, images):
    bench = Bench.make(images(10), None, edge, server, ALL)
    assert bench.ceiling == 1.0
    assert not bench.labelled


def test_everything_raw_reaches_the_ceiling_and_nothing_sent_is_the_edge(bench, server):
    full, none = try_scheme(Scheme.parse("raw:sage"), [3200, 3], bench, server)
    assert score(full, bench, 0.0)["share_of_ceiling"] == 1.0
    result = score(none, bench, 0.0)
    assert (result["unsent"], result["mean_bytes"], result["max_bytes"]) == (30, 0.0, 0)
    np.testing.assert_array_equal(answers_of(none, bench, 0.5), bench.seen.probs.argmax(1))


def test_several_budgets_are_answered_as_each_alone(bench, server):
    for text in ("whole:dct16", "whole:webp", "raw:spread", "mosaic:grid:9:dct8"):
        scheme, budgets = Scheme.parse(text), [3, 60, 300, 2000, 3000]
        together = try_scheme(scheme, budgets, bench, server)
        for budget, trial in zip(budgets, together, strict=True):
            (alone,) = try_scheme(scheme, [budget], bench, server)
            np.testing.assert_array_equal(trial.sizes, alone.sizes)
            np.testing.assert_allclose(trial.probs, alone.probs, atol=1e-6)
            assert (np.isnan(trial.probs).any(1) == (trial.sizes == 0)).all()


def test_late_answers_are_the_edges(bench, server):
    (sent,) = try_scheme(Scheme.parse("whole:dct16"), [200], bench, server)
    link = Link(bits_per_second=8000, latency=0.1)
    slow = score(sent, bench, 0.0, link=link, timeout=0.05)
    assert slow["late"] == 30
    assert slow["accuracy_offloaded"] == (bench.seen.probs.argmax(1) == bench.labels).mean()
    fast = score(sent, bench, 0.0, link=link, timeout=5)
    assert fast["late"] == 0
    assert fast["link_seconds"] == pytest.approx(sent.sizes.mean() / 1000 + 0.2)


def test_models_that_tell_other_numbers_of_classes_apart_are_refused(edge, geometry, images):
    five = ServerModel(lambda patches, _positions: np.zeros((len(patches), 5)), geometry)
    with pytest.raises(ModelError, match="3 classes apart, the server model 5"):
        Bench.make(images(4), None, edge, five, ALL)
