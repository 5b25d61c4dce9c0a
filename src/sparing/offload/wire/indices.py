"""Coding which k of n patches a payload holds: the shorter of a bitmap and the rank among all such sets."""

from functools import lru_cache
from math import comb

from sparing.errors import InputError


def index_bits(n: int, k: int) -> int:
    """Count the bits that a set of k of n indices takes.

    Args:
        n: how many patches there are, n >= 1.
        k: how many are in the set, 0 <= k <= n.

    Returns:
        One bit that names the coding, and the shorter of n (bitmap) and the bits of k and of the rank.
    """
    return 1 + min(n, _ranked_bits(n, k))


def encode_indices(chosen: list[int], n: int) -> tuple[int, int]:
    """Code a set of indices.

    Args:
        chosen: distinct indices in [0, n), in any order.
        n: how many there are.

    Returns:
        The code, as a number, and its length in bits.
    """
    ordered = sorted(chosen)
    k = len(ordered)
    if _ranked_bits(n, k) < n:
        return (1 << n.bit_length() | k) << _rank_bits(n, k) | _rank(ordered, n), index_bits(n, k)
    return sum(1 << (n - 1 - index) for index in ordered), index_bits(n, k)


def decode_indices(bits: str, n: int) -> tuple[list[int], int]:
    """Read a set of indices back.

    Args:
        bits: a text of "0" and "1" that begins with the code.
        n: how many indices there are.

    Returns:
        The indices in ascending order, and the length of the code in bits.

    Raises:
        InputError: cut short, out of range, or not the coding that `encode_indices` would have chosen.
    """
    if bits[:1] == "0":
        bitmap = bits[1 : n + 1]
        if len(bitmap) < n:
            raise InputError("the index set is cut short")
        chosen = [index for index in range(n) if bitmap[index] == "1"]
        if _ranked_bits(n, len(chosen)) < n:
            raise InputError("the index set is not in its shortest coding")
        return chosen, n + 1
    start = 1 + n.bit_length()
    k = int(bits[1:start] or "0", 2)
    if len(bits) < start or k > n or _ranked_bits(n, k) >= n:
        raise InputError("the index set is cut short, too large, or not in its shortest coding")
    end = start + _rank_bits(n, k)
    rank = int(bits[start:end] or "0", 2)
    if len(bits) < end or rank >= comb(n, k):
        raise InputError("the index set is cut short or its rank out of range")
    return _unrank(rank, n, k), end


def _rank_bits(n: int, k: int) -> int:
    return _all_rank_bits(n)[k]


def _ranked_bits(n: int, k: int) -> int:
    return n.bit_length() + _rank_bits(n, k)


@lru_cache(maxsize=8)
def _all_rank_bits(n: int) -> list[int]:
    """Count the bits of a rank for k = 0 to n, each number of sets from the one before."""
    bits, ways = [], 1
    for k in range(n + 1):
        bits.append((ways - 1).bit_length())
        ways = ways * (n - k) // (k + 1)
    return bits


def _rank(ordered: list[int], n: int) -> int:
    """Find the rank of an ascending set in the combinatorial number system (Lehmer)."""
    rank, place = 0, len(ordered)
    index, ways = n - 1, comb(n - 1, place)
    for chosen in reversed(ordered):
        while index > chosen:
            ways = ways * (index - place) // index
            index -= 1
        rank += ways
        ways = ways * place // max(index, 1)
        index, place = index - 1, place - 1
    return rank


def _unrank(rank: int, n: int, k: int) -> list[int]:
    """Find the set of a rank; the inverse of `_rank`."""
    chosen = []
    index, ways = n - 1, comb(n - 1, k)  # sets of `place` indices below `index`
    # Both steps derive the next number of sets from this one: computing it anew would be quadratic in n.
    for place in range(k, 0, -1):
        while ways > rank:
            ways = ways * (index - place) // index  # to comb(index - 1, place)
            index -= 1
        rank -= ways
        chosen.append(index)
        ways = ways * place // max(index, 1)  # to comb(index - 1, place - 1)
        index -= 1
    return chosen[::-1]
