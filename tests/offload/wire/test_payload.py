import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparing.errors import InputError
from sparing.offload import Geometry
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
        (bytes([0x40]), "version 2"),
        (bytes([wire.VERSION << 5]), "cut short"),
        (bytes([wire.VERSION << 5]) + bytes(5000), "longer than all"),
        (bytes([wire.VERSION << 5 | 0b01_111]), "unknown codec"),
        (bytes([wire.VERSION << 5 | 0b11_000]), "eighths"),
        (bytes([wire.VERSION << 5 | 0b11_000, 8, 1, 2]), "eighths"),
        (bytes([wire.VERSION << 5 | 0b01_000, 0b1_00000_00, 0]), "no patches"),
        (bytes([wire.VERSION << 5 | 0b01_000, 0b1_00001_00, 0b01_000001]), "padding"),
        (bytes([wire.VERSION << 5 | 0b10_011]), "first byte"),
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
@given(st.integers(0, 31), st.binary(max_size=200))
def test_any_bytes_are_evidence_or_refused(first, rest):
    try:
        evidence = wire.unpack(bytes([wire.VERSION << 5 | first]) + rest, GEOMETRY)
    except InputError:
        return
    assert 1 <= len(evidence.positions) <= 16
    assert evidence.patches.dtype == np.uint8
