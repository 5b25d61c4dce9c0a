"""Who answered each request, and what it took: bits, bytes on the wire, seconds."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

CONFIDENT = "confident"
NOTHING_CHOSEN = "the policy sends nothing at this budget"
TOO_SMALL = "budget below the smallest payload"


@dataclass(frozen=True)
class Answer:
    """One answered request.

    Attributes:
        probs: shape (C,), the distribution that is the answer.
        by: "edge" or "server"; the server's answers may have the edge's distribution pooled in.
        why: why the edge answered: confident, the budget below the smallest payload, the policy's choice, or
            what went wrong with
            the server; empty for the server's answers.
        offloaded: whether the gate wanted to offload it.
        payload_bits: bits of the payload, once; 0 when none was made.
        wire_bytes: bytes of all HTTP requests sent for it, headers and repeated tries included.
        tries: how many HTTP requests that were.
        edge_seconds: running the edge model and making the payload, this request's share of its batch.
        link_seconds: waiting for the server, less the server's own time.
        server_seconds: as the server reported.
    """

    probs: npt.NDArray[np.float32]
    by: Literal["edge", "server"]
    why: str = ""
    offloaded: bool = False
    payload_bits: int = 0
    wire_bytes: int = 0
    tries: int = 0
    edge_seconds: float = 0.0
    link_seconds: float = 0.0
    server_seconds: float = 0.0


def summarise(
    answers: Sequence[Answer], labels: npt.NDArray[np.integer[Any]] | None = None
) -> dict[str, Any]:
    """Add up the accounts of requests.

    Args:
        answers: m answers.
        labels: shape (m,), -1 where unknown; None when there are none.

    Returns:
        Counts by who answered and why (they add up to m), means over offloaded requests, and the accuracy on
        all and on offloaded requests that have a label.
    """
    offloaded = np.array([answer.offloaded for answer in answers], dtype=bool)
    sent = [answer for answer in answers if answer.tries]
    result: dict[str, Any] = {
        "requests": len(answers),
        "offloaded": int(offloaded.sum()),
        "answered_by": dict(Counter(answer.by for answer in answers)),
        "edge_answered_because": dict(Counter(answer.why for answer in answers if answer.by == "edge")),
        "payload_bytes": {
            "mean": _mean([answer.payload_bits / 8 for answer in sent]),
            "max": max((answer.payload_bits / 8 for answer in sent), default=None),
        },
        "wire_bytes": sum(answer.wire_bytes for answer in answers),
        "tries": sum(answer.tries for answer in answers),
        "edge_seconds": sum(answer.edge_seconds for answer in answers),
        "link_seconds": sum(answer.link_seconds for answer in answers),
        "server_seconds": sum(answer.server_seconds for answer in answers),
    }
    if labels is not None and (labels >= 0).any() and answers:
        right = np.stack([answer.probs for answer in answers]).argmax(axis=1) == labels
        known = labels >= 0
        result["accuracy"] = float(right[known].mean())
        result["accuracy_offloaded"] = _mean(right[known & offloaded].tolist())
    return result


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
