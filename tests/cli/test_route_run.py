import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.route.routers import POINTS, expected, image, make_router, save_images_model

SHADES = [10, 200, 90]


@pytest.fixture
def folder(tmp_path):
    rows = [{"id": f"s{at}", "image": image(shade), "other": "x"} for at, shade in enumerate(SHADES)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "new.parquet")
    make_router(tmp_path, points=POINTS)
    return tmp_path


RUN = ("route", "run", "router", "--samples", "new.parquet", "--out", "answers.parquet")


def test_run_writes_the_answers_and_prints_the_account(sparing, folder):
    result = sparing(*RUN, "--json")
    assert result.code == 0, result.err
    said = json.loads(result.out)
    assert said["samples"] == 3
    assert {name: one["samples"] for name, one in said["experts"].items()} == {"dark": 2, "bright": 1}
    assert (said["budget"], said["expected_cost"]) == ("5ms", 0.005)
    assert said["implied_cost"] == pytest.approx((2 * 0.001 + 0.009) / 3)
    table = pq.read_table("answers.parquet")
    assert table["id"].to_pylist() == ["s0", "s1", "s2"]
    assert table["expert"].to_pylist() == [expected(shade)[0] for shade in SHADES]
    text = sparing(*RUN, "--budget", "1ms", "--column", "image")
    assert text.code == 0
    assert re.search(r"dark +3 +100\.00%", text.out)
    assert "budget 1ms: calibrated for 1.000 ms, these shares imply 1.000 ms" in text.out
    assert set(pq.read_table("answers.parquet")["expert"].to_pylist()) == {"dark"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*RUN, "--budget", "7ms"), r"no operating point '7ms'; calibrated are: '5ms', '1ms'"),
        (("route", "run", "absent", *RUN[3:]), "absent: no router here"),
        (("route", "run", "router", "--samples", "no.parquet", "--out", "o.parquet"), "no such file"),
        ((*RUN, "--column", "other"), "'s0' is of type str"),
        ((*RUN[:-1], "new.parquet"), "would replace the samples"),
        ((*RUN[:-1], "no/answers.parquet"), "could not be written"),
        (("route", "serve", "router", "--host", "0.0.0.0"), "give a token"),  # noqa: S104
        (("route", "serve", "router", "--budget", "7ms"), "no operating point"),
    ],
)
def test_what_cannot_be_done_is_one_clear_error(sparing, folder, arguments, message):
    result = sparing(*arguments)
    assert result.code == 1
    assert re.search(message, result.err), result.err
    assert result.err.count("\n") == 1
    assert not (folder / "answers.parquet").exists()


def test_an_expert_that_changed_is_named_with_both_digests(sparing, folder):
    save_images_model(folder / "dark.onnx", np.zeros((3, 2)), np.zeros(2), softmax=True)
    for arguments in (RUN, ("route", "serve", "router")):
        result = sparing(*arguments)
        assert result.code == 1
        assert re.search(r"'dark': .*dark.onnx is sha256:\w+, but .* for sha256:\w+", result.err)
    assert not (folder / "answers.parquet").exists()
