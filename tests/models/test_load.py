import sys

import numpy as np
import pytest

from sparing.errors import InputError, ModelError
from sparing.models import Model, load_callable, load_model

SOURCE = """
import neighbour
from sparing.models import from_callable

def halves(values):
    return [[0.5, 0.5]] * len(values)

def from_neighbour(values):
    return neighbour.rows(len(values))

ready = from_callable(halves, name="inner", digest="v7", cost=3.0, unit="joules", batch_size=5)
number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "heavy.py").write_text(SOURCE)
    (tmp_path / "neighbour.py").write_text("def rows(n):\n    return [[1.0, 0.0]] * n\n")
    yield tmp_path
    for name in ("neighbour", "heavy"):
        sys.modules.pop(name, None)


def test_a_callable_in_a_file(folder):
    model = load_model(f"big={folder}/heavy.py:halves", cost=2.0, unit="FLOPs", batch_size=9)
    assert model.name == "big"
    assert model.digest.startswith("callable:heavy:halves source:")
    assert (model.cost, model.unit, model.batch_size) == (2.0, "FLOPs", 9)
    np.testing.assert_array_equal(model(["a"], [0]), [[0.5, 0.5]])


def test_a_file_may_import_its_neighbours(folder):
    model = load_model(f"big={folder}/heavy.py:from_neighbour")
    np.testing.assert_array_equal(model(["a"], [0]), [[1, 0]])


def test_a_callable_in_a_module_of_the_current_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    model = load_model("big=heavy:halves")
    assert model.digest.startswith("callable:heavy:halves source:")
    assert model.unit == "seconds"
    assert load_callable("os.path:join")("a", "b") == "a/b"


def test_a_model_is_taken_as_it_is_and_renamed(folder):
    model = load_model(f"big={folder}/heavy.py:ready")
    assert isinstance(model, Model)
    assert (model.name, model.digest, model.cost, model.unit) == ("big", "v7", 3.0, "joules")
    assert model.batch_size == 5
    assert load_model(f"big={folder}/heavy.py:ready", unit="seconds").unit == "joules"
    cheaper = load_model(f"big={folder}/heavy.py:ready", cost=1.0, unit="seconds")
    assert (cheaper.cost, cheaper.unit) == (1.0, "seconds")


def test_one_file_is_run_once(folder):
    assert load_callable(f"{folder}/heavy.py:halves") is load_callable(f"{folder}/heavy.py:halves")


@pytest.mark.parametrize("spec", ["resnet.onnx", "=resnet.onnx", "resnet=", ""])
def test_specs_need_a_name_and_a_target(spec):
    with pytest.raises(InputError, match=r"expected NAME=TARGET, where TARGET is file.onnx"):
        load_model(spec)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere.onnx", "nowhere.onnx: no such file"),
        ("nowhere.parquet", "nowhere.parquet: no such file"),
        ("nowhere.py:f", "nowhere.py: no such file"),
        ("nowhere.py", "say which callable in it: nowhere.py:NAME"),
        ("weights.pth", "'weights.pth' is of no known kind; expected file.onnx"),
        ("no_such_module:f", "no module 'no_such_module'"),
        ("os.no_such:f", "no module 'os.no_such'"),
        ("os.path:no_such", "has no 'no_such'"),
        ("os.path:sep", "is a str, which cannot be called"),
        ("os/path:join", "neither a module name nor a path that ends in .py"),
        ("os.path:", "expected package.module:name"),
        ("os.path:a.b", "expected package.module:name"),
    ],
)
def test_targets_that_cannot_be_loaded(target, message):
    with pytest.raises(ModelError, match=message) as e:
        load_model(f"m={target}")
    assert str(e.value).startswith("model 'm': ")


def test_a_file_that_raises(folder):
    (folder / "bad.py").write_text("1 / 0\n")
    (folder / "worse.py").write_text("import not_installed_anywhere\n")
    for _ in range(2):  # nothing half-loaded is kept
        with pytest.raises(ModelError, match=r"bad.py failed: ZeroDivisionError"):
            load_model(f"m={folder}/bad.py:f")
    with pytest.raises(
        ModelError, match=r"worse.py failed: ModuleNotFoundError: No module named 'not_installed"
    ):
        load_model(f"m={folder}/worse.py:f")


def test_a_module_whose_own_import_is_missing(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "outer.py").write_text("import not_installed_anywhere\n")
    with pytest.raises(
        ModelError, match="importing 'outer' failed: No module named 'not_installed_anywhere'"
    ):
        load_model("m=outer:f")


def test_bad_options_name_the_model(folder):
    with pytest.raises(ModelError, match="model 'm': the batch size must be at least 1"):
        load_model(f"m={folder}/heavy.py:halves", batch_size=0)
