import sys
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.route import world

from sparing.errors import InputError
from sparing.route.choosing import ROUNDING


@pytest.fixture(autouse=True)
def steady_latency(monkeypatch):
    """The router takes what its description says, whatever this machine is busy with."""
    described = world.description()
    measured = (described.single, described.batched)
    monkeypatch.setattr(sys.modules["sparing.route.calibration"], "measure_router", lambda *_, **__: measured)


def write_samples(path, m, start, labelled=True):
    opened = world.samples(m, start, labelled)
    values = [list(map(float, value)) for value in opened.fetch(range(m))]
    table = {"id": opened.ids, "value": pa.array(values, pa.list_(pa.float32()))}
    if labelled:
        table["label"] = opened.labels()
    pq.write_table(pa.table(table), path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A router and samples in files; the profile is a stand-in."""
    world.save_router(tmp_path / "router")
    write_samples(tmp_path / "val.parquet", 600, 0)
    write_samples(tmp_path / "test.parquet", 600, 5000)
    write_samples(tmp_path / "bare.parquet", 5, 0, labelled=False)

    def open_profile(path):
        if path.name != "experts":
            raise InputError(f"{path}: no profile here")
        return world.FakeProfile(decoding=world.latency(0.25))

    module = types.ModuleType("sparing.route.profiling")
    module.open_profile = open_profile
    monkeypatch.setitem(sys.modules, "sparing.route.profiling", module)
    return tmp_path


CALIBRATE = ("route", "calibrate", "router", "experts", "--samples", "val.parquet")
EVALUATE = ("route", "evaluate", "router", "experts", "--samples", "test.parquet")


def test_calibrate_then_evaluate(sparing, folder):
    found = sparing(*CALIBRATE, "--latency", "4ms", "--latency", "6ms", "--json").json
    assert [point["budget"] for point in found["points"]] == ["4ms", "6ms"]
    for point in found["points"]:
        assert 0.99 * point["allowed"] < point["spent"] <= point["allowed"] * (1 + ROUNDING)
    assert found["chances"]["small"]["calibration_error_after"] < 0.1
    report = sparing(*EVALUATE, "--json").json
    assert [point["budget"] for point in report["points"]] == ["6ms", "4ms"]
    assert report["decoding"] == pytest.approx(0.25e-3)
    router = report["points"][1]["parts"][0]["rows"][0]
    assert router["latency"] == pytest.approx(4e-3, rel=0.06)
    only = sparing(*EVALUATE, "--budget", "4ms", "--json").json
    assert [point["budget"] for point in only["points"]] == ["4ms"]
    assert only["points"][0] == report["points"][1]


def test_tables_are_for_people(sparing, folder):
    told = sparing(*CALIBRATE, "--latency", "4ms", "--quantile", "0.9", "--cost-budget", "0.4").out
    assert "600 samples, seen as: clean" in told
    assert "p90 4ms: 10.00% over the limit (at most 10.00% over the limit), " in told
    assert "0.4 dollars: 0.4 dollars (at most 0.4 dollars), " in told
    assert "note: the router's own cost in dollars is not known" in told
    told = sparing(*EVALUATE, "--html", "page.html").out
    assert "budget 0.4 dollars: spent 0." in told
    assert "budget p90 4ms: " in told
    assert "% over the limit" in told
    for word in ("policy", "confidence cascade small > large", "oracle", "calibration error", "hindsight"):
        assert word in told
    page = (folder / "page.html").read_text()
    assert "entropy cascade small" in page
    assert "One expert per input" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*CALIBRATE, "--latency", "1ms"), "the least possible is 2.75 ms"),
        (CALIBRATE, "needs a budget"),
        ((*CALIBRATE, "--latency", "soon"), "not a time: write 5ms or 0.2s"),
        ((*CALIBRATE, "--latency", "4ms", "--quantile", "1.5"), "a quantile of 1.5"),
        ((*CALIBRATE[:-1], "bare.parquet", "--latency", "4ms"), "no labels"),
        ((*CALIBRATE, "--latency", "4ms", "--corrupt", "fog"), "unknown corruption"),
        (EVALUATE, "no operating point yet"),
        ((*EVALUATE, "--budget", "9ms"), "no operating point '9ms'"),
        (("route", "evaluate", "nowhere", "experts", "--samples", "test.parquet"), "no router here"),
        (("route", "evaluate", "router", "nowhere", "--samples", "test.parquet"), "no profile here"),
    ],
)
def test_mistakes_are_said_in_one_line(sparing, folder, arguments, message):
    result = sparing(*arguments)
    assert result.code == 1
    assert message in result.err
    assert result.err.count("\n") == 1
    assert result.out == ""
