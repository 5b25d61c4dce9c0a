import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparing.errors import InputError
from sparing.offload import Geometry
from sparing.offload.codecs import registry
from sparing.offload.wire import payload as wire

GEOMETRY = Geometry(16, 16, 4)


def test_a_raw_payload_by_hand():
    patches = np.full((1, 4, 4, 3), 0b10100000, dtype=np.uint8)
    data = wire.pack_raw(GEOMETRY, patches, np.array([3]), 2)
    # Version 1, kind 0, depth 2; a rank: k = 1 in 5 bits, rank 3 in 4 bits; 48 samples of binary 10.
    text = "00100001" + "1000010011" + "10" * 48
    text += "0" * (-len(text) % 8)
    assert data == int(text, 2).to_bytes(len(text) // 8, "big")
    evidence = wire.unpack(data, GEOMETRY)
    assert evidence.positions.tolist() == [3]
    assert (evidence.patches == 0b10100000).all()  # 10 and the middle of the six lost bits


def test_the_mosaic_has_ceil_sqrt_columns_and_repeats_the_last_patch():
    patches = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), dtype=np.uint8)
    mosaic = wire.mosaic_of(patches)
    assert mosaic[::2, ::2, 0].tolist() == [[0, 1, 2], [3, 4, 4]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (bytes([0x60]), "version 3"),
        (bytes([0x41]), "cut short"),
        (bytes([0x40 | 31, 0]), "unknown kind"),
        (bytes([0x40 | 2, 255]), "unknown codec"),
        (bytes([0x40 | 2, 3, 9]), "shortest"),
        (bytes([0x40, 7, 9]), "shortest"),
        (bytes([1 << 5]), "cut short"),
        (bytes([1 << 5]) + bytes(5000), "longer than all"),
        (bytes([1 << 5 | 0b01_111]), "unknown codec"),
        (bytes([1 << 5 | 0b11_000]), "eighths"),
        (bytes([1 << 5 | 0b11_000, 8, 1, 2]), "eighths"),
        (bytes([1 << 5 | 0b01_000, 0b1_00000_00, 0]), "no patches"),
        (bytes([1 << 5 | 0b01_000, 0b1_00001_00, 0b01_000001]), "padding"),
        (bytes([1 << 5 | 0b10_011]), "first byte"),
    ],
)
def test_bad_payloads_are_refused_with_the_reason(data, message):
    with pytest.raises(InputError, match=message):
        wire.unpack(data, GEOMETRY)


def test_trailing_bytes_are_refused():
    patches = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    data = wire.pack_raw(GEOMETRY, patches, np.array([3, 9]), 8)
    wire.unpack(data, GEOMETRY)
    for bad in (data + b"\0", data[:-1]):
        with pytest.raises(InputError, match="raw patches take"):
            wire.unpack(bad, GEOMETRY)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 63), st.binary(max_size=200))
def test_any_bytes_are_evidence_or_refused(first, rest):
    try:
        evidence = wire.unpack(bytes([(1 << 5) + first]) + rest, GEOMETRY)
    except InputError:
        return
    assert 1 <= len(evidence.positions) <= 16
    assert evidence.patches.dtype == np.uint8


class Flat:
    """A codec that sends one colour."""

    name, number, qualities = "flat", 200, 1

    def encoder(self, image):
        return lambda _: image.mean((0, 1)).astype(np.uint8).tobytes()

    def decode(self, data, height, width):
        return np.tile(np.frombuffer(data, dtype=np.uint8), (height, width, 1))

    def template(self, *_):
        return b""


def test_a_later_codec_takes_two_bytes_of_head_and_leaves_the_first_ones_as_they_were(monkeypatch):
    monkeypatch.setitem(registry.CODECS, "flat", Flat())
    monkeypatch.setitem(registry._BY_NUMBER, 200, Flat())
    assert wire.whole_head("dct8", 8) == bytes([0b001_10_011])
    assert wire.whole_head("flat", 8) == bytes([0b010_00010, 200])
    assert wire.whole_head("flat", 4) == bytes([0b010_00011, 200, 4])
    colour = bytes([10, 20, 30])
    for head in (wire.whole_head("flat", 8), wire.whole_head("flat", 4)):
        evidence = wire.unpack(head + colour, GEOMETRY)
        assert wire.codec_of(head + colour) == "flat"
        assert (evidence.patches == [10, 20, 30]).all()
        assert len(evidence.positions) == 16
    mosaic = wire.unpack(wire.mosaic_head(GEOMETRY, np.array([2, 11]), "flat") + colour, GEOMETRY)
    assert mosaic.positions.tolist() == [2, 11]
    assert (mosaic.patches == [10, 20, 30]).all()
