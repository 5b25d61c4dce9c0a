import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparing.errors import InputError
from sparing.offload import Answer
from sparing.offload.session import AnswersWriter

ANSWER = Answer(np.array([0.5, 0.5], dtype=np.float32), "edge")


def test_a_table_appears_whole_and_leaves_nothing_beside_it(tmp_path):
    with AnswersWriter(tmp_path / "a.parquet") as writer:
        writer.write(pa.array(["s1"]), [ANSWER])
        assert not (tmp_path / "a.parquet").exists()
    assert pq.read_table(tmp_path / "a.parquet")["id"].to_pylist() == ["s1"]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_in_the_way_is_named_before_any_work(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="it is a folder"), AnswersWriter(tmp_path / "a"):
        pytest.fail("the work began")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_comes_meanwhile_leaves_nothing_behind(tmp_path):
    writer = AnswersWriter(tmp_path / "a")
    writer.__enter__()
    writer.write(pa.array(["s1"]), [ANSWER])
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        writer.__exit__(None, None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
