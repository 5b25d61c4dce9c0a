import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparing.cli.main import main

STATES = "name,cost,accuracy\nsmall,1,0.5\nmiddle,4,0.7\nworse,5,0.6\nlarge,10,0.8\n"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run `sparing bounds` in a folder of its own; gives its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["sparing", "bounds", *arguments])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


@pytest.fixture
def files(tmp_path):
    (tmp_path / "states.csv").write_text(STATES)
    (tmp_path / "costs.toml").write_text("[costs]\nsmall = 1\nlarge = 10\nunheard = 3\n")
    rng = np.random.default_rng(0)
    correct = rng.random((200, 1)) + 0.2 * rng.random((200, 2)) < [0.6, 0.9]
    pq.write_table(
        pa.table({"id": range(200), "small": correct[:, 0], "large": correct[:, 1], "topic": ["x"] * 200}),
        tmp_path / "outcomes.parquet",
    )
    return correct


def test_states(run, files):
    code, out, err = run("states.csv", "--select", "2", "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["conservative"]["cost"] == pytest.approx(1 + 3 * 0.2 + 9 * 0.1)
    assert result["dropped"] == [
        {"name": "worse", "reason": "costs more than middle and is not more accurate"}
    ]
    assert result["selected"][1]["size"] == 2
    more = json.loads(run("states.csv", "--select", "9", "--json")[1])
    assert len(more["selected"]) == 3
    assert "only 3 states can be kept" in more["warnings"][0]
    kept = json.loads(run("states.csv", "--envelope", "all", "--json")[1])
    assert kept["dropped"] == []


def test_text_names_what_was_left_out(run, files):
    code, out, _ = run("states.csv", "--select", "3", "--classes", "1000", "--policy", "2,0.7")
    assert code == 0
    for text in ("costs more than middle", "alpha = 1 (conservative)", "Keep 3:", "Headroom:", "Equation 16"):
        assert text in out


def test_outcomes(run, files, tmp_path):
    code, out, err = run(
        "outcomes.parquet",
        "--costs",
        "costs.toml",
        "--labels",
        "labels.parquet",
        "--html",
        "b.html",
        "--json",
    )
    assert code == 0
    assert "columns without a cost are not models: topic" in err
    assert "no outcomes of unheard" in err
    result = json.loads(out)
    assert result["exact"]["accuracy"] == pytest.approx(files.any(axis=1).mean())
    labels = pq.read_table(tmp_path / "labels.parquet").to_pydict()
    expected = ["small" if small else "large" if large else None for small, large in files]
    assert labels["state"] == expected
    assert labels["cost"] == [10 if name == "large" else 1 for name in expected]
    assert (tmp_path / "b.html").stat().st_size > 4_000_000
    code, out, _ = run("outcomes.parquet", "--costs", "costs.toml", "--policy", "3,0.8")
    assert code == 0
    assert "intervals over 200 samples" in out


def test_costs_per_sample(run, files, tmp_path):
    pq.write_table(
        pa.table({"id": range(200), "small": np.ones(200), "large": np.linspace(1, 20, 200)}),
        tmp_path / "prices.parquet",
    )
    result = json.loads(
        run("outcomes.parquet", "--costs", "prices.parquet", "--json", "--bootstrap", "20")[1]
    )
    assert "at_mean_prices" in result["exact"]


def test_output_tables(run, files, tmp_path):
    for name in ("small", "large"):
        probs = pa.array([[0.7, 0.3]] * 4, pa.list_(pa.float32()))
        pq.write_table(
            pa.table({"id": list("abcd"), "probs": probs, "label": [0, 0, 1, 1]}), f"{name}.parquet"
        )
    code, out, _ = run("small.parquet", "large.parquet", "--costs", "costs.toml", "--json")
    assert code == 0
    assert json.loads(out)["exact"]["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.csv"], 1, "none.csv: cannot be read"),
        (["outcomes.parquet"], 1, "outcomes need --costs"),
        (["outcomes.parquet", "--costs", "states.csv"], 1, "no column has a cost"),
        (["states.csv", "--labels", "l.parquet"], 1, "--labels needs outcomes per sample"),
        (["states.csv", "--select", "0"], 1, r"with 3 states it must lie in [1, 3]"),
        (["states.csv", "--alpha", "2"], 1, "alpha is 2"),
        (["states.csv", "--beta0", "-1"], 1, "must not be negative"),
        (["states.csv", "--policy", "cheap"], 2, "is not a cost and an accuracy"),
        (["states.csv", "--policy", "1,80"], 2, "is not a cost and an accuracy"),
        (["states.csv", "--classes", "1"], 2, "fewer than two options"),
        (["states.csv", "--envelope", "best"], 2, "Invalid value"),
        (["outcomes.parquet", "--costs", "costs.toml", "--bootstrap", "-1"], 1, "-1 replicates"),
        (
            ["outcomes.parquet", "--costs", "costs.toml", "--labels", "no/l.parquet"],
            1,
            "could not be written",
        ),
        (["states.csv", "--html", "no/b.html"], 1, "could not be written"),
        ([], 2, "Missing argument"),
    ],
)
def test_bad_usage_is_one_message(run, files, arguments, code, message):
    found, out, err = run(*arguments, "--json")
    assert found == code
    assert message in " ".join(err.split())
    assert message in " ".join(json.loads(out)["error"]["message"].split())
    assert "Traceback" not in err
