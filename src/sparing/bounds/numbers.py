"""Columns of numbers as people write them: plain, with thousands separated, in percent, or with a unit."""

import re
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sparing.errors import InputError

_CELL = re.compile(
    r"(?P<number>[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|\.)?(?:[eE][+-]?\d+)?)\s*(?P<unit>%|[^\W\d_][^\d,]*)?"
)


def read_numbers(column: pa.ChunkedArray, where: str) -> tuple[npt.NDArray[np.float64], str]:
    """Read a column as numbers: "1,200" is 1200, "77.7%" is 0.777, and "2.1 ms" is 2.1.

    Args:
        column: m cells, numbers or texts; texts have one unit, or none, in the whole column.
        where: the file and the column, for messages, such as "states.csv: cost".

    Returns:
        Shape (m,), and the unit: "" for none, "%" where the values were percentages.

    Raises:
        InputError: a cell is empty, is not a number, or has another unit than the first; row and value are
            named. Rows are counted from 1, below the names of the columns.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if column.null_count:
        row = column.is_null().index(True).as_py()
        raise InputError(f"{where} is empty in row {row + 1}; expected a number in every row")
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.float64(), safe=False).to_numpy(), ""
    if not text:
        raise InputError(f"{where} holds values of type {kind} such as {_first(column)!r}, not numbers")
    values, unit = np.empty(len(column)), ""
    for row, cell in enumerate(column.to_pylist()):
        read = _parse(cell)
        if read is None:
            raise InputError(
                f"{where} is {cell!r} in row {row + 1}, not a number; correct the cell or leave out the row"
            )
        values[row] = read[0]
        if row and read[1] != unit:
            raise InputError(
                f"{where} is {cell!r} in row {row + 1}, and {_first(column)!r} in row 1; "
                "write the whole column in one unit"
            )
        unit = read[1]
    return values, unit


def row_that_is_no_number(column: pa.Array) -> int | None:
    """Find the first text that is not a number, in an Arrow array of texts that are numbers otherwise.

    Returns:
        Its position; None if all are numbers, or as many others are not.
    """
    bad = [row for row, cell in enumerate(column.to_pylist()) if cell is not None and _parse(cell) is None]
    return bad[0] if bad and 2 * len(bad) < len(column) else None


def _parse(text: str) -> tuple[float, str] | None:
    match = _CELL.fullmatch(text.strip())
    if match is None or not any(character.isdigit() for character in match["number"]):
        return None
    unit = match["unit"] or ""
    number = Decimal(match["number"].replace(",", ""))
    return float(number / 100 if unit == "%" else number), unit


def _first(column: pa.ChunkedArray) -> Any:
    return column[0].as_py() if len(column) else None
