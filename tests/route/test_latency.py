import numpy as np
import pytest
from tests.route.conftest import image, png

from sparing.data.samples import open_samples
from sparing.errors import InputError
from sparing.models import from_callable
from sparing.models.description import Description, InputDescription
from sparing.models.onnx import OnnxFunction
from sparing.route import latency
from sparing.route.latency import Way, measure, measure_experts, measure_together


class Clock:
    """A clock that only moves when told to."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(latency, "perf_counter", lambda: self.now)

    def taking(self, *seconds):
        left = iter(seconds)

        def call(_):
            self.now += next(left)

        return call


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_median_and_p95_leave_the_warm_up_out(clock):
    times = np.arange(1, 22) / 1000
    found = measure(clock.taking(9.0, 9.0, *times), ["v"], calls=21)
    assert (found.median, found.p95, found.calls) == (pytest.approx(0.011), pytest.approx(0.020), 21)
    assert (found.batch_size, found.per_sample) == (1, pytest.approx(0.011))
    batch = measure(clock.taking(*[0.4] * 99), ["v"], 8, calls=10)
    assert batch.per_sample == pytest.approx(0.05)


def test_seconds_bound_the_calls_but_never_below_ten(clock):
    assert measure(clock.taking(*[1.0] * 99), ["v"], calls=50, seconds=5).calls == 10
    assert measure(clock.taking(*[0.25] * 99), ["v"], calls=50, seconds=5).calls == 20
    assert measure(clock.taking(*[0.01] * 99), ["v"], calls=50, seconds=5).calls == 50


def test_ways_take_turns_on_the_same_values():
    seen = []
    ways = [
        Way(lambda batch: seen.append(("a", batch)), "xyz", 1, 10),
        Way(lambda batch: seen.append(("b", batch)), "xyz", 2, 10),
    ]
    measure_together(ways)
    assert [name for name, _ in seen] == ["a", "b"] * 12
    assert [batch for name, batch in seen if name == "a"][:4] == [["x"], ["y"], ["z"], ["x"]]
    assert [batch for name, batch in seen if name == "b"][:3] == [["x", "y"], ["z", "x"], ["y", "z"]]


def test_nothing_to_measure_is_refused():
    for values, batch, calls in (([], 1, 5), (["v"], 0, 5), (["v"], 1, 0)):
        with pytest.raises(InputError, match="all at least 1"):
            measure(lambda _: None, values, batch, calls=calls)


def test_experts_are_called_with_one_sample_and_with_batches():
    sizes = []

    def half(values):
        sizes.append(len(values))
        return np.full((len(values), 2), 0.5)

    model = from_callable(half, name="half", batch_size=7)
    samples = open_samples({f"s{i}": float(i) for i in range(5)})
    (single,), (batched,), decoding = measure_experts([model], samples, calls=12)
    assert sizes == [1] * 14 + [7] * 12
    assert (single.batch_size, single.calls, batched.batch_size, batched.calls) == (1, 12, 7, 10)
    assert single.p95 >= single.median > 0
    assert decoding is None


def test_images_are_decoded_beforehand_and_the_decoding_measured(experts, images):
    from sparing.models import load_model

    model = load_model(f"small={experts['small']}", batch_size=4)
    seen = []
    inner = model.function

    def spy(ids, values):
        seen.extend(type(value) for value in values)
        return inner(ids, values)

    model.function = spy
    mine = from_callable(
        lambda values: seen.extend(map(type, values)) or np.full((len(values), 3), 1 / 3),
        name="own",
        digest="v1",
    )
    _, _, decoding = measure_experts([model], open_samples(images), calls=10)
    assert set(seen) == {np.ndarray}
    assert decoding.median > 0
    seen.clear()
    assert measure_experts([mine], open_samples(images), calls=10)[2] is None
    assert set(seen) == {bytes}
    decoded = {name: np.zeros((5, 5, 3), np.uint8) for name in "ab"}
    assert measure_experts([model], open_samples(decoded), calls=10)[2] is None


def test_a_router_pays_for_its_decoding_where_experts_do_not_share_it():
    seen = []
    takes_images = Description(InputDescription(decode="image"))
    router = OnnxFunction(lambda _, values: seen.extend(map(type, values)), 64, takes_images)
    samples = open_samples({i: png(image(i)) for i in range(3)})
    for shared, kind in ((True, np.ndarray), (False, bytes)):
        seen.clear()
        latency.measure_router(router, samples, batch_size=2, shared=shared, calls=1, seconds=0.01)
        assert set(seen) == {kind}
