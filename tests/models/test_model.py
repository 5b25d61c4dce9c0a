from time import perf_counter, sleep

import numpy as np
import pytest

from sparing.errors import InputError, ModelError
from sparing.models import Model, from_callable, run
from sparing.models.digests import function_digest


def shares(values):
    """One distribution per number x: (x, 1 - x)."""
    x = np.asarray(values, float)
    return np.stack([x, 1 - x], axis=1)


def model(function=shares, digest="v1", **options):
    return from_callable(function, name="m", digest=digest, **options)


def test_distributions_come_back_as_float32():
    probs = model()(["a", "b"], [0.25, 1.0])
    assert probs.dtype == np.float32
    np.testing.assert_array_equal(probs, [[0.25, 0.75], [1, 0]])


def test_batches_cover_all_rows_in_order():
    sizes = []

    def noted(values):
        sizes.append(len(values))
        return shares(values)

    x = np.linspace(0, 1, 11)
    probs, seconds = run(model(noted, batch_size=4), list(range(11)), list(x))
    assert sizes == [4, 4, 3]
    np.testing.assert_allclose(probs[:, 0], x, atol=1e-6)
    assert seconds > 0


def test_seconds_are_those_of_the_model():
    def slow(values):
        sleep(0.02)
        return shares(values)

    started = perf_counter()
    _, seconds = run(model(slow, batch_size=1), [1, 2, 3], [0.1, 0.2, 0.3])
    assert 0.06 <= seconds <= perf_counter() - started


def test_no_samples():
    probs, _ = run(model(), [], [])
    assert probs.shape == (0, 0)


def test_logits_go_through_a_softmax():
    logits = [[0.0, np.log(3)], [1000.0, 0.0]]
    probs = model(lambda _: logits, logits=True)([1, 2], [0, 0])
    np.testing.assert_allclose(probs, [[0.25, 0.75], [1, 0]], atol=1e-6)


def test_integer_and_half_precision_logits():
    for kind in (np.int64, np.float16):
        probs = model(lambda _, k=kind: np.array([[5, 5]], k), logits=True)([1], [0])
        np.testing.assert_allclose(probs, [[0.5, 0.5]])


def test_a_raising_model_is_reported_with_its_batch():
    def broken(values):
        raise KeyError(3)

    with pytest.raises(
        ModelError, match=r"model 'm' failed on a batch of 7 \(ids 1, 2, 3, 4, ..., 7\): KeyError: 3"
    ) as e:
        model(broken)([1, 2, 3, 4, 5, 6, 7], [0] * 7)
    assert isinstance(e.value.__cause__, KeyError)
    with pytest.raises(ModelError, match=r"failed on the sample 'x': KeyError"):
        model(broken)(["x"], [0])


def test_interrupts_pass():
    def stop(values):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model(stop)(["x"], [0])


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ([[0.5, 0.5]], r"shape \(1, 2\) of float64 for a batch of 2 .*shape \(2, C\)"),
        ([0.5, 0.5], r"returned shape \(2,\)"),
        ([[0.5, 0.5], [1.0]], "no table of numbers"),
        (None, "returned shape"),
        ([["a", "b"], ["c", "d"]], "returned shape"),
        ([[1.0], [1.0]], "at least 2 classes"),
        ([[0.5, 0.5], [np.nan, 0.5]], "output of model 'm': id 'b' holds NaN"),
        ([[0.5, 0.5], [np.inf, 0.5]], "id 'b' holds NaN or infinity"),
        ([[0.5, 0.5], [-0.5, 1.5]], "id 'b' has a negative"),
        ([[0.5, 0.5], [0.5, 0.2]], "id 'b' sums to 0.7"),
        ([[0.5, 0.5], [5.0, -2.0]], "id 'b' sums to 3; these look like logits"),
    ],
)
def test_bad_outputs_name_model_and_id(output, message):
    with pytest.raises(ModelError, match=message) as e:
        model(lambda _: output)(["a", "b"], [0, 0])
    assert "'m'" in str(e.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_logits_name_the_id(bad):
    with pytest.raises(ModelError, match="id 'b' holds NaN"):
        model(lambda _: [[0.0, 1.0], [bad, 1.0]], logits=True)(["a", "b"], [0, 0])


def test_the_number_of_classes_may_not_change():
    m = model(lambda values: np.full((1, values[0]), 1 / values[0]))
    m(["a"], [3])
    with pytest.raises(ModelError, match="returned 4 classes for the sample 'b', but 3 before"):
        m(["b"], [4])


def test_values_belong_to_ids():
    with pytest.raises(InputError, match="needs the samples"):
        model()(["a"])
    with pytest.raises(InputError, match="2 ids but 1 values"):
        model()(["a", "b"], [0.5])
    with pytest.raises(InputError, match="2 ids but 1 values"):
        run(model(), ["a", "b"], [0.5])


def test_models_without_samples_get_none():
    seen = []

    def by_id(ids, values):
        seen.extend(values)
        return shares([0.5] * len(ids))

    m = Model("m", "d", by_id, needs_samples=False)
    assert len(run(m, ["a", "b"])[0]) == 2
    assert seen == [None, None]


def test_the_digest_is_that_of_the_source_unless_given():
    assert model(digest=None).digest == function_digest(shares)
    assert model(digest="v2").digest == "v2"
    with pytest.raises(InputError, match="model 'm': the model is a lambda"):
        from_callable(lambda values: values, name="m")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch size must be at least 1"),
        ({"cost": 1e-320}, "cost must be 0 or 1e-18 to 1e18"),
        ({"cost": -1.0}, "cost must be 0 or 1e-18 to 1e18"),
        ({"cost": float("nan")}, "cost must be 0 or 1e-18 to 1e18"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        model(**options)


def test_only_callables():
    with pytest.raises(InputError, match="expected a callable, got int"):
        model(3)
    with pytest.raises(InputError, match="needs a name"):
        from_callable(shares, name="")


def test_tensors_with_a_gradient_are_read():
    torch = pytest.importorskip("torch")
    weights = torch.nn.Linear(1, 2)
    probs = model(lambda values: weights(torch.tensor(values)[:, None]), logits=True)(["a"], [1.0])
    np.testing.assert_allclose(probs, weights(torch.ones(1, 1)).softmax(1).detach().numpy(), atol=1e-6)
    short = model(lambda values: torch.tensor([[0.25, 0.75]], dtype=torch.bfloat16))(["a"], [1.0])
    np.testing.assert_array_equal(short, [[0.25, 0.75]])


def test_ragged_rows_name_the_model_and_the_ids():
    with pytest.raises(
        ModelError, match=r"model 'm' returned no table of numbers for a batch of 2 \(ids 'a', 'b'"
    ):
        model(lambda values: [[0.5, 0.5], [1.0]])(["a", "b"], [0, 1])
