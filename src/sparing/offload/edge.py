"""The edge's side: run the small model, decide by the gate, and make payloads within the budget."""

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from sparing.numerics.distributions import softmax
from sparing.offload.answers import CONFIDENT, NOTHING_CHOSEN, TOO_SMALL
from sparing.offload.gate import Gate
from sparing.offload.models import EdgeModel, Pixels
from sparing.offload.schemes import Scheme
from sparing.offload.wire.agreement import agreement_digest

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Choice:
    """What to send at a budget.

    Attributes:
        scheme: how to spend the bytes.
        fill: bytes that a payload may have at most; at most the budget.
        edge_weight: how much the edge's distribution counts beside the server's, see `pool`.
    """

    scheme: Scheme
    fill: int
    edge_weight: float = 0.0


@dataclass(frozen=True)
class Request:
    """What the edge has made of one image.

    Attributes:
        probs: shape (C,), the edge's own answer.
        payload: what to send; None when the edge answers.
        why: why the edge answers, if it does.
        offloaded: whether the gate wanted the server's answer.
        seconds: this image's share of the batch's time.
        agreed: what the server must have agreed on to read the payload (`agreement_digest`).
    """

    probs: npt.NDArray[np.float32]
    payload: bytes | None
    why: str
    offloaded: bool
    seconds: float
    agreed: str = ""


def prepare(
    model: EdgeModel,
    gate: Gate,
    choice: Choice | None,
    pixels: Pixels,
    *,
    seed: int = 0,
    before: int = 0,
    offloaded: int = 0,
) -> list[Request]:
    """Run the edge on a batch of images.

    Args:
        model: the small model.
        gate: decides what is offloaded.
        choice: what to send; None when a policy sends nothing at this budget.
        pixels: shape (m, height, width, 3).
        seed: of a random policy.
        before: requests of earlier batches, for a gate with a share.
        offloaded: how many of them were offloaded.

    Returns:
        m requests.

    Raises:
        ModelError: the model failed.
    """
    started = perf_counter()
    seen = model(pixels)
    probs = seen.probs
    offloads = gate.offloads(probs, seen=before, offloaded=offloaded)
    rows = np.flatnonzero(offloads)
    payloads: list[bytes | None] = [None] * len(pixels)
    if choice is not None and len(rows):
        part = type(seen)(seen.logits[rows], seen.attention[rows], seen.embeddings[rows])
        made = choice.scheme.encode(pixels[rows], part, model.geometry, [choice.fill], seed=seed)[0]
        for row, payload in zip(rows.tolist(), made, strict=True):
            payloads[row] = payload
    agreed = "" if choice is None else agreement_digest(model.geometry, choice.scheme.codec)
    unsent = NOTHING_CHOSEN if choice is None else TOO_SMALL
    share = (perf_counter() - started) / max(len(pixels), 1)
    return [
        Request(
            probs=probs[row],
            payload=payloads[row],
            why="" if payloads[row] is not None else unsent if offloads[row] else CONFIDENT,
            offloaded=bool(offloads[row]),
            seconds=share,
            agreed=agreed,
        )
        for row in range(len(pixels))
    ]


def pool(server: Floats, edge: Floats, edge_weight: float) -> npt.NDArray[np.float32]:
    """Pool the server's distributions with the edge's: both saw the image, and the edge saw all of it.

    It costs no bits, because it is done on the edge when the answer has come back.

    Args:
        server: shape (m, C).
        edge: shape (m, C).
        edge_weight: 0 leaves the server's answer alone; 1 counts both alike.

    Returns:
        Shape (m, C): the normalised product of `server` and `edge ** edge_weight`.
    """
    tiny = np.finfo(np.float32).tiny
    logs = np.log(np.maximum(server, tiny)) + edge_weight * np.log(np.maximum(edge, tiny))
    return softmax(logs).astype(np.float32)
