"""The rows of a cache: how they look in memory and in the columns of the table."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sparing.cache.encodings import Encoded, Encoding, encoded
from sparing.data.tables import NO_LABEL

COLUMNS = ["id", "probs", "label", "model", "round", "score"]


@dataclass(frozen=True)
class Rows:
    """Some rows of a cache.

    Attributes:
        ids: m strings or 64-bit integers.
        distributions: shape (m, C), float32, each row summing to 1; or as the cache stores them.
        labels: shape (m,), int64; -1 where there is none.
        models: shape (m,), int64, positions in `Metadata.models`.
        rounds: shape (m,), int64, round of the last refresh.
        scores: shape (m,), float32, score at the last refresh; NaN for rows never refreshed.
    """

    ids: pa.Array
    distributions: npt.NDArray[np.float32] | Encoded
    labels: npt.NDArray[np.int64]
    models: npt.NDArray[np.int64]
    rounds: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def encoded(self) -> Encoded:
        """The distributions as they are stored."""
        return encoded(self.distributions)

    @cached_property
    def probs(self) -> npt.NDArray[np.float32]:
        """The distributions, shape (m, C), float32; decoded when first asked for."""
        stored = self.distributions
        return stored.decode() if isinstance(stored, Encoded) else stored


def never_refreshed(
    ids: pa.Array,
    probs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64] | None,
    model: int,
    round_: int,
) -> Rows:
    """Return rows that a model wrote in a round for the first time."""
    m = len(ids)
    return Rows(
        ids=ids,
        distributions=probs,
        labels=np.full(m, NO_LABEL, np.int64) if labels is None else labels,
        models=np.full(m, model, np.int64),
        rounds=np.full(m, round_, np.int64),
        scores=np.full(m, np.nan, np.float32),
    )


def schema_of(id_type: pa.DataType, encoding: Encoding) -> pa.Schema:
    """Return the columns of a cache."""
    return pa.schema(
        [
            pa.field("id", id_type, nullable=False),
            pa.field("probs", encoding.arrow_type, nullable=False),
            pa.field("label", pa.int32()),
            pa.field("model", pa.int16(), nullable=False),
            pa.field("round", pa.int32(), nullable=False),
            pa.field("score", pa.float32()),
        ]
    )


def to_batch(schema: pa.Schema, rows: Rows, encoding: Encoding) -> pa.RecordBatch:
    """Encode rows into the columns of a cache."""
    return pa.record_batch(
        [
            rows.ids,
            encoding.to_column(encoding.encode(rows.probs)),
            pa.array(rows.labels.astype(np.int32), mask=rows.labels == NO_LABEL),
            pa.array(rows.models.astype(np.int16)),
            pa.array(rows.rounds.astype(np.int32)),
            pa.array(rows.scores, mask=np.isnan(rows.scores)),
        ],
        schema=schema,
    )


def from_batch(batch: pa.RecordBatch, encoding: Encoding, compiled: bool = False) -> Rows:
    """Read rows from the columns of a cache; for `compiled` see `Encoded`."""

    def numbers(name: str, missing: float, kind: type[Any]) -> npt.NDArray[Any]:
        column = pc.fill_null(batch.column(name), missing)
        values: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False).astype(kind)
        return values

    return Rows(
        ids=batch.column("id"),
        distributions=encoding.from_column(batch.column("probs"), compiled),
        labels=numbers("label", NO_LABEL, np.int64),
        models=numbers("model", 0, np.int64),
        rounds=numbers("round", 0, np.int64),
        scores=numbers("score", float("nan"), np.float32),
    )


def from_table(table: pa.Table, encoding: Encoding, compiled: bool = False) -> Rows:
    """Read rows from a table of one chunk."""
    batches = table.to_batches()
    empty = pa.RecordBatch.from_pylist([], schema=table.schema)
    return from_batch(batches[0] if batches else empty, encoding, compiled)
