import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.route.routers import (
    CLASSES,
    EXPERTS,
    POINTS,
    ROUTER,
    expected,
    expert,
    image,
    make_router,
    save_images_model,
    save_numbers_model,
)

from sparing.errors import InputError, ModelError
from sparing.images import batches, decode
from sparing.models import Model
from sparing.route.dispatch import Dispatcher, Experts
from sparing.route.experts import Expert
from sparing.route.router import open_router, read_router, write_router


def in_memory(functions, batch_size=4):
    """Experts that are functions of (ids, values); the calls they get are noted."""
    calls = []

    def noted(name, function):
        def call(ids, values):
            calls.append((name, list(values)))
            return function(values)

        return call

    experts = Experts([Expert(name, "nowhere", "d", None, None) for name in functions])
    for at, (name, function) in enumerate(functions.items()):
        experts._models[at] = Model(name, "d", noted(name, function), batch_size=batch_size)
    return experts, calls


def constant(p):
    return lambda values: np.tile([p, 1 - p], (len(values), 1))


def touchy(values):
    if "poison" in values:
        raise ValueError("cannot")
    return constant(0.25)(values)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.integers(1, 7))
def test_every_sample_gets_its_experts_answer_in_order_of_arrival(chosen, batch_size):
    experts, calls = in_memory(
        {
            str(k): lambda values, k=k: [[v / 100, 1 - v / 100 - k / 10, k / 10] for v in values]
            for k in range(3)
        },
        batch_size,
    )
    values = list(range(len(chosen)))
    answers, seconds = experts.answer(values, values, np.array(chosen, dtype=np.int32))
    for value, which, answer in zip(values, chosen, answers, strict=True):
        np.testing.assert_allclose(answer, [value / 100, 1 - value / 100 - which / 10, which / 10], atol=1e-6)
    # Together: as few calls as the batch size allows, and none to an expert that nobody chose.
    sizes = {k: chosen.count(k) for k in set(chosen)}
    assert len(calls) == sum(-(-size // batch_size) for size in sizes.values())
    assert {k for k in range(3) if seconds[k] > 0} == set(chosen)


def test_only_the_poison_sample_fails_and_its_error_names_it():
    experts, calls = in_memory({"calm": constant(0.5), "touchy": touchy})
    ids = ["a", "b", "c", "d", "e"]
    chosen = np.array([1, 0, 1, 1, 0], dtype=np.int32)
    answers, _ = experts.answer(ids, ["x", "y", "poison", "z", "w"], chosen)
    assert isinstance(answers[2], ModelError)
    assert "the sample 'c'" in str(answers[2])
    assert "ValueError: cannot" in str(answers[2])
    np.testing.assert_allclose(np.stack(answers[:2] + answers[3:])[:, 0], [0.25, 0.5, 0.25, 0.5])
    assert [name for name, _ in calls] == ["calm", "touchy", "touchy", "touchy", "touchy"]


def test_batches_before_and_after_a_failing_one_are_run_once():
    experts, calls = in_memory({"touchy": touchy}, batch_size=2)
    values = ["1", "2", "poison", "4", "5", "6"]
    answers, _ = experts.answer(values, values, np.zeros(6, dtype=np.int32))
    assert [isinstance(answer, ModelError) for answer in answers] == [False, False, True, False, False, False]
    assert [values for _, values in calls] == [["1", "2"], ["poison", "4"], ["poison"], ["4"], ["5", "6"]]


def test_experts_of_different_questions_are_found_out():
    experts, _ = in_memory({"two": constant(0.5), "three": lambda values: np.full((len(values), 3), 1 / 3)})
    answers, _ = experts.answer(["a", "b"], [0, 1], np.array([0, 1], dtype=np.int32))
    assert len(answers[0]) == 2
    assert "returned 3 classes, the others 2" in str(answers[1])


def test_an_expert_that_is_never_chosen_is_never_loaded(tmp_path):
    router = make_router(tmp_path)
    (tmp_path / "bright.onnx").unlink()  # loading it would fail
    dispatcher = Dispatcher(open_router(router), None)
    assert dispatcher.experts.loaded == ()
    result = dispatcher.answer(["a", "b"], [image(20), image(90)])
    assert dispatcher.experts.loaded == ("dark",)
    assert result.chosen.tolist() == [0, 0]
    result = dispatcher.answer(["a", "b"], [image(20), image(200)])
    np.testing.assert_allclose(result.answers[0], expected(20)[1], atol=1e-5)
    assert re.search(r"model 'bright': .*bright.onnx: no such file", str(result.answers[1]))


def test_an_expert_that_changed_is_refused(tmp_path):
    router = make_router(tmp_path)
    before = open_router(router).experts[1].digest
    save_images_model(tmp_path / "bright.onnx", *EXPERTS["dark"], softmax=True)
    found = expert("bright", tmp_path / "bright.onnx").digest
    dispatcher = Dispatcher(open_router(router), None)
    with pytest.raises(ModelError, match=f"expert 'bright': .* is {found}, but .* trained for {before}"):
        dispatcher.warm()
    assert str(found) in str(dispatcher.answer(["a"], [image(200)]).answers[0])


def test_an_expert_with_other_class_names_is_refused(tmp_path):
    router = make_router(tmp_path)
    with (tmp_path / "dark.toml").open("a") as toml:
        toml.write('[output]\nclasses = ["day", "night"]\n')
    names = [expert(name, tmp_path / f"{name}.onnx") for name in EXPERTS]
    with pytest.raises(ModelError, match=r"2 \(day, night\), those of the router 2 \(night, day\)"):
        Experts(names, CLASSES).load(0)
    assert Experts(names, None).load(0).classes == ("day", "night")
    assert router.is_dir()


def test_images_are_decoded_once_and_each_gets_its_own_answer(tmp_path, monkeypatch):
    decoded = []

    def counting(value, what, **options):
        if isinstance(value, bytes):
            decoded.append(what)
        return decode(value, what, **options)

    monkeypatch.setattr(batches, "decode", counting)
    dispatcher = Dispatcher(open_router(make_router(tmp_path)), None)
    shades = [(10, 20, 250), (250, 100, 30), 140, 90, (200, 0, 0)]
    values = [
        image(shade, size=(10 + 7 * at, 40), kind="PNG" if at % 2 else "WEBP")
        for at, shade in enumerate(shades)
    ]
    values[0] = image(shades[0])
    result = dispatcher.answer(["a", "b", "c", "d", "e"], values)
    assert decoded == ["id 'a'", "id 'b'", "id 'c'", "id 'd'", "id 'e'"]
    for shade, which, answer in zip(shades, result.chosen, result.answers, strict=True):
        name, probs = expected(shade)
        assert tuple(EXPERTS)[which] == name
        np.testing.assert_allclose(answer, probs, atol=0.02)  # WebP moves shades a little


def test_an_expert_that_takes_no_pixels_gets_the_bytes(tmp_path):
    (tmp_path / "by_length.py").write_text(
        "def judge(values):\n    return [[1, 0] if isinstance(v, bytes) else [0, 1] for v in values]\n"
    )
    save_images_model(tmp_path / "dark.onnx", *EXPERTS["dark"], softmax=True)
    experts = [
        expert("dark", tmp_path / "dark.onnx"),
        expert("bright", f"{tmp_path / 'by_length.py'}:judge"),
    ]
    dispatcher = Dispatcher(open_router(make_router(tmp_path, experts=experts)), None)
    result = dispatcher.answer(["a", "b"], [image(20), image(200)])
    np.testing.assert_allclose(result.answers[0], expected(20)[1], atol=1e-5)
    assert result.answers[1].tolist() == [1, 0]
    dispatcher.warm()


def test_what_is_no_image_fails_alone(tmp_path):
    dispatcher = Dispatcher(open_router(make_router(tmp_path)), None)
    values = [image(20), b"not an image", image(200), b"", image(20)[:60]]
    result = dispatcher.answer(["a", "b", "c", "d", "e"], values)
    assert [isinstance(answer, InputError) for answer in result.answers] == [False, True, False, True, True]
    assert "'b'" in str(result.answers[1])
    assert result.chosen.tolist() == [0, -1, 1, -1, -1]
    np.testing.assert_allclose(result.answers[2], expected(200)[1], atol=1e-5)
    none = dispatcher.answer(["a"], [b"nothing"])
    assert none.chosen.tolist() == [-1]


def test_numbers_that_do_not_fit_fail_alone(tmp_path):
    dispatcher = Dispatcher(open_router(make_router(tmp_path, save=save_numbers_model)), None)
    values = [np.array([0.2, 0.5, 0.9]), np.array([0.2]), np.array([0.8, 0.1, 0.0]), b"bytes", 3.0]
    result = dispatcher.answer(list("abcde"), values)
    assert result.chosen.tolist() == [0, -1, 1, -1, -1]
    assert [isinstance(answer, InputError) for answer in result.answers] == [False, True, False, True, True]
    assert "'b' has the shape (1,)" in str(result.answers[1])
    np.testing.assert_allclose(result.answers[0], expected(values[0] * 255)[1], atol=1e-5)


def test_the_operating_point_decides(tmp_path):
    router = open_router(make_router(tmp_path, points=POINTS))
    values = [image(20), image(200)]
    assert Dispatcher(router, router.point("5ms")).answer(["a", "b"], values).chosen.tolist() == [0, 1]
    assert Dispatcher(router, router.point("1ms")).answer(["a", "b"], values).chosen.tolist() == [0, 0]


def test_a_router_that_fails_is_an_error_of_its_own(tmp_path):
    folder = make_router(tmp_path)
    save_images_model(folder / "router.onnx", np.ones((3, 5)), np.zeros(5), softmax=False)
    write_router(folder, read_router(folder))  # with the checksum of that network
    (answer,) = Dispatcher(open_router(folder), None).answer(["a"], [image(20)]).answers
    assert isinstance(answer, ModelError)
    assert "scores of shape (1, 5)" in str(answer)
    assert ROUTER[0].shape == (3, 2)
