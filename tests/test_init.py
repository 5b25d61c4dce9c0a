import subprocess
import sys

import pytest

import sparing

HEAVY = ("torch", "ray", "lance", "numba", "sklearn", "pyarrow", "numpy", "onnxruntime", "plotly", "scipy")


def loaded_by(statement):
    code = f"import sys; {statement}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()


def test_every_public_name_is_there():
    for name in sparing.__all__:
        assert getattr(sparing, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sparing.nonsense


def test_the_room_stays_a_room_after_its_import():
    assert sparing.refresh.refresh.__module__ == "sparing.refresh.job"


def test_importing_sparing_loads_nothing_heavy():
    assert loaded_by("import sparing, sparing.cli.main") == []


def test_a_refresh_needs_no_torch_and_no_training_library():
    loaded = loaded_by("import sparing; sparing.refresh, sparing.Cache, sparing.load_model")
    assert not {"torch", "ray", "sklearn", "plotly"} & set(loaded)


def test_the_names_of_route_are_there_and_stay_functions():
    code = (
        "import sys, sparing; names = ('profile', 'calibrate', 'evaluate', 'run'); "
        "first = [callable(getattr(sparing.route, name)) for name in names]; "
        "import sparing.route.profiling, sparing.route.calibration; "
        "import sparing.route.evaluation, sparing.route.running; "
        "again = [callable(getattr(sparing.route, name)) for name in names]; "
        "print(all(first + again), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"]
    for name in set(sparing.route.__all__) - {"Settings", "prepare", "train"}:
        assert getattr(sparing.route, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sparing.route.nonsense


def test_training_is_loaded_when_it_is_first_used():
    pytest.importorskip("torch")
    for _ in range(2):
        assert sparing.route.train.__module__ == "sparing.route.training"
        assert sparing.route.Settings().objective == "benefit"
