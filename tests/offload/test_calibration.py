from dataclasses import replace

import numpy as np
import pytest

from sparing.offload import (
    POLICIES,
    Bench,
    EdgeOutput,
    Gate,
    Geometry,
    Scheme,
    candidate_schemes,
    choose,
)
from sparing.offload.bench import Trial
from sparing.offload.codecs import CODECS

ALL = Gate(threshold=0)


@pytest.fixture
def bench(edge, server, images):
    pixels = images(30)
    labels = (pixels.mean((1, 2, 3)) < 128).astype(np.int64)
    return Bench.make(pixels, labels, edge, server, ALL)


def trial(text, budget, right, bench, size):
    """Make a trial in which the server is right on the first `right` samples only."""
    classes = np.where(np.arange(len(bench.labels)) < right, bench.labels, 2)
    return Trial(Scheme.parse(text), budget, np.eye(3, dtype=np.float32)[classes], np.full(30, size), 0.0)


def test_the_choice_is_the_most_accurate_within_budget_and_mean(bench):
    unsure = EdgeOutput(np.tile([0.0, 0.0, 0.1], (30, 1)), bench.seen.attention, bench.seen.embeddings)
    bench = replace(bench, seen=unsure)  # the edge alone is never right
    trials = [
        trial("whole:webp", 100, 20, bench, 90),
        trial("whole:dct8", 100, 25, bench, 95),
        trial("whole:webp", 200, 29, bench, 190),
        trial("whole:dct8", 200, 29, bench, 150),
    ]
    choices, scores = choose(trials, bench, [100, 200, 50])
    assert (str(choices[100].scheme), choices[100].fill) == ("whole:dct8", 100)
    assert (str(choices[200].scheme), scores[200]["mean_bytes"]) == ("whole:dct8", 150)
    assert choices[50] is None
    tight, _ = choose(trials, bench, [200], mean=92)
    assert (str(tight[200].scheme), tight[200].fill) == ("whole:webp", 100)


def test_the_candidates_fit_any_geometry():
    for geometry in (Geometry(2, 2, 2), Geometry(32, 32, 4), Geometry(224, 224, 16)):
        schemes = candidate_schemes(geometry)
        assert len(set(map(str, schemes))) >= 10
        assert all(scheme.count <= geometry.patches for scheme in schemes)
        for kind, name in [("raw", p) for p in POLICIES] + [("mosaic", p) for p in POLICIES]:
            assert any((scheme.kind, scheme.policy) == (kind, name) for scheme in schemes)
        assert {scheme.codec for scheme in schemes if scheme.kind == "whole"} == set(CODECS)
        assert {scheme.codec for scheme in schemes if scheme.eighths < 8} >= {"webp", "jpeg", "avif", "dct16"}
