import numpy as np
import pyarrow as pa
import pytest

from sparing.bounds.numbers import read_numbers, row_that_is_no_number
from sparing.errors import InputError


@pytest.mark.parametrize(
    ("cells", "values", "unit"),
    [
        (["77.7%", "80 %", "5.25%"], [0.777, 0.8, 0.0525], "%"),
        (["1,200", "800", "1,234,567.5"], [1200, 800, 1234567.5], ""),
        (["2.1 ms", "1,200ms", ".5 ms"], [2.1, 1200, 0.5], "ms"),
        (["1e3", "-2.5E-1", "+7", "3."], [1000, -0.25, 7, 3], ""),
        (["1 GFLOPs", "2 GFLOPs"], [1, 2], "GFLOPs"),
        (["3 $/1M tokens"], None, "not a number"),
    ],
)
def test_numbers_as_people_write_them(cells, values, unit):
    column = pa.chunked_array([pa.array(cells)])
    if values is None:
        with pytest.raises(InputError, match=unit):
            read_numbers(column, "t: cost")
        return
    found, found_unit = read_numbers(column, "t: cost")
    assert found.tolist() == values
    assert found_unit == unit
    for one in (pa.chunked_array([pa.array(cells).dictionary_encode()]), column.cast(pa.large_string())):
        assert read_numbers(one, "t: cost")[0].tolist() == values


def test_columns_of_numbers_stay_as_they_are():
    for kind in (pa.int32(), pa.float32(), pa.decimal128(30, 2), pa.uint8()):
        column = pa.chunked_array([pa.array([1, 2], pa.int64()).cast(kind), pa.array([3]).cast(kind)])
        found, unit = read_numbers(column, "t: cost")
        np.testing.assert_array_equal(found, [1, 2, 3])
        assert found.dtype == np.float64
        assert unit == ""


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["1", "0.5", "n/a", "x"], "t: cost is 'n/a' in row 3, not a number"),
        (["1", "12,34"], "t: cost is '12,34' in row 2, not a number"),
        (["1", " "], "t: cost is ' ' in row 2, not a number"),
        (["ms"], "t: cost is 'ms' in row 1, not a number"),
        (["nan"], "t: cost is 'nan' in row 1, not a number"),
        (["1.2.3"], "not a number"),
        (
            ["2 ms", "1 s"],
            "t: cost is '1 s' in row 2, and '2 ms' in row 1; write the whole column in one unit",
        ),
        (["77%", "0.8"], "t: cost is '0.8' in row 2, and '77%' in row 1"),
        (["1", None], "t: cost is empty in row 2"),
        ([1.5, None], "t: cost is empty in row 2"),
        ([True, False], "holds values of type bool such as True, not numbers"),
    ],
)
def test_what_is_no_number_is_named_with_its_row(cells, message):
    with pytest.raises(InputError, match=message):
        read_numbers(pa.chunked_array([pa.array(cells)]), "t: cost")


def test_one_text_among_numbers_is_found_and_texts_are_left_alone():
    assert row_that_is_no_number(pa.array(["1", "0", None, "n/a", "1"])) == 3
    assert row_that_is_no_number(pa.array(["cat", "dog", "1"])) is None
    assert row_that_is_no_number(pa.array(["1", "0"])) is None
