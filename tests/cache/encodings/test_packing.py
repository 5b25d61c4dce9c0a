import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparing.cache.encodings.packing import (
    column_type,
    from_column,
    from_halves,
    halves_of,
    pack,
    to_column,
    unpack,
)


@given(hnp.arrays(np.uint8, st.tuples(st.integers(0, 5), st.integers(2, 9)), elements=st.integers(0, 15)))
def test_packing_is_undone(halves):
    m, n = halves.shape
    kind = column_type(n)
    column = to_column(pack(halves), kind)
    assert column.type == kind
    np.testing.assert_array_equal(unpack(from_column(column), n), halves)
    padded = pa.concat_arrays([column, column])
    np.testing.assert_array_equal(unpack(from_column(padded.slice(m)), n), halves)


@given(hnp.arrays(np.uint32, st.tuples(st.integers(0, 5), st.integers(1, 4))))
def test_numbers_are_split_into_half_bytes(values):
    halves = halves_of(values, 8)
    assert halves.shape == (len(values), 8 * values.shape[1])
    for row, digits in zip(values, halves, strict=True):
        # As a hexadecimal text, lowest digit first.
        assert "".join(f"{v:08x}"[::-1] for v in row) == "".join(f"{d:x}" for d in digits)
    np.testing.assert_array_equal(from_halves(halves, 8, np.uint32), values)
