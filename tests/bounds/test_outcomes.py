import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparing.bounds import read_outcomes
from sparing.errors import InputError


def write(path, text):
    path.write_text(text)
    return path


def output_table(path, ids, probs, labels=None):
    columns = {"id": ids, "probs": pa.array(probs, pa.list_(pa.float32()))}
    if labels is not None:
        columns["label"] = labels
    pq.write_table(pa.table(columns), path)
    return path


def test_correctness_as_csv_and_parquet(tmp_path):
    expected = [[True, False], [False, True]]
    for text in ("id,a,b\nx,1,0\ny,0,1\n", "id,a,b\nx,true,false\ny,False,True\n"):
        found = read_outcomes([write(tmp_path / "o.csv", text)])
        assert found.names == ("a", "b")
        assert found.ids.to_pylist() == ["x", "y"]
        assert found.correct.tolist() == expected
        assert found.classes is None
    pq.write_table(pa.table({"id": [1, 2], "a": [True, False], "b": [0.0, 1.0]}), tmp_path / "o.parquet")
    assert read_outcomes([tmp_path / "o.parquet"]).correct.tolist() == expected


def test_predictions_with_a_label(tmp_path):
    path = write(tmp_path / "o.csv", "q,answer,topic,options,a,b\n7,A,x,4,A,NONE\n8,B,y,3,A,B\n")
    found = read_outcomes(
        [path], models=["a", "b"], id_column="q", label_column="answer", classes_column="options"
    )
    assert found.correct.tolist() == [[True, False], [False, True]]
    assert found.classes.tolist() == [4, 3]
    assert read_outcomes([path], models=["b"], id_column="q", label_column="answer").classes == 2


MISSING = "id,label,a,b,c\n1,0,0,0,0\n2,1,1,,1\n3,0,1,0,0\n"


def test_missing_outcomes_stop_by_default(tmp_path):
    path = write(tmp_path / "o.csv", MISSING)
    with pytest.raises(InputError, match=r"1 of 3 models lack some of the 3 samples: b \(1\).*keep the 2"):
        read_outcomes([path])
    with pytest.raises(InputError, match="'skip' must be one of"):
        read_outcomes([path], missing="skip")


@pytest.mark.parametrize(
    ("missing", "names", "ids", "correct"),
    [
        ("rows", "abc", [1, 3], [[1, 1, 1], [0, 1, 1]]),
        ("models", "ac", [1, 2, 3], [[1, 1], [1, 1], [0, 1]]),
        ("wrong", "abc", [1, 2, 3], [[1, 1, 1], [1, 0, 1], [0, 1, 1]]),
    ],
)
def test_missing_outcomes_on_request(tmp_path, missing, names, ids, correct):
    found = read_outcomes([write(tmp_path / "o.csv", MISSING)], missing=missing)
    assert "".join(found.names) == names
    assert found.ids.to_pylist() == ids
    assert found.correct.tolist() == np.array(correct, bool).tolist()
    assert len(found.notes) == 1


def test_output_tables_are_matched_by_id(tmp_path):
    a = output_table(tmp_path / "small.parquet", ["x", "y"], [[0.9, 0.1], [0.8, 0.2]], [0, 1])
    b = output_table(tmp_path / "large.parquet", ["y", "x"], [[0.1, 0.9], [0.2, 0.8]])
    found = read_outcomes([a, b])
    assert found.names == ("small", "large")
    assert found.ids.to_pylist() == ["x", "y"]
    assert found.correct.tolist() == [[True, False], [False, True]]
    assert found.classes == 2


def test_output_tables_that_do_not_match(tmp_path):
    a = output_table(tmp_path / "a.parquet", ["x", "y"], [[0.9, 0.1]] * 2, [0, 1])
    half = output_table(tmp_path / "b.parquet", ["y", "z"], [[0.9, 0.1]] * 2, [1, 0])
    with pytest.raises(InputError, match="2 of 2 models lack some of the 3 samples"):
        read_outcomes([a, half])
    assert read_outcomes([a, half], missing="rows").ids.to_pylist() == ["y"]
    other = output_table(tmp_path / "c.parquet", ["p", "q"], [[0.9, 0.1]] * 2, [1, 0])
    with pytest.raises(InputError, match="do the ids match"):
        read_outcomes([a, other], missing="rows")
    with pytest.raises(InputError, match="every model lacks some"):
        read_outcomes([a, other], missing="models")
    numbers = output_table(tmp_path / "d.parquet", [1, 2], [[0.9, 0.1]] * 2)
    with pytest.raises(InputError, match="same type"):
        read_outcomes([a, numbers])
    conflict = output_table(tmp_path / "e.parquet", ["x", "y"], [[0.9, 0.1]] * 2, [1, 1])
    with pytest.raises(InputError, match="id 'x' has another label before"):
        read_outcomes([a, conflict])
    wide = output_table(tmp_path / "f.parquet", ["x", "y"], [[0.8, 0.1, 0.1]] * 2)
    with pytest.raises(InputError, match="has 3 classes, but"):
        read_outcomes([a, wide])
    with pytest.raises(InputError, match="has no label in any"):
        read_outcomes([wide])
    (tmp_path / "sub").mkdir()
    twin = output_table(tmp_path / "sub" / "a.parquet", ["x", "y"], [[0.9, 0.1]] * 2)
    with pytest.raises(InputError, match="two tables are named 'a'"):
        read_outcomes([a, twin])
    with pytest.raises(InputError, match="several tables are read as output tables"):
        read_outcomes([write(tmp_path / "o.csv", "id,a\n1,1\n"), a])
    logits = output_table(tmp_path / "g.parquet", ["x", "y"], [[3.0, -1.0]] * 2)
    with pytest.raises(InputError, match="look like logits"):
        read_outcomes([a, logits])
    ragged = output_table(tmp_path / "h.parquet", ["x", "y"], [[0.5, 0.5], [1.0]])
    with pytest.raises(InputError, match="has 1 entries in probs"):
        read_outcomes([a, ragged])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,a\n1,1\n1,0\n", "id 1 occurs 2 times"),
        ("id,a\n1,1\n,0\n", "id is missing in row 1"),
        ("id,a\n", "has no rows"),
        ("id\n1\n", "no column of a model"),
        ("name,a\n1,1\n", r"no column 'id'; name the id column \(--id\)"),
        ("id,a\n1,0.5\n", r"column 'a' is 0\.5 in row 1; without a label column"),
        ("id,a\n1,1\n2,n/a\n3,0\n", "column 'a' is 'n/a' in row 2, where other rows hold numbers"),
        (
            "id,label,a\n1,3,3\n2,3,2\n3,2,n/a\n",
            "column 'a' is 'n/a' in row 3, where other rows hold numbers",
        ),
        ("id,a\n1,cat\n", "holds string; without a label column"),
        ("id,label,a\n1,cat,3\n", "holds int64, but the labels are string"),
        ("id,label,a\n1,,3\n2,3,3\n", "1 rows have no label"),
        ("id,a\n1.5,1\n", "column 'id': ids must be strings or integers, not double"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_outcomes([write(tmp_path / "o.csv", text)])


def test_categories_are_read_as_what_they_stand_for(tmp_path):
    answers = pa.array(["A", "B"]).dictionary_encode()
    labels = pa.array(["A", "A"]).dictionary_encode()
    pq.write_table(pa.table({"id": [1, 2], "label": labels, "a": answers}), tmp_path / "o.parquet")
    assert read_outcomes([tmp_path / "o.parquet"]).correct.tolist() == [[True], [False]]


def test_output_tables_have_no_column_of_classes(tmp_path):
    path = output_table(tmp_path / "a.parquet", ["x"], [[0.9, 0.1]], [0])
    with pytest.raises(InputError, match="says itself how many classes"):
        read_outcomes([path], classes_column="options")
