import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.refresh.conftest import outputs_of

from sparing.data.tables import write_outputs

IDS = [f"s{i:04d}" for i in range(300)]
LABELS = np.random.default_rng(0).integers(0, 5, 300)


@pytest.fixture
def outputs(tmp_path):
    for name in ("m0", "m1", "m2"):
        write_outputs(tmp_path / f"{name}.parquet", pa.array(IDS), outputs_of(name, range(300)), LABELS)
    return tmp_path


def test_evaluate_as_json(sparing, outputs):
    asked = ("--rates", "20%,0.5", "--scorers", "entropy,change,random", "--seeds", "2")
    result = sparing("evaluate", "--old", "m0.parquet", "--new", "b=m1.parquet", *asked, "--json").json
    assert set(result["scorers"]) == {"entropy", "change", "random"}
    assert set(result["scorers"]["entropy"]) == {"0.2", "0.5"}
    assert (result["target"], result["rows"], result["train_rows"], result["test_rows"]) == (
        "b",
        300,
        150,
        150,
    )
    assert result["advice"].endswith(".")


def test_evaluate_for_people(sparing, outputs):
    result = sparing(
        "evaluate", "--old", "m0.parquet", "--new", "m1.parquet", "--new", "m2.parquet", "--seeds", "1"
    )
    assert "target m2" in result.out
    assert "oracle-gain" in result.out
    assert result.out.strip().splitlines()[-1].endswith(".")


def test_simulate(sparing, outputs):
    rounds = [part for name in ("m0", "m1", "m2") for part in ("--round", f"{name}.parquet")]
    asked = ("--method", "pure,entropy,full", "--seeds", "1", "--train-rows", "50")
    result = sparing("simulate", *rounds, *asked, "--json").json
    assert result["methods"]["entropy"]["forwards"] == [150, 150]
    assert result["methods"]["full"]["consistency"] == [1, 1, 1]
    assert result["methods"]["pure"]["forwards"][1] > 150
    assert result["within_budget"]["pure"]["forwards"][1] <= 150
    told = sparing("simulate", *rounds, *asked).out
    assert "as the paper counts" in told
    assert "at equal forwards" in told


def test_mistakes_are_told_in_a_sentence(sparing, outputs):
    asked = ("evaluate", "--old", "m0.parquet", "--new")
    for arguments, message in (
        ((*asked, "m1.parquet", "--scorers", "clever"), "there is no scorer"),
        ((*asked, "a=m1.parquet", "--new", "a=m2.parquet"), "two models are called 'a'"),
        ((*asked, "missing.parquet"), "missing.parquet"),
        (("simulate", "--round", "m0.parquet"), "two output tables"),
    ):
        result = sparing(*arguments)
        assert result.code == 1
        assert message in result.err


def test_correction_and_pooling_from_the_command_line(sparing, files):
    old = files / "old.parquet"
    sparing("cache", "import", "c.lance", "--from", old, "--model", "old")
    write_outputs(files / "m1.parquet", pa.array(IDS), outputs_of("m1", range(300)))
    write_outputs(files / "m2.parquet", pa.array(IDS), outputs_of("m2", range(300)))
    budget = ("--budget", "50%")
    sparing("refresh", "c.lance", "--model", "m1=m1.parquet", *budget)
    both = ("--model", "m2=m2.parquet", "--recent", "m1=m1.parquet", *budget)
    dry = sparing("refresh", "c.lance", *both, "--correct", "--dry-run").out
    assert "correction takes at most 43 forwards" in dry  # 30 to compare, 13 settled with one more vote
    report = sparing("refresh", "c.lance", *both, "--correct", "--json").json
    assert (report["screened"], report["corrected"]) == (30, 13)
    assert sum(report["account"]["screening_forwards"].values()) == 30
    sparing("cache", "rollback", "c.lance", "--round", "1")
    report = sparing("refresh", "c.lance", *both, "--correct-within-budget", "--json").json
    assert sum(report["account"]["forwards"].values()) <= 150
    told = sparing("refresh", "c.lance", "--model", "m3=m1.parquet", *budget, "--objective", "accuracy").out
    assert "pooling m3: exponents" in told
    assert "+m3" in sparing("cache", "info", "c.lance").out
    wrong = sparing("refresh", "c.lance", *both, "--correct", "--budget", "5s")
    assert wrong.code == 1
    assert "give a share, rows or cost" in wrong.err
    assert "ask for it with --correct" in sparing("refresh", "c.lance", *both).err
    assert (
        "give one of them" in sparing("refresh", "c.lance", *both, "--correct", "--finish", "--discard").err
    )


def test_the_advice_can_be_taken(sparing, files):
    # A new model that changes the rows of one class only: entropy does not see it.
    old = outputs_of("old", range(300))
    new = old.copy()
    moved = old.argmax(axis=1) <= 1
    new[moved] = np.roll(old[moved], 1, axis=1)
    write_outputs(files / "new.parquet", pa.array(IDS), new)
    sparing("cache", "import", "c.lance", "--from", files / "old.parquet", "--model", "old")
    fitted = sparing(
        "fit", "c.lance", "--outputs", "new=new.parquet", "--scorer", "auto", "--holdout", "0.5", "--json"
    ).json
    assert fitted["recommended"] == "change"
    assert fitted["scorer"] == "auto"
    common = ("refresh", "c.lance", "--model", "new=new.parquet", "--ranker", "ranker", "--budget", "40%")
    assert sparing(*common, "--dry-run", "--json").json["scorer"] == "change"
    assert sparing(*common, "--scorer", "auto", "--dry-run", "--json").json["scorer"] == "change"
    assert "needs a ranker" in sparing(*common[:4], "--scorer", "auto", "--budget", "40%").err
    assert pq.read_table(files / "new.parquet").num_rows == 300
