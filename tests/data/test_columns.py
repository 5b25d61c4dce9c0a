from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparing.data.columns import SampleColumns, open_columns
from sparing.data.samples import open_samples
from sparing.errors import InputError

IDS = [f"s{i}" for i in range(40)]


def table():
    return pa.table(
        {
            "id": IDS,
            "kind": pa.array([f"k{i % 3}" for i in range(40)]).dictionary_encode(),
            "size": pa.array([None if i == 2 else i for i in range(40)]),
            "old": [i % 2 == 0 for i in range(40)],
            "day": [date(2026, 1, 1 + i % 20) for i in range(40)],
            "text": [f"sentence number {i}" for i in range(40)],
            "vector": [None if i == 1 else [float(i), 1.0] for i in range(40)],
        }
    )


def test_types():
    found = SampleColumns(table(), "files")
    assert found.kinds == {
        "kind": "category",
        "size": "number",
        "old": "category",
        "day": "number",
        "text": "text",
        "vector": "vector",
    }
    rows = found.read(pa.array(["s2", "nobody", "s1"]))
    assert rows["kind"] == ["k2", None, "k1"]
    assert rows["old"] == ["true", None, "false"]
    np.testing.assert_array_equal(rows["size"], [np.nan, np.nan, 1])
    np.testing.assert_array_equal(rows["vector"], [[2, 1], [np.nan, np.nan], [np.nan, np.nan]])
    assert rows["text"] == ["sentence number 2", None, "sentence number 1"]
    assert rows["day"][0] - rows["day"][2] == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"id": ["a", "b"]}, "no columns to learn from"),
        ({"id": ["a", "a"], "x": [1, 2]}, "occurs 2 times"),
        ({"id": ["a", "b"], "x": [{"y": 1}, {"y": 2}]}, "of type struct.*nothing is learned"),
        ({"id": ["a", "b"], "x": [[1.0], [1.0, 2.0]]}, "lengths 1 to 2"),
        ({"id": ["a", "b"], "x": [b"1", b"2"]}, "of type binary"),
    ],
)
def test_bad_tables_are_named(values, message):
    with pytest.raises(InputError, match=message):
        SampleColumns(pa.table(values), "files")


def test_where_columns_come_from(tmp_path):
    path = tmp_path / "files.parquet"
    pq.write_table(table(), path)
    whole = open_columns(str(path), None)
    assert list(whole.kinds) == table().column_names[1:]
    assert list(open_columns(f"{path}:kind,size", None).kinds) == ["kind", "size"]
    assert open_columns(path, None).digest == whole.digest == open_columns(table(), None).digest
    assert open_columns(f"{path}:kind", None).digest != whole.digest
    for samples in (open_samples(path, column="text"), open_samples(table(), column="text")):
        for source in ("kind, size", ["kind", "size"]):
            assert list(open_columns(source, samples).kinds) == ["kind", "size"]
        with pytest.raises(InputError, match="no column 'colour'"):
            open_columns("colour", samples)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("kind,size", "columns of the samples: give the samples"),
        ("kind,,size", "separated by commas"),
        ("kind,kind", "separated by commas"),
        ("nowhere.parquet", "no such file"),
        (7, "not int"),
        (pa.table({"x": [1]}), "no column 'id'"),
    ],
)
def test_bad_sources_are_named(source, message):
    with pytest.raises(InputError, match=message):
        open_columns(source, None)


def test_samples_without_columns_say_so():
    with pytest.raises(InputError, match="have no columns"):
        open_columns("kind", open_samples({"a": 1}))


def test_other_values_are_another_digest():
    changed = table().set_column(2, "size", pa.array(range(1, 41)))
    assert SampleColumns(changed, "files").digest != SampleColumns(table(), "files").digest


def test_ids_of_another_type():
    with pytest.raises(InputError, match="same type"):
        SampleColumns(table(), "files").read(pa.array([1, 2]))
