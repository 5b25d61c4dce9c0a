import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.route import world
from tests.route.routers import POINTS, make_router

from sparing.errors import CacheError, InputError, ModelError, StorageError
from sparing.route.router import open_router, write_router


@pytest.fixture
def folder(tmp_path):
    return make_router(tmp_path, points=POINTS)


def change(folder, path, value):
    values = json.loads((folder / "router.json").read_text())
    values.pop("checksum", None)  # edited, not damaged
    at = values
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    (folder / "router.json").write_text(json.dumps(values))


def test_what_is_written_is_what_is_opened(folder):
    opened = open_router(folder).description
    write_router(folder, opened)
    assert open_router(folder).description == opened
    assert opened.points == POINTS


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("points", 0, "costs"), [0.001]),
        (("points", 0, "costs"), ["a", "b"]),
        (("points", 0, "costs"), [0.001, float("nan")]),
        (("points", 0, "multiplier"), "much"),
        (("points", 0, "multiplier"), -1),
        (("points", 1, "expected_cost"), None),
        (("points", 1), {"budget": "5ms"}),
        (("calibration",), {"scale": [1.0], "bias": [0.0], "samples": 3}),
        (("calibration",), {"scale": [1.0, float("inf")], "bias": [0, 0], "samples": 3}),
        (("experts",), []),
        (("experts", 0, "single", "batch_size"), 0),
        (("experts", 0, "single", "median"), float("nan")),
        (("single", "median"), -1),
        (("classes",), 3),
        (("training",), 3),
        (("points",), 3),
    ],
)
def test_a_damaged_description_is_one_clear_error(folder, path, value):
    change(folder, path, value)
    with pytest.raises(InputError, match=r"router\.json: "):
        open_router(folder)


def test_what_is_damaged_is_named_with_what_is_allowed(folder):
    change(folder, ("points", 1, "multiplier"), -1)
    with pytest.raises(
        InputError, match=r"router\.json: points\[1\]\.multiplier must be a number from 0, got -1"
    ):
        open_router(folder)
    change(folder, ("points", 1, "multiplier"), 1)
    change(folder, ("points", 1, "costs"), [0.001])
    with pytest.raises(InputError, match=r"2 experts, and numbers for \[1, 2\]; train the router again"):
        open_router(folder)
    change(folder, ("points",), [])
    change(folder, ("objective",), "guess")
    with pytest.raises(InputError, match="unknown objective 'guess'; there are benefit, trade-off, entropy"):
        open_router(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", "3", "[" * 100_000, "\udcff"])
def test_what_is_no_description_is_one_clear_error(folder, text):
    (folder / "router.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"router\.json: "):
        open_router(folder)


@pytest.mark.parametrize("name", ["router.json", "router.onnx", "router.toml"])
def test_any_flipped_bit_is_damage(folder, name):
    whole = (folder / name).read_bytes()
    before = open_router(folder).description
    for bit in np.random.default_rng(0).integers(0, 8 * len(whole), 100):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << (bit % 8)
        (folder / name).write_bytes(damaged)
        told = name
        try:
            assert open_router(folder).description == before  # a space for a tab
        except (InputError, ModelError) as error:
            told = str(error)
        assert name.partition(".")[0] in told
    (folder / name).write_bytes(whole)
    assert open_router(folder).description == before


@pytest.mark.parametrize("name", ["router.onnx", "router.toml"])
def test_a_file_that_is_missing_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        open_router(folder)


def test_budgets_are_found_whatever_their_spaces(folder):
    opened = open_router(folder)
    assert opened.point(" 1 ms ") == POINTS[1]
    with pytest.raises(InputError, match="no operating point '2ms'"):
        opened.point("2ms")


def test_a_disk_that_is_full_leaves_the_old_description(folder, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    before = (folder / "router.json").read_bytes()
    opened = open_router(folder)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match=r"router\.json could not be written: .*No space left") as raised:
        write_router(folder, opened.description)
    assert not isinstance(raised.value, CacheError)
    assert (folder / "router.json").read_bytes() == before


def test_the_sample_whose_scores_are_no_numbers_is_named(tmp_path):
    router = world.make_router(tmp_path / "g", function=lambda v: np.stack(v))
    with pytest.raises(ModelError, match=r"NaN or infinity for id 'b' \(1 of 2"):
        router.scores(["a", "b"], [np.zeros(2), np.array([0, np.nan])])
    with pytest.raises(ModelError, match=r"scores of shape \(1, 3\)"):
        router.scores(["a"], [np.zeros(3)])


SAVED = Path(__file__).parents[1] / "files" / "0.1" / "route"


def test_an_older_folder_loads_and_keeps_its_names(tmp_path):
    folder = shutil.copytree(SAVED / "gater", tmp_path / "gater")
    before = json.loads((folder / "gater.json").read_text())
    router = open_router(folder)
    assert [expert.name for expert in router.experts] == ["small", "large"]
    assert [point.budget for point in router.description.points] == ["0.4 dollars", "4ms"]
    assert [point.unit for point in router.description.points] == ["dollars", "seconds"]
    assert router.description.calibration.samples == 600
    scores = router.scores(["a"], [np.array([1.0, 0.5], np.float32)])
    assert scores == pytest.approx(np.array([[0.0, 5.0]]))
    write_router(folder, router.description)
    after = json.loads((folder / "gater.json").read_text())
    after.pop("checksum")
    assert set(after.pop("files")) == {"gater.onnx", "gater.toml"}
    assert [point.pop("unit") for point in after["points"]] == ["dollars", "seconds"]
    for kept in (after, *after["experts"]):  # older releases did not keep single calls
        assert [kept[mode].pop("times") for mode in ("single", "batched")] == [[], []]
    assert after == before
    assert sorted(file.name for file in folder.iterdir()) == ["gater.json", "gater.onnx", "gater.toml"]
