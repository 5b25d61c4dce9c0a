"""Answering a table of samples: edge, gate, payloads and server, batch by batch, into an answers table."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pyarrow as pa

from sparing.data.samples import Samples
from sparing.data.tables import list_column
from sparing.offload.answers import Answer
from sparing.offload.client import Client
from sparing.offload.edge import Choice, prepare
from sparing.offload.gate import Gate
from sparing.offload.images import read_images
from sparing.offload.models import EdgeModel

BATCH = 64


async def answer_all(
    samples: Samples,
    edge: EdgeModel,
    client: Client,
    gate: Gate,
    choice: Choice | None,
    *,
    seed: int = 0,
) -> AsyncIterator[list[Answer]]:
    """Answer every sample, in order, batch by batch.

    Args:
        samples: encoded images.
        edge: the small model.
        client: to the server.
        gate: decides what is offloaded.
        choice: what to send; None when a policy sends nothing at this budget.
        seed: of a random policy.

    Yields:
        The answers of one batch; all of them together are one per sample.

    Raises:
        InputError: a sample is not an image.
        ModelError: the edge model failed. What goes wrong with the server never raises.
    """
    weight = 0.0 if choice is None else choice.edge_weight
    offloaded = 0
    for start in range(0, len(samples), BATCH):
        positions = range(start, min(start + BATCH, len(samples)))
        pixels = read_images(samples, positions, edge.geometry)
        requests = prepare(edge, gate, choice, pixels, seed=seed + start, before=start, offloaded=offloaded)
        offloaded += sum(request.offloaded for request in requests)
        yield list(await asyncio.gather(*(client.answer(request, weight) for request in requests)))


def answers_table(ids: pa.Array, answers: list[Answer]) -> pa.Table:
    """Write a batch of answers as a table: id, probs, and the account of each request.

    Args:
        ids: m ids.
        answers: m answers.

    Returns:
        m rows.
    """
    columns: dict[str, Any] = {"id": ids, "probs": list_column(np.stack([a.probs for a in answers]))}
    for name in ("by", "why", "offloaded", "payload_bits", "wire_bytes", "tries"):
        columns[name] = [getattr(answer, name) for answer in answers]
    for name in ("edge_seconds", "link_seconds", "server_seconds"):
        columns[name] = pa.array([getattr(answer, name) for answer in answers], pa.float64())
    return pa.table(columns)
