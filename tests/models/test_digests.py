"""A function's digest follows its source, what it captured and the files that it depends on."""

import functools
import importlib.util
import sys

import numpy as np
import pytest

from sparing.errors import InputError
from sparing.models.digests import former_digest, function_digest, same_model

SOURCE = """
import numpy as np

FLOOR = 0.5


def halves(values):
    return np.full((len(values), 2), FLOOR)


def by(share):
    def shares(values):
        return np.full((len(values), 2), share)

    return shares


class Loud:
    def __call__(self, values):
        return halves(values)
"""


@pytest.fixture
def load(tmp_path):
    """Write a module and import it, as a new process would."""

    def loaded(source=SOURCE, name="heavy"):
        path = tmp_path / f"{name}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        exec(compile(source, path, "exec"), module.__dict__)  # noqa: S102 -- past the cache of bytecode
        return module

    yield loaded
    sys.modules.pop("heavy", None)


def test_the_same_source_has_the_same_digest(load):
    first = function_digest(load().halves)
    assert first == function_digest(load().halves)
    assert first.startswith("callable:heavy:halves source:")
    assert function_digest(load().halves, name="other:name").startswith("callable:other:name source:")


def test_any_change_of_the_file_changes_it(load):
    before = function_digest(load().halves)
    assert function_digest(load(SOURCE.replace("FLOOR = 0.5", "FLOOR = 0.50001")).halves) != before


def test_captured_values_and_fixed_arguments_count(load):
    module = load()
    made = [module.by(0.5), module.by(0.25), module.by(np.ones(2)), module.by({"a": [1]}), module.by({1, 2})]
    made += [
        functools.partial(module.by, 0.5),
        functools.partial(module.by, share=0.5),
        module.by(module.halves),
    ]
    made += [
        module.by(np.exp),
        module.by(np),
        module.by(module.Loud),
        module.by(float),
        module.by(module.by(1)),
    ]
    digests = [function_digest(function) for function in made]
    assert len(set(digests)) == len(made)
    assert digests[0] == function_digest(module.by(0.5))


def test_a_function_that_captured_itself_ends(load):
    source = "def make():\n    def f(values):\n        return f\n    return f\n"
    assert function_digest(load(source).make()) == function_digest(load(source).make())


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (lambda module: lambda values: values, "a lambda"),
        (lambda module: module.Loud(), "an object or a method of one .heavy.Loud."),
        (lambda module: module.Loud().__call__, "or a method"),
        (lambda module: module.by(module.Loud()), "captured an object .heavy.Loud."),
        (lambda module: module.by([module.Loud()]), "captured an object .heavy.Loud."),
        (lambda module: functools.partial(module.by, module.Loud()), "fixes an object .heavy.Loud."),
        (lambda module: len, "builtin"),
    ],
)
def test_what_the_source_does_not_tell_is_refused(load, chosen, message):
    with pytest.raises(InputError, match=message) as raised:
        function_digest(chosen(load()))
    assert 'digest="v1"' in str(raised.value)


def test_a_function_without_source_is_refused():
    made = {"__name__": "nowhere"}
    exec("def f(values):\n    return values", made)  # noqa: S102
    with pytest.raises(InputError, match="source of f cannot be read"):
        function_digest(made["f"])


@pytest.mark.parametrize("declared", ["argument", "attribute"])
def test_files_that_it_depends_on_count(load, tmp_path, declared):
    function = load().halves
    if declared == "attribute":
        function.depends_on = ["weights.bin"]
    given = {"depends_on": ["weights.bin"]} if declared == "argument" else {}
    with pytest.raises(InputError, match=r"depends on cannot be read: .*weights\.bin"):
        function_digest(function, **given)
    (tmp_path / "weights.bin").write_bytes(b"one")
    first = function_digest(function, **given)
    assert first == function_digest(function, **given)
    assert first != function_digest(load().halves)
    (tmp_path / "weights.bin").write_bytes(b"two")
    assert function_digest(function, **given) != first


def test_what_earlier_releases_recorded_is_the_same_model():
    assert former_digest("callable:heavy:halves source:0123") == "callable:heavy:halves"
    assert former_digest("callable:heavy:halves") is None
    assert former_digest("a source:0123") is None
    assert same_model("callable:m:f source:01", "callable:m:f")
    assert same_model("callable:m:f", "callable:m:f source:01")
    assert not same_model("callable:m:f source:01", "callable:m:f source:02")
    assert not same_model("callable:m:f source:01", "callable:m:g")
