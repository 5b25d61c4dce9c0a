"""Samples told apart by what they hold: ids of different tables may be equal, contents are not.

A key is a 128-bit BLAKE2b of the value and of the variant. Corruption draws by the id of a sample, so the
draw is part of a corrupted variant's keys.
"""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa

from sparing.data.samples import Samples
from sparing.errors import InputError
from sparing.ids import hash_ids
from sparing.images import Corruption

KEY_BYTES = 16

_FETCH = 128


def contents(samples: Samples) -> bytes:
    """Hash the value of every sample, in bounded memory.

    Args:
        samples: m samples.

    Returns:
        m hashes of 16 bytes, one after the other.

    Raises:
        InputError: a value cannot be read, or is of a type that cannot be hashed; its id is named.
    """
    hashes = bytearray()
    for start in range(0, len(samples), _FETCH):
        positions = np.arange(start, min(start + _FETCH, len(samples)))
        for position, value in zip(positions, samples.fetch(positions), strict=True):
            try:
                hashes += content(value)
            except TypeError as error:
                name = samples.ids[int(position)].as_py()
                raise InputError(f"{samples.what}: the value of id {name!r} {error}") from error
    return bytes(hashes)


def content(value: Any) -> bytes:
    """Hash one value: bytes, text, a number, a numpy array, or lists and mappings of those.

    Values of different types have different hashes, and so have arrays of different types or shapes.

    Args:
        value: the value.

    Returns:
        16 bytes.

    Raises:
        TypeError: a value of another type.
    """
    state = hashlib.blake2b(digest_size=KEY_BYTES)
    _feed(state, value)
    return state.digest()


def keys(hashes: bytes, ids: pa.Array, variant: Corruption) -> pa.Array:
    """Make the keys of samples under a variant.

    Args:
        hashes: m hashes, from `contents`.
        ids: m ids of the samples.
        variant: how the samples are corrupted.

    Returns:
        m keys, an Arrow array of 16 bytes each.
    """
    name = variant.name.encode()
    drawn = variant.severity != "clean"
    draws = hash_ids(ids, variant.seed).astype("<u8").tobytes() if drawn else bytes(8 * len(ids))
    made = bytearray()
    for row in range(len(ids)):
        one = hashes[KEY_BYTES * row : KEY_BYTES * (row + 1)]
        made += hashlib.blake2b(one + draws[8 * row : 8 * row + 8] + name, digest_size=KEY_BYTES).digest()
    return pa.Array.from_buffers(pa.binary(KEY_BYTES), len(ids), [None, pa.py_buffer(bytes(made))])


def _feed(state: Any, value: Any) -> None:
    """Add a value so that no two values add the same bytes: a tag, a length, the bytes."""
    if isinstance(value, bytes | bytearray | memoryview):
        _add(state, b"bytes", value)
    elif isinstance(value, str):
        _add(state, b"text", value.encode("utf-8", "surrogatepass"))
    elif isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufcSU":
        array = np.asarray(value)
        _add(state, b"array", f"{array.dtype.str}{array.shape}".encode())
        _add(state, b"data", np.ascontiguousarray(array).tobytes())
    elif value is None or isinstance(value, bool | int | float):
        _add(state, b"number", f"{type(value).__name__} {value!r}".encode())
    elif isinstance(value, list | tuple):
        _add(state, b"list", str(len(value)).encode())
        for item in value:
            _feed(state, item)
    elif isinstance(value, dict):
        _add(state, b"mapping", str(len(value)).encode())
        for key, item in value.items():
            _feed(state, key)
            _feed(state, item)
    else:
        raise TypeError(
            f"is of type {type(value).__name__}; outputs are kept for bytes, text, numbers, arrays, "
            "and lists of those"
        )


def _add(state: Any, tag: bytes, data: bytes | bytearray | memoryview) -> None:
    view = memoryview(data)
    state.update(b"%s %d " % (tag, view.nbytes))
    state.update(view if view.c_contiguous else view.tobytes())
