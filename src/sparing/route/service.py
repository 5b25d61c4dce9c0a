"""The service: one sample in, one answer and the name of its expert out, over HTTP.

`POST /v1/answer` takes an encoded image as the body, or for other data `{"value": ...}` as
`application/json`, and returns `probs`, `prediction`, `class`, `expert` and `seconds`; `GET /v1/model` says
what answers. This module needs the extra `serve`.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.errors import InputError
from sparing.route.answering import Answered, Answering, Refusal, load_answering
from sparing.route.dispatch import NOBODY, Dispatcher
from sparing.route.router import Point, Router
from sparing.serving.app import Limits, Metrics, make_app
from sparing.serving.batching import Batcher
from sparing.serving.process import ENDING_SECONDS, ModelProcess

# Below the import that says which extra is missing.
from prometheus_client import Counter, Histogram  # isort: skip
from starlette.requests import Request  # isort: skip
from starlette.responses import JSONResponse, Response  # isort: skip
from starlette.routing import Route  # isort: skip

BODY_BYTES = 4_000_000
"""The largest body by default: a photograph of twelve megapixels as a good JPEG."""

BATCH_SECONDS = 30.0
"""How long a batch may take by default."""

MAX_PIXELS = 1 << 24
"""The most pixels of an image by default: 4,096 by 4,096, decoded in 50 MB."""

SECONDS = [0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 4.096, 16.384]
"""Bounds of the histograms' buckets."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Outcome:
    """What became of one request: a distribution or a refusal, and the position of its expert."""

    answer: npt.NDArray[np.float32] | Refusal
    expert: int


class Service:
    """A router and its experts behind HTTP.

    Args:
        router: an open router.
        point: the operating point; None as for `Router.choose`.
        token: what requests must carry; None for no check.
        limits: what a request may take.
        max_batch: requests per batch.
        max_wait: seconds that the first request of a batch waits for others; with 0, requests gather while
            another batch runs, and a lonely one waits for nobody.
        max_queue: requests that may wait; further ones are answered 503.
        batch_seconds: how long a batch may take; its requests are then answered 503.
        process: whether router and experts run in a process of their own, which is replaced when a batch
            takes too long; otherwise they share this one, and one that hangs ends the service for good.
        max_pixels: the most pixels of an image that a process of their own decodes.
        preload: whether every expert is loaded, and run once where images are taken, before the service
            stands; otherwise each is loaded by the first request that it gets.

    Raises:
        SparingError: with `preload`, an expert cannot be loaded or fails.

    Attributes:
        app: the ASGI application that `sparing.serving.app.serve` runs.
        answered: how many requests each expert has answered so far.
    """

    def __init__(
        self,
        router: Router,
        point: Point | None,
        *,
        token: str | None = None,
        limits: Limits | None = None,
        max_batch: int = 32,
        max_wait: float = 0.0,
        max_queue: int = 256,
        batch_seconds: float = BATCH_SECONDS,
        process: bool = False,
        max_pixels: int = MAX_PIXELS,
        preload: bool = True,
    ) -> None:
        self._router, self._point = router, point
        self._names = [expert.name for expert in router.experts]
        self._classes = router.description.classes
        self.answered = dict.fromkeys(self._names, 0)
        processes: list[ModelProcess[Any, Any]] = []
        if process:
            budget = None if point is None else point.budget
            load = partial(load_answering, router.path, budget, warm=preload, max_pixels=max_pixels)
            processes.append(ModelProcess(load, batch_seconds=batch_seconds))
            processes[0].start()
            self._run: Callable[[list[Any]], Answered] = processes[0]
        else:
            dispatcher = Dispatcher(router, point)
            if preload:
                dispatcher.warm()
            self._run = Answering(dispatcher)
        metrics = Metrics()
        registry = metrics.registry
        self._by_expert = Counter("route_expert", "Answers by expert", ["expert"], registry=registry)
        self._failures = Counter("route_failures", "Requests failed by expert", ["expert"], registry=registry)
        self._expert_seconds = Histogram(
            "route_expert_seconds",
            "Time that an expert took for its part of a batch",
            ["expert"],
            buckets=SECONDS,
            registry=registry,
        )
        self._router_seconds = Histogram(
            "route_router_seconds", "Time that choosing took for a batch", buckets=SECONDS, registry=registry
        )
        self._decoding_seconds = Histogram(
            "route_decoding_seconds",
            "Time that decoding a batch's images took",
            buckets=SECONDS,
            registry=registry,
        )
        for name in self._names:  # so that an expert nobody needed shows as 0
            self._by_expert.labels(name)
            self._failures.labels(name)
        self._batcher: Batcher[tuple[bytes, bool], _Outcome] = Batcher(
            self._answer_batch,
            max_batch=max_batch,
            max_wait=max_wait,
            max_queue=max_queue,
            # Of a process of its own, this is the longest that ending and asking it takes.
            max_seconds=batch_seconds + (ENDING_SECONDS if process else 0),
            sizes=metrics.batch_sizes,
        )
        self.app = make_app(
            [Route("/v1/answer", self._answer, methods=["POST"]), Route("/v1/model", self._describe)],
            metrics=metrics,
            limits=limits or Limits(body_bytes=BODY_BYTES),
            token=token,
            batchers=[self._batcher],
            processes=processes,
        )

    async def _answer(self, request: Request) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        body = await request.body()
        started = perf_counter()
        outcome = await self._batcher.submit((body, kind == "application/json"))
        if isinstance(outcome.answer, Refusal):
            if outcome.answer.of_input:
                raise InputError(outcome.answer.message)
            return self._failed(outcome.answer, outcome.expert)
        name = self._names[outcome.expert]
        prediction = int(outcome.answer.argmax())
        self.answered[name] += 1
        self._by_expert.labels(name).inc()
        return JSONResponse(
            {
                "probs": outcome.answer.tolist(),
                "prediction": prediction,
                "class": None if self._classes is None else self._classes[prediction],
                "expert": name,
                "seconds": perf_counter() - started,
            }
        )

    def _failed(self, refusal: Refusal, expert: int) -> Response:
        """Answer 500 with the kind of error alone; the model's own message is for the operator."""
        _log.error("%s", refusal.message)
        kind = refusal.kind
        if expert == NOBODY:
            return JSONResponse({"error": f"the router failed ({kind})"}, 500)
        name = self._names[expert]
        self._failures.labels(name).inc()
        return JSONResponse({"error": f"the expert {name!r} failed ({kind})"}, 500)

    def _answer_batch(self, bodies: list[tuple[bytes, bool]]) -> list[_Outcome]:
        values = [_value(body) if as_json else body for body, as_json in bodies]
        fit = [at for at, value in enumerate(values) if not isinstance(value, Refusal)]
        outcomes = [_Outcome(value, NOBODY) if isinstance(value, Refusal) else None for value in values]
        if fit:
            part = self._run([values[at] for at in fit])
            self._router_seconds.observe(part.router)
            if self._router.network.takes_pixels:
                self._decoding_seconds.observe(part.decoding)
            for which in sorted(set(part.chosen) - {NOBODY}):
                self._expert_seconds.labels(self._names[which]).observe(part.experts[which])
            for at, answer, which in zip(fit, part.answers, part.chosen, strict=True):
                outcomes[at] = _Outcome(answer, which)
        return [outcome for outcome in outcomes if outcome is not None]

    async def _describe(self, _: Request) -> Response:
        router, point = self._router, self._point
        return JSONResponse(
            {
                "experts": [
                    {
                        "name": expert.name,
                        "seconds": expert.single.median,
                        "cost": expert.cost,
                        "unit": expert.unit,
                    }
                    for expert in router.experts
                ],
                "classes": self._classes,
                "budget": None if point is None else point.budget,
                "expected_cost": None if point is None else point.expected_cost,
                "takes": "image" if router.network.takes_pixels else "json",
            }
        )


def _value(body: bytes) -> Any:
    """Read `{"value": ...}`; what is wrong with it is returned: it belongs to one request of a batch."""
    try:
        document = json.loads(body, parse_constant=_refuse)
        if not isinstance(document, dict) or set(document) != {"value"}:
            return _invalid('expected a JSON object with the one key "value"')
        value = document["value"]
        if isinstance(value, str):
            return value
        array = np.asarray(value)
    except (ValueError, RecursionError) as error:
        return _invalid(f"the body is not JSON with a value: {error}")
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        return _invalid('"value" must be a finite number, a regular list of them, or a text')
    return array


def _invalid(message: str) -> Refusal:
    return Refusal(message, "InputError", of_input=True)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")
