from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparing.data.tables import TableWriter, iter_outputs, list_column, read_outputs, write_outputs
from sparing.errors import InputError, StorageError


def probs(m, classes=3, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(classes), size=m).astype(np.float32)


def table(m=4, **columns):
    base = {"id": [f"s{i}" for i in range(m)], "probs": probs(m).tolist()}
    return pa.table({key: value for key, value in (base | columns).items() if value is not None})


def parquet(tmp_path, content):
    path = tmp_path / "outputs.parquet"
    pq.write_table(content, path)
    return path


def test_what_is_written_reads_back(tmp_path):
    path = tmp_path / "o.parquet"
    p = probs(100)
    labels = np.arange(100) % 4 - 1
    write_outputs(path, [f"s{i}" for i in range(100)], p, labels)
    back = read_outputs(path)
    assert back.ids.to_pylist() == [f"s{i}" for i in range(100)]
    np.testing.assert_allclose(back.probs, p, atol=1e-6)
    assert back.labels.tolist() == labels.tolist()
    assert pq.read_table(path).column("label").null_count == 25
    assert [f.name for f in tmp_path.iterdir()] == ["o.parquet"]


def test_without_labels(tmp_path):
    write_outputs(tmp_path / "o.parquet", [1, 2], probs(2))
    assert read_outputs(tmp_path / "o.parquet").labels is None


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "o.parquet"
    write_outputs(path, [1, 2], probs(2))
    before = path.read_bytes()
    many = np.vstack([probs(70_000), [[0.5, 0.5, 0.5]]])
    with pytest.raises(InputError, match=r"id 70000 sums to 1.5"):
        write_outputs(path, np.arange(70_001), many)
    assert path.read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["o.parquet"]


def test_a_folder_that_is_not_there_cannot_be_written_to(tmp_path):
    with pytest.raises(StorageError, match="could not be written"):
        write_outputs(tmp_path / "no" / "o.parquet", [1, 2], probs(2))


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(sum),
    chunk_rows=st.integers(1, 12),
)
def test_chunks_do_not_depend_on_the_batches(sizes, chunk_rows):
    whole = table(sum(sizes))
    edges = np.cumsum([0, *sizes])
    batches = [b for a, z in pairwise(edges) for b in whole.slice(a, z - a).to_batches()]
    reader = pa.RecordBatchReader.from_batches(whole.schema, batches)
    chunks = list(iter_outputs(reader, chunk_rows))
    assert [len(c) for c in chunks[:-1]] == [chunk_rows] * (len(chunks) - 1)
    assert [i for c in chunks for i in c.ids.to_pylist()] == whole.column("id").to_pylist()
    np.testing.assert_allclose(np.concatenate([c.probs for c in chunks]), probs(sum(sizes)), atol=1e-6)


def test_parquet_chunks_cross_row_groups(tmp_path):
    path = tmp_path / "o.parquet"
    pq.write_table(table(100), path, row_group_size=30)
    assert [len(c) for c in iter_outputs(path, 40)] == [40, 40, 20]


@pytest.mark.parametrize(
    "column",
    [
        list_column(probs(4).astype(np.float16)),
        pa.array(probs(4).tolist(), pa.list_(pa.float64())),
        pa.array(probs(4).tolist(), pa.large_list(pa.float32())),
        pa.FixedSizeListArray.from_arrays(pa.array(probs(4).ravel()), 3),
    ],
)
def test_any_list_of_floats_will_do(tmp_path, column):
    content = table(probs=column)
    for source in (content, parquet(tmp_path, content), content.to_reader()):
        back = read_outputs(source)
        assert back.probs.dtype == np.float32
        np.testing.assert_allclose(back.probs, probs(4), atol=1e-3)


def test_a_slice_reads_its_own_rows():
    for kind in (pa.list_(pa.float32()), pa.list_(pa.float32(), 3), pa.large_list(pa.float32())):
        part = table(probs=pa.array(probs(4).tolist(), kind)).slice(2)
        np.testing.assert_allclose(read_outputs(part).probs, probs(4)[2:], atol=1e-6)


def test_pandas_and_numpy_read_the_same():
    frame = pd.DataFrame({"id": [3, 1], "probs": probs(2).tolist(), "label": [2.0, np.nan]})
    for source in (frame, (np.array([3, 1]), probs(2), np.array([2, -1]))):
        back = read_outputs(source)
        assert back.ids.to_pylist() == [3, 1]
        assert back.labels.tolist() == [2, -1]
        np.testing.assert_allclose(back.probs, probs(2), atol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (table(id=None), r"no column 'id'; there are 'probs'"),
        (table(probs=None), r"no column 'probs'; there are 'id'"),
        (table(id=["a", "b", None, "d"]), "the id is missing in row 2"),
        (table(id=["a", "b", "c", "a"]), "the id 'a' occurs 2 times"),
        (table(id=[0.5, 1.0, 1.5, 2.0]), "strings or integers, not double"),
        (table(probs=["x"] * 4), "must be a list of C floats, not string"),
        (table(probs=[["x"]] * 4), "must be a list of C floats, not list<"),
        (table(probs=[0.5] * 4), "must be a list of C floats, not double"),
        (table(probs=[[0.5, 0.5]] * 3 + [[1.0]]), r"id 's3' has 1 entries in probs \(1 of 4 rows\)"),
        (table(probs=[[0.5, 0.5]] * 3 + [None]), "id 's3' has no probs"),
        (table(probs=[[0.5, None]] + [[0.5, 0.5]] * 3), "id 's0' has a missing entry"),
        (table(probs=[[0.5, float("nan")]] + [[0.5, 0.5]] * 3), "id 's0' holds NaN"),
        (table(probs=[[0.5, 0.5], [0.4, 0.4]] * 2), "id 's1' sums to 0.8"),
        (table(probs=[[0.5, 0.5], [1.5, -0.5]] * 2), "id 's1' has a negative probability"),
        (table(probs=[[0.5, 0.5], [4.0, -2.5]] * 2), "id 's1' sums to 1.5; these look like logits"),
        (table(probs=[[1.0]] * 4), "at least 2 classes"),
        (table(probs=pa.array([[]] * 4, pa.list_(pa.float32()))), "at least 2 classes"),
        (table(label=[0, 1, 2, 3]), r"id 's3' has the label 3 .* below 3"),
        (table(label=[0, -2, 2, 1]), "id 's1' has the label -2"),
        (table(label=["cat", "dog", "cat", "dog"]), "labels must be integers"),
        (table(label=[0.5, 1.0, 2.0, 0.0]), "labels must be integers"),
        (table().slice(0, 0), "the table is empty"),
    ],
)
def test_bad_tables_are_refused(tmp_path, content, message):
    path = parquet(tmp_path, content)
    for source in (content, path):
        with pytest.raises(InputError, match=message):
            read_outputs(source)


def test_duplicates_and_lengths_are_seen_across_chunks():
    with pytest.raises(InputError, match="'s1' occurs 2 times"):
        list(iter_outputs(table(5, id=["s0", "s1", "s2", "s3", "s1"]), 2))
    with pytest.raises(InputError, match=r"'s4' has 2 entries in probs .* have 3"):
        list(iter_outputs(table(5, probs=[*probs(4).tolist(), [0.5, 0.5]]), 2))


def test_what_the_schema_says_is_checked_before_reading():
    with pytest.raises(InputError, match="no column 'probs'"):
        iter_outputs(table(probs=None))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (([1, 2], probs(3)), "2 ids but 3 rows"),
        (([1, 2], [0.5, 0.5]), r"shape \(m, C\)"),
        (([1, 2], probs(2), [1]), "1 labels for 2 ids"),
        (([1, 2],), "got 1 parts"),
        ([1, 2], "got list"),
        (([], np.zeros((0, 3))), "the table is empty"),
    ],
)
def test_bad_arrays_are_refused(source, message):
    with pytest.raises(InputError, match=message):
        read_outputs(source)


def test_files_that_are_no_parquet_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_outputs(tmp_path / "none.parquet")
    with pytest.raises(InputError, match="is a folder"):
        read_outputs(tmp_path)
    text = tmp_path / "text.parquet"
    text.write_text("id,probs\n")
    with pytest.raises(InputError, match="not a Parquet file, or cut short"):
        read_outputs(text)
    whole = parquet(tmp_path, table(1000))
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a Parquet file, or cut short"):
        read_outputs(cut)


def test_damage_in_the_middle_is_reported(tmp_path):
    path = tmp_path / "outputs.parquet"
    pq.write_table(table(20_000), path, compression="zstd")
    content = bytearray(path.read_bytes())
    content[1000:60_000] = bytes(59_000)
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        read_outputs(path)


ROW = pa.table({"id": ["s1"], "probs": [[0.5, 0.5]]})


def test_a_table_written_in_chunks_appears_whole_and_leaves_nothing_beside_it(tmp_path):
    with TableWriter(tmp_path / "a.parquet") as writer:
        writer.write(ROW)
        writer.write(ROW)
        assert not (tmp_path / "a.parquet").exists()
    assert pq.read_table(tmp_path / "a.parquet")["id"].to_pylist() == ["s1", "s1"]
    assert len(list(tmp_path.iterdir())) == 1


def test_an_error_between_two_chunks_leaves_the_old_table_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), TableWriter(path) as writer:  # noqa: PT012
        writer.write(ROW)
        1 / 0  # noqa: B018
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_in_the_way_is_named_before_any_work(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="it is a folder"), TableWriter(tmp_path / "a"):
        pytest.fail("the work began")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_comes_meanwhile_leaves_nothing_behind(tmp_path):
    writer = TableWriter(tmp_path / "a")
    writer.__enter__()
    writer.write(ROW)
    (tmp_path / "a").mkdir()
    with pytest.raises(StorageError, match="could not be written"):
        writer.__exit__(None, None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_error_of_the_work_in_between_is_not_blamed_on_the_table(tmp_path):
    with pytest.raises(ConnectionError), TableWriter(tmp_path / "a") as writer:  # noqa: PT012
        writer.write(ROW)
        raise ConnectionError("the server went away")
    assert list(tmp_path.iterdir()) == []


def test_arrays_of_other_libraries():
    torch = pytest.importorskip("torch")
    probs = torch.tensor([[0.25, 0.75]], requires_grad=True)
    for some in (probs, probs.to(torch.bfloat16), [probs[0]]):
        np.testing.assert_array_equal(read_outputs((["a"], some)).probs, [[0.25, 0.75]])
    with pytest.raises(InputError, match="probs are not one array of numbers"):
        read_outputs((["a", "b"], [[0.5, 0.5], [1.0]]))
