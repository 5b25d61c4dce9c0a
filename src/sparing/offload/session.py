"""Answering a table of samples: edge, gate, payloads and server, batch by batch, into an answers table."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sparing.errors import InputError
from sparing.offload.account import Answer
from sparing.offload.client import Client
from sparing.offload.edge import Choice, prepare
from sparing.offload.gate import Gate
from sparing.offload.views import EdgeModel, read_pictures
from sparing.samples import Samples
from sparing.tables import list_column

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
        samples: encoded pictures.
        edge: the small model.
        client: to the server.
        gate: decides what is offloaded.
        choice: what to send; None when a policy sends nothing at this budget.
        seed: of a random policy.

    Yields:
        The answers of one batch; all of them together are one per sample.

    Raises:
        InputError: a sample is no picture.
        ModelError: the edge model failed. What goes wrong with the server never raises.
    """
    weight = 0.0 if choice is None else choice.edge_weight
    offloaded = 0
    for start in range(0, len(samples), BATCH):
        positions = range(start, min(start + BATCH, len(samples)))
        pixels = read_pictures(samples, positions, edge.geometry)
        requests = prepare(edge, gate, choice, pixels, seed=seed + start, before=start, offloaded=offloaded)
        offloaded += sum(request.offloaded for request in requests)
        yield list(await asyncio.gather(*(client.answer(request, weight) for request in requests)))


class AnswersWriter:
    """Writes answers to a Parquet table, which appears whole or not at all. Use it as a context manager.

    Args:
        path: the table: id, probs, and the account of each request.

    Raises:
        InputError: the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self._writer: Any = None

    def __enter__(self) -> "AnswersWriter":
        if self.path.is_dir():
            raise InputError(f"{self.path}: cannot be written: it is a folder")
        try:
            self.partial.open("wb").close()  # now rather than after the first batch
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {error.strerror}") from error
        return self

    def write(self, ids: pa.Array, answers: list[Answer]) -> None:
        """Append one batch."""
        columns: dict[str, Any] = {"id": ids, "probs": list_column(np.stack([a.probs for a in answers]))}
        for name in ("by", "why", "offloaded", "payload_bits", "wire_bytes", "tries"):
            columns[name] = [getattr(answer, name) for answer in answers]
        for name in ("edge_seconds", "link_seconds", "server_seconds"):
            columns[name] = pa.array([getattr(answer, name) for answer in answers], pa.float64())
        table = pa.table(columns)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.partial, table.schema, compression="zstd")
        self._writer.write_table(table)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self._writer is not None:
                self._writer.close()
                if kind is None:
                    self.partial.replace(self.path)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written: {error.strerror}") from error
        finally:
            self.partial.unlink(missing_ok=True)
