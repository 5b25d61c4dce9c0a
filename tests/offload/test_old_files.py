"""Payloads and policies that earlier versions wrote are read as they were meant."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from sparing.offload import Choice, Gate, Geometry, Scheme, read_policy
from sparing.offload.wire.agreement import terms_of
from sparing.offload.wire.payload import codec_of, unpack

FILES = Path(__file__).parent / "files" / "0.1"
PAYLOADS = json.loads((FILES / "payloads.json").read_text())


def original():
    """The image whose payloads were written."""
    y, x = np.mgrid[:32, :48]
    shades = [128 + 100 * np.sin(x / 9 + c) * np.cos(y / 7 - c) for c in range(3)]
    return np.stack(shades, -1).round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("entry", PAYLOADS["payloads"], ids=lambda entry: entry["scheme"])
def test_payloads_of_version_1_are_read(entry):
    geometry = Geometry(PAYLOADS["height"], PAYLOADS["width"], PAYLOADS["patch"])
    payload, scheme = base64.b64decode(entry["payload"]), Scheme.parse(entry["scheme"])
    assert payload[0] >> 5 == 1
    assert codec_of(payload) == scheme.codec
    template = terms_of(geometry)["templates"].get(scheme.codec)
    if template != PAYLOADS["templates"].get(scheme.codec):
        pytest.skip(f"this {scheme.codec} library codes differently, which edge and server would notice")
    evidence = unpack(payload, geometry)
    if scheme.kind == "mosaic":
        assert len(evidence.positions) == scheme.count
    if scheme.kind == "whole":
        assert evidence.positions.tolist() == list(range(geometry.patches))
    wanted = geometry.cut(original()[None])[0, evidence.positions]
    assert np.abs(evidence.patches.astype(int) - wanted).mean() < (5 if scheme.eighths == 8 else 12)


def test_policies_of_version_1_are_read():
    policy = read_policy(FILES / "policy.toml")
    assert policy.geometry == Geometry(32, 48, 8)
    assert policy.gate == Gate("entropy", 0.75, 0.3)
    assert policy.choices == {
        64: None,
        256: Choice(Scheme.parse("whole:dct16"), 256, 0.5),
        1000: Choice(Scheme.parse("mosaic:grid:9:webp"), 900, 0.0),
    }
    assert policy.scores[256] == {"accuracy_offloaded": 0.6012, "mean_bytes": 251.3457}
