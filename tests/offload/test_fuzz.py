"""A small run of `benchmarks/offload_fuzz.py`, which is where the large ones come from."""

import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def offload_fuzz(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    import offload_fuzz

    yield offload_fuzz
    sys.modules.pop("offload_fuzz")


def test_mutated_payloads_of_several_geometries_are_evidence_or_refused(offload_fuzz, monkeypatch):
    # Large images are left to the benchmark: making their seeds takes longer than reading thousands.
    monkeypatch.setattr(offload_fuzz, "GEOMETRIES", offload_fuzz.GEOMETRIES[:5])
    outcomes, _ = offload_fuzz.fuzz(1500, np.random.default_rng(1))
    assert sum(outcomes.values()) == 1500
    for geometry in offload_fuzz.GEOMETRIES:
        assert outcomes[geometry, "read"] > 0
        assert any(what.startswith("refused") for which, what in outcomes if which == geometry)


def test_a_live_server_refuses_mutated_bodies_clearly_and_stays_healthy(offload_fuzz, capsys):
    offload_fuzz.fuzz_server(offload_fuzz.GEOMETRIES[0], 80, np.random.default_rng(1))
    assert "x 200" in capsys.readouterr().out
