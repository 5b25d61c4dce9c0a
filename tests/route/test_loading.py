import numpy as np
import pyarrow as pa
import pytest

from sparing.data.samples import open_samples
from sparing.data.tables import write_outputs
from sparing.errors import InputError, ModelError
from sparing.images import CLEAN, Corruption
from sparing.models import Model, from_callable
from sparing.route.loading import load_experts, probe, shared_classes


def expert(name, classes=3, **options):
    return from_callable(
        lambda values: np.full((len(values), classes), 1 / classes), name=name, digest=f"d:{name}", **options
    )


def test_targets_are_loaded_and_made_absolute(experts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def mine(values):\n    return [[0.5, 0.2, 0.3]] * len(values)\n")
    given = {"small": "small.onnx", "own": "mine.py:mine", "large": experts["large"]}
    models, targets = load_experts(given, {}, 5)
    assert [model.name for model in models] == ["small", "own", "large"]
    assert [model.batch_size for model in models] == [5, 5, 5]
    assert targets == (str(tmp_path / "small.onnx"), f"{tmp_path / 'mine.py'}:mine", experts["large"])


def test_models_are_taken_as_they_are():
    pair = [expert("a"), expert("b")]
    models, targets = load_experts(pair, {}, 5)
    assert list(models) == pair
    assert targets == ("", "")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "at least two experts, got 0: none"),
        ([expert("a")], "at least two experts, got 1: a"),
        ([expert("a"), expert("b"), expert("a")], "two experts are called 'a'"),
        ([expert("a=b"), expert("b")], "'a=b' cannot be the name"),
        ([expert("a", cost=1), expert("b")], "a: seconds, b: none"),
        ([expert("a", cost=1), expert("b", cost=2, unit="joules")], "a: seconds, b: joules"),
    ],
)
def test_experts_that_cannot_be_used(given, message):
    with pytest.raises(InputError, match=message):
        load_experts(given, {}, 5)


def test_costs(experts):
    models, _ = load_experts(experts, {"small": (0.1, "cost"), "large": (1.0, "cost")}, 5)
    assert [(model.cost, model.unit) for model in models] == [(0.1, "cost"), (1.0, "cost")]
    with pytest.raises(InputError, match="stated for 'tiny', but the experts are small, large"):
        load_experts(experts, {"tiny": (0.1, "cost")}, 5)
    with pytest.raises(InputError, match="small: cost, large: none"):
        load_experts(experts, {"small": (0.1, "cost")}, 5)
    with pytest.raises(InputError, match="a model carries its own"):
        load_experts([expert("a"), expert("b")], {"a": (1.0, "cost")}, 5)


def test_stored_outputs_are_no_expert(experts, tmp_path):
    write_outputs(tmp_path / "o.parquet", pa.array(["a"]), np.array([[0.5, 0.2, 0.3]]))
    with pytest.raises(InputError, match="'stored' replays stored outputs"):
        load_experts({**experts, "stored": str(tmp_path / "o.parquet")}, {}, 5)


def test_an_expert_that_is_not_there(experts):
    with pytest.raises(ModelError, match=r"none.onnx: no such file"):
        load_experts({**experts, "none": "none.onnx"}, {}, 5)


def test_class_names():
    named = expert("a", classes=3).__class__
    assert named is Model
    a, b = expert("a"), expert("b")
    assert shared_classes([a, b]) is None
    a.classes = ("x", "y", "z")
    assert shared_classes([a, b]) == ("x", "y", "z")
    b.classes = ("x", "z", "y")
    with pytest.raises(InputError, match=r"'a' has 3 \(x, y, z\), 'b' has 3 \(x, z, y\)"):
        shared_classes([a, b])


def test_the_first_sample_shows_what_does_not_fit():
    samples = open_samples({"s": 1.0})
    assert probe([expert("a"), expert("b")], samples, CLEAN) == 3
    with pytest.raises(ModelError, match=r"3 \(a\), 4 \(b\)"):
        probe([expert("a"), expert("b", classes=4)], samples, CLEAN)
    with pytest.raises(InputError, match="id 's'"):
        probe([expert("a"), expert("b")], samples, Corruption("mild"))
