import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.route.routers import POINTS, expected, image, make_router, save_numbers_model

from sparing.data.samples import open_samples
from sparing.data.tables import read_outputs
from sparing.errors import InputError, ModelError
from sparing.route.router import open_router
from sparing.route.running import run

SHADES = [10, 200, 90, 250, 130, 40, 0]


@pytest.fixture
def samples():
    return {f"s{at}": image(shade, size=(5 + at, 9)) for at, shade in enumerate(SHADES)}


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_a_table_of_answers_in_the_order_of_the_samples(tmp_path, samples, monkeypatch, chunk):
    monkeypatch.setattr(sys.modules[run.__module__], "CHUNK", chunk)
    seen = []
    router = open_router(make_router(tmp_path))
    account = run(
        open_samples(samples), router, tmp_path / "out.parquet", point=None, progress=seen.append
    ).summary()
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["id", "probs", "prediction", "class", "expert"]
    assert table["id"].to_pylist() == list(samples)
    names, probs = zip(*map(expected, SHADES), strict=True)
    assert table["expert"].to_pylist() == list(names)
    np.testing.assert_allclose(table["probs"].to_pylist(), probs, atol=1e-5)
    assert table["prediction"].to_pylist() == [int(row.argmax()) for row in probs]
    assert table["class"].to_pylist() == [("night", "day")[row.argmax()] for row in probs]
    assert len(read_outputs(tmp_path / "out.parquet")) == len(SHADES)
    assert account["samples"] == 7
    assert {name: spent["samples"] for name, spent in account["experts"].items()} == {"dark": 4, "bright": 3}
    assert account["experts"]["dark"]["share"] == pytest.approx(4 / 7)
    spent = account["router_seconds"] + sum(one["seconds"] for one in account["experts"].values())
    spent += account["decoding_seconds"]
    assert account["latency_mean"] == pytest.approx(spent / 7)
    assert 0 < spent < account["seconds"]
    assert (account["budget"], account["expected_cost"], account["implied_cost"]) == (None, None, None)
    assert [state.done for state in seen] == [*range(chunk, 7, chunk), 7]
    assert seen[-1].left == 0


def test_the_account_tells_what_was_promised_from_what_these_shares_imply(tmp_path, samples):
    router = open_router(make_router(tmp_path, points=POINTS))
    account = run(open_samples(samples), router, tmp_path / "o.parquet", point=router.point("5ms")).summary()
    assert (account["budget"], account["expected_cost"]) == ("5ms", 0.005)
    assert account["implied_cost"] == pytest.approx((4 * 0.001 + 3 * 0.009) / 7)


def test_without_class_names_there_is_no_column_for_them(tmp_path):
    router = open_router(make_router(tmp_path, save=save_numbers_model, classes=None))
    samples = open_samples({1: np.array([0.1, 0.2, 0.3]), 2: np.array([0.9, 0.1, 0.0])})
    run(samples, router, tmp_path / "o.parquet", point=None)
    table = pq.read_table(tmp_path / "o.parquet")
    assert table.column_names == ["id", "probs", "prediction", "expert"]
    assert table["expert"].to_pylist() == ["dark", "bright"]


def test_what_is_no_image_stops_the_run_by_name_and_leaves_the_old_answers(tmp_path, samples, monkeypatch):
    monkeypatch.setattr(sys.modules[run.__module__], "CHUNK", 2)
    out = tmp_path / "o.parquet"
    out.write_bytes(b"old")
    samples["s5"] = b"no image"
    with pytest.raises(InputError, match="'s5' cannot be decoded"):
        run(open_samples(samples), open_router(make_router(tmp_path)), out, point=None)
    assert out.read_bytes() == b"old"
    assert not list(tmp_path.glob("*.partial"))


def test_an_expert_that_fails_stops_the_run_and_names_the_sample(tmp_path, samples):
    router = make_router(tmp_path)
    (tmp_path / "bright.onnx").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="model 'bright'"):
        run(open_samples(samples), open_router(router), tmp_path / "o.parquet", point=None)
    assert not (tmp_path / "o.parquet").exists()
