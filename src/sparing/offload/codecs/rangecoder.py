"""A binary range coder whose probabilities both sides know, in integers only, so that it never drifts.

The encoder narrows an interval of 32 bits by each bit's probability; the decoder follows. A stream has no
length and no end mark: its carrier knows its length, and zero bytes at its end are left out.
"""

from typing import Any

import numpy as np
from numba import njit

SCALE_BITS = 16
"""Probabilities are integers out of 2**16, from 1 to 2**16 - 1."""

_TOP = 1 << 24
_MASK = (1 << 32) - 1


@njit(cache=True)
def start(capacity: int) -> Any:
    """Begin a stream: a buffer of `capacity` bytes and the state (low, range, bytes written)."""
    return np.zeros(capacity, dtype=np.uint8), np.array([0, _MASK, 0], dtype=np.int64)


@njit(cache=True)
def put(buffer: Any, state: Any, bit: int, probability: int) -> None:
    """Append one bit, given the probability that it is 1, out of 2**16; the buffer must have 8 bytes left."""
    bound = (state[1] >> SCALE_BITS) * probability
    if bit:
        state[1] = bound
    else:
        state[0] += bound
        state[1] -= bound
    if state[0] > _MASK:
        _carry(buffer, state)
    while state[1] < _TOP:
        buffer[state[2]] = state[0] >> 24
        state[2] += 1
        state[0] = (state[0] << 8) & _MASK
        state[1] <<= 8


@njit(cache=True)
def _carry(buffer: Any, state: Any) -> None:
    state[0] &= _MASK
    at = state[2] - 1
    while buffer[at] == 255:
        buffer[at] = 0
        at -= 1
    buffer[at] += 1


@njit(cache=True)
def finish(buffer: Any, state: Any) -> int:
    """End a stream with the fewest bytes that lie in the interval, and return its length without zeros."""
    high = state[0] + state[1] - 1
    for kept in range(5):
        unit = 1 << (32 - 8 * kept)
        value = (state[0] + unit - 1) // unit * unit
        if value <= high:
            break
    state[0] = value
    if value > _MASK:
        _carry(buffer, state)
    for at in range(4):
        buffer[state[2] + at] = (state[0] >> (24 - 8 * at)) & 255
    length = state[2] + 4
    while length > 0 and buffer[length - 1] == 0:
        length -= 1
    return int(length)


@njit(cache=True)
def open_stream(data: Any) -> Any:
    """Begin to read a stream: the state (code, range, bytes read), where bytes past the end are 0."""
    state = np.array([0, _MASK, 0], dtype=np.int64)
    for _ in range(4):
        state[0] = (state[0] << 8) | _next(data, state)
    return state


@njit(cache=True)
def get(data: Any, state: Any, probability: int) -> int:
    """Read one bit, given the probability that it is 1, out of 2**16."""
    bound = (state[1] >> SCALE_BITS) * probability
    if state[0] < bound:
        state[1] = bound
        bit = 1
    else:
        state[0] -= bound
        state[1] -= bound
        bit = 0
    while state[1] < _TOP:
        state[0] = (state[0] << 8) | _next(data, state)
        state[1] <<= 8
    return bit


@njit(cache=True)
def _next(data: Any, state: Any) -> int:
    at = state[2]
    state[2] += 1
    return int(data[at]) if at < len(data) else 0
