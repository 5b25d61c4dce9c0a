import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sparing.offload.codecs import rangecoder


def code(bits, probabilities):
    buffer, state = rangecoder.start(16 + 2 * len(bits))
    for bit, probability in zip(bits, probabilities, strict=True):
        rangecoder.put(buffer, state, bit, probability)
    return buffer[: rangecoder.finish(buffer, state)].copy()


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 65535)), max_size=400))
def test_bits_come_back_and_take_little_more_than_their_information(decisions):
    bits = [int(bit) for bit, _ in decisions]
    probabilities = [probability for _, probability in decisions]
    data = code(bits, probabilities)
    state = rangecoder.open_stream(data)
    assert [rangecoder.get(data, state, probability) for probability in probabilities] == bits
    likely = [p / 65536 if bit else 1 - p / 65536 for bit, p in zip(bits, probabilities, strict=True)]
    information = -np.log2(likely).sum() / 8
    # Rounding the interval loses under 1/256 of each bit's share in the worst case.
    assert len(data) <= information * 1.01 + 2 + len(bits) * 0.006 / 8


def test_a_carry_runs_through_bytes_of_255():
    # Improbable ones at the top of the interval push the low end over many times.
    rng = np.random.default_rng(0)
    bits = (rng.random(5000) < 0.02).astype(int)
    for probability in (1, 655, 65535):
        data = code(bits, [probability] * len(bits))
        state = rangecoder.open_stream(data)
        assert [rangecoder.get(data, state, probability) for _ in bits] == bits.tolist()


def test_no_bits_take_no_bytes():
    assert len(code([], [])) == 0
