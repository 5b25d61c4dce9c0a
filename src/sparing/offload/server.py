"""The server's side: payloads in, distributions out, over HTTP.

`POST /v1/answer` takes a payload and returns C little-endian float32 probabilities, and the header
`x-server-seconds` and `x-agreement`, a digest of what the payload was read by; `GET /v1/model` says what both
sides have to agree on, the number of classes included.
"""

import asyncio
from time import perf_counter
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sparing.offload.models import Evidence, ServerModel
from sparing.offload.schemes import best_fits
from sparing.offload.wire.agreement import agreement_digest, terms_of
from sparing.offload.wire.payload import EIGHTHS, codec_of, max_payload, unpack, whole_head
from sparing.serving.app import Limits, Metrics, make_app
from sparing.serving.batching import Batcher


def make_server(
    model: ServerModel,
    *,
    token: str | None = None,
    max_batch: int = 32,
    max_wait: float = 0.005,
    max_queue: int = 256,
) -> Starlette:
    """Make the application that `sparing.serving.app.serve` runs.

    Args:
        model: the large model.
        token: what requests must carry; None for no check.
        max_batch: requests per batch.
        max_wait: seconds that the first request of a batch waits for others.
        max_queue: requests that may wait; further ones are answered 503.

    Returns:
        The ASGI application.

    Raises:
        ModelError: the model fails on a blank image.
    """
    geometry = model.geometry
    metrics = Metrics()
    batcher: Batcher[Evidence, Any] = Batcher(
        model.answer,
        max_batch=max_batch,
        max_wait=max_wait,
        max_queue=max_queue,
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
    )
