import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.route.conftest import image, linear, png

from sparing.route import latency

TOML = '[input]\ndecode = "image"\nresize = [4, 4]\n[output]\nlogits = true\nclasses = ["a", "b", "c"]\n'
BOTH = ("--expert", "small=small.onnx", "--expert", "large=large.onnx", "--samples", "train.parquet")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(latency, "_LEAST", 2)
    monkeypatch.setattr("sparing.route.profiling.profile.__kwdefaults__", _quick())


def _quick():
    from sparing.route.profiling import profile

    return {**profile.__kwdefaults__, "repeats": 2}


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("small", "large"):
        linear(tmp_path / f"{name}.onnx", rng.normal(size=(48, 3)), TOML)
    ids = [f"s{i}" for i in range(10)]
    table = pa.table(
        {
            "id": ids,
            "image": [png(image(i)) for i in range(10)],
            "other": ids,
            "label": rng.integers(0, 3, 10),
        }
    )
    pq.write_table(table, tmp_path / "train.parquet")
    return tmp_path


def test_profile_for_people_and_as_json(sparing, folder):
    told = sparing("route", "profile", *BOTH, "--out", "experts", "--corrupt", "blur,noise")
    assert told.code == 0
    for text in ("10 samples, measured on", "small", "sha256:", "clean", "severe", "decoding an image"):
        assert text in told.out
    assert "next: sparing route train experts --samples train.parquet" in told.err
    result = sparing("route", "profile", *BOTH, "--out", "experts", "--corrupt", "blur,noise", "--json").json
    assert (result["profile"], result["samples"], result["classes"]) == ("experts", 10, ["a", "b", "c"])
    assert result["variants"][1] == "mild blur,noise 0"
    assert result["decoding"]["median"] > 0
    assert [expert["name"] for expert in result["experts"]] == ["small", "large"]
    one = result["experts"][0]
    assert one["target"] == str(folder / "small.onnx")
    assert one["single"]["calls"] == 2
    assert one["batched"]["batch_size"] == 32
    assert set(one["accuracy"]) == {"clean", "mild", "moderate", "severe"}
    assert 0 <= one["accuracy"]["clean"] <= 1


def test_costs_batches_and_columns(sparing, folder):
    asked = ("--cost", "small=0.1", "--cost", "large=2", "--batch-size", "4", "--column", "image")
    told = sparing("route", "profile", *BOTH, "--out", "experts", *asked)
    assert "by 4: ms each" in told.out
    result = sparing("route", "profile", *BOTH, "--out", "experts", *asked, "--json").json
    assert [(expert["cost"], expert["unit"]) for expert in result["experts"]] == [(0.1, "cost"), (2, "cost")]


def test_names_are_shown_as_they_are(sparing, folder):
    renamed = [part.replace("small=", "[red]:cat:=") for part in BOTH]
    assert "[red]:cat:" in sparing("route", "profile", *renamed, "--out", "experts").out


def test_no_labels_no_accuracy(sparing, folder):
    table = pq.read_table(folder / "train.parquet").drop_columns(["label"])
    pq.write_table(table, folder / "train.parquet")
    assert "accuracy" not in sparing("route", "profile", *BOTH, "--out", "experts").out
    result = sparing("route", "profile", *BOTH, "--out", "experts", "--json").json
    assert result["experts"][0]["accuracy"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--expert", "small=small.onnx", "--samples", "train.parquet"), 1, "at least two experts, got 1"),
        ((*BOTH, "--expert", "small=large.onnx"), 1, "two experts are called 'small'"),
        ((*BOTH, "--expert", "medium"), 1, "write NAME=SPEC"),
        ((*BOTH, "--expert", "none=none.onnx"), 1, "none.onnx: no such file"),
        ((*BOTH, "--corrupt", "fog"), 1, "unknown corruption 'fog'"),
        ((*BOTH, "--column", "none"), 1, "no column 'none'"),
        ((*BOTH, "--column", "other"), 1, "the bytes of an image are needed"),
        ((*BOTH, "--cost", "small=1"), 1, "state them for all experts"),
        ((*BOTH, "--cost", "tiny=1"), 1, "'tiny', but the experts are small, large"),
        ((*BOTH, "--batch-size", "0"), 2, "Invalid value"),
        (("--samples", "train.parquet"), 2, "Missing option"),
    ],
)
def test_mistakes_are_told_in_a_sentence(sparing, folder, arguments, code, message):
    result = sparing("route", "profile", *arguments, "--out", "experts", "--json")
    assert (result.code, list(result.json)) == (code, ["error"])
    assert message in " ".join(result.err.split())
    assert not (folder / "experts").exists()
