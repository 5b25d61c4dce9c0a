import os
import sys

import lance
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparing.data import samples as module
from sparing.data.samples import open_samples
from sparing.errors import InputError
from sparing.ids import as_ids

M = 50
IDS = [f"s{i}" for i in range(M)]
IMAGES = [bytes([i]) * (i + 1) for i in range(M)]


def table(**columns):
    base = {"id": IDS, "image": IMAGES, "label": list(range(M))}
    return pa.table({key: value for key, value in (base | columns).items() if value is not None})


def parquet(tmp_path, content, **options):
    path = tmp_path / "samples.parquet"
    pq.write_table(content, path, **options)
    return path


def lance_folder(tmp_path, content):
    lance.write_dataset(content, str(tmp_path / "samples.lance"), max_rows_per_file=20)
    return tmp_path / "samples.lance"


def folder(tmp_path):
    root = tmp_path / "samples"
    for name, content in zip(IDS, IMAGES, strict=True):
        path = root / ("even" if len(content) % 2 else "odd") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def every_kind(tmp_path):
    yield parquet(tmp_path, table(), row_group_size=7)
    yield lance_folder(tmp_path, table())
    yield table()
    yield table().to_reader(max_chunksize=7)
    yield dict(zip(IDS, IMAGES, strict=True))
    yield list(zip(IDS, IMAGES, strict=True))


def test_every_source_gives_the_same_values(tmp_path):
    rng = np.random.default_rng(0)
    for source in every_kind(tmp_path):
        samples = open_samples(source)
        assert len(samples) == M
        assert samples.ids.equals(pa.array(IDS))
        for positions in (rng.permutation(M), np.array([3, 3, 0, 49, 3]), np.array([7]), np.array([], int)):
            assert samples.fetch(positions) == [IMAGES[p] for p in positions]
        assert samples.index_of(pa.array(["s7", "nobody", "s0"])).tolist() == [7, -1, 0]
        labels = samples.labels()
        assert labels is None or labels.tolist() == list(range(M))


def test_labels_come_from_tables(tmp_path):
    for source in [*every_kind(tmp_path)][:4]:
        assert open_samples(source).labels().tolist() == list(range(M))
    assert open_samples({"a": 1}).labels() is None


@given(
    groups=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    budget=st.sampled_from([0, 200, 1 << 30]),
    data=st.data(),
)
def test_row_groups_in_any_order_and_any_memory(tmp_path_factory, groups, budget, data):
    n = sum(groups)
    path = tmp_path_factory.mktemp("groups") / "s.parquet"
    whole = pa.table({"id": list(range(n)), "value": [f"text {i}" * 5 for i in range(n)]})
    with pq.ParquetWriter(path, whole.schema) as writer:
        for end, size in zip(np.cumsum(groups), groups, strict=True):
            writer.write_table(whole.slice(end - size, size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROW_GROUP_CACHE_BYTES", budget)
        samples = open_samples(path)
        for _ in range(3):
            positions = data.draw(st.lists(st.integers(0, n - 1), max_size=30))
            assert samples.fetch(np.array(positions, int)) == [f"text {p}" * 5 for p in positions]


def test_memory_for_row_groups_is_bounded(tmp_path, monkeypatch):
    content = pa.table({"id": list(range(100)), "value": [bytes(1000)] * 100})
    path = parquet(tmp_path, content, row_group_size=10)
    monkeypatch.setattr(module, "ROW_GROUP_CACHE_BYTES", 35_000)
    held = []
    monkeypatch.setattr(
        module._RowGroups,
        "_group",
        lambda self, g, inner=module._RowGroups._group: note(self, inner(self, g)),
    )

    def note(groups, column):
        held.append(len(groups.held))
        return column

    samples = open_samples(path)
    samples.fetch(np.arange(100))
    assert max(held) == 3
    reads = []
    reader = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, g, **k: reads.append(g) or reader(self, g, **k)
    )
    samples.fetch(np.arange(100))
    assert len(reads) == 7  # the three in memory are used before they are pushed out


def test_a_changed_lance_data_set_keeps_positions(tmp_path):
    path = lance_folder(tmp_path, table())
    dataset = lance.dataset(str(path))
    dataset.delete("id IN ('s3', 's30')")
    samples = open_samples(path)
    left = [i for i in IDS if i not in ("s3", "s30")]
    assert samples.ids.to_pylist() == left
    assert samples.fetch(np.array([47, 3, 0])) == [IMAGES[49], IMAGES[4], IMAGES[0]]
    dataset.delete("id = 's0'")  # later changes do not move what is open
    assert samples.fetch(np.array([0])) == [IMAGES[0]]


def test_a_folder(tmp_path):
    root = folder(tmp_path)
    (root / ".DS_Store").write_bytes(b"x")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_bytes(b"x")
    samples = open_samples(root)
    names = sorted(("even/" if i % 2 == 0 else "odd/") + f"s{i}" for i in range(M))
    assert samples.ids.to_pylist() == names
    at = samples.index_of(pa.array(["odd/s7", "even/s4"]))
    assert samples.fetch(at) == [IMAGES[7], IMAGES[4]]
    assert samples.labels() is None


def test_unreadable_files_are_named(tmp_path):
    root = folder(tmp_path)
    samples = open_samples(root)
    (root / "odd" / "s7").unlink()
    with pytest.raises(InputError, match=r"the sample 'odd/s7' cannot be read: .*No such file"):
        samples.fetch(samples.index_of(pa.array(["even/s4", "odd/s7"])))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names themselves")
def test_file_names_that_are_no_text(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    with open(str(tmp_path).encode() + b"/\xff", "wb"):  # noqa: PTH123 - pathlib has no bytes
        pass
    with pytest.raises(InputError, match="not valid UTF-8"):
        open_samples(tmp_path)


def test_a_path_column_is_read_beside_the_table(tmp_path):
    root = folder(tmp_path)
    paths = [p.relative_to(tmp_path).as_posix() for p in sorted(root.rglob("s*"))]
    content = pa.table({"id": [p.rsplit("/", 1)[1] for p in paths], "image_path": paths})
    for source in (parquet(tmp_path, content), lance_folder(tmp_path, content)):
        samples = open_samples(source)
        at = samples.index_of(pa.array(["s7", "s0"]))
        assert samples.fetch(at) == [IMAGES[7], IMAGES[0]]
    samples = open_samples(parquet(tmp_path, pa.table({"id": ["a"], "path": ["nowhere.png"]})))
    with pytest.raises(InputError, match="the sample 'a' cannot be read"):
        samples.fetch(np.array([0]))


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.large_list(pa.int64()), pa.list_(pa.float64(), 2)]
)
def test_lists_become_arrays(tmp_path, kind):
    rows = [[2 * i, 2 * i + 1] for i in range(10)]
    content = pa.table({"id": list(range(10)), "value": pa.array(rows, kind)})
    for source in (
        parquet(tmp_path, content, row_group_size=3),
        lance_folder(tmp_path, content),
        content[4:],
    ):
        samples = open_samples(source)
        values = samples.fetch(np.array([5, 1]))
        ids = samples.ids.to_pylist()
        assert all(isinstance(v, np.ndarray) for v in values)
        assert [v.tolist() for v in values] == [rows[ids[5]], rows[ids[1]]]


def test_ragged_lists_and_scalars():
    content = pa.table({"id": [1, 2, 3], "value": [[1.0], [], [2.0, 3.0]], "n": [4, 5, 6]})
    assert [v.tolist() for v in open_samples(content).fetch(np.array([2, 1, 0]))] == [[2, 3], [], [1]]
    assert open_samples(content, column="n").fetch(np.array([2, 0])) == [6, 4]


def test_which_column_holds_the_values():
    assert open_samples(table(image=None, anything=IMAGES)).fetch(np.array([1])) == [IMAGES[1]]
    two = table(text=IDS, other=IDS)
    assert open_samples(two).fetch(np.array([1])) == [IMAGES[1]]
    assert open_samples(two, column="text").fetch(np.array([1])) == ["s1"]
    with pytest.raises(InputError, match="several \\('a', 'b'\\); choose the column"):
        open_samples(table(image=None, a=IDS, b=IDS))
    with pytest.raises(InputError, match="there are none"):
        open_samples(table(image=None))
    with pytest.raises(InputError, match="no column 'x'; there are 'id', 'image', 'label'"):
        open_samples(table(), column="x")


def test_which_column_holds_the_labels():
    content = table(truth=[*range(M - 1), None])
    assert open_samples(content, column="image", label_column="truth").labels().tolist() == [
        *range(M - 1),
        -1,
    ]
    assert open_samples(table(label=IDS)).labels() is None
    with pytest.raises(InputError, match="labels must be integers"):
        open_samples(table(label=IDS), label_column="label").labels()
    with pytest.raises(InputError, match="'s4' has the label -5"):
        open_samples(table(label=[0, 1, 2, 3, -5, *range(5, M)])).labels()
    with pytest.raises(InputError, match="no column 'y'"):
        open_samples(table(), label_column="y")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (table(id=None), "no column 'id'"),
        (table(id=[*IDS[:-1], None]), "the id is missing in row 49"),
        (table(id=[*IDS[:-1], "s3"]), "the id 's3' occurs 2 times"),
        (table(id=[0.5] * M), "strings or integers"),
        (table()[:0], "there are no samples"),
    ],
)
def test_bad_tables_are_refused(tmp_path, content, message):
    for source in (content, parquet(tmp_path, content), lance_folder(tmp_path, content)):
        with pytest.raises(InputError, match=message):
            open_samples(source)


def test_a_missing_value_is_named(tmp_path):
    content = table(image=[*IMAGES[:9], None, *IMAGES[10:]])
    for source in (content, parquet(tmp_path, content), lance_folder(tmp_path, content)):
        samples = open_samples(source)
        assert samples.fetch(np.array([8])) == [IMAGES[8]]
        with pytest.raises(InputError, match="the sample 's9' has no value in 'image'"):
            samples.fetch(np.array([10, 9]))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "there are no samples"),
        ([("a", 1), ("a", 2)], "'a' occurs 2 times"),
        ({"a": 1, 2: 3}, "all be strings or all be integers"),
        ([("a", 1, 2)], r"item 0 is not a pair"),
        ([1, 2], r"item 0 is not a pair"),
        (7, "got int"),
        ("nowhere.parquet", "no such file"),
    ],
)
def test_bad_sources_are_refused(source, message):
    with pytest.raises(InputError, match=message):
        open_samples(source)


def test_folders_that_hold_no_samples(tmp_path):
    with pytest.raises(InputError, match="there are no samples"):
        open_samples(tmp_path)
    parquet(tmp_path, table())
    with pytest.raises(InputError, match="a folder of Parquet files"):
        open_samples(tmp_path)
    broken = tmp_path / "broken.lance"
    (broken / "_versions").mkdir(parents=True)
    with pytest.raises(InputError, match="not a Lance data set"):
        open_samples(broken)
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(InputError, match="not a Parquet file"):
        open_samples(tmp_path / "text.parquet")
    with pytest.raises(InputError, match="a column can be chosen in tables only"):
        open_samples({"a": 1}, column="x")


def test_positions_out_of_range_are_refused():
    samples = open_samples({"a": 1, "b": 2})
    for position in (-1, 2):
        with pytest.raises(InputError, match="out of range"):
            samples.fetch(np.array([position]))


def test_ids_of_another_type_are_refused():
    with pytest.raises(InputError, match="of type string, but int64 was asked for"):
        open_samples({"a": 1}).index_of(as_ids([1]))


def test_pandas_frames_are_tables():
    frame = pd.DataFrame({"id": [5, 6], "text": ["x", "y"], "label": [1, 0]})
    samples = open_samples(frame)
    assert samples.fetch(np.array([1, 0])) == ["y", "x"]
    assert samples.labels().tolist() == [1, 0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ["pipe", "/dev/zero", ".", "absent"])
def test_a_path_that_is_no_regular_file_is_refused_at_once(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    pq.write_table(pa.table({"id": ["a"], "path": [name]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="the sample 'a' cannot be read"):
        open_samples(tmp_path / "t.parquet").fetch(np.array([0]))


def test_a_path_may_lead_anywhere(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "x").write_bytes(b"x")
    (tmp_path / "link").symlink_to("x")
    names = ["../x", str(tmp_path / "x"), "../link"]
    pq.write_table(pa.table({"id": ["a", "b", "c"], "path": names}), tmp_path / "tables" / "t.parquet")
    assert open_samples(tmp_path / "tables" / "t.parquet").fetch(np.arange(3)) == [b"x"] * 3
