import numpy as np
import pyarrow as pa

from sparing.offload import Answer
from sparing.offload.session import answers_table


def test_answers_become_rows_with_the_account_of_each_request():
    answers = [
        Answer(np.array([0.5, 0.5], dtype=np.float32), "edge"),
        Answer(np.array([0.25, 0.75], dtype=np.float32), "server"),
    ]
    table = answers_table(pa.array(["s1", "s2"]), answers)
    assert table["id"].to_pylist() == ["s1", "s2"]
    assert table["probs"].to_pylist() == [[0.5, 0.5], [0.25, 0.75]]
    assert table["by"].to_pylist() == ["edge", "server"]
    assert table["link_seconds"].type == pa.float64()
