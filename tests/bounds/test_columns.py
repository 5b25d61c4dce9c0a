import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparing.bounds import columns
from sparing.errors import InputError


def test_csv_and_parquet_read_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "BATCH_VALUES", 4)
    content = pa.table({"id": ["a", "NONE", "NA"], "x": pa.array([1, None, 3])})
    pq.write_table(content, tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("id,x\na,1\nNONE,\nNA,3\n")
    for name in ("t.parquet", "t.csv"):
        table = columns.Table(tmp_path / name)
        assert table.names == ["id", "x"]
        assert table.rows == 3
        assert table.read(["x", "id"]).to_pydict() == {"x": [1, None, 3], "id": ["a", "NONE", "NA"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1\n", "neither a CSV nor a Parquet"),
        (b"", "neither a CSV nor a Parquet"),
        (b"PAR1 and then nothing", "neither a CSV nor a Parquet"),
        (b"a,a\n1,2\n", "column 'a' occurs twice"),
    ],
)
def test_what_is_no_table(tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        columns.Table(path)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        columns.Table(tmp_path / "none.csv")
    with pytest.raises(InputError, match="cannot be read"):
        columns.Table(tmp_path)


def test_listed():
    assert columns.listed(["a", "b"]) == "a, b"
    assert columns.listed(list(range(9))) == "0, 1, 2, 3, 4, 5 and 3 more"
