"""Digests of sample values: what tells whether an output was computed from the sample that is there now."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

UInt64 = npt.NDArray[np.uint64]


def digest_values(values: Sequence[Any]) -> UInt64:
    """Return a digest of each value.

    Equal values have equal digests, in every process; different ones differ but for a chance of 2**-64 per
    pair. Values of types that have no digest of their own go by their `repr`: where that names an address,
    the same value counts as another one.

    Args:
        values: m values: bytes, text, numbers, numpy arrays, or lists, tuples and dicts of such.

    Returns:
        Shape (m,), never 0.
    """
    digests = np.empty(len(values), dtype=np.uint64)
    for row, value in enumerate(values):
        hasher = hashlib.blake2b(digest_size=8)
        _feed(hasher, value)
        digests[row] = int.from_bytes(hasher.digest(), "little") or 1
    return digests


def _feed(hasher: Any, value: Any) -> None:
    if isinstance(value, bytes | bytearray | memoryview):
        _part(hasher, b"b", bytes(value))
    elif isinstance(value, str):
        _part(hasher, b"s", value.encode("utf-8", "surrogatepass"))
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        _part(hasher, b"a", f"{value.dtype.str}{value.shape}".encode())
        hasher.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, list | tuple):
        _part(hasher, b"l", str(len(value)).encode())
        for each in value:
            _feed(hasher, each)
    elif isinstance(value, dict):
        _part(hasher, b"d", str(len(value)).encode())
        for key, each in value.items():
            _feed(hasher, key)
            _feed(hasher, each)
    else:
        _part(hasher, b"r", f"{type(value).__qualname__} {value!r}".encode("utf-8", "surrogatepass"))


def _part(hasher: Any, kind: bytes, content: bytes) -> None:
    # The length keeps ("ab", "c") and ("a", "bc") apart.
    hasher.update(kind + len(content).to_bytes(8, "little") + content)
