import itertools

import numpy as np
import pyarrow as pa
import pytest

from sparing.data.samples import open_samples
from sparing.errors import InputError
from sparing.images import CLEAN, Corruption
from sparing.route.hashing import KEY_BYTES, content, contents, keys

DIFFERENT = [
    b"1",
    "1",
    1,
    1.0,
    True,
    None,
    np.array([1], np.int8),
    np.array([1], np.uint8),
    np.array([[1]], np.int8),
    np.array(1, np.int8),
    np.array([1, 2, 3, 4], np.int16),
    np.array([[1, 2], [3, 4]], np.int16),
    np.array([[1, 3], [2, 4]], np.int16),
    [1],
    ["1", "2"],
    ["12"],
    [["1"], "2"],
    {"a": 1},
    {"a": 2},
    [],
    b"",
    "",
    float("nan"),
]


def test_different_values_have_different_hashes():
    for left, right in itertools.combinations(DIFFERENT, 2):
        assert content(left) != content(right), (left, right)


def test_equal_values_have_equal_hashes():
    assert content(b"abc") == content(bytearray(b"abc")) == content(memoryview(b"xabcx")[1:4])
    grid = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert content(grid) == content(np.asfortranarray(grid)) == content(grid[::-1][::-1])
    assert content((1, 2)) == content([1, 2])
    assert len(content("x")) == KEY_BYTES


def test_what_cannot_be_hashed_is_named():
    with pytest.raises(InputError, match=r"the value of id 'b' is of type object"):
        contents(open_samples({"a": 1, "b": object()}))
    with pytest.raises(InputError, match=r"is of type ndarray"):
        contents(open_samples({"a": np.array([object()])}))


def test_keys_tell_variants_apart_and_ids_only_where_these_draw():
    same = open_samples({"a": "x", "b": "x", "c": "y"})
    hashes = contents(same)
    clean = keys(hashes, same.ids, CLEAN).to_pylist()
    assert clean[0] == clean[1] != clean[2]
    severe = keys(hashes, same.ids, Corruption("severe")).to_pylist()
    other = keys(hashes, same.ids, Corruption("severe", seed=1)).to_pylist()
    assert len({*clean, *severe, *other}) == 2 + 3 + 3
    again = keys(contents(open_samples({"b": "x"})), pa.array(["b"]), Corruption("severe")).to_pylist()
    assert again == severe[1:2]


def test_long_tables_are_read_in_parts():
    values = {i: i % 200 for i in range(500)}
    hashes = contents(open_samples(values))
    assert len(hashes) == 500 * KEY_BYTES
    assert len(set(keys(hashes, pa.array(range(500)), CLEAN).to_pylist())) == 200
    assert hashes[: 300 * KEY_BYTES] == hashes[200 * KEY_BYTES :]
