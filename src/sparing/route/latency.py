"""How long models take on this machine: warm, in turns, so that a busy moment hits all of them alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.data.samples import Samples
from sparing.errors import InputError
from sparing.images import HELD_PIXELS, decode
from sparing.models import Model
from sparing.models.onnx import OnnxFunction
from sparing.route.experts import Latency

CALLS = 100
"""How many calls of one sample are measured, when there is time."""

SECONDS = 5.0
"""When to stop before that."""

MEASURED = 256
"""How many different samples experts are measured on, where they fit into memory."""

_LEAST = 10
_CACHE_BYTES = 1 << 24
"""More than a core has for itself, and less than a server's cores share."""
_WARM_UP = 2


@dataclass(frozen=True)
class Way:
    """One thing to measure.

    Attributes:
        call: takes a batch.
        values: what batches are cut from, over and over; at least one.
        batch_size: values per call.
        calls: how many calls to measure.
        before: called before every call, off the clock.
    """

    call: Callable[[list[Any]], object]
    values: Sequence[Any]
    batch_size: int = 1
    calls: int = CALLS
    before: Callable[[], object] | None = None

    def batch(self, number: int) -> list[Any]:
        """Cut the batch of one call."""
        start = number * self.batch_size
        return [self.values[i % len(self.values)] for i in range(start, start + self.batch_size)]


def measure(
    call: Callable[[list[Any]], object],
    values: Sequence[Any],
    batch_size: int = 1,
    *,
    calls: int = CALLS,
    seconds: float = SECONDS,
) -> Latency:
    """Measure one way; see `measure_together`."""
    return measure_together([Way(call, values, batch_size, calls)], seconds=seconds)[0]


def measure_together(ways: Sequence[Way], *, seconds: float = SECONDS) -> list[Latency]:
    """Call every way in turn, first to warm up and then with a clock.

    Args:
        ways: what to measure.
        seconds: a way that has taken so long in all is not called again, once it was called 10 times.

    Returns:
        One latency per way.

    Raises:
        InputError: a way has no values, a batch size below 1, or no calls to measure.
    """
    for way in ways:
        if not len(way.values) or way.batch_size < 1 or way.calls < 1:
            raise InputError("to measure latency takes a value, a batch size and calls, all at least 1")
    for number in range(_WARM_UP):
        for way in ways:
            way.call(way.batch(number))
    times: list[list[float]] = [[] for _ in ways]
    while True:
        waiting = [
            (way, spent)
            for way, spent in zip(ways, times, strict=True)
            if len(spent) < way.calls and (len(spent) < _LEAST or sum(spent) < seconds)
        ]
        if not waiting:
            break
        for way, spent in waiting:
            batch = way.batch(_WARM_UP + len(spent))
            if way.before is not None:
                way.before()
            started = perf_counter()
            way.call(batch)
            spent.append(perf_counter() - started)
    return [
        Latency(
            way.batch_size,
            median=float(np.median(spent)),
            p95=float(np.percentile(spent, 95)),
            calls=len(spent),
            times=tuple(sorted(round(time, 9) for time in spent)),
        )
        for way, spent in zip(ways, times, strict=True)
    ]


def measure_experts(
    models: Sequence[Model], samples: Samples, *, calls: int = CALLS, seconds: float = SECONDS
) -> tuple[list[Latency], list[Latency], Latency | None]:
    """Measure experts on samples from all over a table, one at a time and by their batch.

    Args:
        models: n experts; those that take decoded images get them.
        samples: what they are measured on.
        calls: how many calls of one sample to measure; of batches a quarter, at least 10 of either.
        seconds: when to stop one expert in one mode before that.

    Returns:
        n latencies of one sample, n of a batch, and that of decoding one image; None when no expert takes
        decoded images, or they come decoded.

    Raises:
        InputError: a sample cannot be read, or is not an image and has to be one.
        ModelError: an expert failed.
    """
    given, decoded = _spread(samples, decoding=any(model.takes_pixels for model in models))
    items = [decoded if model.takes_pixels else given for model in models]
    ways = [
        Way(_caller(model), some, calls=max(calls, _LEAST)) for model, some in zip(models, items, strict=True)
    ]
    if decoded and not isinstance(given[0][1], np.ndarray):
        ways.append(Way(lambda pairs: _decode(*pairs[0]), given, calls=max(calls, _LEAST)))
    single = measure_together(ways, seconds=seconds)
    batched = measure_together(
        [
            replace(way, batch_size=m.batch_size, calls=max(calls // 4, _LEAST))
            for m, way in zip(models, ways, strict=False)
        ],
        seconds=seconds,
    )
    return single[: len(models)], batched, single[-1] if len(ways) > len(models) else None


def measure_router(
    network: OnnxFunction,
    samples: Samples,
    *,
    batch_size: int,
    shared: bool,
    calls: int = CALLS,
    seconds: float = SECONDS,
) -> tuple[Latency, Latency]:
    """Measure a router's network as experts are measured: from decoded images where those are shared.

    Before every call the processor's nearer caches are filled with something else, as an expert leaves them.

    Args:
        network: from samples to scores.
        samples: what it is measured on.
        batch_size: of the batches, best that of the experts.
        shared: whether decoding is counted apart, since experts take decoded images too; where every expert
            decodes for itself, the router's own decoding is part of what it costs.
        calls: how many calls of one sample to measure; of batches a quarter, at least 10 of either.
        seconds: when to stop one mode before that.

    Returns:
        The latency of one sample, and that of a batch.

    Raises:
        InputError: a sample cannot be read, or is not an input of the network.
    """
    given, decoded = _spread(samples, decoding=network.takes_pixels)
    other = np.zeros(_CACHE_BYTES, dtype=np.uint8)
    way = Way(
        lambda pairs: network.function([name for name, _ in pairs], [value for _, value in pairs]),
        decoded if network.takes_pixels and shared else given,
        before=lambda: np.add(other, 1, out=other),
    )
    (single,) = measure_together([replace(way, calls=max(calls, _LEAST))], seconds=seconds)
    (batched,) = measure_together(
        [replace(way, batch_size=batch_size, calls=max(calls // 4, _LEAST))], seconds=seconds
    )
    return single, batched


_Pairs = list[tuple[object, Any]]


def _spread(samples: Samples, *, decoding: bool) -> tuple[_Pairs, _Pairs]:
    """Take samples from all over the table, as they come and decoded, as many as fit into memory."""
    given: _Pairs = []
    decoded: _Pairs = []
    held = 0
    for position in np.unique(np.linspace(0, len(samples) - 1, MEASURED).astype(np.int64)):
        name = samples.ids[int(position)].as_py()
        (value,) = samples.fetch(np.array([position]))
        given.append((name, value))
        held += len(value) if isinstance(value, bytes | str) else getattr(value, "nbytes", 64)
        if decoding:
            pixels = _decode(name, value)
            decoded.append((name, pixels))
            held += pixels.nbytes
        if held > HELD_PIXELS:
            break
    return given, decoded


def _decode(sample_id: object, value: Any) -> npt.NDArray[np.uint8]:
    return decode(value, f"id {sample_id!r}")


def _caller(model: Model) -> Callable[[_Pairs], object]:
    return lambda pairs: model([name for name, _ in pairs], [value for _, value in pairs])
