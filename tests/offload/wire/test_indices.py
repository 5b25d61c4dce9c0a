from collections import Counter
from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparing.errors import InputError
from sparing.offload.wire.indices import decode_indices, encode_indices, index_bits


def as_text(chosen, n):
    code, length = encode_indices(chosen, n)
    assert code < 1 << length
    return format(code, f"0{length}b")


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9])
def test_every_set_has_its_own_code_and_comes_back(n):
    seen = set()
    for k in range(n + 1):
        for chosen in combinations(range(n), k):
            text = as_text(list(chosen), n)
            assert len(text) == index_bits(n, k)
            assert decode_indices(text + "1010", n) == (list(chosen), len(text))
            seen.add(text)
    assert len(seen) == 2**n


@given(st.integers(1, 1200), st.data())
def test_large_sets_come_back(n, data):
    chosen = data.draw(st.sets(st.integers(0, n - 1)))
    text = as_text(list(chosen), n)
    assert decode_indices(text, n) == (sorted(chosen), len(text))


def test_a_rank_is_the_sum_of_lehmers_binomials():
    for n, chosen in ((64, [0, 5, 9, 40, 63]), (64, [0, 1, 2]), (196, list(range(3, 196, 13)))):
        code, _ = encode_indices(chosen, n)
        rank = sum(comb(index, place + 1) for place, index in enumerate(chosen))
        assert code & (1 << (comb(n, len(chosen)) - 1).bit_length()) - 1 == rank


def test_the_finest_grid_takes_few_large_binomials(monkeypatch):
    calls = Counter()

    def counted(n, k):
        calls["comb"] += 1
        return comb(n, k)

    monkeypatch.setattr("sparing.offload.wire.indices.comb", counted)
    n, chosen = 4096, list(range(0, 4096, 10))
    text = as_text(chosen, n)
    assert len(text) < n
    assert decode_indices(text, n) == (chosen, len(text))
    assert calls["comb"] <= 4


def test_the_shorter_coding_is_used():
    for n in (64, 196):
        for k in range(n + 1):
            rank = (comb(n, k) - 1).bit_length()
            assert index_bits(n, k) == 1 + min(n, n.bit_length() + rank)
    assert index_bits(196, 16) == 86
    assert index_bits(64, 32) == 65


@given(st.integers(1, 40), st.text("01", max_size=60))
def test_any_bits_are_read_or_refused_and_what_is_read_is_canonical(n, text):
    try:
        chosen, length = decode_indices(text, n)
    except InputError:
        return
    assert as_text(chosen, n) == text[:length]
