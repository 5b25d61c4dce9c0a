import numpy as np
import pytest

from sparing.bounds import read_costs, read_outcomes, read_priced_outcomes, read_sample_costs
from sparing.errors import InputError


def write(path, text):
    path.write_text(text)
    return path


def test_the_costs_say_which_columns_are_models(tmp_path):
    outcomes = write(tmp_path / "o.csv", "id,b,topic,a\nx,1,t,0\ny,0,u,1\n")
    costs = write(tmp_path / "c.toml", "[costs]\na = 1\nb = 2\nc = 3\n")
    found, prices = read_priced_outcomes([outcomes], costs)
    assert found.names == ("b", "a")
    assert prices.tolist() == [2, 1]
    assert len(found.notes) == 2
    assert "topic" in found.notes[0]
    assert "no outcomes of c" in found.notes[1]
    table = write(tmp_path / "c.csv", "id,a,b\ny,3,4\nx,1,2\n")
    np.testing.assert_array_equal(read_priced_outcomes([outcomes], table)[1], [[2, 1], [4, 3]])
    with pytest.raises(InputError, match="no column has a cost"):
        read_priced_outcomes([outcomes], write(tmp_path / "d.toml", "[costs]\nz = 1\n"))
    with pytest.raises(InputError, match="no table was given"):
        read_priced_outcomes([], costs)


def test_costs(tmp_path):
    path = write(tmp_path / "c.toml", '[costs]\nsmall = 1\n"Llama-2 7B" = 2.5\n')
    assert read_costs(path) == {"small": 1.0, "Llama-2 7B": 2.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "costs is missing"),
        ("[costs]", "costs needs one line 'model = number' per model"),
        ("costs = 3", "costs must be a table, got 3"),
        ("[costs]\na = 1\n[cost]\nb = 1", "unknown key 'cost'; there are 'costs'"),
        ("[costs]\na = -1", "costs.a must be a number from 0, got -1"),
        ("[costs]\na = nan", "costs.a must be a number from 0, got nan"),
        ("[costs]\na = true", "costs.a must be a number from 0, got True"),
        ("[costs]\na = 'x'", "costs.a must be a number from 0, got 'x'"),
        ("[costs", "not valid TOML"),
    ],
)
def test_bad_costs(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_costs(write(tmp_path / "c.toml", text))
    with pytest.raises(InputError, match="cannot be read"):
        read_costs(tmp_path / "none.toml")


def test_costs_per_sample(tmp_path):
    outcomes = read_outcomes([write(tmp_path / "o.csv", "id,a,b\nx,1,0\ny,0,1\n")])
    path = write(tmp_path / "c.csv", "id,b,a,other\ny,4,3,\nz,9,9,\nx,2,1,\n")
    assert read_sample_costs(path, outcomes).tolist() == [[1, 2], [3, 4]]
    write(path, "id,a,b\nx,1,2\n")
    with pytest.raises(InputError, match=r"id 'y' has no costs \(1 of 2 rows\)"):
        read_sample_costs(path, outcomes)
    write(path, "id,a,b\nx,1,2\ny,1,-2\n")
    with pytest.raises(InputError, match="cost of 'b' for id 'y' is -2"):
        read_sample_costs(path, outcomes)
    write(path, "id,a,b\nx,1,2\ny,1,\n")
    with pytest.raises(InputError, match="column 'b' is empty in row 2"):
        read_sample_costs(path, outcomes)
    write(path, "id,a,b\nx,1,2\ny,n/a,3\n")
    with pytest.raises(InputError, match="column 'a' is 'n/a' in row 2, not a number"):
        read_sample_costs(path, outcomes)
    write(path, "id,a,b\nx,1 ms,2 s\ny,3 ms,3 s\n")
    with pytest.raises(InputError, match="column 'b' is in s, column 'a' in ms; write all costs in one unit"):
        read_sample_costs(path, outcomes)
    write(path, 'id,a,b\nx,1 ms,2 ms\ny,"3,000 ms",4 ms\n')
    assert read_sample_costs(path, outcomes).tolist() == [[1, 2], [3000, 4]]
    write(path, "id,a,b\n1,1,2\n2,1,3\n")
    with pytest.raises(InputError, match="same type"):
        read_sample_costs(path, outcomes)
