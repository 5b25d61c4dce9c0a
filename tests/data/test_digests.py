import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparing.data.digests import digest_values

VALUES = st.recursive(
    st.one_of(st.binary(), st.text(), st.integers(), st.none(), st.booleans()),
    lambda each: st.one_of(st.lists(each), st.dictionaries(st.text(), each)),
    max_leaves=5,
)


@given(st.lists(VALUES, min_size=1, max_size=8))
def test_equal_values_have_equal_digests_and_others_do_not(values):
    digests = digest_values(values)
    for value, digest in zip(values, digests, strict=True):
        for other, theirs in zip(values, digests, strict=True):
            assert (digest == theirs) == (repr(value) == repr(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["ab", "c"], ["a", "bc"]),
        ("1", 1),
        (b"1", "1"),
        (np.zeros(4, np.float32), np.zeros(4, np.int32)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (1, 1.0),
        ({"a": [1]}, {"a": [], "b": [1]}),
    ],
)
def test_what_looks_alike_differs(one, other):
    assert digest_values([one])[0] != digest_values([other])[0]


def test_another_process_returns_the_same():
    code = (
        "from sparing.data.digests import digest_values; print(digest_values([b'x', 'y', [1, 2.5]]).tolist())"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.strip() == str(digest_values([b"x", "y", [1, 2.5]]).tolist())
