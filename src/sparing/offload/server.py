"""The server's side: payloads in, distributions out, over HTTP.

`POST /v1/answer` takes a payload and returns C little-endian float32 probabilities, and the header
`x-server-seconds` and `x-agreement`, a digest of what the payload was read by; `GET /v1/model` says what both
sides have to agree on, the number of classes included.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sparing.offload.models import Evidence, Geometry, Pixels, ServerModel
from sparing.offload.schemes import best_fits
from sparing.offload.wire.agreement import agreement_digest, terms_of
from sparing.offload.wire.payload import EIGHTHS, codec_of, max_payload, unpack, whole_head
from sparing.serving.app import Limits, Metrics, make_app
from sparing.serving.batching import Batcher
from sparing.serving.process import ENDING_SECONDS, ModelProcess

BATCH_SECONDS = 30.0
"""How long a batch may take by default."""


class RemoteModel:
    """A server model in a process of its own, which is replaced when it hangs or dies.

    Args:
        make: loads the model, in that process; it must pickle.
        batch_seconds: how long a batch may take.

    Raises:
        SparingError: the model cannot be loaded.

    Attributes:
        geometry: the images that the patches come from.
        process: where the model runs.
    """

    def __init__(self, make: Callable[[], ServerModel], *, batch_seconds: float) -> None:
        self.process: ModelProcess[Any, Any] = ModelProcess(
            partial(_asked, make), batch_seconds=batch_seconds
        )
        self.process.start()
        self.geometry: Geometry = self.process(("geometry", None))

    def answer(self, batch: list[Evidence]) -> list[Any]:
        """Run the model on evidence; see `ServerModel.answer`."""
        answers: list[Any] = self.process(("answer", batch))
        return answers

    def whole(self, pixels: Pixels) -> Any:
        """Run the model on whole images; see `ServerModel.whole`."""
        return self.process(("whole", pixels))


def _asked(make: Callable[[], ServerModel]) -> Callable[[tuple[str, Any]], Any]:
    model = make()

    def run(asked: tuple[str, Any]) -> Any:
        what, batch = asked
        return model.geometry if what == "geometry" else getattr(model, what)(batch)

    return run


def make_server(
    model: ServerModel | RemoteModel,
    *,
    token: str | None = None,
    max_batch: int = 32,
    max_wait: float = 0.005,
    max_queue: int = 256,
    batch_seconds: float = BATCH_SECONDS,
) -> Starlette:
    """Make the application that `sparing.serving.app.serve` runs.

    Args:
        model: the large model.
        token: what requests must carry; None for no check.
        max_batch: requests per batch.
        max_wait: seconds that the first request of a batch waits for others.
        max_queue: requests that may wait; further ones are answered 503.
        batch_seconds: how long a batch may take; its requests are then answered 503. Give a `RemoteModel` the
            same.

    Returns:
        The ASGI application.

    Raises:
        ModelError: the model fails on a blank image.
    """
    geometry = model.geometry
    processes = [model.process] if isinstance(model, RemoteModel) else []
    metrics = Metrics()
    batcher: Batcher[Evidence, Any] = Batcher(
        model.answer,
        max_batch=max_batch,
        max_wait=max_wait,
        max_queue=max_queue,
        max_seconds=batch_seconds + (ENDING_SECONDS if processes else 0),
        sizes=metrics.batch_sizes,
    )
    # The tiny codec's kernels are compiled, or loaded, before the first request has to wait for that.
    blank = np.zeros((geometry.height, geometry.width, 3), dtype=np.uint8)
    unpack(whole_head("dct8", EIGHTHS) + (best_fits(blank, "dct8", [1000])[0] or b""), geometry)
    # So is the model, which thereby says how many classes it tells apart.
    described = terms_of(geometry) | {"classes": model.whole(blank[None]).shape[1]}

    async def answer(request: Request) -> Response:
        payload = await request.body()
        started = perf_counter()
        evidence = await asyncio.to_thread(unpack, payload, geometry)
        probs = await batcher.submit(evidence)
        return Response(
            probs.astype("<f4").tobytes(),
            media_type="application/octet-stream",
            headers={
                "x-server-seconds": f"{perf_counter() - started:.6f}",
                "x-agreement": agreement_digest(geometry, codec_of(payload)),
            },
        )

    async def describe(_: Request) -> Response:
        return JSONResponse(described)

    return make_app(
        [Route("/v1/answer", answer, methods=["POST"]), Route("/v1/model", describe)],
        metrics=metrics,
        limits=Limits(body_bytes=max_payload(geometry)),
        token=token,
        batchers=[batcher],
        processes=processes,
    )
